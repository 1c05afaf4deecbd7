#!/usr/bin/env python3
"""The table of downstream results: every cell a run of a recipe's own command, then the READMEs.

    python results.py --models O --librispeech LibriSpeech --voxceleb voxceleb1
        --lexicon lexicon.txt --speech_commands speech_commands --fluent fluent --emodb emodb
        --output_folder R [--seeds 3] [--jobs 2]
    python results.py --write R

`O` holds the runs frame, utterance, joint and joint_plain, its control, and may hold frame_more, of
more speech. The tasks on a corpus that is not given are left out. With the first seed each cell
sweeps the learning rates on validation; further seeds, fine-tuning and the control with shuffled
labels train at the rate that was best for the frozen features. Cross-validation sweeps in each of
its folds. Started again, it does what is missing, and what other code, settings, data or models
made.
"""

import json
import shutil
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from recipes.common.data.files import replace_text
from recipes.experiments import readmes, runner
from recipes.experiments.judging.recognition import add_skip_bad, check_lexicon
from recipes.experiments.provenance import (
    RANDOM,
    STATES,
    Run,
    make_run,
    refuse_mixed,
    tell_other_code,
)

PATHS = {
    "models": "the folder of the runs frame, utterance, joint and joint_plain",
    "librispeech": "the folder LibriSpeech",
    "voxceleb": "the folder voxceleb1",
    "lexicon": "pronunciations, for PER",
    "speech_commands": "the folder of Speech Commands",
    "fluent": "the folder of Fluent Speech Commands",
    "emodb": "the folder of Emo-DB",
    "output_folder": "where the cells go",
}
NEEDED = ("models", "output_folder")
SHUFFLED = "joint, shuffled labels"  # of training: a control
MINUTES = "*minutes of a run with the first seed*"
MORE = "frame only, more speech"  # about as many steps on a larger corpus; may be missing
CHANCE = "chance"  # naming the class that is most frequent in training
ROWS = {
    "log-mel": None,
    "random weights": "joint_plain",
    "frame only": "frame",
    MORE: "frame_more",
    "utterance only": "utterance",
    "control": "joint_plain",
    "joint": "joint",
    SHUFFLED: "joint",
}
TUNED_ROWS = ("random weights", "control", "joint")  # each takes as long as three others
# What the runs of one encoder have.
HELD = {"frame": ["frames"], "frame_more": ["frames"], "utterance": ["utterance"]}


class Column(NamedTuple):
    """A column of the table.

    Attributes
    ----------
    recipe : str
        The recipe's folder.
    command : str
        The script, the hyperparameters file and options.
    figure : str
        Of the test, in metrics.json.
    needs : tuple of str
        Of `PATHS`: the corpus, and what else the command reads.
    read_from : str
        The name of the column whose runs it reads, where it has none of its own.
    """

    recipe: str
    command: str
    figure: str
    needs: tuple
    read_from: str = ""


def classification(recipe, corpus):
    """Return the column of a task that classifies utterances."""
    return Column(recipe, "train.py hparams/linear_tiny.yaml", "accuracy", (corpus,))


TUNED, BIGRAM = ", fine-tuned", ", bigram"
RECOGNISER = "train.py hparams/bpe_tiny.yaml --beam_size 30 --lm_file transcripts"
ASR, HEAD = "LibriSpeech/ASR", "VoxCeleb/SpeakerRec"
IDENTIFICATION = classification("VoxCeleb/SpeakerID", "voxceleb")
COSINE = Column(HEAD, "verify.py hparams/verify_tiny.yaml", "eer", ("voxceleb", "librispeech"))
EMBEDDING = "train.py hparams/embedding_tiny.yaml --upstream frozen"
SPEECH, SPEAKERS = ("librispeech",), ("voxceleb",)
COLUMNS = {
    ("PER", "frames"): Column(
        "LibriSpeech/PR", "train.py hparams/lexicon_tiny.yaml", "per", (*SPEECH, "lexicon")
    ),
    ("WER", "frames"): Column(ASR, RECOGNISER, "wer", SPEECH),
    ("WER" + BIGRAM, "frames"): Column(ASR, RECOGNISER, "beam_wer", SPEECH, "WER"),
    ("SID accuracy", "frames"): IDENTIFICATION,
    ("SID accuracy", "utterance"): IDENTIFICATION,
    ("EER, cosine", "frames"): COSINE,
    ("EER, cosine", "utterance"): COSINE,
    ("EER, head", "frames"): Column(HEAD, "train.py hparams/xvector_tiny.yaml", "eer", SPEAKERS),
    ("EER, head", "utterance"): Column(HEAD, EMBEDDING, "eer", SPEAKERS),
}
# Tasks with a row of chance and one of shuffled labels.
CLASSIFIED = {
    "keyword accuracy": classification("SpeechCommands", "speech_commands"),
    "intent accuracy": classification("FluentSpeechCommands", "fluent"),
    "emotion accuracy": classification("EmoDB", "emodb"),
}
FOLDED = "emotion accuracy"  # cross-validation
COLUMNS |= {
    (name, representation): column
    for name, column in CLASSIFIED.items()
    for representation in ("frames", "utterance")
}
TUNING = f"{RECOGNISER} --upstream finetune"  # takes longest, so it comes last
COLUMNS["WER" + TUNED, "frames"] = Column(ASR, TUNING, "wer", SPEECH)
COLUMNS["WER" + TUNED + BIGRAM, "frames"] = Column(ASR, TUNING, "beam_wer", SPEECH, "WER" + TUNED)


