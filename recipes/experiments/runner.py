"""What the studies share: their command lines, and commands of recipes that run side by side."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pretrained.plain_files import read_json

RECIPES = Path(__file__).resolve().parents[1]
PRETRAIN = RECIPES / "LibriSpeech" / "pretrain"
SEEDS = (2407, 2408, 2409, 2410, 2411)


def runs_parser(description, paths, seeds):
    """Return the parser of a study that makes many runs, and writes READMEs from them.

    Arguments
    ---------
    description : str
        Its first line is shown.
    paths : dict
        Of each option that names a path, what it is. `output_folder` need not be there.
    seeds : int
        How many of `SEEDS` by default.

    Returns
    -------
    argparse.ArgumentParser

    Example
    -------
    >>> parser = runs_parser("Compare.", {"output_folder": "where the runs go"}, 2)
    >>> options = parser.parse_args(["--output_folder", "B", "--jobs", "2"])
    >>> options.output_folder.is_absolute(), options.seeds, options.jobs, options.write
    (True, 2, 2, None)
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    folder = paths["output_folder"]
    parser.add_argument("--write", type=Path, metavar="FOLDER", help=f"write from it: {folder}")
    for name, text in paths.items():
        parser.add_argument(f"--{name}", type=lambda path: Path(path).resolve(), help=text)
    parser.add_argument("--seeds", type=int, default=seeds, choices=range(1, len(SEEDS) + 1))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser


def check_paths(parser, options, paths):
    """Leave with a message unless each path is given and, but for `output_folder`, there."""
    given = {name: getattr(options, name) for name in paths}
    if absent := [f"--{name}" for name, path in given.items() if path is None]:
        parser.error(f"{', '.join(absent)} must be given too (see --help)")
    for name, path in given.items():
        if name == "output_folder" and path.exists() and not path.is_dir():
            parser.error(f"--output_folder {path} is a file: expected a folder, or nothing yet")
        if name != "output_folder" and not path.exists():
            parser.error(f"--{name} {path} does not exist")


def check_language_models(parser):
    """Leave with a message unless what reads language models is installed."""
    if absent := [name for name in ("kenlm", "pygtrie") if importlib.util.find_spec(name) is None]:
        parser.error(
            f"{' and '.join(absent)} must be installed for word error rates with a bigram: "
            "pip install kenlm pygtrie (a C++ compiler builds them)"
        )


def make_command(words, options):
    """Return the words of a Python command.

    Arguments
    ---------
    words : list of str
        The script and what follows it.
    options : dict
        Value by name.

    Returns
    -------
    list of str

    Example
    -------
    >>> make_command(["train.py", "hparams/frame.yaml"], {"seed": 1})[1:]
    ['train.py', 'hparams/frame.yaml', '--seed', '1']
    """
    pairs = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return [sys.executable, *words, *pairs]


def run_logged(command, folder, log, jobs):
    """Run a command in a folder, beside others; return what went wrong, or None.

    Arguments
    ---------
    command : list of str
        Its words.
    folder : Path
    log : Path
        What it prints is appended to this file; its folder is made where it is missing.
    jobs : int
        How many commands share the cores at a time.

    Returns
    -------
    str or None

    Example
    -------
    >>> log = getfixture("tmp_path") / "log.txt"
    >>> problem = run_logged([sys.executable, "-c", "raise SystemExit(3)"], ".", log, jobs=2)
    >>> problem == f"ended with 3: see {log}"
    True
    """
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, env=env)
    return f"ended with {done.returncode}: see {log}" if done.returncode else None


def run_side_by_side(run, planned, jobs):
    """Call a function for each plan, `jobs` at a time; return the problems that it returned.

    Example
    -------
    >>> run_side_by_side(lambda seed: "failed" if seed == 2 else None, [1, 2, 3], jobs=2)
    ['failed']
    """
    with ThreadPoolExecutor(jobs) as pool:
        return list(filter(None, pool.map(run, planned)))


def read_kept(path):
    """Return what a study wrote to a JSON file; leave with a message where it cannot be read."""
    if not path.is_file():
        sys.exit(f"{path} is missing: run the study first.")
    try:
        return read_json(path)
    except ValueError as error:
        sys.exit(f"{error} Run the study again: what it has done is kept.")


def read_minutes(folder):
    """Return how long a run took, or None where its folder has no metrics.json."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["seconds"] / 60 if path.is_file() else None


def read_figures(folder):
    """Return the figures of a run, or None where its folder has no metrics.json."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else None
