"""From manifests to datasets, and from datasets to loaders."""

from copy import copy
from functools import partial

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from torch.utils.data import DataLoader

from lobes.distributed import rank, world_size
from lobes.signal import SAMPLE_RATE
from pretrained.audio import read_speech
from pretrained.commands.runtime import give_large_memory_back
from recipes.common.data.crops import (
    CutToShortest,
    SpeechBatch,
    add_crops,
    add_frame_items,
    add_speech,
)
from recipes.common.data.sampler import JITTER, NARROW_JITTER, LengthSortedBatches
from recipes.common.data.seeding import Clock, derive_rng
from recipes.common.data.utterances import Utterances

logger = get_logger(__name__)

PLAIN_UTTERANCES = 10_000  # from which the last step of a stage takes its moments
LITTLE = 0.8  # of the audio: an epoch that hears less is warned of
MAX_KEPT_SECONDS = 3600  # of validation audio that is decoded once, and stays in memory


class KeptBatches(DataLoader):
    """A loader that keeps its batches, for data that never changes and is little.

    Example
    -------
    >>> loader = KeptBatches([[1], [2], [3]])
    >>> [batch[0].item() for _ in range(2) for batch in loader]
    [1, 2, 3, 1, 2, 3]
    """

    kept = None

    def __iter__(self):
        if self.kept is None:
            self.kept = list(super().__iter__())
        # A Brain moves a batch to its device in place: those that are kept stay where they are.
        return map(copy, self.kept)


def make_loader(
    dataset, hparams, clock=None, min_batch_size=1, shared=True, cut=None, weights=None
):
    """Return a loader of `SpeechBatch` whose batches are `LengthSortedBatches`.

    Arguments
    ---------
    dataset : Utterances
        With its items and output keys set.
    hparams : dict
        `max_batch_seconds`, `max_seconds` (an utterance is cropped to it), `num_workers`, `seed`.
    clock : Clock, optional
        For training: reshuffle each epoch.
    min_batch_size : int
        Fewest utterances in a batch.
    shared : bool
        Whether each rank sees batches of its own; every rank sees all of them otherwise.
    cut : CutToShortest, optional
        Makes the batches.
    weights : array of float, optional
        How often utterances are drawn; see `LengthSortedBatches`.

    Returns
    -------
    torch.utils.data.DataLoader
    """
    training = clock is not None
    seconds = np.minimum(dataset.column("duration"), hparams["max_seconds"])
    sampler = LengthSortedBatches(
        seconds,
        hparams["max_batch_seconds"],
        hparams["seed"],
        clock,
        world_size() if shared else 1,
        rank() if shared else 0,
        min_batch_size,
        NARROW_JITTER if cut else JITTER,
        weights,
    )
    little = not training and seconds.sum() < MAX_KEPT_SECONDS
    return (KeptBatches if little else DataLoader)(
        dataset,
        batch_sampler=sampler,
        num_workers=hparams["num_workers"],
        collate_fn=cut or SpeechBatch,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=training and hparams["num_workers"] > 0,
        worker_init_fn=give_large_memory_back,
    )


def stage_loaders(hparams, datasets, units=None, augment=None, masks=False):
    """Return the loaders of a stage of pretraining.

    Arguments
    ---------
    hparams : dict
        See `add_frame_items`, `add_crops` and `make_loader`.
    datasets : dict
        "train", "valid" and "test": Utterances.
    units : UnitArray, optional
        The units of all of them, of a stage that trains a frame encoder on these.
    augment : UtteranceAugment, optional
        Of the crops, of a stage that trains an utterance encoder; in training voices change too.
    masks : bool
        Whether frames are masked without units, of a stage that makes its targets while it trains.

    Returns
    -------
    dict
        A loader for each, of batches with `id`; with `units` or `masks`, also `sig` and `mask`;
        with `units`, also these; with `augment`, also the crops that `add_crops` names.
    """
    loaders, masked = {}, masks or units is not None
    for split, dataset in datasets.items():
        clock, training, keys = Clock(), split == "train", ["id"]
        add_speech(dataset)
        if masked:
            keys += add_frame_items(dataset, hparams, clock, units)
            if training:
                warn_of_long(dataset.column("duration"), hparams["max_seconds"])
        if augment is not None:
            change_voice = augment.change_voice if training else None
            keys += add_crops(dataset, hparams, clock, augment, change_voice)
        dataset.set_output_keys(keys)
        fewest = 1 if augment is None else 2  # utterances are contrasted
        cuts = training and masked and hparams["crop_batches"]
        cut = CutToShortest(hparams, clock) if cuts else None
        own_clock = clock if training else None
        loaders[split] = make_loader(dataset, hparams, own_clock, fewest, cut=cut)
    return loaders


def warn_of_long(durations, max_seconds):
    """Warn where an epoch hears little of what there is.

    Arguments
    ---------
    durations : numpy.ndarray
        Of the utterances, s.
    max_seconds : float
        What is heard of each in an epoch, at most.

    Example
    -------
    >>> warn_of_long(np.array([5.0, 20.0]), 15.6)
    """
    heard, there = np.minimum(durations, max_seconds).sum() / 3600, durations.sum() / 3600
    if heard < LITTLE * there:
        logger.warning(
            f"train: an epoch hears {heard:.1f} of {there:.1f} hours, as it takes a piece of "
            f"{max_seconds} s (max_seconds) of each longer recording. Cut long recordings into "
            "utterances beforehand."
        )


def load_split(manifests, hparams):
    """Return the utterances of one or more manifests, without what is too short.

    Arguments
    ---------
    manifests : list of Path
        CSV files.
    hparams : dict
        `data_folder`, `min_seconds`.

    Returns
    -------
    Utterances
        In the manifests' order.

    Raises
    ------
    ValueError
        Where nothing is left.
    """
    listed = Utterances(manifests, hparams["data_folder"])
    shortest = hparams["min_seconds"]
    kept = listed.filtered_sorted(key_min_value={"duration": shortest})
    if len(kept) < len(listed):
        names = ", ".join(path.stem for path in manifests)
        count = f"{len(listed) - len(kept)} of {len(listed)} utterances"
        logger.warning(f"{names}: {count} are left out: shorter than min_seconds, {shortest} s")
    if len(kept) == 0:
        raise ValueError(f"{manifests[0]}: no utterance is as long as min_seconds, {shortest} s.")
    return kept


def plain_loader(dataset, hparams):
    """Return a loader of utterances, drawn at random, as they are: the first `max_seconds` of each.

    Arguments
    ---------
    dataset : Utterances
    hparams : dict
        See `make_loader`.

    Returns
    -------
    torch.utils.data.DataLoader
        Of batches with `id` and `sig`.
    """
    rng = derive_rng(hparams["seed"], "plain")
    plain = dataset.take(rng.permutation(len(dataset))[:PLAIN_UTTERANCES])
    longest = round(hparams["max_seconds"] * SAMPLE_RATE)
    plain.add_dynamic_item(partial(read_start, longest=longest), takes="wav", provides="sig")
    plain.set_output_keys(["id", "sig"])
    return make_loader(plain, hparams, shared=False)


def read_start(path, longest):
    """Return the first samples of a file, at most so many: (samples,) float32."""
    return read_speech(path)[:longest].clone()  # a view would keep all of a long recording
