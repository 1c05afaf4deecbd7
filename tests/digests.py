#!/usr/bin/env python3
"""Digests of what the recipes compute: two that differ tell that a change altered a result.

    python -m tests.digests CORPORA WORK > before.txt
    ... change the code ...
    python -m tests.digests CORPORA WORK2 > after.txt && diff before.txt after.txt

CORPORA holds `LibriSpeech`, `lexicon.txt` and `voxceleb1`; some twenty speakers
of six utterances are enough. The three stages at the tiny size and the control, a head of each
downstream recipe, forced alignments, the report, the leakage and encoded files are made in WORK by
the commands that a user would run, in one thread each, and a line is printed for the weights and
for the figures of each. Equal code gives equal lines on one machine; another machine rounds
otherwise. A command that has ended well is not run again in the same WORK.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
SEED = 7
# What is of the moment or of the place, wherever it stands in a file of figures.
MOMENTS = {"seconds", "date", "commit", "versions", "threads", "folder", "data", "features"}
PRETRAIN = "LibriSpeech/pretrain"
SPEECH = "--data_folder {corpora}/LibriSpeech"
VOICES = "--data_folder {corpora}/voxceleb1"
LEXICON = "--lexicon {corpora}/lexicon.txt"
MODEL = "--features {work}/joint/model --lrs [0.003] --number_of_epochs 2"
TWO_EPOCHS = "--number_of_epochs 2 --max_batch_seconds 20"

# Waves of commands, which run one after another; those of one wave run side by side. Each has a
# name, which is its output folder in WORK, the folder that it is run from, and its words.
WAVES = (
    {
        "frame": (PRETRAIN, f"train.py hparams/frame_tiny.yaml {SPEECH} {TWO_EPOCHS}"),
        "utterance": (PRETRAIN, f"train.py hparams/utterance_tiny.yaml {SPEECH} {TWO_EPOCHS}"),
        "alignments": (
            "LibriSpeech",
            f"align.py {SPEECH} {LEXICON} --splits dev-clean test-clean",
        ),
    },
    {
        "frame_second": (
            PRETRAIN,
            f"train.py hparams/frame_tiny.yaml {SPEECH} --number_of_epochs 1 --max_batch_seconds 20"
            " --teacher {work}/frame/model --teacher_layer 2 --num_targets 60",
        ),
        "joint": (
            PRETRAIN,
            f"train.py hparams/joint_tiny.yaml {SPEECH} {TWO_EPOCHS}",
        ),
        "joint_beta0": (
            PRETRAIN,
            f"train.py hparams/joint_tiny.yaml {SPEECH} {TWO_EPOCHS} --beta 0.0 --frame_norm none",
        ),
        "joint_network": (
            PRETRAIN,
            f"train.py hparams/joint_tiny.yaml {SPEECH} --number_of_epochs 1 --max_batch_seconds 20"
            " --critic_kind network",
        ),
    },
    {
        "pr": ("LibriSpeech/PR", f"train.py hparams/lexicon_tiny.yaml {SPEECH} {LEXICON} {MODEL}"),
        "asr": ("LibriSpeech/ASR", f"train.py hparams/char_tiny.yaml {SPEECH} {MODEL}"),
        "asr_pieces": (
            "LibriSpeech/ASR",
            f"train.py hparams/bpe_tiny.yaml {SPEECH} {MODEL} --vocab_size 60 --upstream finetune"
            " --frozen_steps 2 --cache_folder null",
        ),
        "sid": ("VoxCeleb/SpeakerID", f"train.py hparams/linear_tiny.yaml {VOICES} {MODEL}"),
        "xvector": ("VoxCeleb/SpeakerRec", f"train.py hparams/xvector_tiny.yaml {VOICES} {MODEL}"),
        "embedding": (
            "VoxCeleb/SpeakerRec",
            f"train.py hparams/embedding_tiny.yaml {VOICES} {MODEL} --frozen_steps 2",
        ),
        "verify": (
            "VoxCeleb/SpeakerRec",
            f"verify.py hparams/verify_tiny.yaml {VOICES} --model {{work}}/joint/model"
            " --reference_manifest {work}/utterance/manifest/train-clean-100.csv"
            " --reference_folder {corpora}/LibriSpeech",
        ),
        "leakage": (
            "experiments",
            f"evaluate.py hparams/evaluate.yaml {SPEECH} --model {{work}}/joint/model"
            " --control {work}/joint_beta0/model --critic_seeds [1] --crop_draws 1"
            " --hidden_dim 32 --frames_per_utterance 8",
        ),
        "report": (
            "LibriSpeech/report",
            f"train.py hparams/report.yaml {SPEECH} --models"
            " [{work}/joint/model,{work}/joint_beta0/model] --alignments {work}/alignments"
            " --seeds [1] --read_utterances 60 --train_utterances 60 --num_workers 0"
            " --hidden_dim 16",
        ),
        "report_lexicon": (
            "LibriSpeech/report",
            f"train.py hparams/report.yaml {SPEECH} --models [{{work}}/frame/model] {LEXICON}"
            " --controls False --seeds [1] --read_utterances 30 --train_utterances 30"
            " --num_workers 0",
        ),
    },
)
# Commands on files, whose printed text or written files are read; they run last, in the root.
USES = {
    "encode": "encode {work}/short.wav {work}/long.flac --model {work}/joint/model"
    " --out {work}/encode",
    "transcribe": "transcribe {work}/short.wav {work}/long.flac --model {work}/asr/model",
    "phones": "transcribe {work}/short.wav --model {work}/pr/model",
    "same": "verify {work}/short.wav {work}/long.flac --model {work}/verify/model",
    "export": "export {work}/joint/model --layout speechbrain --out {work}/export",
}


def main():
    """Run what has not been run, and print a digest of each result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", type=lambda path: Path(path).resolve())
    parser.add_argument("work", type=lambda path: Path(path).resolve())
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    places = {"corpora": options.corpora, "work": options.work}
    with ThreadPoolExecutor(options.jobs) as pool:
        for wave in WAVES:
            jobs = [pool.submit(run_recipe, name, *job, places) for name, job in wave.items()]
            for job in jobs:
                job.result()
    write_audio(options.corpora, options.work)
    for name, words in USES.items():
        if not (options.work / f"{name}.log").exists():
            run(name, ROOT, ["-m", "pretrained", *place(words, places)], options.work)
    for name, digest in sorted(digests(options.work).items()):
        print(f"{name:40} {digest}")


def run_recipe(name, folder, words, places):
    """Run a recipe's command unless it has ended well before."""
    if not (places["work"] / f"{name}.log").exists():
        seed = [] if words.startswith("align.py") else ["--seed", str(SEED)]
        words = [*place(words, places), *seed, "--output_folder", str(places["work"] / name)]
        run(name, RECIPES / folder, words, places["work"])


def place(words, places):
    """Return the words of a command, paths filled in."""
    return shlex.split(words.format(**places))


def run(name, folder, words, work):
    """Run Python in one thread; what it prints is called as a log only when it has ended well."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **threads, "PYTHONPATH": str(ROOT)}  # the code beside this file
    partial = work / f"{name}.partial"
    with open(partial, "w", encoding="utf-8") as log:
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.stderr.write(partial.read_text(encoding="utf-8")[-3000:])
        raise SystemExit(f"{name}: exit code {done.returncode}, see {partial}")
    partial.rename(work / f"{name}.log")


def write_audio(corpora, work):
    """Write a short file, and one that is longer than a window and has another rate."""
    files = sorted((corpora / "LibriSpeech" / "test-clean").rglob("*.flac"))
    clips = [soundfile.read(path, dtype="int16")[0] for path in files[:40]]
    soundfile.write(work / "short.wav", clips[0], 16000)
    joined = np.concatenate(clips)
    soundfile.write(work / "long.flac", joined[: 70 * 22050], 22050)


def digests(work):
    """Return a digest of each thing that was made."""
    found = {}
    for path in sorted(work.glob("*/metrics.json")):
        found[f"{path.parent.name}: figures"] = of_json(path, "figures")
    for path in sorted(work.glob("*/model/model.safetensors")):
        found[f"{path.parent.parent.name}: weights"] = of_weights(path)
    for path in sorted(work.glob("*/history.jsonl")):
        found[f"{path.parent.name}: history"] = of_json(path)
    for path in sorted(work.glob("*/report.json")):
        found[f"{path.parent.name}: report"] = of_json(path)
    for path in sorted(work.glob("*/units/units.npy")):
        found[f"{path.parent.parent.name}: units"] = of_bytes(path)
    for pattern in ("*/hypotheses.csv", "alignments/*.ctm"):
        for path in sorted(work.glob(pattern)):
            found[f"{path.parent.name}: {path.name}"] = of_bytes(path)
    for path in sorted(work.glob("encode/*.npz")):
        with np.load(path) as arrays:
            found[f"encode: {path.name}"] = of_arrays(arrays)
    for path in sorted(work.glob("export/*.safetensors")) + sorted(work.glob("export/*.ckpt")):
        found[f"export: {path.name}"] = of_bytes(path)
    for name in ("transcribe", "phones", "same"):
        lines = (work / f"{name}.log").read_text(encoding="utf-8").splitlines()
        told = [line.removeprefix(str(work)) for line in lines if "\t" in line]
        found[f"{name}: told"] = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return found


def of_bytes(path):
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def of_weights(path):
    """Return the digest of all tensors by name."""
    return of_arrays(load_file(path))


def of_arrays(arrays):
    """Return the digest of arrays by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def of_json(path, key=None):
    """Return the digest of a file of figures, without what is of the moment."""
    text = path.read_text(encoding="utf-8")
    tree = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else None
    tree = tree or json.loads(text)
    tree = plain(tree if key is None else tree[key])
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def plain(tree):
    """Return a tree without the keys that are of the moment or of the place."""
    if isinstance(tree, dict):
        kept = {name: value for name, value in tree.items() if name not in MOMENTS}
        kept |= {"audio_seconds_per_second": None} if "audio_seconds_per_second" in kept else {}
        return {name: plain(value) for name, value in kept.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


if __name__ == "__main__":
    main()
