#!/usr/bin/env python3
"""Write the tables of pretraining from the metrics.json of runs.

    python pretraining_tables.py O

O holds the runs of the three stages, their controls joint_beta0, joint_plain and
frame_shuffled, and leakage (evaluate.py). The table of the stages goes into the README of
LibriSpeech/pretrain, that of the leakage into RESULTS.md. What is missing is marked as not run.
"""

import argparse
import sys
from pathlib import Path

from recipes.experiments import readmes, runner

README = runner.PRETRAIN / "README.md"
RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
RUNS = {  # as the table calls a run, and its folder
    "frame": "frame",
    "frame, `--shuffle_units True`": "frame_shuffled",
    "utterance": "utterance",
    "joint": "joint",
    "joint, `--beta 0.0`": "joint_beta0",
    "joint, `--beta 0.0 --frame_norm none`": "joint_plain",
}
SHARES = {
    "masked accuracy": "masked_accuracy",
    "copying": "copy_accuracy",
    "majority": "majority_accuracy",
    "unmasked accuracy": "unmasked_accuracy",
    "retrieval": "retrieval_accuracy",
    "chance": "retrieval_chance",
}
PARTS = {
    "training speakers": "training speakers",
    "unseen speakers, valid": "valid, unseen speakers",
    "unseen speakers, test": "test, unseen speakers",
    "unseen speakers": "valid and test together",
}
READINGS = {"likelihood gain": "likelihood_gain", "InfoNCE": "info_nce"}
COMPARED = ("model", "control")


def make_stage_table(runs, minutes):
    """Return what the runs measured while training, as Markdown.

    Arguments
    ---------
    runs : dict
        The figures of each run by its name in `RUNS`; None for one that was not run.
    minutes : dict
        Likewise, how long it took.

    Returns
    -------
    str

    Example
    -------
    >>> shares = {"masked_accuracy": 0.1, "copy_accuracy": 0.05}
    >>> figures = {"epochs": 2, "steps": 10, "valid": shares, "test": shares}
    >>> print(make_stage_table({"frame": figures}, {"frame": 3}).splitlines()[-1])
    | | | | | test | 10.0 | 5.0 | | | | |
    """
    rows = []
    for name, figures in runs.items():
        if figures is None:
            rows.append([name, "not run", "", "", "", *[""] * len(SHARES)])
            continue
        own = [name, figures["epochs"], figures["steps"], f"{minutes[name]:.1f}", "valid"]
        for split, first in (("valid", map(str, own)), ("test", ["", "", "", "", "test"])):
            shares = [figures[split].get(key) for key in SHARES.values()]
            texts = ["" if share is None else f"{100 * share:.1f}" for share in shares]
            rows.append([*first, *texts])
    heads = ["run, in %", "epochs", "steps", "minutes", "", *SHARES]
    return readmes.markdown_table(heads, "lrrrl" + "r" * len(SHARES), rows)


def make_leakage_table(figures):
    """Return what fresh critics found, as Markdown; see `evaluate.py` for the figures."""
    rows = []
    for part, title in PARTS.items():
        for name, key in READINGS.items():
            own = figures[part][key]
            means = [f"{own[run]['mean']:.2f} ± {own[run]['std']:.2f}" for run in COMPARED]
            low, high = own["interval"]
            rows.append([title, name, *means, f"{own['difference']:.2f} [{low:.2f}, {high:.2f}]"])
    heads = ["read on, in nats", "", "joint", "control", "difference [95 %]"]
    return readmes.markdown_table(heads, "llrrr", rows)


def main(arguments=None):
    """Write both tables; SystemExit where there is no run at all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", metavar="O", help="the folder of the runs")
    output = parser.parse_args(arguments).output
    runs = {name: runner.read_figures(Path(output) / folder) for name, folder in RUNS.items()}
    if not any(runs.values()):
        sys.exit(f"{output} holds no metrics.json of {', '.join(RUNS.values())}.")
    minutes = {name: runner.read_minutes(Path(output) / folder) for name, folder in RUNS.items()}
    readmes.write_between(README, "stages", make_stage_table(runs, minutes))
    leakage = runner.read_figures(Path(output) / "leakage")
    text = make_leakage_table(leakage) if leakage else "Not run."
    readmes.write_between(RESULTS, "leakage", text)


if __name__ == "__main__":
    main()
