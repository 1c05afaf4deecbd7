"""Meters: what a stage of a Brain tells of itself, kept batch by batch."""

import torch

from lobes.distributed import all_reduce_sum
from lobes.losses import IGNORED_UNIT, retrieval_accuracy


class Meter:
    """Averages over the batches of a stage, as sums and counts in float64.

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
        self.totals, self.counts = {}, {}

    def add(self, name, total, count):
        """Add to an average.

        Arguments
        ---------
        name : str
            What is averaged.
        total : torch.Tensor
            A sum over items, of any shape.
        count : torch.Tensor or int
            The number of items.
        """
        self.totals[name] = self.totals.get(name, 0) + total.detach().double()
        self.counts[name] = self.counts.get(name, 0) + torch.as_tensor(count).to(total.device)

    def total(self, name):
        """Return a sum."""
        return all_reduce_sum(self.totals[name]) if self.all_ranks else self.totals[name]

    def average(self, name):
        """Return an average, float64, of the shape of its sums."""
        count = self.counts[name].double()
        count = all_reduce_sum(count) if self.all_ranks else count
        return self.total(name) / count.clamp(min=1)

    def figures(self):
        """Return the averages that are single numbers."""
        names = [name for name, total in self.totals.items() if not total.ndim]
        return {name: float(self.average(name)) for name in names}


class FrameMeter(Meter):
    """What is told of a frame encoder: how well it predicts units, and how much frames vary."""

    @torch.no_grad()
    def update(self, frames, logits, units, mask):
        """Add a batch.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (batch, frames, d_model).
        logits : torch.Tensor
            Shape (batch, frames, num_targets).
        units : torch.Tensor
            Shape (batch, frames), int64, -100 where padded.
        mask : torch.Tensor
            Shape (batch, frames), bool, True at frames hidden from the encoder.
        """
        valid = units != IGNORED_UNIT
        hidden, visible = mask & valid, ~mask & valid
        predicted = logits.argmax(-1)
        copied = nearest_visible_units(units, mask, valid.sum(1))
        for name, guess, where in (
            ("masked_accuracy", predicted, hidden),
            ("unmasked_accuracy", predicted, visible),
            ("copy_accuracy", copied, hidden),
        ):
            self.add(name, (guess == units)[where].sum(), where.sum())
        classes = logits.shape[-1]
        for name, labels in (("predicted", predicted), ("true", units)):
            share = torch.bincount(labels[hidden], minlength=classes)
            self.add(name, share, hidden.sum())
        rows = frames[valid].double()
        self.add("mean", rows.sum(0), valid.sum())
        self.add("square", rows.square().sum(0), valid.sum())

    def figures(self):
        """Return what was found.

        Returns
        -------
        dict
            Accuracy at masked and unmasked frames; of copying the nearest visible unit and of the
            most frequent unit, at masked frames; the perplexity of the predicted and of the true
            units; the frames' standard deviation, averaged over dimensions.
        """
        figures = super().figures()
        figures["majority_accuracy"] = float(self.average("true").max())
        for name in ("predicted", "true"):
            share = self.average(name)
            figures[f"{name}_perplexity"] = float(torch.special.entr(share).sum().exp())
        variance = self.average("square") - self.average("mean").square()
        figures["frame_deviation"] = float(variance.clamp(min=0).sqrt().mean())
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
        self.add("retrieval_chance", torch.tensor(1.0, device=first.device), count)
        rows = torch.nn.functional.normalize(embeddings.double(), dim=-1)
        self.add("mean", rows.sum(0), len(rows))
        self.add("square", rows.square().sum(0), len(rows))

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
        variance = self.average("square") - self.average("mean").square()
        deviation = variance.clamp(min=0).sqrt().mean() * len(variance) ** 0.5
        return {**super().figures(), "embedding_deviation": float(deviation)}


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
