"""Brains of the recipes in the middle of their stage, and batches made up for them."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from speechbrain import Stage
from torch.utils.data import DataLoader

from lobes.signal import SAMPLE_RATE, num_frames
from recipes.common.data.crops import SpeechBatch, span_mask, two_crops
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.data.seeding import derive_rng
from recipes.common.training.hparams import load_hparams
from recipes.LibriSpeech.pretrain.train import stage_brain
from tests.voices import voice

PRETRAIN = Path(__file__).parents[2] / "recipes" / "LibriSpeech" / "pretrain" / "hparams"
SEED = 2407
STAGES = ("frame", "utterance", "joint")  # of the method
OTHERS = ("codes", "spin")  # that may take their places
ON_A_GPU = {"precision": "bf16"}  # the YAMLs of smaller sizes are for CPUs
NUM_TARGETS = 100
STEPS_OF_EPOCH = 10_000  # more than are ever taken, so that no epoch ends
SHORTEST = 0.8  # row of a padded batch, beside the longest
VOICES = 8
VOICE_SECONDS = 16.0


def make_brain(stage, settings, folder, front_end=None, device=None, **overrides):
    """Return a stage's Brain with random weights, as its YAML of the size builds it.

    Arguments
    ---------
    stage : str
        Of `STAGES` or `OTHERS`.
    settings : Settings
        Of these `size`, and `device` where none is given.
    folder : Path
        Receives what the Brain writes.
    front_end : str, optional
        Of the frame encoder, in the place of the YAML's.
    device : str, optional
    **overrides
        Of the YAML's keys.

    Returns
    -------
    PretrainingBrain
    """
    output, device = tempfile.mkdtemp(dir=folder), device or settings.device
    torch.manual_seed(SEED)
    given = {"data_folder": "none", "output_folder": output}
    if device == "cuda":
        given |= ON_A_GPU
    overrides = {**given, **overrides}
    if front_end:
        overrides["frontend"] = front_end
    hparams = load_hparams(PRETRAIN / file_of(stage, settings.size), overrides)
    sampler = LengthSortedBatches([1.0] * STEPS_OF_EPOCH, 1.0, seed=SEED)
    brain = stage_brain(stage)(
        hparams["modules"],
        hparams["optimizer"],
        hparams,
        {"device": device},
        hparams["checkpointer"](),
        loaders={"train": DataLoader(range(STEPS_OF_EPOCH), batch_sampler=sampler)},
    )
    begin(brain)
    return brain


def file_of(stage, size):
    """Return the name of a stage's YAML.

    Example
    -------
    >>> file_of("frame", "base"), file_of("frame", "small")
    ('frame.yaml', 'frame_small.yaml')
    """
    return f"{stage}.yaml" if size == "base" else f"{stage}_{size}.yaml"


def begin(brain):
    """Put a Brain into the middle of its stage, where beta has risen."""
    brain.hparams.epoch_counter.current = max(1, brain.hparams.number_of_epochs // 2)
    brain.modules.train()
    brain.step = 1
    brain.on_stage_start(Stage.TRAIN, 1)


def make_ready(brain, compiled=False):
    """Make the optimizers, as `fit` does, and compile the modules where asked."""
    brain.compile = compiled
    brain.on_fit_start()


def one_forward(brain, batch):
    """Return what a training step computes before its backward: outputs and the loss."""
    with brain.training_ctx:
        outputs = brain.compute_forward(batch, Stage.TRAIN)
        return outputs, brain.compute_objectives(outputs, batch, Stage.TRAIN)


def one_step(brain, batch):
    """Take a training step, and look at losses as often as training does."""
    brain.step += 1
    loss = brain.fit_batch(batch)
    brain.avg_train_loss = brain.update_average(loss, brain.avg_train_loss)


def make_batch(lengths):
    """Return a batch of utterances of so many seconds each, with what any stage takes of them.

    Units are random, spans are masked; the other voice says something else.

    Example
    -------
    >>> batch = make_batch([3.0, 2.0])
    >>> batch.sig.data.shape, batch.first.data.shape, batch.frame_counts
    (torch.Size([2, 48000]), torch.Size([2, 24000]), array([149,  99]))
    """
    return SpeechBatch([make_example(n, seconds) for n, seconds in enumerate(lengths)])


@cache
def long_voice(number):
    """Return one of a few voices, (samples,) float32, whose beginnings are utterances."""
    return torch.from_numpy(voice(VOICE_SECONDS, derive_rng(SEED, "voice", number))).float()


def make_example(number, seconds):
    """Return the items of an utterance of all stages."""
    rng = derive_rng(SEED, "utterance", number)
    samples = round(seconds * SAMPLE_RATE)
    wav, other = (long_voice(n % VOICES)[:samples] for n in (number, number + 1))
    frames = num_frames(len(wav))
    crops = [wav[start:stop] for start, stop in two_crops(len(wav), 16000, 32000, rng)]
    return {
        "id": f"utterance-{number}",
        "sig": wav,
        "other_voice": other,
        "units": torch.from_numpy(rng.integers(NUM_TARGETS, size=frames)),
        "mask": span_mask(frames, rng=rng),
        "first": crops[0],
        "second": crops[1],
    }


def row_lengths(seconds, longest, padded):
    """Return the lengths of rows, s, that make a batch of so much audio, padding included.

    Arguments
    ---------
    seconds : float
        Of the batch.
    longest : float
        Row, s.
    padded : bool
        Whether the others are shorter, down to `SHORTEST` of it.

    Example
    -------
    >>> row_lengths(30.0, 10.0, padded=True), row_lengths(30.0, 10.0, padded=False)
    ([10.0, 9.0, 8.0], [10.0, 10.0, 10.0])
    """
    rows = max(2, round(seconds / longest))
    return (longest * np.linspace(1.0, SHORTEST if padded else 1.0, rows)).tolist()
