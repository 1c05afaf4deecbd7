"""What a batch holds of an utterance: crops, masks, units; drawn by (seed, epoch, utterance).

Spans are masked as in HuBERT (arXiv 2106.07447, section II-B). Items are objects at the top of this
module, so that a worker process can be started by spawn.
"""

from functools import partial

import numpy as np
import torch
from speechbrain.dataio.batch import PaddedBatch, PaddedData
from speechbrain.utils.data_utils import batch_pad_right

from lobes.losses import IGNORED_UNIT
from lobes.signal import HOP, RECEPTIVE_FIELD, SAMPLE_RATE, num_frames
from pretrained.audio import read_speech
from recipes.common.data.seeding import derive_rng, derive_seed


class SpeechBatch(PaddedBatch):
    """A `PaddedBatch` of which lengths and single numbers stay on the CPU, as they are known there.

    Arguments
    ---------
    examples : list of dict
        Items of utterances. Padded frames have no unit.

    Attributes
    ----------
    frame_counts : numpy.ndarray
        Where there are masks: shape (batch,), int64, valid frames of each row.
    hidden, visible : torch.Tensor
        Where there are masks: shape (n,), int64, the masked frames and the other valid ones, by
        their number in batch * frames.

    Example
    -------
    >>> mask = torch.tensor([True, False, True])
    >>> rows = [{"id": n, "units": torch.arange(n), "mask": mask[:n]} for n in (2, 3)]
    >>> batch = SpeechBatch(rows)
    >>> batch.hidden.tolist(), batch.units_at(batch.visible).tolist()
    ([0, 3, 5], [1, 1])
    """

    def __init__(self, examples):
        arrays = torch.Tensor, np.ndarray
        super().__init__(
            examples,
            device_prep_keys=[k for k, v in examples[0].items() if isinstance(v, arrays)],
            padding_func=pad_right,
            per_key_padding_kwargs={"units": {"value": IGNORED_UNIT}},
        )
        if "mask" in examples[0]:
            mask = self.mask.data.bool().numpy()
            self.frame_counts = np.array([len(row["mask"]) for row in examples])
            valid = np.arange(mask.shape[1]) < self.frame_counts[:, None]
            self.hidden = torch.from_numpy(np.flatnonzero(mask))
            self.visible = torch.from_numpy(np.flatnonzero(~mask & valid))

    def units_at(self, places):
        """Return the units of frames by their number in batch * frames, (n,) int64."""
        return self.units.data.flatten().index_select(0, places)

    def to(self, *args, **kwargs):
        """Move or cast the data in place; takes what `torch.Tensor.to` does."""
        lengths = {k: v.lengths for k, v in vars(self).items() if isinstance(v, PaddedData)}
        super().to(*args, **kwargs)
        for key, value in lengths.items():
            setattr(self, key, PaddedData(getattr(self, key).data, value))
        if hasattr(self, "hidden"):
            self.hidden = self.hidden.to(*args, **kwargs)
            self.visible = self.visible.to(*args, **kwargs)
        return self


def pad_right(tensors, *args, **kwargs):
    """Pad tensors at their ends and return their relative lengths; all of them may be empty.

    Example
    -------
    >>> pad_right([torch.ones(0), torch.ones(0)])[0].shape
    torch.Size([2, 0])
    """
    if all(len(tensor) == 0 for tensor in tensors):
        return torch.stack(tensors), torch.ones(len(tensors))
    return batch_pad_right(tensors, *args, **kwargs)


def add_speech(dataset):
    """Give each utterance the item `speech`, its samples: decoded once for all that take it."""
    dataset.add_dynamic_item(read_speech, takes="wav", provides="speech")


def add_frame_items(dataset, hparams, clock, units=None):
    """Give each utterance the items `sig`, `mask` and `units`, cropped to `max_seconds`.

    The crop begins on a frame, so that the units stay in step with the audio.

    Arguments
    ---------
    dataset : Utterances
        With the item `speech`, see `add_speech`; changed in place.
    hparams : dict
        `max_seconds`, `span_mask` (a function as the one below, with its settings), `seed`.
    clock : Clock
        The epoch that crops and masks are drawn for.
    units : UnitArray, optional
        Gives an utterance's units by its ID; without it there is no item `units`.

    Returns
    -------
    list of str
        The items.
    """
    names = ["sig", "mask"] if units is None else ["sig", "mask", "units"]
    items = partial(
        frame_items,
        clock=clock,
        units=units,
        max_frames=num_frames(round(hparams["max_seconds"] * SAMPLE_RATE)),
        draw_mask=hparams["span_mask"],
        seed=hparams["seed"],
    )
    dataset.add_dynamic_item(items, takes=["id", "speech"], provides=names)
    return names


def frame_items(utterance, wav, *, clock, units, max_frames, draw_mask, seed):
    """Return an utterance's samples, mask and units, if any; see `add_frame_items`.

    Returns
    -------
    tuple
        Samples, (samples,) float32; mask, (frames,) bool; units, (frames,) int64.
    """
    frames, start = num_frames(len(wav)), 0
    if frames > max_frames:
        rng = derive_rng(seed, "crop", clock.epoch, utterance)
        start = int(rng.integers(frames - max_frames + 1))
        frames = max_frames
        wav = wav[samples_of(start, frames)].clone()  # a view would keep all of a long recording
    rng = derive_rng(seed, "mask", clock.epoch, utterance)
    mask = draw_mask(frames, rng=rng)
    if units is None:
        return wav, mask
    return wav, mask, torch.from_numpy(units[utterance][start : start + frames].astype(np.int64))


