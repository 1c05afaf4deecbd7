"""Random numbers that need no saved state.

Masks, crops, augmentation, batch order and dropout are each drawn from a generator made from
what they belong to: the run's seed, the epoch, the utterance, the step. So a run that was killed
and started again draws the same numbers, in whichever worker or process.
"""

import hashlib

import numpy as np
import torch


def derive_seed(*parts):
    """Return a seed that depends on all of its arguments, the same on every machine.

    Arguments
    ---------
    *parts : int or str
        What the numbers belong to, such as a seed, an epoch and an utterance's ID.

    Returns
    -------
    int
        In [0, 2**63).

    Example
    -------
    >>> derive_seed(1, "mask", 3, "84-121123-0001") == derive_seed(1, "mask", 3, "84-121123-0001")
    True
    >>> derive_seed(1, 23) == derive_seed(12, 3)
    False
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive_rng(*parts):
    """Return a NumPy generator seeded by `derive_seed`.

    Example
    -------
    >>> derive_rng(1, "crop", 2, "84-121123-0001").integers(100, size=3).shape
    (3,)
    """
    return np.random.default_rng(derive_seed(*parts))


class Clock:
    """The epoch, shared by a batch sampler and the items of its dataset; 0 in validation.

    It lies in memory that worker processes share, so that they can live on from epoch to epoch.

    Example
    -------
    >>> clock = Clock()
    >>> clock.epoch = 3
    >>> clock.epoch
    3
    """

    def __init__(self):
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    @property
    def epoch(self):
        """The number of the epoch."""
        return int(self._epoch.numpy()[0])

    @epoch.setter
    def epoch(self, number):
        self._epoch.numpy()[0] = number
