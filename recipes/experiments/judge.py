#!/usr/bin/env python3
"""The verdict on stage C, on test speakers: the default against its control with three seeds.

    python judge.py --data_folder LibriSpeech --lexicon LEXICON --output_folder J [--seeds 3]
        [--jobs 2]
    python judge.py --write J

With each seed it trains stage A, stage B, stage C and its control, and recognises phones from the
frames of both (LibriSpeech/PR): from all layers, and from the last alone, which is what the
speaker is read from. What the aims say is then read on test-clean, whose speakers no setting was
chosen on, and judged by intervals over speakers and seeds: see `judge`. Started again, it does what
is missing. `--write` writes the verdict into RESULTS.md from J.
"""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from recipes.common.data.files import replace_text
from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.metrics import eer, error_counts
from recipes.common.report.measures import phone_mix, read_mix, read_probes
from recipes.experiments import readings, readmes, runner
from recipes.experiments.results import Cell, run_cell

RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
PATHS = {
    "data_folder": "the folder LibriSpeech",
    "lexicon": "pronunciations",
    "output_folder": "where the runs go",
}
STEPS = (  # runs that can go side by side, with their options
    {"frame": {}, "utterance": {}},
    {"joint": {}, "joint_beta0": {"beta": 0.0}},
)
ROWS = {"joint": "joint", "joint_beta0": "joint, beta 0"}  # as results.py calls them
PHONES = {"phones": 0, "last_phones": 1}  # what is recognised from how many last layers; 0: all
JOINT, CONTROL = ROWS
SPEAKER_SHARE, PHONE_SHARE, EER_MARGIN = 0.6, 1.02, 0.01


def train_run(seed, name, options):
    """Run a stage unless it ended before; return what went wrong, or None."""
    folder = options.output_folder / str(seed) / name
    if (folder / "metrics.json").is_file():
        return None
    paths = {"data_folder": options.data_folder, "output_folder": folder}
    more = next(step[name] for step in STEPS if name in step)
    words = ["train.py", f"hparams/{name.partition('_')[0]}_tiny.yaml"]
    command = runner.make_command(words, {"seed": seed, **paths, **more})
    problem = runner.run_logged(command, runner.PRETRAIN, folder / "judge.log", options.jobs)
    return problem and f"{folder} {problem}"


def recognise_phones(seed, name, options):
    """Run phoneme recognition on the frames of a run unless it ended before; return what failed."""
    folder = options.output_folder / str(seed)
    paths = SimpleNamespace(
        models=folder,
        librispeech=options.data_folder,
        lexicon=options.lexicon,
        output_folder=folder / "cells",
        jobs=options.jobs,
    )
    problems = [run_cell(phone_cell(name, last), paths) for last in PHONES.values()]
    return "\n".join(filter(None, problems))


def phone_cell(name, last_layers):
    """Return the cell of results.py that recognises phones from the frames of a run."""
    return Cell(ROWS[name], "PER", "frames", runner.SEEDS[0], last_layers)


def read_test(seed, name, options):
    """Write test.json of a run, unless it is there: what the aims ask of test speakers."""
    folder = options.output_folder / str(seed) / name
    if (folder / "test.json").is_file():
        return
    rows, encoded = readings.encode_run(folder, "test-clean", options.data_folder)
    ids = np.array([row["ID"] for row in rows])
    speakers = np.array([row["spk_id"] for row in rows]).astype(str)
    [speaker] = read_probes(encoded.means, speakers, ids, speakers, ["linear"], seeds=[1])
    figures = {}
    for key, last in PHONES.items():
        cell = folder.parent / "cells" / phone_cell(name, last).folder
        spoken, figures[key] = read_phones(cell, ids, speakers)
    known = np.flatnonzero([name in spoken for name in ids])
    mix = phone_mix([spoken[name] for name in ids[known]])
    [content] = read_mix(encoded.embeddings[known], mix, speakers[known], ["linear"], seeds=[1])
    eers = readings.read_verification(rows, encoded.embeddings)
    figures["eer"] = {key: value.tolist() for key, value in eers["evidence"].items()}
    figures["eer"]["value"] = eers["value"]
    for key, reading in {"speaker": speaker, "content": content}.items():
        scores = reading["evidence"]["group_scores"][0].tolist()
        shuffled = reading["control"]
        figures[key] = {"value": reading["value"], "scores": scores, "shuffled": shuffled}
    replace_text(folder / "test.json", json.dumps(figures) + "\n")


