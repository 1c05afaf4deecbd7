#!/usr/bin/env python3
"""Write the tables of this folder's README from the metrics.json of runs.

    python results.py O

O holds the runs of the three stages, their controls joint_beta0 (--beta 0.0) and frame_shuffled
(--shuffle_units True), and leakage (evaluate.py). What is missing is told as not run.
"""

import json
import sys
from pathlib import Path

from recipes.common.evaluation.metrics import write_between

README = Path(__file__).resolve().with_name("README.md")
RUNS = {  # as the table calls a run, and its folder
    "frame": "frame",
    "frame, `--shuffle_units True`": "frame_shuffled",
    "utterance": "utterance",
    "joint": "joint",
    "joint, `--beta 0.0`": "joint_beta0",
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
    "unseen speakers": "both",
}
READINGS = {"likelihood gain": "likelihood_gain", "InfoNCE": "info_nce"}


def read_figures(folder):
    """Return the figures of a run, or None where it has no metrics.json."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else None


def make_stage_table(runs):
    """Return what the runs measured while training, as Markdown.

    Arguments
    ---------
    runs : dict
        The figures of each run by its name in `RUNS`; None for one that was not run.

    Returns
    -------
    str

    Example
    -------
    >>> shares = {"masked_accuracy": 0.1, "copy_accuracy": 0.05}
    >>> figures = {"epochs": 2, "steps": 10, "valid": shares, "test": shares}
    >>> print(make_stage_table({"frame": figures}).splitlines()[-1])
    | | | | test | 10.0 | 5.0 | | | | |
    """
    lines = ["| run, in % | epochs | steps | | " + " | ".join(SHARES) + " |"]
    lines.append("|---|--:|--:|---|" + "--:|" * len(SHARES))
    for name, figures in runs.items():
        if figures is None:
            lines.append(f"| {name} | not run | | |" + " |" * len(SHARES))
            continue
        own = f"| {name} | {figures['epochs']} | {figures['steps']} |"
        for split, first in (("valid", own), ("test", "| | | |")):
            shares = [figures[split].get(key) for key in SHARES.values()]
            texts = ["" if share is None else f" {100 * share:.1f}" for share in shares]
            lines.append(f"{first} {split} |" + "".join(f"{text} |" for text in texts))
    return "\n".join(lines)


def make_leakage_table(figures):
    """Return what fresh critics found, as Markdown; see `evaluate.py` for the figures."""
    lines = ["| read on, in nats | | joint | beta 0 | difference [95 %] |", "|---|---|--:|--:|--:|"]
    for part, title in PARTS.items():
        for name, key in READINGS.items():
            own = figures[part][key]
            means = " | ".join(
                f"{own[run]['mean']:.2f} ± {own[run]['std']:.2f}" for run in ("model", "control")
            )
            low, high = own["interval"]
            change = f"{own['difference']:.2f} [{low:.2f}, {high:.2f}]"
            lines.append(f"| {title} | {name} | {means} | {change} |")
    return "\n".join(lines)


def main(output):
    """Write both tables; SystemExit where there is no run at all."""
    runs = {name: read_figures(Path(output) / folder) for name, folder in RUNS.items()}
    if not any(runs.values()):
        sys.exit(f"{output} holds no metrics.json of {', '.join(RUNS.values())}.")
    write_between(README, "stages", make_stage_table(runs))
    leakage = read_figures(Path(output) / "leakage")
    write_between(README, "leakage", make_leakage_table(leakage) if leakage else "Not run.")


if __name__ == "__main__":
    main(*sys.argv[1:])
