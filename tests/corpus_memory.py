#!/usr/bin/env python3
"""The time and the memory that a manifest of so many rows takes, from the CSV file to a batch.

    python -m tests.corpus_memory 10000000 --workers 8 --method spawn
    python -m tests.corpus_memory 281241 --tree

Seconds are of CPU time, which other processes hardly change. Memory is in MiB: `peak` is above what
the imports take, `total` the proportional set size of this process and its workers, in which what
they share counts once. With `--tree` there are files too, empty ones in LibriSpeech's layout, and
the seconds are those of a run whose manifest is there, from the start to the first batch's rows.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from recipes.common.corpora import scanning
from recipes.common.data.loaders import load_split, make_loader
from recipes.common.data.seeding import Clock
from recipes.common.training.run import SPLITS, prepare, split_datasets
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

SETTINGS = {"data_folder": "/corpus", "min_seconds": 1.5, "max_seconds": 16.0, "seed": 0}
SETTINGS |= {"max_batch_seconds": 100.0}
PREPARED = {"prepare": prepare_librispeech, "prepare_options": {}, "skip_bad": False}
PREPARED |= {"skip_prep": False, "download": False}
PREPARED |= {f"{split}_splits": [split] for split in SPLITS}
CHAPTER = 50  # utterances of a chapter


def main():
    """Write a manifest, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--method", choices=["fork", "spawn"], default="fork")
    parser.add_argument("--tree", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.tree:
            print(json.dumps(measure_start(Path(folder), options.rows)))
            return
        path = Path(folder) / "train.csv"
        write_rows(path, options.rows)
        print(json.dumps(measure(path, options.workers, options.method)))


def write_rows(path, count):
    """Write a manifest of so many made-up rows, sorted by ID."""
    durations = np.random.default_rng(0).uniform(1, 30, count).round(3)
    with open(path, "w", encoding="utf-8") as file:
        file.write("ID,duration,wav,spk_id,wrd\n")
        for row, duration in enumerate(durations):
            name = f"{row // 1000:06d}-{row % 1000:04d}"
            words = "WORDS THAT SOMEBODY READ FROM A BOOK"
            file.write(f"{name},{duration},$data_root/train/{name}.flac,{row // 1000},{words}\n")


def measure(path, workers, method):
    """Return the figures of a manifest."""
    began, before = time.process_time(), status("VmRSS")
    dataset = load_split([path], SETTINGS)
    opened = time.process_time()
    load_split([path], SETTINGS)
    again = time.process_time()
    dataset.set_output_keys(["id", "duration"])
    loader = make_loader(dataset, {**SETTINGS, "num_workers": workers}, Clock())
    planned = time.process_time()
    figures = {
        "open_seconds": opened - began,
        "open_again_seconds": again - opened,
        "plan_seconds": planned - again,
        "peak": status("VmHWM") - before,
    }
    loader.multiprocessing_context = method if workers else None
    batches = iter(loader)
    for _ in range(4 * max(1, workers)):
        next(batches)
    pids = [worker.pid for worker in getattr(batches, "_workers", [])]
    return {**figures, "total": sum(proportional_size(pid) for pid in ("self", *pids))}


def measure_start(folder, count):
    """Return the seconds to the first batch of a corpus of so many files."""
    ends = (count, count + CHAPTER, count + 2 * CHAPTER)
    for split, first, end in zip(SPLITS, (0, *ends), ends, strict=False):
        write_tree(folder / "LibriSpeech" / split, first, end)
    hparams = {**SETTINGS, **PREPARED, "data_folder": str(folder / "LibriSpeech")}
    hparams |= {"manifest_folder": str(folder / "manifest"), "num_workers": 0}
    scanning.check_pieces = lambda path, **how: (12.3, None, [])  # the files are empty
    prepare(hparams)
    began = time.process_time()
    prepare(hparams)
    prepared = time.process_time()
    train = split_datasets(hparams)["train"]
    train.set_output_keys(["id", "wav"])
    rows = next(iter(make_loader(train, hparams, Clock()).batch_sampler))
    assert len([train[row] for row in rows]) > 1
    return {"prepare_seconds": prepared - began, "batch_seconds": time.process_time() - prepared}


def write_tree(folder, start, end):
    """Write a split of LibriSpeech's layout whose audio files are empty."""
    for first in range(start, end, CHAPTER):
        chapter = f"{first}-{first}"
        place = folder / chapter.replace("-", "/")
        place.mkdir(parents=True)
        names = [f"{chapter}-{number:04d}" for number in range(min(CHAPTER, end - first))]
        for name in names:
            (place / f"{name}.flac").touch()
        text = "".join(f"{name} WORDS THAT SOMEBODY READ\n" for name in names)
        (place / f"{chapter}.trans.txt").write_text(text, encoding="utf-8")


def status(key):
    """Return a figure of this process, MiB, by its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def proportional_size(pid):
    """Return the proportional set size of a process, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