def read_phones(folder, ids, speakers):
    """Return the phones of utterances, and the phone error rate with the scores of speakers.

    Arguments
    ---------
    folder : Path
        Of the recognition, with hypotheses.csv.
    ids, speakers : numpy.ndarray
        Shape (utterances,).

    Returns
    -------
    texts : dict
        By ID.
    reading : dict
        `value` and `scores`.
    """
    with open(folder / "hypotheses.csv", encoding="utf-8", newline="") as file:
        found = {row["ID"]: row for row in csv.DictReader(file)}
    speaker_of = dict(zip(ids, speakers, strict=True))
    counts = [
        error_counts([row["reference"].split()], [row["greedy"].split()]) for row in found.values()
    ]
    errors, tokens = (np.array([count[key] for count in counts]) for key in ("errors", "tokens"))
    _, groups = np.unique([speaker_of[name] for name in found], return_inverse=True)
    scores = bootstrap.group_scores(errors, tokens, np.zeros(len(errors), int), groups)
    texts = {name: row["reference"] for name, row in found.items()}
    return texts, {"value": float(errors.sum() / tokens.sum()), "scores": scores.tolist()}


def judge(runs):
    """Say of each aim whether it is met.

    Met is an aim whose margin's 95 % interval, over speakers and seeds, lies at or below 0:

    - the speaker probe on pooled frames reads at most 60 % of what it reads of the control;
    - the phone error rate is at most 2 % higher (relative), of all layers and of the last alone;
    - the EER of u is at most a point higher;
    - u holds less of an utterance's phones by a probe, unless the control's probe does no better
      than probes with shuffled labels: then there is nothing to lower.

    Arguments
    ---------
    runs : list of dict
        A pair for each seed: "joint" and "joint_beta0", each as test.json has it.

    Returns
    -------
    list of dict
        `aim`, `joint` and `control` (a value for each seed), `margin`, `interval` and `met`,
        which is None where there is nothing to lower.

    Example
    -------
    >>> trials = {"scores": [0.9, 0.1] * 8, "labels": [1, 0] * 8, "value": 0.0}
    >>> trials["speakers"] = [["a", "a"], ["a", "b"], ["b", "b"], ["b", "c"]] * 4
    >>> def run(speaker):
    ...     reading = {"value": speaker, "scores": [speaker] * 9, "shuffled": 0.0}
    ...     keys = "speaker", "phones", "last_phones", "content"
    ...     return {**dict.fromkeys(keys, reading), "eer": trials}
    >>> [line["met"] for line in judge([{"joint": run(0.2), "joint_beta0": run(0.5)}])]
    [True, True, True, True, True]
    """
    paired = bootstrap.DIFFERENCE_PAIRED_USE
    lines = [
        _aim("speaker from pooled z: at most 60 %", runs, "speaker", SPEAKER_SHARE, paired),
        _aim("phone errors, all layers: at most 2 % higher", runs, "phones", PHONE_SHARE, 1.0),
        _aim("phone errors, last layer: at most 2 % higher", runs, "last_phones", PHONE_SHARE, 1.0),
        _eer_aim("EER of u: at most a point higher", runs),
        _aim("phones from u (R2): lower", runs, "content", 1.0, paired),
    ]
    content = [run[CONTROL]["content"] for run in runs]
    low, _ = bootstrap.bootstrap_groups([reading["scores"] for reading in content], runner.SEEDS[0])
    if low <= np.mean([reading["shuffled"] for reading in content]):
        lines[-1]["met"] = None
    return lines


def _aim(aim, runs, key, share, paired_use):
    """Judge whether a reading of the joint model is at most a share of the control's."""
    own, other = (np.array([run[name][key]["scores"] for run in runs]) for name in ROWS)
    margins = own - share * other
    interval = bootstrap.bootstrap_groups(margins, runner.SEEDS[0], paired_use)
    return _line(aim, runs, key, margins.mean(), interval)


