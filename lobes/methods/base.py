"""What the methods share that train an utterance encoder without labels."""

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import nn

from lobes.distributed import SharedCounts


@dataclass
class Views:
    """What an utterance encoder makes of the crops of a batch.

    Attributes
    ----------
    embeddings, projections : torch.Tensor
        Of the first crop of each utterance, then of the second: (2 * utterances, E) and
        (2 * utterances, P).
    short : torch.Tensor or None
        Projections of the short crops: of the first one of each utterance, then of the next.
    taught : object
        What the method's `teach` returned.
    counts : SharedCounts
        Of `rows`, the utterances of each rank.
    seed : int
        For what is drawn at random, the same on every rank.
    figures : dict
        What the method tells of the batch, by name: tensors without a gradient.
    """

    embeddings: torch.Tensor
    projections: torch.Tensor
    short: torch.Tensor | None
    taught: object
    counts: SharedCounts
    seed: int = 0
    figures: dict = field(default_factory=dict)


class UtteranceMethod(nn.Module):
    """A loss on the crops of utterances, and what it remembers from step to step.

    A method is a subclass in a file of its own, and a file of `hparams/methods/` which names it.
    Whatever it keeps is in its parameters and buffers, so that checkpoints hold it. Its `forward`
    takes `Views` and returns the loss, scaled such that the mean over the ranks is the loss of the
    global batch; it may add to their `figures`. In evaluation it changes nothing.
    """

    def teach(self, encoder, crops, reference):
        """Return what the loss needs beside the encoder's own views; without a gradient.

        Arguments
        ---------
        encoder : UtteranceEncoder
            The one that is trained.
        crops : tuple of torch.Tensor
            Both crops of each utterance and their relative lengths, see `both_crops`.
        reference : tuple of torch.Tensor or None
            A longer crop of each utterance, not augmented, and relative lengths, where the
            hyperparameters ask for one.
        """

    def begin_epoch(self, epoch, epochs, seed, resumed):
        """Get ready for an epoch of training.

        Arguments
        ---------
        epoch, epochs : int
            Its number, from 1, and how many there are.
        seed : int
            The same on every rank.
        resumed : bool
            Whether training goes on within the epoch: what was drawn at its start is there.
        """

    def follow(self, encoder, progress):
        """Learn from the encoder after a step of its optimizer.

        Arguments
        ---------
        encoder : UtteranceEncoder
        progress : float
            How much of the training is done, in [0, 1].
        """

    def problem(self, figures):
        """Return a sentence where the figures of an evaluation tell of a collapse, or None."""

    def compile(self, **options):
        """Compile the parts: what `forward` takes and returns are no tensors alone."""
        for part in self.children():
            part.compile(**options)


def teacher_of(module):
    """Return a copy of a module that no gradient reaches: its moving average, by `move_average`."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def move_average(teacher, module, momentum):
    """Move the parameters of a teacher towards those of the module that it is a copy of.

    Batch normalisation's own averages are not touched: the teacher sees the batches itself.

    Arguments
    ---------
    teacher, module : torch.nn.Module
        Alike.
    momentum : float
        In [0, 1]: the share of the teacher that stays.

    Example
    -------
    >>> module = nn.Linear(2, 2)
    >>> teacher = teacher_of(module)
    >>> _ = nn.init.zeros_(module.weight), nn.init.ones_(teacher.weight)
    >>> move_average(teacher, module, 0.75)
    >>> teacher.weight
    Parameter containing:
    tensor([[0.7500, 0.7500],
            [0.7500, 0.7500]])
    """
    pairs = [*zip(teacher.parameters(), module.parameters(), strict=True)]
    torch._foreach_lerp_([own for own, _ in pairs], [new for _, new in pairs], 1 - momentum)


def rising_momentum(start, progress):
    """Return the momentum of a teacher: from `start` to 1 along a cosine (BYOL, DINO).

    Example
    -------
    >>> [round(rising_momentum(0.9, progress), 3) for progress in (0.0, 0.5, 1.0)]
    [0.9, 0.95, 1.0]
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * progress)) / 2


def check_share(**settings):
    """Raise ValueError unless each setting is a number in [0, 1]."""
    for name, value in settings.items():
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}: expected a number, 0 to 1.")


def check_positive(**settings):
    """Raise ValueError unless each setting is a number above 0."""
    for name, value in settings.items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}: expected a number above 0.")


def check_count(least=1, **settings):
    """Raise ValueError unless each setting is a whole number, and no less than one."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is {value!r}: expected a whole number, {least} or more.")