def columns_named(*starts):
    """Return the columns whose names start so."""
    return [key for key in COLUMNS if key[0].startswith(starts)]


FRONT, ALL = "../README.md", "experiments/RESULTS.md"
# The tables of each page, relative to recipes/: the columns of each. The front page has some.
PAGES = {
    FRONT: [
        [
            ("PER", "frames"),
            ("WER", "frames"),
            ("WER" + TUNED + BIGRAM, "frames"),
            ("keyword accuracy", "frames"),
            ("intent accuracy", "frames"),
            ("SID accuracy", "frames"),
            ("SID accuracy", "utterance"),
            ("EER, cosine", "utterance"),
            ("emotion accuracy", "utterance"),
        ]
    ],
    ALL: [
        [key for key in COLUMNS if key[0] not in CLASSIFIED],
        [key for key in COLUMNS if key[0] in CLASSIFIED],
    ],
    f"{ASR}/README.md": [columns_named("WER")],
    "LibriSpeech/PR/README.md": [columns_named("PER")],
    "VoxCeleb/SpeakerID/README.md": [columns_named("SID")],
    f"{HEAD}/README.md": [columns_named("EER")],
    **{f"{column.recipe}/README.md": [columns_named(name)] for name, column in CLASSIFIED.items()},
}


class Cell(NamedTuple):
    """One run: a row, a column's name and representation, a seed, and the layers that are summed.

    `last_layers` is 0, for all of them, throughout the table.
    """

    row: str
    name: str
    representation: str
    seed: int
    last_layers: int = 0

    @property
    def folder(self):
        """Where the run goes, below the output folder."""
        words = "-".join([self.row, self.name, self.representation])
        words += f"-last_{self.last_layers}" if self.last_layers else ""
        return Path(words.replace(",", "").replace(" ", "_")) / str(self.seed)


def cells(seeds):
    """Return the cells of the table: those of the first seed first.

    Arguments
    ---------
    seeds : list of int

    Returns
    -------
    list of Cell
        Where a cosine does not depend on the seed, of the first seed alone.
    """
    made = []
    for seed in seeds:
        for name, representation in (key for key in COLUMNS if not COLUMNS[key].read_from):
            for row, run in ROWS.items():
                if representation not in HELD.get(run, ["frames", "utterance"]):
                    continue
                if name.endswith(TUNED) and row not in TUNED_ROWS:
                    continue
                if row == SHUFFLED and name not in CLASSIFIED:
                    continue
                if name == "EER, cosine" and seed != seeds[0] and row != "random weights":
                    continue
                made.append(Cell(row, name, representation, seed))
    return made


def columns_read_from(cell):
    """Return the keys of the columns whose figures a cell's run gives."""
    return [
        (name, representation)
        for (name, representation), column in COLUMNS.items()
        if (column.read_from or name, representation) == (cell.name, cell.representation)
    ]