def samples_of(start, frames):
    """Return where the samples lie that so many frames see, the first being number `start`.

    Example
    -------
    >>> samples_of(2, 1)
    slice(640, 1040, None)
    """
    return slice(start * HOP, (start + frames - 1) * HOP + RECEPTIVE_FIELD)


class CutToShortest:
    """Makes batches of utterances with masks, each cut to the shortest: nothing is padded.

    Without padding attention needs no mask, and a GPU takes its fastest kernel. What is kept of an
    utterance begins on a frame and is drawn anew in each epoch, as is its mask.

    Arguments
    ---------
    hparams : dict
        `span_mask`, `seed`.
    clock : Clock
        The epoch that cuts and masks are drawn for.
    """

    def __init__(self, hparams, clock):
        self.draw_mask = hparams["span_mask"]
        self.seed = hparams["seed"]
        self.clock = clock

    def __call__(self, examples):
        """Return a `SpeechBatch` of items with `sig`, `mask` and `units`; others stay whole."""
        frames = min(len(row["mask"]) for row in examples)
        return SpeechBatch([{**row, **self.cut(row, frames)} for row in examples])

    def cut(self, row, frames):
        """Return `sig`, `mask` and, if any, `units` of so many frames of an utterance."""
        rng = derive_rng(self.seed, "cut", self.clock.epoch, row["id"])
        start = int(rng.integers(len(row["mask"]) - frames + 1))
        mask = self.draw_mask(frames, rng=rng)
        own = {"sig": row["sig"][samples_of(start, frames)], "mask": mask}
        if "units" in row:
            own["units"] = row["units"][start : start + frames]
        return own


def add_crops(dataset, hparams, clock, augment, change_voice=None):
    """Give each utterance its crops, augmented apart; return the names of the items.

    These are `first` and `second`, `short_0` and so on where `short_crops` asks for them, and
    `reference`, which is not augmented, where `reference_seconds` is there and above 0.

    Arguments
    ---------
    dataset : Utterances
        With the item `speech`, see `add_speech`; changed in place.
    hparams : dict
        `min_crop_seconds`, `max_crop_seconds`, `seed`; where the method has them `short_crops` with
        `short_crop_seconds`, and `reference_seconds`.
    clock : Clock
        The epoch that crops and their augmentation are drawn for.
    augment : callable
        Takes a crop, shape (samples,), and a seed; returns a tensor of the same shape.
    change_voice : callable, optional
        Comes before it, with the same seed for all crops, and may change their length.

    Returns
    -------
    list of str
    """
    short = hparams.get("short_crops", 0)
    short_seconds = hparams["short_crop_seconds"] if short else 0
    reference = round(hparams.get("reference_seconds", 0) * SAMPLE_RATE)
    items = partial(
        crop_items,
        clock=clock,
        shortest=round(hparams["min_crop_seconds"] * SAMPLE_RATE),
        longest=round(hparams["max_crop_seconds"] * SAMPLE_RATE),
        short=[round(short_seconds * SAMPLE_RATE)] * short,
        reference=reference,
        augment=augment,
        change_voice=change_voice,
        seed=hparams["seed"],
    )
    names = ["first", "second", *(f"short_{number}" for number in range(short))]
    names += ["reference"] if reference else []
    dataset.add_dynamic_item(items, takes=["id", "speech"], provides=names)
    return names


def crop_items(
    utterance,
    wav,
    *,
    clock,
    shortest,
    longest,
    short,
    reference,
    augment,
    change_voice,
    seed,
):
    """Return the crops of an utterance, (samples,) float32 each; see `add_crops`."""
    rng = derive_rng(seed, "crops", clock.epoch, utterance)
    places = two_crops(len(wav), shortest, longest, rng)
    places += [place_of(length, len(wav), rng) for length in short]

    def spoken(start, stop):
        crop = wav[start:stop]
        if change_voice is not None:
            crop = change_voice(crop, derive_seed(seed, "voice", clock.epoch, utterance))
        return crop

    crops = [
        augment(spoken(*place), derive_seed(seed, "augment", clock.epoch, utterance, number))
        for number, place in enumerate(places)
    ]
    return crops + ([spoken(*place_of(reference, len(wav), rng))] if reference else [])


def place_of(length, samples, rng):
    """Return where a crop begins and ends, anywhere in an utterance of so many samples.

    Example
    -------
    >>> place_of(8000, 5000, np.random.default_rng(0))
    (0, 5000)
    """
    length = min(length, samples)
    start = int(rng.integers(samples - length + 1))
    return start, start + length


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


def both_crops(batch):
    """Return the first crops of a batch followed by the second ones; see `stack_crops`."""
    return stack_crops(batch, ["first", "second"])


def stack_crops(batch, names):
    """Return items of a batch one after the other, padded to the longest.

    Arguments
    ---------
    batch : PaddedBatch
    names : list of str
        Of items, such as `first` and `second`.

    Returns
    -------
    wavs : torch.Tensor
        Shape (items * batch, samples).
    wav_lens : torch.Tensor
        Relative lengths, shape (items * batch,).
    """
    parts = [getattr(batch, name) for name in names]
    samples = max(part.data.shape[1] for part in parts)
    wavs = [torch.nn.functional.pad(part.data, (0, samples - part.data.shape[1])) for part in parts]
    lens = [part.lengths * (part.data.shape[1] / samples) for part in parts]
    return torch.cat(wavs), torch.cat(lens)
