"""Swapped prediction: each of two views of an utterance predicts the other's cluster of a frame.

Spin, speaker-invariant clustering (Chang, Liu and Glass, Interspeech 2023, arXiv 2305.11072): the
views are of two voices, so what both predict is not the speaker. Clusters are learnt prototypes
on the unit sphere; the targets are made balanced, so that no prototype takes all frames (SwAV,
Caron et al., arXiv 2006.09882).
"""

import torch
from torch import nn
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, row_counts, world_size
from lobes.losses import cosines


class Codebook(nn.Module):
    """Learnt prototypes on a unit sphere, and the linear map that takes frames there.

    Arguments
    ---------
    d_model : int
        Size of a frame.
    codebook_size : int
        Number of prototypes.
    codebook_dim : int
        Size of the space in which frames and prototypes are compared.

    Example
    -------
    >>> Codebook(16, 32, 8)(torch.randn(5, 16)).shape
    torch.Size([5, 32])
    """

    def __init__(self, d_model, codebook_size, codebook_dim=256):
        super().__init__()
        self.projection = nn.Linear(d_model, codebook_dim)
        # Of unit length, which an optimizer's step hardly changes: longer ones would turn slowly.
        self.prototypes = nn.Parameter(F.normalize(torch.randn(codebook_size, codebook_dim), dim=1))

    def forward(self, frames):
        """Return each frame's cosines with the prototypes.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (..., d_model).

        Returns
        -------
        torch.Tensor
            Shape (..., codebook_size), float32.
        """
        return cosines(self.projection(frames), self.prototypes)


@torch.no_grad()
def balanced_targets(scores, epsilon=0.02, iterations=3):
    """Return soft assignments of frames to prototypes that share the frames evenly.

    Sinkhorn and Knopp's iterations on exp(scores / epsilon): by turns, each prototype's weights
    over the frames of all ranks are divided by their sum, and each frame's over the prototypes.

    Arguments
    ---------
    scores : torch.Tensor
        Shape (..., frames, prototypes), cosines. The leading dimensions are assigned apart. The
        number of frames may differ from rank to rank.
    epsilon : float
        The smaller, the harder the assignments; at least 0.015, for float32 to hold the weights.
    iterations : int
        How often; the more, the more even.

    Returns
    -------
    torch.Tensor
        The shape of `scores`, float32, without gradient. Each frame's sum is 1.

    Example
    -------
    >>> targets = balanced_targets(torch.tensor([[1.0, 0.9], [0.8, 0.1]]), epsilon=0.1)
    >>> targets.argmax(1).tolist()
    [1, 0]
    """
    weights = (scores.float() / epsilon).exp()
    for _ in range(iterations):
        weights = weights / all_reduce_sum(weights.sum(-2, keepdim=True))
        weights = weights / weights.sum(-1, keepdim=True)
    return weights


def swapped_prediction(first, second, temperature=0.1, epsilon=0.02, iterations=3, count=None):
    """Return the mean cross-entropy of each view's targets under the other view's probabilities.

    Over both directions, as in arXiv 2305.11072, section 2.2: the targets are `balanced_targets`
    of each view, the probabilities a softmax of cosines divided by a temperature.

    Arguments
    ---------
    first : torch.Tensor
        Shape (frames, prototypes), cosines of one view's frames with the prototypes.
    second : torch.Tensor
        Likewise of the other view's frames at the same places.
    temperature : float
        What the cosines are divided by.
    epsilon, iterations : float and int
        As `balanced_targets` takes them.
    count : int, optional
        Frames of all ranks; asked of them if None.

    Returns
    -------
    torch.Tensor
        Scalar, float32, in nats; ln(prototypes) where all frames are equal and so are all cosines.

    Raises
    ------
    ValueError
        Where the shapes differ.

    Example
    -------
    >>> loss = swapped_prediction(torch.zeros(6, 4), torch.zeros(6, 4))
    >>> round(loss.item(), 3)
    1.386
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "Two views must be (frames, prototypes) alike, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
    count = int(row_counts(first).sum()) if count is None else count
    with torch.autocast(first.device.type, enabled=False):
        scores = torch.stack([first, second]).float()
        targets = balanced_targets(scores, epsilon, iterations)
        log_probs = (scores / temperature).log_softmax(-1)
        total = -(targets.flip(0) * log_probs).sum()
    return total * world_size() / (2 * max(count, 1))
