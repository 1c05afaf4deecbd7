"""The training losses of the two encoders.

Each divides by the count of the global batch and multiplies by the number of ranks, so that the
mean over the ranks, which DistributedDataParallel takes, is the loss of the global batch.

References
----------
Hsu et al., HuBERT, arXiv 2106.07447 (equation 1, masked prediction).
Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
arXiv 2002.05709 (equation 1, NT-Xent).
"""

import torch
from torch.nn import functional as F

from lobes.distributed import gather_rows, row_counts, row_offset, world_size

IGNORED_UNIT = -100  # The label of padded frames.


def prediction_loss(logits, units, count=None):
    """Return the mean cross-entropy of the units of frames (arXiv 2106.07447, eq. 1).

    Arguments
    ---------
    logits : torch.Tensor
        Shape (frames, classes), of the frames that count: the masked ones, say.
    units : torch.Tensor
        Shape (frames,), int64 in [0, classes).
    count : int, optional
        Frames of all ranks; asked of them if None.

    Returns
    -------
    torch.Tensor
        Scalar, float32, in nats; zero with a zero gradient where no frame counts.

    Raises
    ------
    ValueError
        Where the shapes differ.

    Example
    -------
    >>> loss = prediction_loss(torch.zeros(98, 100), torch.randint(100, (98,)))
    >>> loss.shape, round(loss.item(), 3)
    (torch.Size([]), 4.605)
    """
    if logits.ndim != 2 or units.shape != logits.shape[:1]:
        raise ValueError(
            "logits and units must be (frames, classes) and (frames,), got "
            f"{tuple(logits.shape)} and {tuple(units.shape)}"
        )
    count = int(row_counts(units).sum()) if count is None else count
    total = F.cross_entropy(logits.float(), units, reduction="sum")
    return total * (world_size() / max(count, 1))


def nt_xent(first, second, temperature=0.1, rows=None):
    """Return the NT-Xent loss of two views of each utterance (arXiv 2002.05709, eq. 1).

    Each projection is an anchor once. Its positive is the other view of its utterance, its
    negatives both views of all other utterances, on whichever rank they are.

    Arguments
    ---------
    first : torch.Tensor
        Shape (rows, dim), projections of one crop of each utterance. The number of rows may
        differ from rank to rank.
    second : torch.Tensor
        Shape (rows, dim), projections of another crop, in the same order.
    temperature : float
        What the cosine similarities are divided by.
    rows : numpy.ndarray, optional
        Shape (ranks,), the number of rows of each rank; asked of them if None.

    Returns
    -------
    torch.Tensor
        Scalar, float32, in nats; ln(2 * rows - 1) where all projections are equal.

    Raises
    ------
    ValueError
        Where the shapes differ or there is a single utterance, which has no negatives.

    Example
    -------
    >>> nt_xent(torch.randn(8, 16), torch.randn(8, 16)).shape
    torch.Size([])
    """
    _check_views(first, second)
    rows = row_counts(first) if rows is None else rows
    total = int(rows.sum())
    if total < 2:
        raise ValueError("NT-Xent needs at least two utterances: a single one has no negative")
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(x.float(), dim=1) for x in (first, second))
        keys = torch.cat(gather_rows(torch.stack([first, second], dim=1), rows).unbind(1))
        own = torch.arange(len(first), device=first.device) + row_offset(rows)
        own, positives = torch.cat([own, own + total]), torch.cat([own + total, own])
        logits = torch.cat([first, second]) @ keys.T / temperature
        logits = logits.scatter(1, own[:, None], float("-inf"))
        losses = F.cross_entropy(logits, positives, reduction="sum")
    return losses * world_size() / (2 * total)


@torch.no_grad()
def retrieval_accuracy(first, second):
    """Return the share of rows of `first` whose nearest row of `second` is their own.

    Arguments
    ---------
    first : torch.Tensor
        Shape (rows, dim), embeddings of one crop of each utterance.
    second : torch.Tensor
        Shape (rows, dim), embeddings of another crop, in the same order.

    Returns
    -------
    torch.Tensor
        Scalar in [0, 1]; nearness is the cosine, and chance is 1 / rows.

    Raises
    ------
    ValueError
        Where the shapes differ.

    Example
    -------
    >>> retrieval_accuracy(torch.eye(4), torch.eye(4)).item()
    1.0
    """
    _check_views(first, second)
    own = torch.arange(len(first), device=first.device)
    return (cosines(first, second).argmax(dim=1) == own).float().mean()


def cosines(x, directions):
    """Return the cosine of each row of x with each direction, in float32 whatever the precision.

    Arguments
    ---------
    x : torch.Tensor
        Shape (..., dim).
    directions : torch.Tensor
        Shape (directions, dim).

    Returns
    -------
    torch.Tensor
        Shape (..., directions).

    Example
    -------
    >>> cosines(torch.tensor([[3.0, 0.0]]), torch.eye(2))
    tensor([[1., 0.]])
    """
    with torch.autocast(x.device.type, enabled=False):
        x, directions = (F.normalize(rows.float(), dim=-1) for rows in (x, directions))
        return F.linear(x, directions)


def _check_views(first, second):
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "Two views must be (rows, dim) alike, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )
