#!/usr/bin/env python3
"""Time and memory beside other toolkits and beside our own alternatives.

    make bench

Both sides of a row work in processes of their own, which take turns, so that what else the machine
does meets both alike, and each has a peak of memory of its own. The ratio is the median of the
ratios of neighbouring repetitions. Nothing drops out at random on either side; audio, masks, data
type and threads are the same. Writes results/bench/metrics.json, and the table in RESULTS.md of
recipes/experiments.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from speechbrain.dataio.dataio import read_audio
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

from lobes.frame_encoder import FrameEncoder
from lobes.losses import nt_xent, prediction_loss
from lobes.signal import num_frames
from pretrained import Learn2Diss
from pretrained.audio import read_speech
from pretrained.commands.runtime import keep_freed_memory
from pretrained.encoding.batching import encode_all
from pretrained.toolkits.names import export_state_dict
from recipes.common.corpora.shards import pack
from recipes.common.data.augment import UtteranceAugment
from recipes.common.data.crops import both_crops, span_mask
from recipes.common.data.loaders import stage_loaders
from recipes.common.data.manifest import write_manifest
from recipes.common.data.table import ROOT as MANIFEST_ROOT
from recipes.common.data.table import read_manifest
from recipes.common.training.record import write_metrics
from recipes.experiments.readmes import write_between
from tests.made_datasets import made_dataset
from tests.peers import torchaudio_hubert
from tests.pretrained.deployment.graph_sides import graph_step
from tests.pretrained.deployment.stream_sides import stream_step
from tests.voices import write_audio

ROOT = Path(__file__).parent.parent
PRETRAIN = ROOT / "recipes" / "LibriSpeech" / "pretrain"
RATE = 16000
SEED = 2407
NUM_TARGETS = 100
BATCH_SIZE = 8  # of extraction
BATCH_SECONDS = {"base": 20.0, "tiny": 40.0}  # of training
DATA = {
    "seed": SEED,
    "num_workers": 0,
    "max_seconds": 15.6,
    "span_mask": span_mask,
    "min_crop_seconds": 1.0,
    "max_crop_seconds": 2.0,
}


@dataclass
class Row:
    """A comparison.

    Arguments
    ---------
    what : str
        What is compared with what.
    side : callable
        Takes the folder of the audio and "ours" or "peer"; returns what to time, without arguments.
    limit : float, optional
        Largest ratio of our time to the peer's that is acceptable; None where it is only reported.
    repeats : int
        How often each side is timed.
    warm_up : int
        How often each side runs before that.
    """

    what: str
    side: Callable
    limit: float | None
    repeats: int = 7
    warm_up: int = 1


# ---- Audio


def make_audio(folder):
    """Make `training/`, 40 utterances of 4 to 6 s, and `mixed/`, 200 of 0.8 to 6 s, mean 1.9 s.

    And `many/`, 1000 of 2 s, with the manifest and the shards that are made of them.
    """
    rng = np.random.default_rng(SEED)
    write_audio(folder / "training", rng.uniform(4, 6, 40), ".flac", rng)
    mixed = np.clip(rng.lognormal(np.log(1.65), 0.55, 200), 0.8, 6)
    write_audio(folder / "mixed", mixed, ".wav", rng)
    write_audio(folder / "many", np.full(1000, 2.0), ".flac", rng)
    rows = [
        {"ID": path.stem, "duration": 2.0, "wav": MANIFEST_ROOT + path.name, "spk_id": "a"}
        for path in (folder / "many").iterdir()
    ]
    (folder / "manifest").mkdir()
    write_manifest(rows, folder / "manifest" / "many.csv")
    pack(folder / "many", folder / "manifest", folder / "shards")


def dataset(folder):
    """Return the audio files of a folder as a dataset, in the order of their names."""
    paths = sorted(folder.iterdir())
    rows = {p.stem: {"wav": str(p), "duration": soundfile.info(p).duration} for p in paths}
    return made_dataset(folder.with_suffix(".csv"), rows)


def training_loader(folder, size, stage, cut=None):
    """Return the loader of stage A ("frame") or C ("joint") over the training audio.

    The units are drawn at random: their values cost no time. `cut`: whether nothing is padded, as
    the recipe of the base size has it by default.
    """
    data = dataset(folder / "training")
    rng = np.random.default_rng(SEED)
    units = {
        name: rng.integers(NUM_TARGETS, size=num_frames(round(duration * RATE)))
        for name, duration in zip(data.data_ids, data.column("duration"), strict=True)
    }
    hparams = {**DATA, "max_batch_seconds": BATCH_SECONDS[size]}
    hparams["crop_batches"] = size == "base" if cut is None else cut
    augment = recipe_augment(size) if stage == "joint" else None
    return stage_loaders(hparams, {"train": data}, units, augment)["train"]


def recipe_augment(size):
    """Return the augmentation of crops in the recipe of a size, without recordings of noise."""
    name = {"base": "crops", "tiny": "crops_tiny"}[size]
    node = YAML().load(PRETRAIN / "hparams" / f"{name}.yaml")["augment"]
    numbers = {key: value for key, value in node.items() if isinstance(value, (int, float))}
    return UtteranceAugment(**numbers)


# ---- Models and steps


def fragment(name, overrides=None):
    """Return the encoder that a file of hparams/ builds."""
    with open(ROOT / "hparams" / f"{name}.yaml", encoding="utf-8") as file:
        return load_hyperpyyaml(file, overrides)[f"{name.split('_')[0]}_encoder"]


def frame_encoder(size):
    """Return the frame encoder of a size, in which nothing drops out."""
    return fragment(f"frame_{size}", {"dropout": 0.0, "layer_drop": 0.0})


def both_encoders(size):
    """Return both encoders of a size, by name."""
    utterance_encoder = fragment(f"utterance_{size}")
    return {"frame_encoder": frame_encoder(size), "utterance_encoder": utterance_encoder}


def training_step(modules, loss, fused=True):
    """Return a function that does a step; the optimizer is fused, as in recipes."""
    modules = torch.nn.ModuleList(modules).train()
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-5, fused=fused)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def frame_loss(encoder, batch):
    """Return the loss of stage A."""
    mask = batch.mask.data.bool()
    _, logits = encoder(*batch.sig, mask=mask, return_logits=True, logits_at=batch.hidden)
    return prediction_loss(logits, batch.units_at(batch.hidden))


def frame_step(encoder, batch):
    """Return a training step of stage A."""
    return training_step([encoder], lambda: frame_loss(encoder, batch))


def joint_step(encoder, utterance_encoder, batch):
    """Return a training step of stage C without its critics, which would only make it longer."""

    def loss():
        _, projections = utterance_encoder(*both_crops(batch), project=True)
        return frame_loss(encoder, batch) + nt_xent(*projections.chunk(2))

    return training_step([encoder, utterance_encoder], loss)


def torchaudio_step(batch):
    """Return a training step of torchaudio's HuBERT Base on the same batch and mask."""
    model, loss = torchaudio_hubert(batch, NUM_TARGETS)
    return training_step([model], loss, fused=None)  # torch's own choice


# ---- Rows


def base_step(folder, side, compiled):
    """Base size, a training step: ours, compiled or not, torchaudio's, which is not."""
    batch = next(iter(training_loader(folder, "base", "frame")))
    if side == "peer":
        return torchaudio_step(batch)
    encoder = frame_encoder("base")
    if compiled:
        encoder.compile()
    return frame_step(encoder, batch)


def front_ends(folder, side):
    """Tiny size, a training step: with the log-mel front end, with the waveform stack."""
    batch = next(iter(training_loader(folder, "tiny", "frame")))
    encoder = frame_encoder("tiny")
    if side == "peer":
        encoder = FrameEncoder(**{**encoder.config, "frontend": "waveform"})
    return frame_step(encoder, batch)


def both_representations(folder, side):
    """Base size, extraction: frames and embeddings, frames alone."""
    wavs, wav_lens = next(iter(training_loader(folder, "base", "frame", cut=False))).sig
    encoders = [frame_encoder("base").eval()]
    if side == "ours":
        encoders.append(fragment("utterance_base").eval())

    @torch.no_grad()
    def extract():
        for encoder in encoders:
            encoder(wavs, wav_lens)

    return extract


def loading(folder, side, size, stage):
    """Load and collate a batch of files; train on one."""
    loader = training_loader(folder, size, stage)
    if side == "ours":
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        return lambda: next(batches)
    batch = next(iter(loader))
    if stage == "frame":
        return frame_step(frame_encoder(size), batch)
    return joint_step(frame_encoder(size), fragment(f"utterance_{size}"), batch)


def reading(folder, side):
    """Read many short utterances, in no order: from tar shards, from files."""
    manifest = (folder / "shards" if side == "ours" else folder) / "manifest" / "many.csv"
    root = folder / ("shards" if side == "ours" else "many")
    paths = [row["wav"].replace(MANIFEST_ROOT, f"{root}/") for row in read_manifest(manifest)]
    paths = np.random.default_rng(SEED).permutation(paths).tolist()
    return lambda: [read_speech(path) for path in paths]


def encode_files(folder, side):
    """Base size, files to frames: as the command encode makes them, Hugging Face as they come."""
    encoder = frame_encoder("base").eval()
    if side == "ours":
        return partial(ours_encodes, folder / "mixed", Learn2Diss({"frame_encoder": encoder}))
    model = HubertModel(HubertConfig()).eval()
    model.load_state_dict(export_state_dict(encoder))
    return partial(hugging_face_encodes, folder / "mixed", model)


def ours_encodes(folder, model):
    """Return each file's frames by its name, as `python -m pretrained encode` writes them."""
    files = map(str, sorted(folder.iterdir()))
    return {Path(file).stem: arrays["frames"] for file, arrays in encode_all(model, files)}


@torch.no_grad()
def hugging_face_encodes(folder, model):
    """Return the same from Hugging Face's model and feature extractor, in padded batches."""
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    paths = sorted(folder.iterdir())
    frames = {}
    for start in range(0, len(paths), BATCH_SIZE):
        part = paths[start : start + BATCH_SIZE]
        wavs = [read_audio(str(path)).numpy() for path in part]
        inputs = extractor(wavs, sampling_rate=RATE, padding=True, return_tensors="pt")
        found = model(**inputs).last_hidden_state
        for path, x, wav in zip(part, found, wavs, strict=True):
            frames[path.stem] = x[: num_frames(len(wav))]
    return frames


def all_rows():
    """Return the rows, in the order of the table."""
    rows = [
        Row(
            f"training step, base: {ours}, torchaudio's HuBERT Base",
            partial(base_step, compiled=c),
            1.0,
            9,
        )
        for ours, c in (("ours", False), ("ours compiled", True))
    ]
    rows += [
        Row("training step, tiny: log-mel front end, waveform stack", front_ends, 0.25, 9),
        Row("extraction, base: frames and embeddings, frames alone", both_representations, 1.15, 9),
    ]
    for size, stage in itertools.product(("base", "tiny"), ("frame", "joint")):
        what = f"{stage} stage, {size}: loading a batch, training on it"
        limit = 0.1 if size == "base" else 0.25
        rows.append(Row(what, partial(loading, size=size, stage=stage), limit))
    for size in ("base", "tiny"):
        for what, *precisions in (
            ("ONNX graphs, torch", "float32", "torch"),
            ("ONNX graphs of int8, of float32", "int8", "float32"),
        ):
            sides = dict(zip(("ours", "peer"), precisions, strict=True))
            side = partial(graph_step, partial(both_encoders, size), sides)
            rows.append(Row(f"encoding a batch, {size}: {what}", side, None))
    rows.append(Row("reading 1000 utterances: shards, files", reading, 1.05))
    for size, step in (("base", 2.0), ("tiny", 0.32)):
        what = f"stream, {size}: encoding a step of {step} s, hearing it"
        rows.append(Row(what, partial(stream_step, fragment, size, step), 1.0))
    what = "encoding 200 files, base: ours, Hugging Face's HubertModel"
    return [*rows, Row(what, encode_files, 1 / 1.5, repeats=2, warm_up=0)]


# ---- Measuring


class Side:
    """One side of a row, ready in a process of its own.

    Arguments
    ---------
    row : Row
    name : str
        "ours" or "peer".
    folder : Path
        The audio.
    threads : int
        Of torch.
    """

    def __init__(self, row, name, folder, threads):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, row.side, name, folder, threads), daemon=True
        )
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def __call__(self):
        """Run once; ends when the process has ended its work."""
        self.pipe.send("run")
        self.pipe.recv()

    def stop(self):
        """End the process and return its peak memory in MiB, Python and libraries included."""
        self.pipe.send("stop")
        peak = self.pipe.recv()
        self.process.join()
        return peak


