"""The training losses of the two encoders, and what frames tell of their utterance.

Each divides by the count of the global batch and multiplies by the number of ranks, so that the
mean over the ranks, which DistributedDataParallel takes, is the loss of the global batch.

References
----------
Hsu et al., HuBERT, arXiv 2106.07447 (equation 1, masked prediction).
Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
arXiv 2002.05709 (equation 1, NT-Xent).
Wilks, Certain generalizations in the analysis of variance, Biometrika 24 (lambda).
"""

import torch
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, gather_rows, row_offset, world_size

IGNORED_UNIT = -100  # The label of padded frames.


def masked_prediction_loss(logits, units, mask):
    """Return the mean cross-entropy of the units at masked frames (arXiv 2106.07447, eq. 1).

    Arguments
    ---------
    logits : torch.Tensor
        Shape (batch, frames, classes).
    units : torch.Tensor
        Shape (batch, frames), int64 in [0, classes), or -100 where padded.
    mask : torch.Tensor
        Shape (batch, frames), bool, True at frames hidden from the encoder.

    Returns
    -------
    torch.Tensor
        Scalar, float32, in nats; zero with a zero gradient where no frame counts.

    Raises
    ------
    ValueError
        Where the shapes differ or a unit is not a class.

    Example
    -------
    >>> units = torch.randint(100, (2, 49))
    >>> loss = masked_prediction_loss(torch.zeros(2, 49, 100), units, torch.ones(2, 49) > 0)
    >>> loss.shape, round(loss.item(), 3)
    (torch.Size([]), 4.605)
    """
    if not logits.shape[:2] == units.shape == mask.shape:
        raise ValueError(
            "logits, units and mask must agree in (batch, frames), got "
            f"{tuple(logits.shape)}, {tuple(units.shape)} and {tuple(mask.shape)}"
        )
    counted = mask & (units != IGNORED_UNIT)
    targets = units[counted]
    _check_units(targets, logits.shape[2])
    count = all_reduce_sum(counted.sum()).clamp(min=1)
    total = F.cross_entropy(logits[counted].float(), targets, reduction="sum")
    return total * world_size() / count


def _check_units(units, classes):
    if len(units) and not (0 <= int(units.min()) and int(units.max()) < classes):
        raise ValueError(
            f"units must be in [0, {classes}), the classes of the logits, or {IGNORED_UNIT} where "
            f"padded; found {int(units.min())} to {int(units.max())}. Set the encoder's "
            "num_targets to the number of units"
        )


def nt_xent(first, second, temperature=0.1):
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
    with torch.autocast(first.device.type, enabled=False):
        first, second = (F.normalize(x.float(), dim=1) for x in (first, second))
        keys = torch.cat(gather_rows(torch.stack([first, second], dim=1)).unbind(1))
        total = len(keys) // 2
        if total < 2:
            raise ValueError("NT-Xent needs at least two utterances: a single one has no negative")
        own = torch.arange(len(first), device=first.device) + row_offset(first)
        own, positives = torch.cat([own, own + total]), torch.cat([own + total, own])
        logits = torch.cat([first, second]) @ keys.T / temperature
        logits = logits.scatter(1, own[:, None], float("-inf"))
        losses = F.cross_entropy(logits, positives, reduction="sum")
    return losses * world_size() / (2 * total)


def utterance_information(frames, valid, ridge=0.01):
    """Return what a frame tells of the utterance it is from, in closed form.

    With frames that are Gaussian about their utterance's mean, with one covariance W for all, and
    means that are Gaussian too, I(z; utterance) = 1/2 ln(det T / det W), T being the covariance of
    all frames: minus half the logarithm of Wilks' lambda. An embedding is a function of the
    utterance, so I(z; u) is no larger. Nothing is trained and nothing lags: the batch's own
    moments tell all. n frames of g utterances that differ in nothing read about
    dim (g - 1) / 2n.

    Arguments
    ---------
    frames : torch.Tensor
        Shape (utterances, frames, dim).
    valid : torch.Tensor
        Shape (utterances, frames), bool, False where padded; some True in each row.
    ridge : float
        Share of each feature's variance that is added to it.

    Returns
    -------
    torch.Tensor
        Scalar, float32, in nats, of the global batch.

    Example
    -------
    >>> frames, valid = torch.randn(15, 60, 6), torch.ones(15, 60) > 0
    >>> moved = frames + torch.randn(15, 1, 6)
    >>> [bool(utterance_information(z, valid) < 0.2) for z in (frames, moved)]
    [True, False]
    """
    with torch.autocast(frames.device.type, enabled=False):
        weight = valid.unsqueeze(2).float()
        sizes = weight.sum(1)
        count = all_reduce_sum(sizes.sum())
        x = frames.float()
        x = (x - all_reduce_sum((x * weight).sum((0, 1))) / count) * weight
        sums, rows = x.sum(1), x.flatten(0, 1)
        total = all_reduce_sum(rows.T @ rows) / count
        between = all_reduce_sum(sums.T @ (sums / sizes)) / count
        floor = torch.diag(ridge * total.diagonal())
        return (torch.logdet(total + floor) - torch.logdet(total - between + floor)) / 2


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
