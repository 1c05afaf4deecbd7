"""The order of a corpus: batches of like length, the same for the same seed and epoch."""

import numpy as np
from torch.utils.data import Sampler

from recipes.common.data.seeding import derive_rng


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
