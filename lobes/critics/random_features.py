"""What a critic sees of frames: the frames themselves, or random features of them."""

import math

import torch
from torch import nn
from torch.nn import functional as F


class RandomFeatures(nn.Module):
    """Rectified random projections of frames; their means over time tell of all moments of frames.

    Feature i of a frame x is max(0, w_i . x / sqrt(dim) + b_i), with w_i and b_i drawn from a
    standard normal distribution, the same in every run. A linear critic of means over frames sees
    what shifts the mean. Of means of these features it also sees deviations, correlations and
    higher moments, with which frames can tell the speaker where each utterance has the same mean.
    Frames should vary by about 1 in each dimension, as after a layer normalisation.

    Arguments
    ---------
    dim : int
        Of frames.
    count : int
        Features; 0: frames stay as they are.

    Attributes
    ----------
    num_features : int
        Of what `forward` returns: `count`, or `dim` where that is 0.

    Raises
    ------
    ValueError
        Where the count is another number.

    References
    ----------
    Rahimi and Recht, Weighted Sums of Random Kitchen Sinks, NIPS 2008.

    Example
    -------
    >>> RandomFeatures(dim=4, count=16)(torch.randn(2, 10, 4)).shape
    torch.Size([2, 10, 16])
    """

    def __init__(self, dim, count):
        super().__init__()
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ValueError(f"critic_features is {count!r}: expected a whole number, 0 or more.")
        self.num_features = count or dim
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(count, dim, generator=generator) / math.sqrt(dim)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.randn(count, generator=generator))

    def forward(self, frames):
        """Return the features of frames, (..., num_features), float32; frames are (..., dim)."""
        if not len(self.bias):
            return frames
        with torch.autocast(frames.device.type, enabled=False):
            return F.linear(frames.float(), self.weight, self.bias).relu()
