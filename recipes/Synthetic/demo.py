#!/usr/bin/env python3
"""The three stages at the tiny size, from nothing to a report: about ten minutes on two cores.

    python recipes/Synthetic/demo.py                             # or: make demo
    python recipes/Synthetic/demo.py --data_folder LibriSpeech   # real speech: hours

Without `--data_folder`, on the synthetic corpus. What is done is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recipes.common.data.files import CorpusError
from recipes.common.data.table import ROOT, read_manifest
from recipes.common.evaluation.comparison import ATTACKED
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.Synthetic.synthetic_prepare import prepare_synthetic

REPOSITORY = Path(__file__).resolve().parents[2]
# Runs that do not need each other stand together; folder: the stage that runs there, its options
RUNS = (
    {"frame": ("frame", []), "utterance": ("utterance", [])},
    {"joint": ("joint", []), "joint_plain": ("joint", ["--beta", "0.0", "--frame_norm", "none"])},
)
REPORT = {  # options by corpus; on the synthetic one a quick look, without the slowest parts
    "Synthetic": [
        *("--seeds", "[1]", "--read_utterances", "96", "--train_utterances", "96"),
        *("--frames_per_utterance", "5", "--hidden_dim", "32", "--max_items", "3"),
        *("--probes", "[linear]", "--information", "False"),
    ],
    "LibriSpeech": [],
}
PREPARE = {  # the function, and the splits that the stages use; the last is the test split
    "Synthetic": (prepare_synthetic, ("train", "valid", "test")),
    "LibriSpeech": (prepare_librispeech, ("train-clean-100", "dev-clean", "test-clean")),
}
COLUMNS = {  # of the table: representation, factor and measure in report.json
    "phone from frames": ("frame, weighted sum", "phone", "balanced accuracy"),
    "speaker from frames": (ATTACKED, "speaker", "balanced accuracy"),
    "speaker from u, EER": ("utterance", "speaker", "EER"),
    "phones from u, R2": ("utterance", "phone", "R2"),
}


def main(arguments=None):
    """Make or take the corpus, train, report, encode a file."""
    began = time.time()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_folder", type=Path, help="a LibriSpeech tree")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "results" / "demo")
    options = parser.parse_args(arguments)
    corpus, results = (
        "LibriSpeech" if options.data_folder else "Synthetic",
        options.results.resolve(),
    )
    data = (options.data_folder or results / "corpus").resolve()
    claim(results, data)
    say("corpus")
    prepare, splits = PREPARE[corpus]
    try:
        prepare(data, results / "manifest", splits)
    except CorpusError as error:
        sys.exit(str(error))
    common = ["--data_folder", data, "--manifest_folder", results / "manifest"]
    for runs in RUNS:
        train_side_by_side(corpus, runs, results, common)
    models = ",".join(str(results / name / "model") for name in ("joint", "joint_plain"))
    settings = ["--models", f"[{models}]", *REPORT[corpus]]
    run(f"{corpus}/report", "report.yaml", results / "report", [*common, *settings])
    encode_one(results, data, splits[-1])
    report = json.loads((results / "report" / "report.json").read_text(encoding="utf-8"))
    print("", make_table(report), "", *report["verdict"]["sentences"], sep="\n")
    print(f"All figures: {results / 'report' / 'report.html'}; took {time.time() - began:.0f} s.")


def claim(results, data):
    """Refuse a folder of results that were made from other data."""
    marker = results / "data_folder"
    found = marker.read_text(encoding="utf-8") if marker.is_file() else str(data)
    if found != str(data):
        sys.exit(f"{results} holds results on {found}: give another --results.")
    results.mkdir(parents=True, exist_ok=True)
    marker.write_text(str(data), encoding="utf-8")


def train_side_by_side(corpus, runs, results, common):
    """Train runs that do not need each other at the same time, each on its share of the cores."""
    cores = os.cpu_count() or 1
    workers = min(len(runs), cores)
    quiet = [*common, "--noprogressbar"] if workers > 1 else common  # two bars overwrite each other

    def train(name):
        stage, settings = runs[name]
        recipe, hparams = f"{corpus}/pretrain", f"{stage}_tiny.yaml"
        run(recipe, hparams, results / name, [*quiet, *settings], cores // workers)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(train, runs))


def run(recipe, hparams, folder, options, threads=None):
    """Run a recipe's train.py in its own folder, unless its metrics.json is there."""
    if (folder / "metrics.json").is_file():
        return
    say(folder.name)
    folder.mkdir(exist_ok=True)  # or FOLDER/../frame, where the joint stage starts, is nowhere
    words = ["train.py", f"hparams/{hparams}", "--output_folder", folder, *options]
    start(words, REPOSITORY / "recipes" / recipe, threads)


def start(words, folder, threads=None):
    """Run Python in a folder without what it prints to stdout; stop where it fails."""
    command = [sys.executable, *map(str, words)]
    env = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    code = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(f"{' '.join(command)} ended with code {code}.")


def say(part):
    """Announce a part of the demo."""
    print(f"\n=== {part} ({time.strftime('%H:%M:%S')})", file=sys.stderr, flush=True)


def encode_one(results, data, split):
    """Encode an utterance by the exported model, as a user would."""
    say("encode")
    row = read_manifest(results / "manifest" / f"{split}.csv")[0]
    file = data / row["wav"].removeprefix(ROOT)
    model, out = results / "joint" / "model", results / "encoded"
    start(["-m", "pretrained", "encode", file, "--model", model, "--out", out], REPOSITORY)


def make_table(report):
    """Return the figures of `COLUMNS` of each model and control, in per cent.

    Arguments
    ---------
    report : dict
        As report.json has it.

    Returns
    -------
    str
        A line each. A probe is the linear one; brackets hold the 95 % interval over speakers.

    Example
    -------
    >>> figure = {"model": "joint", "representation": "utterance", "factor": "speaker"}
    >>> figure |= {"measure": "EER", "probe": None, "value": 0.1, "interval": [0.05, 0.15]}
    >>> make_table({"models": [{"name": "joint"}], "figures": [figure]}).split()[-4:-1]
    ['10.0', '[5.0,', '15.0]']
    """
    cells = {}
    for figure in report["figures"]:
        if figure["probe"] in (None, "linear") and figure["interval"]:
            key = figure["model"], *(figure[k] for k in ("representation", "factor", "measure"))
            value, *ends = (100 * x for x in (figure["value"], *figure["interval"]))
            cells[key] = "{:.1f} [{:.1f}, {:.1f}]".format(value, *ends)
    names = [model["name"] for model in report["models"]]
    rows = [[name, *(cells.get((name, *key), "-") for key in COLUMNS.values())] for name in names]
    return "\n".join("".join(f"{text:>30}" for text in row) for row in [["in %", *COLUMNS], *rows])


if __name__ == "__main__":
    main()