def serve(pipe, side, name, folder, threads):
    """Make a side ready and run it each time the pipe says so; at the end send the peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    keep_freed_memory()
    run = side(folder, name)
    pipe.send("ready")
    while pipe.recv() == "run":
        run()
        pipe.send("done")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(peak / (2**20 if sys.platform == "darwin" else 2**10))


def alternate(ours, peer, repeats, warm_up=1):
    """Time two functions in turn, each first every other time.

    Arguments
    ---------
    ours, peer : callable
        Without arguments.
    repeats : int
        How often each is timed.
    warm_up : int
        How often each runs before that.

    Returns
    -------
    dict
        Medians `ours_seconds`, `peer_seconds` and `ratio`, that of the repetitions' ratios; the
        smallest and the largest of these, `ratio_range`.

    Example
    -------
    >>> sorted(alternate(lambda: None, lambda: None, repeats=3))
    ['ours_seconds', 'peer_seconds', 'ratio', 'ratio_range']
    """
    for run in [ours, peer] * warm_up:
        run()
    pairs = []
    for repetition in range(repeats):
        if repetition % 2:
            second, first = timed(peer), timed(ours)
        else:
            first, second = timed(ours), timed(peer)
        pairs.append((first, second))
    ratios = [first / second for first, second in pairs]
    return {
        "ours_seconds": statistics.median(first for first, _ in pairs),
        "peer_seconds": statistics.median(second for _, second in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def timed(run):
    """Return how many seconds a function takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(row, folder, threads):
    """Return a row's figures.

    Arguments
    ---------
    row : Row
    folder : Path
        The audio.
    threads : int
        Of torch, on both sides.

    Returns
    -------
    dict
        What `alternate` returns, `what`, `limit`, `met` (None without a limit) and the peak memory
        of each side, `ours_mib` and `peer_mib`.
    """
    sides = [Side(row, name, folder, threads) for name in ("ours", "peer")]
    figures = alternate(*sides, row.repeats, row.warm_up)
    met = None if row.limit is None else figures["ratio"] <= row.limit
    ours, peer = (side.stop() for side in sides)
    figures = {"what": row.what, **figures, "limit": row.limit, "met": met}
    return {**figures, "ours_mib": ours, "peer_mib": peer}


# ---- Reporting


def machine(threads):
    """Return what the figures were measured on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
    }


def processor():
    """Return the processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(figures):
    """Return the figures as Markdown.

    Arguments
    ---------
    figures : dict
        `machine` and `rows`, as `measure` returns them.

    Returns
    -------
    str
    """
    words = {True: "yes", False: "**no**", None: ""}
    lines = [
        "| one, the other | one, s | other, s | ratio | limit | met | one, MiB | other, MiB |",
        "|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in figures["rows"]:
        limit = "" if row["limit"] is None else f"{row['limit']:.3g}"
        lines.append(
            f"| {row['what']} | {row['ours_seconds']:.3g} | {row['peer_seconds']:.3g} "
            f"| {row['ratio']:.3g} | {limit} | {words[row['met']]} "
            f"| {row['ours_mib']:.0f} | {row['peer_mib']:.0f} |"
        )
    facts = figures["machine"]
    lines += [
        "",
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"torch {facts['torch']}, float32.",
    ]
    return "\n".join(lines)


def main(arguments):
    """Measure all rows, write them, and return 1 where a limit is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench/metrics.json")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    results = ROOT / "recipes/experiments/RESULTS.md"
    parser.add_argument("--page", type=Path, default=results, help="receives the table")
    parser.add_argument("--only", default="", help="rows that have this text; the page stays")
    options = parser.parse_args(arguments)
    began = time.time()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_audio(Path(folder))
        for row in all_rows():
            if options.only in row.what:
                rows.append(measure(row, Path(folder), options.threads))
                print(json.dumps(rows[-1]), flush=True)
    if not rows:
        parser.error(f"no row has the text {options.only!r}")
    figures = {"machine": machine(options.threads), "rows": rows}
    if not options.only:
        write_metrics(options.output, figures, seed=SEED, manifests=[], start_time=began)
        written = json.loads(options.output.read_text(encoding="utf-8"))["figures"]
        write_between(options.page, "bench", table(written))
    print(table(figures))
    return int(any(row["met"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
