"""Figures of a stage, kept batch by batch."""

import torch


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