def run_of(cell, options, rates=None):
    """Return the run of a cell.

    Arguments
    ---------
    cell : Cell
    options : argparse.Namespace
        The paths.
    rates : list of float, optional
        Learning rates to train at, in the place of those of the hyperparameters file.

    Returns
    -------
    Run
    """
    column = COLUMNS[cell.name, cell.representation]
    model = options.models / (ROWS[cell.row] or "joint") / "model"
    given = {
        "data_folder": getattr(options, column.needs[0]),
        "representation": cell.representation,
        "seed": cell.seed,
    }
    if cell.name == "EER, cosine":
        given["model"] = model
        of_tree = options.models / "frame" / "manifest"  # that of more speech is of another corpus
        given["reference_manifest"] = of_tree / "train-clean-100.csv"
        given["reference_folder"] = options.librispeech
    else:
        features = {"log-mel": "fbank", "random weights": f"{RANDOM}{model}"}
        given["features"] = features.get(cell.row, model)
        given["cache_folder"] = options.output_folder / STATES
    if cell.last_layers:
        given["last_layers"] = cell.last_layers
    if cell.row == SHUFFLED:
        given["shuffle_labels"] = True
    if cell.name == "PER":
        given |= {"lexicon": options.lexicon, "skip_bad": options.skip_bad}
    if rates is not None:
        given["lrs"] = json.dumps(rates).replace(" ", "")
    recipe = runner.RECIPES / column.recipe
    return Run(options.output_folder / cell.folder, recipe, column.command.split(), given)


def sweeping_cell(cell):
    """Return the cell whose sweep a cell's learning rate comes from; None where nothing learns."""
    if cell.name == "EER, cosine":
        return None
    if cell.name == FOLDED:
        return cell  # a rate for all folds would be chosen on speakers that some of them test
    row = "joint" if cell.row == SHUFFLED else cell.row
    return cell._replace(row=row, name=cell.name.removesuffix(TUNED), seed=runner.SEEDS[0])


def run_cell(cell, options):
    """Run a cell unless it is there as it would be now; return what went wrong, or None."""
    swept = sweeping_cell(cell)
    rates = None
    if swept not in (None, cell):
        first = options.output_folder / swept.folder
        figures = runner.read_figures(first)
        if figures is None:
            first = first / "metrics.json"
            return f"{cell.folder}: {first} is missing, whose learning rate it takes."
        rates = [figures["lr"]]
    run = run_of(cell, options, rates)
    if problem := make_run(run, options.jobs):
        return problem
    print(cell.folder, flush=True)
    return None


def plan(options):
    """Return the cells whose corpora are given, and of `MORE` where there is such a run."""
    left_out = () if (options.models / "frame_more").is_dir() else (MORE,)
    return [
        cell
        for cell in cells(runner.SEEDS[: options.seeds])
        if all(getattr(options, name) for name in COLUMNS[cell.name, cell.representation].needs)
        and cell.row not in left_out
    ]


def describe(planned, options):
    """Return what is going to be run, and what not, in lines.

    Arguments
    ---------
    planned : list of Cell
    options : argparse.Namespace

    Returns
    -------
    str
    """
    done = [(options.output_folder / cell.folder / "metrics.json").is_file() for cell in planned]
    lines = [f"{len(planned)} runs, {sum(done)} of them done, {options.jobs} at a time:"]
    counts = Counter((cell.name, cell.representation) for cell in planned)
    lines += [f"  {name}, {kind}: {count}" for (name, kind), count in counts.items()]
    for key in (key for key in COLUMNS if key not in counts and not COLUMNS[key].read_from):
        lacking = [f"--{name}" for name in COLUMNS[key].needs if not getattr(options, name)]
        lines.append(f"  {', '.join(key)}: none without {' and '.join(lacking)}")
    return "\n".join(lines)


def run_all(options):
    """Run all cells, those that sweep before those that take their rate; return what went wrong."""
    planned = plan(options)
    print(describe(planned, options), flush=True)
    first = [cell for cell in planned if sweeping_cell(cell) in (None, cell)]
    rest = [cell for cell in planned if cell not in first]
    run = partial(run_cell, options=options)
    parts = [runner.run_side_by_side(run, part, options.jobs) for part in (first, rest)]
    if not (problems := sum(parts, [])):
        shutil.rmtree(options.output_folder / STATES, ignore_errors=True)  # gigabytes
    return problems


