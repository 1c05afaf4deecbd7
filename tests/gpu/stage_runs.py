"""The three stages by the recipes' own command, on a small folder of audio; one is killed once."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from recipes.AudioFolder.audio_folder_prepare import list_audio
from tests.gpu.made_up import ON_A_GPU, SEED, STAGES, file_of
from tests.voices import write_audio

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "AudioFolder" / "pretrain"
KILLED = "frame"
# Of the corpus: seconds of audio, and of the shortest and the longest file
CORPUS = dict.fromkeys(("base", "small"), (1500, 3.0, 8.0)) | {"tiny": (100, 1.5, 3.0)}
OPTIONS = {
    "base": {
        "frame": {"number_of_epochs": 4, "max_batch_seconds": 40},
        "utterance": {"number_of_epochs": 10, "max_batch_seconds": 128},
        "joint": {"number_of_epochs": 3, "max_batch_seconds": 40},
    },
    "tiny": {
        "frame": {"number_of_epochs": 3, "max_batch_seconds": 20},
        "utterance": {"number_of_epochs": 2, "max_batch_seconds": 40},
        "joint": {"number_of_epochs": 2, "max_batch_seconds": 20},
    },
}
OPTIONS["small"] = OPTIONS["base"]
LOADING = {"num_workers": 8}  # on a GPU, beside what `made_up` gives smaller sizes there
CUT = ("frame", "joint")  # stages whose batches are cut to their shortest utterance there


def steps(settings, folder):
    """Yield the making of a corpus, and each stage on it."""
    corpus = folder / "corpus"
    yield "corpus", partial(make_corpus, settings, corpus)
    for stage in STAGES:
        yield stage, partial(run_stage, stage, settings, corpus, folder / "runs")


def make_corpus(settings, folder):
    """Fill a folder with voices, or with as much of the speech that was given; return how much."""
    seconds, shortest, longest = CORPUS[settings.size]
    if settings.audio is None:
        rng = np.random.default_rng(SEED)
        lengths = rng.uniform(shortest, longest, round(2 * seconds / (shortest + longest)))
        write_audio(folder, lengths, ".flac", rng)
    else:
        copy_audio(settings.audio, folder, seconds)
    durations = [soundfile.info(path).duration for path in folder.iterdir()]
    return {"files": len(durations), "seconds": sum(durations)}


def copy_audio(source, folder, seconds):
    """Copy files of a folder that can be read, drawn at random, until there are so many seconds."""
    rows, _ = list_audio(source, speakers_from_folders=False)
    folder.mkdir(parents=True)
    for place in np.random.default_rng(SEED).permutation(len(rows)):
        path = rows[place]["wav"]
        try:
            seconds -= soundfile.info(path).duration
        except soundfile.LibsndfileError:
            continue
        shutil.copy(path, folder / f"{place:06d}{path.suffix}")
        if seconds <= 0:
            break


def run_stage(stage, settings, corpus, runs):
    """Train a stage and return its losses by epoch, whether they fall, and its speed."""
    output = runs / stage
    command = command_of(stage, settings, corpus, output)
    killed = kill_after_an_epoch(command, output) if stage == KILLED else []
    began = time.time()
    done = subprocess.run(command, **surroundings(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"ended with {done.returncode}: {done.stdout[-1500:]}")
    rows = history(output)
    if rows[: len(killed)] != killed:
        raise RuntimeError(f"the epochs before the kill were {killed}; now they are {rows}")
    losses = {split: [row[split]["loss"] for row in rows] for split in ("train", "valid")}
    figures = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["figures"]
    return {
        "seconds": time.time() - began,
        "epochs": len(rows),
        "steps": figures["steps"],
        "epochs_before_the_kill": len(killed),
        **{f"{split}_losses": values for split, values in losses.items()},
        "train_loss_falls": losses["train"][-1] < losses["train"][0],
        "audio_seconds_per_second": rows[-1]["train"]["audio_seconds_per_second"],
    }


def command_of(stage, settings, corpus, output):
    """Return the recipe's command for a stage."""
    words = ["train.py", f"hparams/{file_of(stage, settings.size)}", "--device", settings.device]
    options = {"data_folder": corpus, "output_folder": output, "skip_bad": True}
    options |= OPTIONS[settings.size][stage]
    if settings.device == "cuda":
        options |= {**ON_A_GPU, **LOADING, **({"crop_batches": True} if stage in CUT else {})}
    words += [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    return [sys.executable, *words]


def surroundings():
    """Return where a command runs: with this code, and what was on the path before."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return {"cwd": RECIPE, "env": environment, "stderr": subprocess.STDOUT}


def kill_after_an_epoch(command, output):
    """Start a command, kill it when it has saved an epoch, and return its history."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_suffix(".log"), "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, **surroundings(), stdout=log)
        try:
            while process.poll() is None and not any(output.glob("save/CKPT*")):
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    if not history(output):
        said = output.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(
            f"ended with {process.returncode} before its first epoch: {said[-1500:]}"
        )
    return history(output)


def history(output):
    """Return the epochs that a run has ended."""
    path = output / "history.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
