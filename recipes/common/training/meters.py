"""Meters: what a stage of a Brain tells of itself, kept batch by batch."""

import numpy as np
import torch

from lobes.distributed import sum_over_ranks
from lobes.losses import IGNORED_UNIT, retrieval_accuracy


class Meter:
    """Averages over the batches of a stage, as sums and counts in float64.

    What is added stays on its device until `read`, or until a figure is asked for.

    Arguments
    ---------
    all_ranks : bool
        Whether each rank sees batches of its own, as in training; an average is then over all.

    Example
    -------
    >>> meter = Meter()
    >>> meter.add("loss", torch.tensor(3.0), count=2)
    >>> meter.add("loss", torch.tensor(6.0), count=1)
    >>> meter.figures()
    {'loss': 3.0}
    """

    def __init__(self, all_ranks=False):
        self.all_ranks = all_ranks
        self.totals, self.counts, self.unread = {}, {}, []

    def add(self, name, total, count):
        """Add to an average.

        Arguments
        ---------
        name : str
            What is averaged.
        total : torch.Tensor or float
            A sum over items, of any shape.
        count : torch.Tensor or int
            The number of items.
        """
        pair = (x.detach() if torch.is_tensor(x) else x for x in (total, count))
        self.unread.append((name, *pair))

    def read(self):
        """Take what was added off its device, in one go."""
        added, self.unread = self.unread, []
        values = to_arrays([value for _, *pair in added for value in pair])
        for (name, *_), total, count in zip(added, values[::2], values[1::2], strict=True):
            self.totals[name] = self.totals.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0.0) + count

    @property
    def empty(self):
        """Whether nothing was added."""
        return not (self.totals or self.unread)

    def total(self, name):
        """Return a sum: float64, of the shape of what was added."""
        self.read()
        return self._of_all(self.totals[name])

    def average(self, name):
        """Return an average: float64, of the shape of its sums."""
        return self.total(name) / np.maximum(self._of_all(self.counts[name]), 1)

    def add_moments(self, vectors, count):
        """Add to `deviation` so many vectors, shape (..., dim), float32; others are zero."""
        dims = tuple(range(vectors.ndim - 1))
        self.add("mean", vectors.sum(dims), count)
        self.add("square", vectors.square().sum(dims), count)

    def deviation(self):
        """Return the standard deviation of each dimension over all vectors, (dim,) float64."""
        variance = self.average("square") - self.average("mean") ** 2
        return np.sqrt(variance.clip(min=0))

    def _of_all(self, values):
        return sum_over_ranks(values) if self.all_ranks else values

    def figures(self):
        """Return the averages that are single numbers."""
        self.read()
        names = [name for name, total in self.totals.items() if not total.ndim]
        return {name: float(self.average(name)) for name in names}


def perplexity(shares):
    """Return the perplexity of shares that add up to 1: how many even ones would tell as much.

    Example
    -------
    >>> round(perplexity(np.array([0.25, 0.25, 0.5, 0.0])), 3)
    2.828
    """
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def to_arrays(values):
    """Return numbers and tensors as arrays of float64, all of a device's in one transfer.

    On the way from a device they are float32, which holds a whole number up to 16,777,216.

    Example
    -------
    >>> to_arrays([2, torch.tensor([0.5, 1.0])])
    [array(2.), array([0.5, 1. ])]
    """
    tensors = [v.detach() for v in values if torch.is_tensor(v)]
    there = [x for x in tensors if x.device.type != "cpu"]
    if there:
        row = torch.cat([x.flatten().float() for x in there]).cpu()
        parts = row.split([x.numel() for x in there])
        brought = iter([part.view(x.shape) for part, x in zip(parts, there, strict=True)])
        tensors = [x if x.device.type == "cpu" else next(brought) for x in tensors]
    here = iter(tensors)
    return [np.asarray(next(here) if torch.is_tensor(v) else v, np.float64) for v in values]