def read_results(folder):
    """Return the figure of each cell that there is, by row and column: a list, a seed each."""
    found, made = {}, {}
    for cell in cells(runner.SEEDS):
        figures = runner.read_figures(folder / cell.folder)
        if figures is None:
            continue
        of_seeds = made.setdefault((cell.row, cell.name, cell.representation), [])
        of_seeds.append(folder / cell.folder)
        refuse_mixed(of_seeds[:1] + of_seeds[-1:])
        figures = figures["test"]
        if cell.name == "EER, cosine":
            systems = {"log-mel": "fbank", "random weights": "random"}
            figures = figures["systems"][systems.get(cell.row, cell.representation)]
        for key in columns_read_from(cell):
            if COLUMNS[key].figure in figures:  # none of a beam where there was none
                found.setdefault((cell.row, key), []).append(figures[COLUMNS[key].figure])
            if cell.name in CLASSIFIED:
                found[CHANCE, key] = [figures["chance"]]
    return found


def read_minutes(folder):
    """Return what a run of each column took that swept: the median over rows, by column."""
    taken = {}
    for cell in cells(runner.SEEDS[:1]):
        minutes = runner.read_minutes(folder / cell.folder)
        if sweeping_cell(cell) == cell and minutes is not None:
            taken.setdefault((cell.name, cell.representation), []).append(minutes)
    return {key: median(minutes) for key, minutes in taken.items()}


def make_table(found, columns, minutes=None):
    """Return results as a Markdown table, in percent.

    Arguments
    ---------
    found : dict
        As `read_results` returns it.
    columns : list of tuple
        Keys of `COLUMNS`.
    minutes : dict, optional
        As `read_minutes` returns it: a last row then tells what a run takes.

    Returns
    -------
    str
        A cell is the mean over seeds, with the range in brackets where there are several; "-" where
        no run is meant, as where the task cannot take the features; "not run" where one is missing.

    Example
    -------
    >>> found = {("joint", ("PER", "frames")): [0.5, 0.6]}
    >>> print(make_table(found, [("PER", "frames")]).splitlines()[-1])
    | joint | 55.0 [50.0, 60.0] |
    """
    first = cells(runner.SEEDS[:1])
    possible = {(cell.row, key) for cell in first for key in columns_read_from(cell)}
    possible |= {(CHANCE, key) for key in COLUMNS if key[0] in CLASSIFIED}
    classified = any(key[0] in CLASSIFIED for key in columns)
    shown = [row for row in (*ROWS, CHANCE) if classified or row not in (SHUFFLED, CHANCE)]

    def text(row, column):
        if (row, column) in found:
            return readmes.percent_and_range(found[row, column])
        return "not run" if (row, column) in possible else "-"

    heads = ["features", *(f"{name}, {kind}" for name, kind in columns)]
    rows = [[row, *(text(row, column) for column in columns)] for row in shown]
    if minutes:
        told = [f"{minutes[column]:.1f}" if column in minutes else "" for column in columns]
        rows.append([MINUTES, *told])
    return readmes.markdown_table(heads, "l" + "r" * len(columns), rows)


def write_readmes(folder):
    """Write the tables of results into the READMEs, and results.json beside the runs."""
    found = read_results(folder)
    if not found:
        raise ValueError(f"{folder} holds no results: run the cells first.")
    listed = [
        {"row": row, "column": name, "representation": kind, "values": values}
        for (row, (name, kind)), values in found.items()
    ]
    replace_text(folder / "results.json", json.dumps(listed, indent=2) + "\n")
    for page, tables in PAGES.items():
        minutes = None if page == FRONT else read_minutes(folder)
        text = "\n\n".join(make_table(found, columns, minutes) for columns in tables)
        readmes.write_between(runner.RECIPES / page, "results", text)


def main():
    """Run the cells, or write the READMEs."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    add_skip_bad(parser)
    options = parser.parse_args()
    if options.write is not None:
        tell_other_code(options.write)
        try:
            write_readmes(options.write)
        except ValueError as error:
            sys.exit(str(error))
        return
    given = {name for name in PATHS if getattr(options, name)} | {*NEEDED}
    if not given & {column.needs[0] for column in COLUMNS.values()}:
        parser.error("no corpus is given, such as --librispeech: there is nothing to run")
    runner.check_paths(parser, options, [name for name in PATHS if name in given])
    needed = [run for row, run in ROWS.items() if run and row != MORE]
    missing = [run for run in needed if not (options.models / run).is_dir()]
    if missing:
        parser.error(f"--models {options.models} holds no {missing[0]}: pretrain it first")
    if {"librispeech", "lexicon"} <= given:
        check_lexicon(options.librispeech, options.lexicon, options.skip_bad)
    if "librispeech" in given:
        runner.check_language_models(parser)
    problems = run_all(options)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
