#!/usr/bin/env python3
"""Methods of pretraining, each trained for the same time, on speakers whom none was trained on.

    python compare_methods.py utterance --data_folder LibriSpeech --lexicon LEXICON
        --alignments ALIGNMENTS --output_folder M [--minutes 5] [--seeds 3] [--jobs 2]
        [--only NAME ...]
    python compare_methods.py frame ...
    python compare_methods.py utterance --write M

The methods and the settings that are tried of each are those of methods.yaml. First, one or two
epochs of each tell how many epochs make up the time, of one core. Then every setting is trained
with the first seed; the one that is best on development speakers (dev-clean) is trained with the
others too, and these are read on test speakers (test-clean), once. `frame` adds what closed forms
make of the k-means encoders, by the embeddings of the best utterance method: compare these first.
Started again, it does what is missing. `--write` writes the table into RESULTS.md.
"""

import itertools
import json
import multiprocessing
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from recipes.common.annotations.alignments import read_alignments
from recipes.common.closed_forms.rival_models import CLOSED_FORMS
from recipes.common.data.files import replace_text
from recipes.common.evaluation import bootstrap
from recipes.common.report.representations import load_systems
from recipes.common.report.speech import draw_rows, load_rows
from recipes.common.training.hparams import read_tree
from recipes.experiments import channels, method_readings, readings, readmes, runner
from recipes.experiments.judging.recognition import (
    add_skip_bad,
    check_lexicon,
    read_phone_errors,
    recognise,
    speakers_of,
)
from recipes.experiments.provenance import RANDOM, Run, changed, kept_reading, make_run

HERE = Path(__file__).resolve().parent
SETTINGS, RESULTS = HERE / "methods.yaml", HERE / "RESULTS.md"
PATHS = {
    "data_folder": "the folder LibriSpeech",
    "lexicon": "pronunciations, for the phones of sentences and PER",
    "alignments": "of dev-clean and test-clean",
    "output_folder": "where the runs go",
}
DEV, TEST, TRAINING = "dev-clean", "test-clean", "train-clean-100"
CRITERIA = {"utterance": "eer", "frame": "abx_across"}  # lowest on development speakers
READ, FITTED = 600, 600  # utterances
COLUMNS = {
    "utterance": {"EER": "eer", "phones from u (R2)": "phones", "channel from u": "channel"},
    "frame": {
        "ABX within": "abx_within",
        "ABX across": "abx_across",
        "PNMI": "pnmi",
        "PER": "per",
        "speaker, means": "speaker_means",
        "speaker, deviations": "speaker_deviations",
    },
}
# Figures of cross-validated probes, and how much wider their intervals are for it
FOLDED = dict.fromkeys(
    ("phones", "channel", "speaker_means", "speaker_deviations"), bootstrap.PROBE_PAIRED_USE
)
CONTROLS = {"FBANK": "log-mel bands", "random weights": "random weights"}
START = "k-means"  # the frame method that others start from, and that closed forms are fitted to