class FrameMeter(Meter):
    """What is told of a frame encoder: how well it predicts units, and how much frames vary."""

    @torch.no_grad()
    def update(self, frames, logits, batch):
        """Add a batch.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (batch, frames, d_model).
        logits : torch.Tensor
            Shape (n, num_targets), of the masked frames and then, if any, of the visible ones.
        batch : SpeechBatch
            With `units` and `mask`.
        """
        units, mask = batch.units.data, batch.mask.data.bool()
        valid, hidden = units != IGNORED_UNIT, len(batch.hidden)
        predicted, true = logits.argmax(-1), batch.units_at(batch.hidden)
        copied = nearest_visible_units(units, mask, valid.sum(1)).flatten()
        copied = copied.index_select(0, batch.hidden)
        for name, guess in (("masked", predicted[:hidden]), ("copy", copied)):
            self.add(f"{name}_accuracy", (guess == true).sum(), hidden)
        if len(predicted) > hidden:
            right = predicted[hidden:] == batch.units_at(batch.visible)
            self.add("unmasked_accuracy", right.sum(), len(right))
        for name, labels in (("predicted", predicted[:hidden]), ("true", true)):
            counts = labels.new_zeros(logits.shape[-1])
            self.add(name, counts.index_add_(0, labels, torch.ones_like(labels)), hidden)
        self.add_moments(frames.float() * valid.unsqueeze(2), hidden + len(batch.visible))

    def figures(self):
        """Return what was found.

        Returns
        -------
        dict
            Accuracy at masked and, in evaluation, at visible frames; of copying the nearest visible
            unit and of the most frequent unit, at masked frames; the perplexity of the predicted
            and of the true units; the frames' standard deviation, averaged over dimensions.
        """
        figures = super().figures()
        figures["majority_accuracy"] = float(self.average("true").max())
        for name in ("predicted", "true"):
            figures[f"{name}_perplexity"] = perplexity(self.average(name))
        figures["frame_deviation"] = float(self.deviation().mean())
        return figures


class UtteranceMeter(Meter):
    """What is told of an utterance encoder: how well it finds utterances, how much it varies."""

    @torch.no_grad()
    def update(self, embeddings, first, second):
        """Add a batch.

        Arguments
        ---------
        embeddings : torch.Tensor
            Shape (rows, E).
        first, second : torch.Tensor
            Projections of two crops of each utterance, shape (utterances, P).
        """
        count = len(first)
        self.add("retrieval_accuracy", retrieval_accuracy(first, second) * count, count)
        self.add("retrieval_chance", 1, count)
        rows = torch.nn.functional.normalize(embeddings.float(), dim=-1)
        self.add_moments(rows, len(rows))

    def figures(self):
        """Return what was found.

        Returns
        -------
        dict
            The share of first crops whose nearest second crop in the batch is of the same
            utterance, its chance level, and the standard deviation of the embeddings at unit
            length, averaged over dimensions and multiplied by sqrt(E): 1 where they spread over
            the whole sphere.
        """
        deviation = self.deviation()
        spread = float(deviation.mean() * len(deviation) ** 0.5)
        return {**super().figures(), "embedding_deviation": spread}


def nearest_visible_units(units, mask, lens):
    """Predict each masked frame's unit by copying that of the nearest visible frame.

    Units last for several frames, so that this baseline scores several times the share of the
    most frequent unit. Of two visible frames equally near, the earlier is copied.

    Arguments
    ---------
    units : torch.Tensor
        Shape (batch, frames), int64.
    mask : torch.Tensor
        Shape (batch, frames), bool, True where masked.
    lens : torch.Tensor
        Shape (batch,), int64, the number of valid frames of each row.

    Returns
    -------
    torch.Tensor
        Shape (batch, frames), int64: at a masked frame the copied unit, at a visible frame its
        own, -100 where padded and in a row without any visible frame.

    Example
    -------
    >>> units = torch.tensor([[4, 5, 6, 7, -100]])
    >>> mask = torch.tensor([[False, True, True, False, False]])
    >>> nearest_visible_units(units, mask, torch.tensor([4]))
    tensor([[   4,    4,    7,    7, -100]])
    """
    frames = units.shape[1]
    time = torch.arange(frames, device=units.device)
    valid = time < lens.to(units.device)[:, None]
    visible = valid & ~mask
    # Beyond either end lies a frame further away than any real one.
    before = torch.where(visible, time, -2 * frames).cummax(dim=1).values
    after = torch.where(visible, time, 3 * frames).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where(time - before <= after - time, before, after)
    found = valid & (nearest >= 0) & (nearest < frames)
    return torch.where(found, units.gather(1, nearest.clamp(0, frames - 1)), -100)
