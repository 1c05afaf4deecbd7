"""The order of a corpus: batches of like length, the same for the same seed and epoch."""

import numpy as np
from torch.utils.data import Sampler

from recipes.common.data.seeding import derive_rng

BLOCK = 2**16  # lengths that are looked at at once
JITTER = 0.1  # share of its length by which an utterance is moved before lengths are sorted
NARROW_JITTER = 0.02  # where batches are cut to their shortest: takes under 2 % of LibriSpeech


class LengthSortedBatches(Sampler):
    """Batches of utterances of like length, drawn anew in each epoch.

    Utterances are sorted by length, with some jitter, cut into batches whose padded audio
    stays within a limit, and the batches shuffled. Ranks take turns; in training every rank has as
    many batches as any other, for which a few of the last are halved. Up to these, the order
    depends on (seed, epoch) alone. `start` skips batches without loading them.

    Arguments
    ---------
    seconds : array of float
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
    jitter : float
        Share of its length by which an utterance is moved, at most, before lengths are sorted.
    weights : array of float, optional
        Of each utterance: in proportion to it, as many utterances as there are are drawn in each
        epoch, with replacement. Without them each is drawn once.

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
        self,
        seconds,
        max_batch_seconds,
        seed,
        clock=None,
        ranks=1,
        this_rank=0,
        min_batch_size=1,
        jitter=JITTER,
        weights=None,
    ):
        if len(seconds) < ranks * min_batch_size:
            raise ValueError(
                f"{len(seconds)} utterances are too few for {ranks} processes with batches of at "
                f"least {min_batch_size}."
            )
        self.seconds = np.asarray(seconds, np.float64)
        self.max_batch_seconds = max_batch_seconds
        self.seed = seed
        self.clock = clock
        self.ranks = ranks
        self.this_rank = this_rank
        self.min_batch_size = min_batch_size
        self.jitter = jitter
        self.weights = weights
        self.start = 0
        self._plan()

    def set_epoch(self, epoch):
        """Draw the batches of an epoch."""
        if epoch != self.clock.epoch:
            self.clock.epoch = epoch
            self._plan()

    def __len__(self):
        return len(range(self.this_rank, len(self._bounds), self.ranks))

    def __iter__(self):
        start, self.start = self.start, 0
        order, bounds = self._order, self._bounds[self.this_rank :: self.ranks][start:]
        return (order[first:last].tolist() for first, last in bounds)

    def _plan(self):
        """Set the utterances' order, and where in it each batch begins and ends."""
        count, drawn, keys = len(self.seconds), slice(None), self.seconds
        if self.clock is not None:
            rng = derive_rng(self.seed, "batches", self.clock.epoch)
            if self.weights is not None:
                drawn = rng.choice(count, count, p=self.weights / np.sum(self.weights))
            keys = rng.uniform(1 - self.jitter, 1 + self.jitter, count)
            keys *= self.seconds[drawn]
        self._order = np.arange(count)[drawn][np.argsort(keys, kind="stable")]
        bounds = self._cut(self.seconds[self._order])
        missing = max(0, self.ranks - len(bounds))
        if self.clock is not None:
            bounds = bounds[rng.permutation(len(bounds))]
            missing = -len(bounds) % self.ranks
        for _ in range(missing):
            bounds = self._halve(bounds)
        rest = len(bounds) % self.ranks if self.clock is not None else 0
        self._bounds = bounds[: len(bounds) - rest]

    def _cut(self, seconds):
        """Return where in a sequence of lengths each batch begins and ends, (batches, 2)."""
        starts = np.fromiter(self._starts(seconds), np.int64)
        if len(starts) > 1 and len(seconds) - starts[-1] < self.min_batch_size:
            starts = starts[:-1]
        return np.stack([starts, np.append(starts[1:], len(seconds))], axis=1)

    def _starts(self, seconds):
        """Yield where in a sequence of lengths each batch begins."""
        limit, fewest = self.max_batch_seconds, self.min_batch_size
        longest, size = 0.0, 0
        yield 0
        for block in range(0, len(seconds), BLOCK):
            for place, length in enumerate(seconds[block : block + BLOCK].tolist(), block):
                if length > longest:
                    longest = length
                if longest * (size + 1) > limit and size >= fewest:
                    yield place
                    longest, size = length, 0
                size += 1

    def _halve(self, bounds):
        """Return the batches with one as two: of those that are large enough, the last.

        Those of one utterance each stay as they are.
        """
        sizes = np.diff(bounds, axis=1).flatten()
        large = np.flatnonzero(sizes >= 2 * self.min_batch_size)
        number = large[-1] if len(large) else sizes.argmax()
        if sizes[number] < 2:
            return bounds
        first, last = bounds[number]
        batch, middle = self._order[first:last].copy(), first + (last - first + 1) // 2
        self._order[first:middle], self._order[middle:last] = batch[::2], batch[1::2]
        halves = [(first, middle), (middle, last)]
        return np.concatenate([bounds[:number], halves, bounds[number + 1 :]])