def _eer_aim(aim, runs):
    """Judge whether the EER of the joint model's u is within a margin of the control's."""
    shared = {key: np.asarray(runs[0][JOINT]["eer"][key]) for key in ("labels", "speakers")}
    scores = [[np.asarray(run[name]["eer"]["scores"]) for name in ROWS] for run in runs]
    rng = np.random.default_rng(runner.SEEDS[0])

    def margin(weights=None):
        rises = [
            np.atleast_1d(eer(own, shared["labels"], weights))
            - eer(other, shared["labels"], weights)
            for own, other in scores
        ]
        draws = 1 if weights is None else len(weights)
        chosen = np.full((draws, len(runs)), 1 / len(runs))
        if weights is not None:
            chosen = rng.multinomial(len(runs), chosen[0], size=draws) / len(runs)
        return (np.array(rises).T * chosen).sum(1) - EER_MARGIN

    interval = bootstrap.bootstrap_trials(margin, seed=runner.SEEDS[0], **shared)
    return _line(aim, runs, "eer", margin()[0], interval)


def _line(aim, runs, key, margin, interval):
    values = {name: [run[name][key]["value"] for run in runs] for name in ROWS}
    return {
        "aim": aim,
        "joint": values[JOINT],
        "control": values[CONTROL],
        "margin": float(margin),
        "interval": [float(end) for end in interval],
        "met": bool(interval[1] <= 0),
    }


def make_table(lines):
    """Return a verdict as Markdown, in percent.

    Example
    -------
    >>> line = {"aim": "low", "joint": [0.2], "control": [0.5], "margin": -0.1}
    >>> print(make_table([{**line, "interval": [-0.2, 0.1], "met": False}]))
    None of 1 aims is met.
    <BLANKLINE>
    | aim | joint | beta 0 | above what is allowed | met |
    |---|--:|--:|--:|---|
    | low | 20.0 | 50.0 | -10.0 [-20.0, +10.0] | no |
    """
    judged = [line["met"] for line in lines if line["met"] is not None]
    count = sum(judged) or "None"
    words = {True: "yes", False: "no", None: "nothing to lower"}
    rows = []
    for line in lines:
        values = [readmes.percent_and_range(line[name]) for name in ("joint", "control")]
        above = readmes.change_and_interval(line["margin"], line["interval"])
        rows.append([line["aim"], *values, above, words[line["met"]]])
    heads = ["aim", "joint", "beta 0", "above what is allowed", "met"]
    verb = "is" if count in ("None", 1) else "are"
    first = f"{count} of {len(judged)} aims {verb} met."
    return "\n".join([first, "", readmes.markdown_table(heads, "lrrrl", rows)])


def run_all(options):
    """Do what is missing of all runs; return the lines of the verdict."""
    seeds = runner.SEEDS[: options.seeds]
    steps = [(train_run, step) for step in STEPS] + [(recognise_phones, ROWS)]
    for do, names in steps:
        planned = [(seed, name, options) for seed in seeds for name in names]
        problems = runner.run_side_by_side(lambda run, do=do: do(*run), planned, options.jobs)
        if problems:
            sys.exit("\n".join(problems))
    torch.set_num_threads(1)
    runs = []
    for seed in seeds:
        runs.append({})
        for name in ROWS:
            read_test(seed, name, options)
            path = options.output_folder / str(seed) / name / "test.json"
            runs[-1][name] = json.loads(path.read_text(encoding="utf-8"))
    return judge(runs)


def main():
    """Train, read and judge, or write the verdict."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=3)
    options = parser.parse_args()
    if options.write is not None:
        lines = json.loads((options.write / "verdict.json").read_text(encoding="utf-8"))
        readmes.write_between(RESULTS, "verdict", make_table(lines))
        return
    runner.check_paths(parser, options, PATHS)
    lines = run_all(options)
    replace_text(options.output_folder / "verdict.json", json.dumps(lines, indent=2) + "\n")
    print(make_table(lines))


if __name__ == "__main__":
    main()
