"""Span masking for masked prediction, and the copying baseline that its accuracy is read against.

The masks follow HuBERT (Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by
Masked Prediction of Hidden Units", arXiv 2106.07447, section II-B).
"""

import numpy as np
import torch


def span_mask(num_frames, prob=0.08, length=10, rng=None, min_masks=1):
    """Draw the mask of one utterance: spans of frames that the encoder does not see.

    Each frame starts a span with probability `prob`. Spans may overlap and end with the
    utterance. An utterance of two frames or more keeps at least one masked and one visible
    frame; one of a single frame is left visible, since there is nothing to predict it from.

    Arguments
    ---------
    num_frames : int
        The number of valid frames.
    prob : float
        The probability that a frame starts a span, in [0, 1].
    length : int
        Frames per span.
    rng : numpy.random.Generator, optional
        The source of randomness; the same state gives the same mask. A fresh one if None.
    min_masks : int
        The least number of spans, drawn in addition where chance gave fewer.

    Returns
    -------
    torch.Tensor
        Shape (num_frames,), bool, True where masked.

    Example
    -------
    >>> mask = span_mask(200, rng=np.random.default_rng(0))
    >>> mask.shape, mask.dtype
    (torch.Size([200]), torch.bool)
    """
    if num_frames < 2:
        return torch.zeros(num_frames, dtype=torch.bool)
    rng = np.random.default_rng() if rng is None else rng
    starts = rng.random(num_frames) < prob
    missing = min(min_masks, num_frames) - int(starts.sum())
    if missing > 0:
        starts[rng.choice(np.flatnonzero(~starts), size=missing, replace=False)] = True
    mask = np.convolve(starts, np.ones(length, dtype=int))[:num_frames] > 0
    if mask.all():
        mask[rng.integers(num_frames)] = False
    return torch.from_numpy(mask)


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
