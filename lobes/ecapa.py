"""ECAPA-TDNN (arXiv 2005.07143): the utterance encoder's backbone at the base size."""

import torch
from torch import nn

from lobes.signal import NUM_MELS, masked_mean
from lobes.tdnn import Backbone, TDNNBlock


class Res2NetBlock(nn.Module):
    """Convolutions over groups of channels, each group seeing the result of the one before.

    Arguments
    ---------
    channels : int
        A multiple of `scale`.
    scale : int
        Number of groups.
    kernel_size : int
    dilation : int

    Example
    -------
    >>> Res2NetBlock(64, scale=4, kernel_size=3, dilation=2)(torch.randn(2, 64, 50)).shape
    torch.Size([2, 64, 50])
    """

    def __init__(self, channels, scale, kernel_size, dilation):
        super().__init__()
        self.scale = scale
        width = channels // scale
        self.blocks = nn.ModuleList(
            TDNNBlock(width, width, kernel_size, dilation) for _ in range(scale - 1)
        )

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        first, *groups = x.chunk(self.scale, dim=1)
        results = [first]
        for i, (group, block) in enumerate(zip(groups, self.blocks, strict=True)):
            results.append(block(group if i == 0 else group + results[-1], padding))
        return torch.cat(results, dim=1)


class SEBlock(nn.Module):
    """Squeeze-and-excitation: each channel is scaled by a function of the row's mean frame."""

    def __init__(self, channels, se_channels):
        super().__init__()
        self.conv1 = nn.Conv1d(channels, se_channels, kernel_size=1)
        self.conv2 = nn.Conv1d(se_channels, channels, kernel_size=1)

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        valid = None if padding is None else padding[1]
        squeezed = masked_mean(x, valid)[..., None]
        return x * torch.sigmoid(self.conv2(torch.relu(self.conv1(squeezed))))


class SERes2NetBlock(nn.Module):
    """ECAPA-TDNN's building block: two 1x1 TDNN blocks around a Res2Net one, SE, a shortcut."""

    def __init__(self, channels, scale, se_channels, kernel_size, dilation):
        super().__init__()
        self.tdnn1 = TDNNBlock(channels, channels)
        self.res2net_block = Res2NetBlock(channels, scale, kernel_size, dilation)
        self.tdnn2 = TDNNBlock(channels, channels)
        self.se_block = SEBlock(channels, se_channels)

    def forward(self, x, padding=None):
        """Map (batch, channels, time) to the same shape; see `TDNNBlock.forward`."""
        out = x
        for layer in (self.tdnn1, self.res2net_block, self.tdnn2, self.se_block):
            out = layer(out, padding)
        return x + out


class ECAPATDNN(Backbone):
    """ECAPA-TDNN (arXiv 2005.07143, figure 2), with SpeechBrain's reflection padding.

    On unpadded input it equals `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`.

    Arguments
    ---------
    channels : int
        Channels of the blocks (paper: 512 or 1024); the pooled frames have three times as many.
    embedding_dim : int
    attention_channels : int
    se_channels : int
        Width of the squeeze.
    res2net_scale : int
        Groups of channels in a Res2Net block.

    Example
    -------
    >>> backbone = ECAPATDNN(32, 24, attention_channels=8, se_channels=8, res2net_scale=4)
    >>> backbone.embed(backbone.frames(torch.randn(2, 80, 50))).shape
    torch.Size([2, 24])
    """

    def __init__(self, channels, embedding_dim, attention_channels, se_channels, res2net_scale):
        super().__init__(3 * channels, attention_channels, embedding_dim)
        if channels % res2net_scale:
            raise ValueError(
                f"channels ({channels}) must be a multiple of res2net_scale ({res2net_scale})"
            )
        self.blocks = nn.ModuleList([TDNNBlock(NUM_MELS, channels, kernel_size=5)])
        for dilation in (2, 3, 4):
            self.blocks.append(SERes2NetBlock(channels, res2net_scale, se_channels, 3, dilation))
        self.mfa = TDNNBlock(3 * channels, 3 * channels)

    def frames(self, x, padding=None):
        """Map features (batch, 80, time) to (batch, 3 * channels, time)."""
        outputs = []
        for block in self.blocks:
            x = block(x, padding)
            outputs.append(x)
        return self.mfa(torch.cat(outputs[1:], dim=1), padding)
