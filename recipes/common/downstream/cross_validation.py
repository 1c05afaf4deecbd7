"""Cross-validation: a classification recipe's run for each fold, and the figures of all of them."""

import csv
import io
import json
import os
import time
from pathlib import Path

import numpy as np

from recipes.common.data.files import read_text
from recipes.common.downstream.class_figures import class_figures, class_intervals
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import plain_values, read_tree
from recipes.common.training.record import write_metrics
from recipes.common.training.run import claim

JUDGED = ("label", "predicted", "spk_id")  # columns of predictions.csv
COMMON = ("features", "representation", "upstream")  # figures that are the same in all folds


def cross_validate(arguments, train_fold, key, folds):
    """Run one fold where the command line names it, and otherwise all of them, one after another.

    The runs of all folds lie in folders of their own, such as `fold_1`, in the output folder,
    beside the summary, metrics.json, and share the states of a frozen upstream. Started again,
    what is missing is trained.

    Arguments
    ---------
    arguments : list of str
        The command line: a hyperparameters file and options.
    train_fold : callable
        Takes the command line of a fold; trains, tests and writes metrics.json and predictions.csv.
    key : str
        Of the hyperparameters file: the fold that is tested, null for all.
    folds : iterable of int
        The values of `key`.

    Raises
    ------
    ValueError
        Where all folds are to be run by several processes or on one folder of manifests. Nothing
        is written then.
    """
    began = time.time()
    file, run_opts, given = read_command_line(arguments)
    settings = {**plain_values(read_tree(file)), **given}
    if settings[key] is not None:
        train_fold(arguments)
        return
    check_sequence(given, key)
    output = Path(given.get("output_folder", "")).absolute()
    shared = []
    if settings["cache_folder"] is not None:
        shared = ["--cache_folder", str(output / settings["cache_folder"])]
    folders = {fold: output / f"fold_{fold}" for fold in folds}
    for fold, folder in folders.items():
        own = [f"--{key}", str(fold), "--output_folder", str(folder)]
        train_fold([*arguments, *shared, *own])
    if not run_opts.debug:
        claim(output)
        summarise(folders, output, settings["seed"], began)


def check_sequence(given, key):
    """Raise ValueError where the folds cannot be run one after another in one process.

    Arguments
    ---------
    given : dict
        The command line's options.
    key : str
        The option that names a fold.
    """
    if "output_folder" not in given:
        raise ValueError("--output_folder is missing: expected where the folds' runs go.")
    if "manifest_folder" in given:
        raise ValueError(
            "--manifest_folder cannot be used for all folds, whose manifests differ: give a fold, "
            f"--{key}, and a folder for each."
        )
    if "RANK" in os.environ:
        raise ValueError(
            f"Several processes run one fold at a time: give --{key} and --output_folder O/fold_1, "
            "and so on. One process that is started after them with --output_folder O sums up."
        )


def summarise(folders, output, seed, began):
    """Write the figures of all folds, their means and standard deviations to metrics.json.

    Arguments
    ---------
    folders : dict
        By fold: Path of its run.
    output : Path
        Receives metrics.json. Its `test` has the means over folds of the shares that each fold's
        test has, `deviation` their standard deviations, and `pooled` the figures of all folds'
        utterances together with intervals over speakers.
    seed : int
        Of the draws of the intervals.
    began : float
        When the run began, s since the epoch.
    """
    runs = {fold: read_figures(folder) for fold, folder in folders.items()}
    tests = [run["test"] for run in runs.values()]
    shares = {k: [test[k] for test in tests] for k, v in tests[0].items() if isinstance(v, float)}
    judged = sum((read_predictions(folder) for folder in folders.values()), [])
    labels, predicted, speakers = zip(*judged, strict=True)
    first = next(iter(runs.values()))
    figures = {
        **{name: first[name] for name in COMMON},
        "folds": {
            str(fold): {name: run[name] for name in ("lr", "utterances", "valid", "test")}
            for fold, run in runs.items()
        },
        "test": {name: float(np.mean(values)) for name, values in shares.items()},
        "deviation": {name: float(np.std(values, ddof=1)) for name, values in shares.items()},
        "pooled": {
            **class_figures(labels, predicted),
            **class_intervals(labels, predicted, speakers, seed),
        },
    }
    manifests = [path for folder in folders.values() for path in folder.glob("manifest/*.csv")]
    write_metrics(
        output / "metrics.json", figures, seed=seed, manifests=manifests, start_time=began
    )
    print(json.dumps({name: figures[name] for name in ("test", "deviation", "pooled")}, indent=2))


def read_figures(folder):
    """Return the figures of a fold's run."""
    return json.loads(read_text(folder / "metrics.json"))["figures"]


def read_predictions(folder):
    """Return the label, the prediction and the speaker of each utterance that a fold tested."""
    rows = csv.DictReader(io.StringIO(read_text(folder / "predictions.csv"), newline=""))
    return [tuple(row[name] for name in JUDGED) for row in rows]
