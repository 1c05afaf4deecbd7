"""DINO (Caron et al., arXiv 2104.14294): crops name the prototypes that a moving average names."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, world_size
from lobes.losses import cosines
from lobes.methods.base import (
    UtteranceMethod,
    check_count,
    check_positive,
    check_share,
    move_average,
    rising_momentum,
    teacher_of,
)

FEWEST_PROTOTYPES = 1.5  # that are named; with fewer all utterances get the same
MOST_EVEN = 0.999  # entropy of a single target, as a share of that of the uniform one


class PrototypeHead(nn.Module):
    """The head of DINO: a perceptron to a unit sphere, and cosines to prototypes.

    Arguments
    ---------
    embedding_dim, hidden_dim, bottleneck_dim, prototypes : int
        Sizes of what comes in, of the two hidden layers, of the sphere, and the number of
        prototypes K.
    """

    def __init__(self, embedding_dim, hidden_dim, bottleneck_dim, prototypes):
        super().__init__()
        self.perceptron = nn.Sequential(
            nn.Linear(embedding_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck_dim))
        for layer in self.perceptron[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.prototypes, std=bottleneck_dim**-0.5)  # longer ones would turn slowly

    def forward(self, x):
        """Map (rows, embedding_dim) to float32 cosines (rows, prototypes)."""
        return cosines(self.perceptron(x), self.prototypes)


class DINO(UtteranceMethod):
    """Cross-entropy of the prototypes that a teacher names for another crop (equation 3).

    The teacher, a moving average of encoder and head, sees the two long crops; the encoder sees
    these and the short ones. What the teacher says is centred and sharpened, which keeps it from
    naming one prototype for all, or all prototypes alike (section 3.1).

    Arguments
    ---------
    encoder : UtteranceEncoder
        The one that is trained.
    prototypes, hidden_dim, bottleneck_dim : int
        See `PrototypeHead`.
    student_temperature, teacher_temperature : float
        What cosines are divided by; the teacher's is the lower one.
    teacher_momentum : float
        The share of the teacher that stays in each step; it rises to 1 along a cosine.
    centre_momentum : float
        The share of the centre that stays (equation 4).

    Example
    -------
    >>> from lobes.distributed import SharedCounts
    >>> from lobes.methods.base import Views
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6, projection_dim=0)
    >>> method = DINO(encoder, prototypes=16)
    >>> crops = torch.randn(8, 16000), torch.ones(8)
    >>> taught = method.teach(encoder, crops, None)
    >>> views = Views(*encoder(*crops, project=True), None, taught, SharedCounts(rows=4))
    >>> method(views).shape
    torch.Size([])
    """

    def __init__(
        self,
        encoder,
        prototypes=65536,
        hidden_dim=2048,
        bottleneck_dim=256,
        student_temperature=0.1,
        teacher_temperature=0.04,
        teacher_momentum=0.996,
        centre_momentum=0.9,
    ):
        super().__init__()
        check_count(least=2, prototypes=prototypes)
        check_count(hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim)
        check_positive(student_temperature=student_temperature)
        check_positive(teacher_temperature=teacher_temperature)
        check_share(teacher_momentum=teacher_momentum, centre_momentum=centre_momentum)
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.teacher_momentum, self.centre_momentum = teacher_momentum, centre_momentum
        sizes = encoder.projected_dim, hidden_dim, bottleneck_dim, prototypes
        self.head = PrototypeHead(*sizes)
        self.teacher, self.teacher_head = teacher_of(encoder), teacher_of(self.head)
        self.register_buffer("centre", torch.zeros(prototypes))

    @torch.no_grad()
    def teach(self, encoder, crops, reference):
        """Return the teacher's cosines for both long crops, (2 * utterances, prototypes)."""
        return self.teacher_head(self.teacher(*crops, project=True)[1])

    def forward(self, views):
        """Return the loss of `Views`, a scalar in nats; in training the centre moves.

        The figures are the entropy of a single target, as a share of ln(prototypes), and how many
        prototypes the batch's targets name: the exponential of the entropy of their mean.
        """
        total = views.counts.total("rows")
        long = views.projections
        short = long.new_zeros(0, long.shape[1]) if views.short is None else views.short
        crops = 2 + len(short) // (len(long) // 2)
        logits = self.head(torch.cat([long, short.to(long.dtype)])) / self.student_temperature
        targets = ((views.taught - self.centre) / self.teacher_temperature).softmax(1)
        loss = dino_loss(targets, logits, crops) * world_size() / total
        mean = all_reduce_sum(targets.sum(0)) / (2 * total)
        entropy = -torch.special.xlogy(targets, targets).sum(1).mean()
        views.figures = {
            "target_entropy": entropy / math.log(len(self.centre)),
            "named_prototypes": (-torch.special.xlogy(mean, mean).sum()).exp(),
        }
        if self.training:
            centre = all_reduce_sum(views.taught.sum(0)) / (2 * total)
            self.centre.lerp_(centre, 1 - self.centre_momentum)
        return loss

    def follow(self, encoder, progress):
        """Move the teacher towards the encoder and the head."""
        momentum = rising_momentum(self.teacher_momentum, progress)
        move_average(self.teacher, encoder, momentum)
        move_average(self.teacher_head, self.head, momentum)

    def problem(self, figures):
        """Tell of a teacher that names one prototype for all, or all alike."""
        if figures["named_prototypes"] < FEWEST_PROTOTYPES:
            return (
                f"The teacher names {figures['named_prototypes']:.2f} prototypes: all utterances "
                "get the same. Lower centre_momentum, raise teacher_temperature, or lower lr."
            )
        if figures["target_entropy"] > MOST_EVEN:
            return (
                "The teacher names all prototypes alike, whatever it hears: "
                f"target_entropy is {figures['target_entropy']:.4f}. Lower teacher_temperature."
            )
        return None


def dino_loss(targets, logits, crops):
    """Return the cross-entropies of DINO (arXiv 2104.14294, equation 3), summed over utterances.

    Arguments
    ---------
    targets : torch.Tensor
        Shape (2 * utterances, prototypes), probabilities: of the first crops, then of the second.
    logits : torch.Tensor
        Shape (crops * utterances, prototypes): of the same crops, then of the short ones.
    crops : int
        How many of each utterance.

    Returns
    -------
    torch.Tensor
        Scalar, in nats: the mean over pairs of a target and another crop, summed over utterances.

    Example
    -------
    >>> targets = torch.full((2, 4), 0.25)
    >>> round(dino_loss(targets, torch.zeros(3, 4), 3).item(), 3) == round(math.log(4), 3)
    True
    """
    targets = targets.unflatten(0, (2, -1))
    logs = F.log_softmax(logits, dim=1).unflatten(0, (crops, -1))
    # Of all pairs together, less each long crop with itself.
    every = (targets.sum(0) * logs.sum(0)).sum()
    same = (targets * logs[:2]).sum()
    return (same - every) / (2 * crops - 2)