class Comparison:
    """The runs of one kind of method, in a folder of their own.

    Arguments
    ---------
    options : argparse.Namespace
        The paths, `kind`, `minutes`, `seeds`, `jobs` and `only`.
    """

    def __init__(self, options):
        self.options, self.kind = options, options.kind
        self.folder = options.output_folder / self.kind
        self.seeds = runner.SEEDS[: options.seeds]
        known = read_tree(SETTINGS)[self.kind]
        self.known = {name: [dict(setting) for setting in own] for name, own in known.items()}
        self.tried = {name: self.known[name] for name in options.only or known}
        self.rows = {}

    def run(self, name, place, seed):
        """Return the folder of a run: a setting of a method, with a seed."""
        return self.folder / slug(name) / str(place) / str(seed)

    def training(self, setting, seed, epochs, folder, more=()):
        """Return the run that trains a setting."""
        given = {key: x for key, x in setting.items() if key not in ("file", "start")}
        file = setting.get("file", f"{self.kind}_tiny")
        given |= {
            "seed": seed,
            "number_of_epochs": epochs,
            "data_folder": self.options.data_folder,
            "manifest_folder": self.options.output_folder / "manifest",
            **dict(more),
        }
        return Run(folder, runner.PRETRAIN, ["train.py", f"hparams/{file}.yaml"], given)

    def costs(self, name):
        """Return what training by a method costs: seconds of a core before, and for an epoch.

        They are measured of the first setting, once for the same code and data: what is tried of a
        method takes about as long.
        """
        path = self.folder / "costs" / slug(name) / "costs.json"
        if not path.is_file() or changed(self.costing(name, 1)):
            path.unlink(missing_ok=True)  # lest it stands where measuring is cut short
            spent = {epochs: self.spent(name, epochs) for epochs in (1, 2)}
            epoch = spent[2] - spent[1]
            known = {"before": spent[1] - epoch, "epoch": epoch}
            replace_text(path, json.dumps(known) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def costing(self, name, epochs):
        """Return the run by which the cost of some epochs is measured."""
        folder = self.folder / "costs" / slug(name) / str(epochs)
        setting, more = self.known[name][0], {}
        if "start" in setting:
            more = {"frame_model": self.folder / "costs" / slug(START) / "1" / "model"}
        return self.training(setting, self.seeds[0], epochs, folder, more)

    def spent(self, name, epochs):
        """Return how many seconds of a core a training of some epochs takes."""
        run = self.costing(name, epochs)
        shutil.rmtree(run.folder, ignore_errors=True)  # one that was cut short would go on
        before = seconds_of_children()
        if problem := make_run(run, self.options.jobs):
            sys.exit(problem)
        return seconds_of_children() - before

    def epochs(self, name, share=1.0):
        """Return how many epochs take a share of the time."""
        costs = self.costs(name)
        seconds = 60 * self.options.minutes * share - costs["before"]
        return max(1, round(seconds / costs["epoch"]))

    def train(self, name, place, seed):
        """Train a setting unless that was done; return what went wrong, or None."""
        setting, share, more = self.tried[name][place], 1.0, {}
        if "start" in setting:
            share = 1 - setting["start"]["share"]
            more = {"frame_model": self.start(setting["start"]["share"], seed) / "model"}
        epochs, folder = self.epochs(name, share), self.run(name, place, seed)
        return make_run(self.training(setting, seed, epochs, folder, more), self.options.jobs)

    def start(self, share, seed):
        """Return the folder of what other methods start from, trained for a share of the time."""
        return self.folder / slug(START) / f"start_{share}" / str(seed)

    def train_start(self, share, seed):
        """Train what other methods start from; return what went wrong, or None."""
        run = self.training({}, seed, self.epochs(START, share), self.start(share, seed))
        return make_run(run, self.options.jobs)

    def utterances(self, split):
        """Return the rows of a split that are read, from the manifests of the runs."""
        if split not in self.rows:
            given = {"data_folder": self.options.data_folder, "min_seconds": 0.5, "session": None}
            path = self.options.output_folder / "manifest" / f"{split}.csv"
            most = FITTED if split == TRAINING else READ
            self.rows[split] = draw_rows(load_rows([path], given), most)
        return self.rows[split]

    def read(self, system, split, folder):
        """Return the figures of a system on a split; kept in a folder."""
        options = self.options
        inputs = {"system": features_of(system), "split": split, "data": options.data_folder}
        inputs |= {"lexicon": options.lexicon, "alignments": options.alignments}

        def read():
            try:
                return read_split()
            except ValueError as error:
                raise ValueError(f"{split} of {options.data_folder}: {error}") from error

        def read_split():
            rows = self.utterances(split)
            with TemporaryDirectory() as states:
                if self.kind == "utterance":
                    return method_readings.read_utterances(system, rows, options.lexicon, states)
                alignments = read_alignments(options.alignments, rows)
                given = rows, self.utterances(TRAINING), alignments, states
                return method_readings.read_frames(system, *given)

        made_of = [method_readings, readings, channels, sys.modules[__name__]]
        return kept_reading(folder / f"{split}.json", inputs, read, made_of)

    def read_model(self, folder, split):
        """Return the figures of a run's model on a split."""
        [system] = load_systems([folder / "model"], controls=False, seed=self.seeds[0])
        return self.read(system, split, folder)

    def best(self, name):
        """Return the setting of a method that is best on development speakers, by its place."""
        figure = CRITERIA[self.kind]
        found = [
            self.read_model(self.run(name, place, self.seeds[0]), DEV)[figure]["value"]
            for place in range(len(self.tried[name]))
        ]
        return found.index(min(found))

    def recognise(self, row, features, seed):
        """Recognise phones from a row's last layer; return what went wrong, or None."""
        return recognise(self.phones(row, seed), features, seed, 1, self.options)

    def phones(self, row, seed):
        """Return the folder in which phones are recognised from a row's frames."""
        return self.folder / "phones" / slug(row) / str(seed)

    def rivals(self, folder, seed):
        """Return the models that closed forms make of a run's, by name."""
        made = folder / "rivals"
        path = self.options.output_folder / "utterance" / "best.json"
        if not path.is_file():
            sys.exit(f"{path} is not there: closed forms need embeddings. Compare utterance first.")
        best = json.loads(path.read_text(encoding="utf-8"))["model"]
        given = {
            "model": folder / "model",
            "utterance": Path(best),
            "data_folder": self.options.data_folder,
            "manifest": self.options.output_folder / "manifest" / f"{TRAINING}.csv",
            "seed": seed,
        }
        words = ["rivals.py", "--only", *CLOSED_FORMS]
        if problem := make_run(Run(made, HERE, words, given), self.options.jobs):
            sys.exit(problem)
        return {path.parent.name: path for path in sorted(made.glob("*/model"))}


def slug(name):
    """Return a name as that of a folder.

    Example
    -------
    >>> slug("k-means, then Spin")
    'k-means_then_Spin'
    """
    return name.replace(",", "").replace(" ", "_")


def features_of(system):
    """Return what a recipe takes a system as: "fbank", "random:" and a model, or a model's path."""
    features = {"fbank": "fbank", "random": f"{RANDOM}{system.folder}"}
    return features.get(system.kind) or Path(system.folder)


def seconds_of_children():
    """Return how long the processes that this one started, and that ended, used a core, s."""
    used = os.times()
    return used.children_user + used.children_system


def compare(options):
    """Train, choose, read; return the figures by name, seed and split."""
    comparison = Comparison(options)
    tried = [(name, n) for name, own in comparison.tried.items() for n in range(len(own))]
    if any("start" in setting for own in comparison.tried.values() for setting in own):
        comparison.costs(START)
    in_processes(comparison.options.jobs, comparison.costs, comparison.tried)
    train_all(comparison, [(*one, comparison.seeds[0]) for one in tried])
    keep_readings(comparison, [comparison.run(*one, comparison.seeds[0]) for one in tried], [DEV])
    chosen = {name: comparison.best(name) for name in comparison.tried}
    planned = [(*one, seed) for one in chosen.items() for seed in comparison.seeds]
    train_all(comparison, planned)
    keep_readings(comparison, [comparison.run(*one) for one in planned], [DEV, TEST])
    found = {}
    for name, place in chosen.items():
        runs = {seed: comparison.run(name, place, seed) for seed in comparison.seeds}
        found[name] = {
            "setting": comparison.tried[name][place],
            "minutes": comparison.options.minutes,
            "epochs": runner.read_figures(runs[comparison.seeds[0]])["epochs"],
            "features": {seed: str(run / "model") for seed, run in runs.items()},
            "runs": {seed: read_both(comparison, run) for seed, run in runs.items()},
        }
    found |= read_others(comparison, chosen)
    if comparison.kind == "frame":
        add_phone_errors(comparison, found)
    return found


def train_all(comparison, planned):
    """Train settings with seeds; before some of these what they start from, which several share."""
    later = [plan for plan in planned if "start" in comparison.tried[plan[0]][plan[1]]]
    starts = {(comparison.tried[name][n]["start"]["share"], seed) for name, n, seed in later}
    first = [(comparison.train_start, *plan) for plan in sorted(starts)]
    first += [(comparison.train, *plan) for plan in planned if plan not in later]
    side_by_side(comparison, first)
    side_by_side(comparison, [(comparison.train, *plan) for plan in later])


def side_by_side(comparison, planned):
    """Make the planned calls, tuples of a function and its arguments, some at a time."""
    jobs = comparison.options.jobs
    if problems := runner.run_side_by_side(lambda call: call[0](*call[1:]), planned, jobs):
        sys.exit("\n".join(problems))


def keep_readings(comparison, folders, splits):
    """Read models on splits, some at a time; their figures are kept on disk."""
    planned = itertools.product(folders, splits)
    in_processes(comparison.options.jobs, comparison.read_model, *zip(*planned, strict=True))


def in_processes(jobs, function, *given):
    """Call a function for each of what is given, some at a time, in processes of their own."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(function, *given))


def read_both(comparison, folder):
    """Return the figures of a folder with a model: on development and on test speakers."""
    return {split: comparison.read_model(folder, split) for split in (DEV, TEST)}


def read_others(comparison, chosen):
    """Return the figures of the controls and, of frames, of closed forms."""
    found = {}
    name, place = next(iter(chosen.items()))
    for seed in comparison.seeds:
        run = comparison.run(name, place, seed)
        for system in load_systems([run / "model"], controls=True, seed=seed)[1:]:
            folder = comparison.folder / "controls" / slug(system.name) / str(seed)
            features = str(features_of(system))
            figures = {split: comparison.read(system, split, folder) for split in (DEV, TEST)}
            add_run(found, CONTROLS[system.name], seed, features, figures)
        if comparison.kind == "frame" and START in chosen:
            start = comparison.run(START, chosen[START], seed)
            rivals = comparison.rivals(start, seed)
            keep_readings(comparison, [model.parent for model in rivals.values()], [DEV, TEST])
            for rival, model in rivals.items():
                figures = read_both(comparison, model.parent)
                add_run(found, f"{START}; {rival}", seed, str(model), figures)
    return found


def add_run(found, name, seed, features, figures):
    """Add the figures of a row that no setting of a method was trained for."""
    row = found.setdefault(name, {"setting": {}, "features": {}, "runs": {}})
    row["features"][seed], row["runs"][seed] = features, figures


def add_phone_errors(comparison, found):
    """Recognise phones from each row's frames, and add the error rates."""
    first, *others = comparison.seeds
    for seeds in ([first], others):
        planned = [
            (comparison.recognise, name, row["features"][seed], seed)
            for name, row in found.items()
            for seed in seeds
        ]
        side_by_side(comparison, planned)
    owners = speakers_of(comparison.options.output_folder / "manifest" / f"{TEST}.csv")
    for name, row in found.items():
        for seed, run in row["runs"].items():
            run[TEST]["per"] = read_phone_errors(comparison.phones(name, seed), owners)
            run[DEV]["per"] = {"value": run[TEST]["per"].pop("dev"), "evidence": {}}


def make_table(kind, found):
    """Return the table of a kind, as Markdown: test speakers, in per cent.

    What chooses settings on development speakers is also told as the difference from the first
    method, over the same speakers and seeds.
    """
    rows, criterion = [], CRITERIA[kind]
    tested = {
        name: {seed: run[TEST].get(criterion) for seed, run in row["runs"].items()}
        for name, row in found.items()
    }
    first = next(iter(found), None)
    for name, row in found.items():
        words = " ".join(f"{key} {value}" for key, value in row["setting"].items())
        spent = [f"{row[key]:g}" if key in row else "" for key in ("minutes", "epochs")]
        cells = [name, words, *spent, str(len(row["runs"]))]
        cells.append(
            method_readings.percent([run[DEV][criterion] for run in row["runs"].values()], 1.0)
        )
        for figure in COLUMNS[kind].values():
            own = [run[TEST].get(figure) for run in row["runs"].values()]
            widened = FOLDED.get(figure, 1.0)
            cells.append(method_readings.percent(own, widened) if all(own) else "-")
        shared = [] if name == first else [seed for seed in tested[name] if seed in tested[first]]
        pairs = [[tested[own][seed] for seed in shared] for own in (name, first)]
        cells.append(method_readings.change(*pairs) if shared else "")
        rows.append(cells)
    head = next(head for head, figure in COLUMNS[kind].items() if figure == criterion)
    heads = ["method", "setting", "minutes", "epochs", "seeds", f"{head}, dev", *COLUMNS[kind]]
    heads.append(f"{head}, less {first}")
    return readmes.markdown_table(heads, "ll" + "r" * (len(heads) - 2), rows)


def keep_best(options, found):
    """Write which model is best on development speakers, for what builds on it."""
    figure = CRITERIA[options.kind]
    rates = {
        row["features"][seed]: run[DEV][figure]["value"]
        for name, row in found.items()
        if name not in CONTROLS.values()
        for seed, run in row["runs"].items()
    }
    best = {"model": min(rates, key=rates.get)}
    replace_text(options.output_folder / options.kind / "best.json", json.dumps(best) + "\n")


def main():
    """Compare the methods of a kind, or write their table."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    parser.add_argument("kind", choices=CRITERIA)
    parser.add_argument("--minutes", type=float, default=5.0, help="of one core, for each run")
    parser.add_argument("--only", nargs="+", help="methods, by their names in methods.yaml")
    add_skip_bad(parser)
    options = parser.parse_args()
    marker = f"methods {options.kind}"
    if options.write is not None:
        found = runner.read_kept(options.write / options.kind / "figures.json")
        readmes.write_between(RESULTS, marker, make_table(options.kind, found))
        return
    runner.check_paths(parser, options, PATHS)
    known = read_tree(SETTINGS)[options.kind]
    if unknown := sorted({*(options.only or ())} - known.keys()):
        parser.error(f"--only {unknown[0]!r}: expected one of {', '.join(map(repr, known))}")
    if options.kind == "frame":
        check_lexicon(options.data_folder, options.lexicon, options.skip_bad)
    try:
        found = compare(options)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    path = options.output_folder / options.kind / "figures.json"
    replace_text(path, json.dumps(found) + "\n")
    if options.kind == "utterance":
        keep_best(options, found)
    print(make_table(options.kind, found))


if __name__ == "__main__":
    main()
