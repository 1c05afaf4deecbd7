"""From a manifest to batches: crops, masks and units derived from (seed, epoch, utterance)."""

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import DataLoader, Sampler

from lobes.distributed import rank, world_size
from lobes.losses import IGNORED_UNIT
from lobes.signal import HOP, RECEPTIVE_FIELD, SAMPLE_RATE, num_frames
from pretrained.audio import read_speech
from recipes.common.data.manifest import load_dataset
from recipes.common.data.seeding import derive_rng, derive_seed

MAX_KEPT_SECONDS = 3600  # of validation audio that is decoded once, and stays in memory


class Clock:
    """The epoch, shared by a batch sampler and the items of its dataset; 0 in validation."""

    epoch = 0


class LengthSortedBatches(Sampler):
    """Batches of utterances of like length, drawn anew in each epoch.

    Utterances are sorted by length, with some jitter, cut into batches whose padded audio
    stays within a limit, and the batches shuffled. Ranks take turns, so that at each step
    they hold batches of like length; every rank has as many batches as any other. The order
    depends on (seed, epoch) alone and `start` skips batches without loading them.

    Arguments
    ---------
    seconds : list of float
        Length of each utterance, as it enters a batch.
    max_batch_seconds : float
        Most audio in a batch, padding included. A longer utterance is a batch of its own.
    seed : int
        Seed of the order.
    clock : Clock, optional
        Told of each epoch. Without one, the order is that of length and never changes.
    ranks, this_rank : int
        Number of ranks that share the batches, and which of them this one is.
    min_batch_size : int
        Fewest utterances in a batch, whatever their length: 2 where utterances are contrasted.

    Raises
    ------
    ValueError
        Where there are too few utterances.

    Example
    -------
    >>> batches = LengthSortedBatches([1.0, 3.0, 1.1, 2.9], max_batch_seconds=6, seed=0)
    >>> list(batches)
    [[0, 2], [3, 1]]
    """

    def __init__(
        self, seconds, max_batch_seconds, seed, clock=None, ranks=1, this_rank=0, min_batch_size=1
    ):
        if len(seconds) < ranks * min_batch_size:
            raise ValueError(
                f"{len(seconds)} utterances are too few for {ranks} processes with batches of at "
                f"least {min_batch_size}."
            )
        self.seconds = np.asarray(seconds)
        self.max_batch_seconds = max_batch_seconds
        self.seed = seed
        self.clock = clock
        self.ranks = ranks
        self.this_rank = this_rank
        self.min_batch_size = min_batch_size
        self.start = 0
        self._batches = self._plan()

    def set_epoch(self, epoch):
        """Draw the batches of an epoch."""
        if epoch != self.clock.epoch:
            self.clock.epoch = epoch
            self._batches = self._plan()

    def __len__(self):
        return len(self._batches) // self.ranks

    def __iter__(self):
        start, self.start = self.start, 0
        return iter(self._batches[self.this_rank :: self.ranks][start:])

    def _plan(self):
        keys = self.seconds
        if self.clock is not None:
            rng = derive_rng(self.seed, "batches", self.clock.epoch)
            keys = keys * rng.uniform(0.9, 1.1, len(keys))
        batches = self._cut(np.argsort(keys, kind="stable"))
        while len(batches) % self.ranks:
            largest = batches.pop(max(range(len(batches)), key=lambda i: len(batches[i])))
            batches += [largest[::2], largest[1::2]]
        if self.clock is not None:
            sets = [batches[i : i + self.ranks] for i in range(0, len(batches), self.ranks)]
            batches = [batch for i in rng.permutation(len(sets)) for batch in sets[i]]
        return batches

    def _cut(self, order):
        batches, longest = [[]], 0.0
        for index in order.tolist():
            longest = max(longest, self.seconds[index])
            full = longest * (len(batches[-1]) + 1) > self.max_batch_seconds
            if full and len(batches[-1]) >= self.min_batch_size:
                batches.append([])
                longest = self.seconds[index]
            batches[-1].append(index)
        if len(batches) > 1 and len(batches[-1]) < self.min_batch_size:
            rest = batches.pop()
            batches[-1] += rest
        return batches


