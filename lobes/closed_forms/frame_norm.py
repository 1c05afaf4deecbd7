"""Each utterance's mean taken off its frames, and these divided by their deviation."""

import torch
from torch import nn

from lobes.signal import masked_mean, masked_mean_std

FRAME_NORMS = ("none", "mean", "mean_std")
EPSILON = 1e-5  # added to the variance, as in torch's InstanceNorm1d


class FrameNorm(nn.Module):
    """What an utterance's frames have in common taken off: their mean, and their deviation.

    With "mean_std" it is instance normalisation without an affine map, which takes the speaker out
    of the content encoder of AdaIN-VC (Chou, Yeh and Lee, arXiv 1904.05742). It needs
    no fit and no speakers, and nothing of it is learned. Statistics are of each row's own valid
    frames, in float32, so what comes out does not depend on the batch.

    A statistic of a few frames is mostly what is said in them: an utterance of one frame becomes
    0. Where audio is encoded in windows, as streams and long files are, a window is an utterance.

    Arguments
    ---------
    kind : str
        "mean" or "mean_std".

    Raises
    ------
    ValueError
        Where the kind is another.

    Example
    -------
    >>> x, valid = torch.randn(2, 50, 8), torch.arange(50) < torch.tensor([[50], [20]])
    >>> y = FrameNorm("mean")(x, valid)
    >>> bool(y[1, :20].mean(0).abs().max() < 1e-6)
    True
    """

    def __init__(self, kind):
        super().__init__()
        if kind not in FRAME_NORMS[1:]:
            raise ValueError(f"frame_norm must be one of {', '.join(FRAME_NORMS)}, not {kind!r}")
        self.kind = kind

    def extra_repr(self):
        """Return the kind, by which representations of models that differ in it differ."""
        return self.kind

    def forward(self, x, valid=None):
        """Map frames (batch, frames, d_model) to the same shape, in float32.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, frames, d_model); finite where padded.
        valid : torch.Tensor, optional
            Shape (batch, frames), bool, False at padded frames; None without padding.

        Returns
        -------
        torch.Tensor
            Padded frames are arbitrary but finite.
        """
        with torch.autocast(x.device.type, enabled=False):
            by_channel = x.transpose(1, 2)
            if self.kind == "mean":
                return x.float() - masked_mean(by_channel, valid)[:, None]
            mean, deviation = masked_mean_std(by_channel, valid)
            return (x.float() - mean[:, None]) * torch.rsqrt(deviation.square() + EPSILON)[:, None]