class KeptBatches(DataLoader):
    """A loader that keeps its batches, for data that never changes and is little.

    Example
    -------
    >>> loader = KeptBatches([1, 2, 3])
    >>> all(first is second for first, second in zip(loader, loader))
    True
    """

    kept = None

    def __iter__(self):
        if self.kept is None:
            self.kept = list(super().__iter__())
        return iter(self.kept)


def make_loader(dataset, hparams, clock=None, min_batch_size=1):
    """Return a loader of `PaddedBatch` whose batches are `LengthSortedBatches`.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With its items and output keys set.
    hparams : dict
        `max_batch_seconds`, `max_seconds` (an utterance is cropped to it), `num_workers`, `seed`.
    clock : Clock, optional
        For training: reshuffle each epoch and share the batches among the ranks. In
        validation every rank sees all of them.
    min_batch_size : int
        Fewest utterances in a batch.

    Returns
    -------
    torch.utils.data.DataLoader
    """
    training = clock is not None
    with dataset.output_keys_as(["duration"]):
        seconds = [min(row["duration"], hparams["max_seconds"]) for row in dataset]
    sampler = LengthSortedBatches(
        seconds,
        hparams["max_batch_seconds"],
        hparams["seed"],
        clock,
        world_size() if training else 1,
        rank() if training else 0,
        min_batch_size,
    )
    little = not training and sum(seconds) < MAX_KEPT_SECONDS
    return (KeptBatches if little else DataLoader)(
        dataset,
        batch_sampler=sampler,
        num_workers=hparams["num_workers"],
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
    )


def collate(examples):
    """Return a `PaddedBatch` in which padded frames have no unit."""
    return PaddedBatch(examples, per_key_padding_kwargs={"units": {"value": IGNORED_UNIT}})


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
    DynamicItemDataset
        In the manifests' order.

    Raises
    ------
    ValueError
        Where nothing is left.
    """
    data = {}
    for path in manifests:
        data.update(load_dataset(path, hparams["data_folder"]).data)
    shortest = hparams["min_seconds"]
    kept = DynamicItemDataset(data).filtered_sorted(key_min_value={"duration": shortest})
    if len(kept) == 0:
        raise ValueError(f"{manifests[0]}: no utterance is as long as min_seconds, {shortest} s.")
    return kept


def add_frame_items(dataset, hparams, clock, units):
    """Give each utterance the items `sig`, `units` and `mask`, cropped to `max_seconds`.

    The crop begins on a frame, so that the units stay in step with the audio.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Changed in place.
    hparams : dict
        `max_seconds`, `mask_prob`, `mask_length`, `seed`.
    clock : Clock
        The epoch that crops and masks are drawn for.
    units : UnitArray
        Gives an utterance's units by its ID.
    """
    max_frames = num_frames(round(hparams["max_seconds"] * SAMPLE_RATE))
    seed = hparams["seed"]

    def frame_items(utterance, path):
        wav = read_speech(path)
        frames = num_frames(len(wav))
        start = 0
        if frames > max_frames:
            rng = derive_rng(seed, "crop", clock.epoch, utterance)
            start = int(rng.integers(frames - max_frames + 1))
            frames = max_frames
            wav = wav[start * HOP : (start + frames - 1) * HOP + RECEPTIVE_FIELD]
        yield wav
        yield torch.from_numpy(units[utterance][start : start + frames].astype(np.int64))
        rng = derive_rng(seed, "mask", clock.epoch, utterance)
        yield span_mask(frames, hparams["mask_prob"], hparams["mask_length"], rng)

    dataset.add_dynamic_item(frame_items, takes=["id", "wav"], provides=["sig", "units", "mask"])


def add_crops(dataset, hparams, clock, augment, change_voice=None):
    """Give each utterance the items `first` and `second`: two crops, augmented apart.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Changed in place.
    hparams : dict
        `min_crop_seconds`, `max_crop_seconds`, `seed`.
    clock : Clock
        The epoch that crops and their augmentation are drawn for.
    augment : callable
        Takes a crop, shape (samples,), and a seed; returns a tensor of the same shape.
    change_voice : callable, optional
        Comes before it, with the same seed for both crops, and may change their length.
    """
    shortest = round(hparams["min_crop_seconds"] * SAMPLE_RATE)
    longest = round(hparams["max_crop_seconds"] * SAMPLE_RATE)
    seed = hparams["seed"]

    def crops(utterance, path):
        wav = read_speech(path)
        rng = derive_rng(seed, "crops", clock.epoch, utterance)
        for place, (start, stop) in enumerate(two_crops(len(wav), shortest, longest, rng)):
            crop = wav[start:stop]
            if change_voice is not None:
                crop = change_voice(crop, derive_seed(seed, "voice", clock.epoch, utterance))
            yield augment(crop, derive_seed(seed, "augment", clock.epoch, utterance, place))

    dataset.add_dynamic_item(crops, takes=["id", "wav"], provides=["first", "second"])


def two_crops(samples, shortest, longest, rng):
    """Return where two crops of an utterance begin and end, apart wherever there is room.

    Each is half of the utterance long, within the limits. Crops overlap only where the utterance
    is shorter than two of the shortest; then they share as little as can be.

    Arguments
    ---------
    samples : int
        Length of the utterance.
    shortest, longest : int
        Limits of a crop's length, in samples.
    rng : numpy.random.Generator
        Where the places are drawn from.

    Returns
    -------
    list of tuple
        Two pairs (start, stop), in random order.

    Example
    -------
    >>> two_crops(64000, 16000, 32000, np.random.default_rng(0))
    [(0, 32000), (32000, 64000)]
    """
    length = min(samples, max(shortest, min(longest, samples // 2)))
    slack = max(0, samples - 2 * length)
    cuts = np.sort(rng.integers(slack + 1, size=2))
    first = int(cuts[0])
    second = min(int(cuts[1]) + length, samples - length)
    crops = [(first, first + length), (second, second + length)]
    return crops[:: int(rng.choice([-1, 1]))]


def span_mask(num_frames, prob=0.08, length=10, rng=None, min_masks=1):
    """Draw the mask of one utterance: spans of frames that the encoder does not see.

    Each frame starts a span with probability `prob`. Spans may overlap and end with the
    utterance. An utterance of two frames or more keeps at least one masked and one visible
    frame; one of a single frame is left visible, since there is nothing to predict it from.

    Arguments
    ---------
    num_frames : int
        The number of valid frames.
    prob : float
        The probability that a frame starts a span, in [0, 1].
    length : int
        Frames per span.
    rng : numpy.random.Generator, optional
        The source of randomness; the same state gives the same mask. A fresh one if None.
    min_masks : int
        The least number of spans, drawn in addition where chance gave fewer.

    Returns
    -------
    torch.Tensor
        Shape (num_frames,), bool, True where masked.

    Example
    -------
    >>> mask = span_mask(200, rng=np.random.default_rng(0))
    >>> mask.shape, mask.dtype
    (torch.Size([200]), torch.bool)
    """
    if num_frames < 2:
        return torch.zeros(num_frames, dtype=torch.bool)
    rng = np.random.default_rng() if rng is None else rng
    starts = rng.random(num_frames) < prob
    missing = min(min_masks, num_frames) - int(starts.sum())
    if missing > 0:
        starts[rng.choice(np.flatnonzero(~starts), size=missing, replace=False)] = True
    mask = np.convolve(starts, np.ones(length, dtype=int))[:num_frames] > 0
    if mask.all():
        mask[rng.integers(num_frames)] = False
    return torch.from_numpy(mask)
