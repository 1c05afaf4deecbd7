"""The utterance encoder's TDNN, and the layers that ECAPA-TDNN shares with it.

Everything here gives a row the same result however far it is padded.

References
----------
Snyder et al., X-Vectors: Robust DNN Embeddings for Speaker Recognition, ICASSP 2018.
Desplanques et al., ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN
Based Speaker Verification, arXiv 2005.07143 (section 3.1, the pooling).
Ioffe and Szegedy, Batch Normalization, arXiv 1502.03167.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from lobes import signal
from lobes.distributed import all_reduce_sum, world_size


class MaskedBatchNorm1d(nn.Module):
    """Batch normalisation whose statistics come from valid frames only, those of all ranks.

    Parameters and buffers have the names of `torch.nn.BatchNorm1d`, which it equals in one
    process where nothing is padded. It is not a subclass of it: it is synchronised by itself.

    Arguments
    ---------
    num_features : int
        Number of channels.

    Example
    -------
    >>> from lobes.signal import length_mask
    >>> norm = MaskedBatchNorm1d(8)
    >>> valid = length_mask(torch.tensor([20, 5]), 20)
    >>> norm(torch.randn(2, 8, 20), valid).shape
    torch.Size([2, 8, 20])
    >>> norm(torch.randn(6, 8)).shape
    torch.Size([6, 8])
    """

    eps, momentum = 1e-5, 0.1  # as torch's

    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x, valid=None):
        """Normalise each channel.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, channels, time) or (rows, channels); finite where padded.
        valid : torch.Tensor, optional
            Shape (batch, time), bool, False at padded frames; None where there are none.

        Returns
        -------
        torch.Tensor
            Shape and type of `x`; zero at padded frames. The computation is in float32.

        Raises
        ------
        ValueError
            In training, where the ranks together have fewer than two values per channel.
        """
        values = x.float()
        if self.training and (valid is not None or world_size() > 1):
            out = self._normalise_globally(values, valid)
        else:
            if self.training:
                self._count_batch(values.numel() // values.shape[1])
            tensors = self.running_mean, self.running_var, self.weight, self.bias
            out = F.batch_norm(values, *tensors, self.training, self.momentum, self.eps)
        if valid is not None:
            out.mul_(valid[:, None])
        return out.to(x.dtype)

    def _normalise_globally(self, x, valid):
        """Normalise with the statistics of the valid frames of all ranks, and track these."""
        dims = [d for d in range(x.ndim) if d != 1]
        # Sum and count travel together; squares are summed after centring, which keeps precision.
        per_channel = x.numel() // x.shape[1]
        count = x.new_full((1,), per_channel) if valid is None else valid.sum()[None]
        totals = all_reduce_sum(torch.cat([signal.masked(x, valid).sum(dims), count.to(x.dtype)]))
        sums, count = totals[:-1], totals[-1].detach()
        # A valid frame in each row is enough: only of a single row the device is asked.
        self._count_batch(len(x) if len(x) > 1 else int(count))
        mean = sums / count
        centred = x - _per_channel(mean, x)
        variance = all_reduce_sum(signal.masked(centred, valid).square().sum(dims)) / count
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps)
        return centred * _per_channel(scale * self.weight, x) + _per_channel(self.bias, x)

    def _count_batch(self, values):
        if values < 2:
            raise ValueError(
                f"Batch normalisation in training needs at least two valid rows or frames, got "
                f"{values}: use larger batches, or eval() for a single utterance"
            )
        self.num_batches_tracked += 1


def _per_channel(values, x):
    return values if x.ndim == 2 else values[:, None]


class AttentiveStatisticsPooling(nn.Module):
    """Channel- and context-dependent attentive statistics pooling (arXiv 2005.07143, eq. 1 to 4).

    Each channel has its own attention over the frames, which sees the row's global mean and
    deviation beside each frame. Parameters have SpeechBrain's shapes, and its names without its
    wrappers' level (`tdnn.conv.conv.weight` there is `tdnn.conv.weight` here).

    Arguments
    ---------
    channels : int
        Channels of the input.
    attention_channels : int
        Width of the attention's hidden layer.

    Example
    -------
    >>> from lobes.signal import length_mask
    >>> pooling = AttentiveStatisticsPooling(64)
    >>> pooling(torch.randn(2, 64, 50), length_mask(torch.tensor([50, 20]), 50)).shape
    torch.Size([2, 128])
    """

    def __init__(self, channels, attention_channels=128):
        super().__init__()
        self.tdnn = TDNNBlock(3 * channels, attention_channels)
        self.conv = nn.Conv1d(attention_channels, channels, kernel_size=1)

    def forward(self, x, valid=None):
        """Pool over time.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, channels, time); finite where padded.
        valid : torch.Tensor, optional
            Shape (batch, time), bool, False at padded frames; None where there are none.

        Returns
        -------
        torch.Tensor
            Shape (batch, 2 * channels), float32: weighted means, then weighted deviations.
        """
        scores = self.scores(x, *signal.masked_mean_std(x, valid), valid)
        if valid is not None:
            scores.masked_fill_(~valid[:, None], float("-inf"))
        weights = torch.softmax(scores, dim=2)
        x = x.float()
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean[..., None]).square()).sum(dim=2)
        return torch.cat([mean, variance.clamp(min=signal.MIN_VARIANCE).sqrt()], dim=1)

    def pool_parts(self, parts):
        """Pool a recording whose frames come in parts: close to `forward` of the whole.

        The first pass takes the mean and the deviation of all frames, which the attention sees
        beside each frame. The second sums frames by their attention, relative to the largest score
        so far, in float64 on the CPU.

        Arguments
        ---------
        parts : callable
            Returns an iterator of frames, (batch, channels, time) each; called twice.

        Returns
        -------
        torch.Tensor
            Shape (batch, 2 * channels), float32: weighted means, then weighted deviations.

        Example
        -------
        >>> pooling, x = AttentiveStatisticsPooling(8).eval(), torch.randn(1, 8, 50)
        >>> pooled = pooling.pool_parts(lambda: iter(x.split(20, dim=2)))
        >>> bool(torch.allclose(pooled, pooling(x), atol=1e-5))
        True
        """
        context = signal.mean_std_of_parts(parts())
        attended = Attended()
        for x in parts():
            attended = attended.add(x, self.scores(x, *context))
        return attended.pooled().to(x.device)

    def scores(self, x, mean, std, valid=None):
        """Return the attention's scores before the softmax over time.

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, channels, time).
        mean : torch.Tensor
            Shape (batch, channels), the mean over the whole utterance.
        std : torch.Tensor
            Shape (batch, channels), the standard deviation over the whole utterance.
        valid : torch.Tensor, optional
            Shape (batch, time), bool, False at padded frames.

        Returns
        -------
        torch.Tensor
            Shape (batch, channels, time), float32.
        """
        conv, channels = self.tdnn.conv, x.shape[1]
        # The context is the same at all frames: its part of the product is computed once per row.
        context = F.linear(torch.cat([mean, std], dim=1), conv.weight[:, channels:, 0], conv.bias)
        hidden = F.conv1d(x, conv.weight[:, :channels]) + context[..., None]
        hidden = self.tdnn.norm(hidden.relu_(), valid).tanh_()
        return self.conv(hidden).float()


class Attended(NamedTuple):
    """Frames summed by their attention, relative to the largest score, in float64 on the CPU.

    Attributes
    ----------
    largest : torch.Tensor or None
        Shape (batch, channels), the largest score so far; None where there is no frame yet.
    sums : torch.Tensor or float
        Shape (3, batch, channels), see `lobes.signal.weighted_sums`.

    Example
    -------
    >>> x, scores = torch.randn(1, 8, 50), torch.zeros(1, 8, 50)
    >>> pooled = Attended().add(x, scores).pooled()
    >>> bool(torch.allclose(pooled[:, :8], x.mean(2), atol=1e-6))
    True
    """

    largest: torch.Tensor | None = None
    sums: torch.Tensor | float = 0.0

    def add(self, x, scores):
        """Return the sums with these frames and their scores, (batch, channels, time) each."""
        scores, sums = scores.cpu().double(), self.sums
        largest = scores.amax(dim=2)
        if self.largest is not None:
            largest = torch.maximum(largest, self.largest)
            sums = sums * torch.exp(self.largest - largest)
        weights = torch.exp(scores - largest[..., None])
        return Attended(largest, sums + signal.weighted_sums(x.cpu().double(), weights))

    def pooled(self):
        """Return weighted means, then weighted deviations: (batch, 2 * channels), float32."""
        return torch.cat(signal.mean_std_of_sums(self.sums), dim=1)


def reflect_pad(x, pad, lens=None):
    """Pad both ends of each row by reflection, the end being the row's own.

    A row shorter than the padding is reflected again at its other end, as often as it takes; a
    single frame is repeated.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time).
    pad : int
        Frames to add at each end.
    lens : torch.Tensor, optional
        Shape (batch,), int64, valid frames of each row, at least 1; None if all are full.

    Returns
    -------
    torch.Tensor
        Shape (batch, channels, time + 2 * pad). Row i holds its `lens[i] + 2 * pad` frames first;
        what follows is arbitrary but finite.

    Example
    -------
    >>> reflect_pad(torch.tensor([[[1.0, 2.0, 3.0, 0.0]]]), 2, torch.tensor([3])).tolist()
    [[[3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0]]]
    """
    time = x.shape[2]
    if pad == 0:
        return x
    if lens is None:
        if pad < time:
            return F.pad(x, (pad, pad), mode="reflect")
        lens = torch.full((len(x),), time, device=x.device)
    steps = torch.arange(pad, device=x.device)
    ends = torch.cat([(steps - pad).expand(x.shape[0], pad), lens[:, None] + steps], dim=1)
    period = (2 * (lens - 1)).clamp(min=1)[:, None]
    source = ends.abs() % period
    source = torch.where(source < lens[:, None], source, period - source)
    reflected = x.gather(2, source[:, None].expand(-1, x.shape[1], -1))
    target = (ends + pad)[:, None].expand_as(reflected)
    return F.pad(x, (pad, pad)).scatter(2, target, reflected)


class TDNNBlock(nn.Module):
    """Dilated convolution that keeps the length, ReLU and batch normalisation.

    Arguments
    ---------
    in_channels : int
    out_channels : int
    kernel_size : int
        Odd.
    dilation : int
    reflect : bool
        Whether rows are padded by reflection; with zeros otherwise.

    Example
    -------
    >>> TDNNBlock(80, 32, kernel_size=3, dilation=2)(torch.randn(4, 80, 50)).shape
    torch.Size([4, 32, 50])
    """

    def __init__(self, in_channels, out_channels, kernel_size=1, dilation=1, reflect=True):
        super().__init__()
        self.pad = dilation * (kernel_size - 1) // 2
        self.reflect = reflect
        self.conv = nn.Conv1d(
            in_channels,
            out_channels,
            kernel_size,
            dilation=dilation,
            padding=0 if reflect else self.pad,
        )
        self.norm = MaskedBatchNorm1d(out_channels)

    def forward(self, x, padding=None):
        """Map (batch, in_channels, time), zero where padded, to (batch, out_channels, time).

        Arguments
        ---------
        x : torch.Tensor
            Shape (batch, in_channels, time), zero where padded.
        padding : tuple of torch.Tensor, optional
            Lengths (batch,) and validity (batch, time); None where nothing is padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, out_channels, time), zero where padded.
        """
        lens, valid = padding or (None, None)
        if self.reflect:
            x = reflect_pad(x, self.pad, lens)
        return self.norm(self.conv(x).relu_(), valid)


class Backbone(nn.Module):
    """What the backbones share: pooling and embedding on top of `frames(x, padding)`.

    Arguments
    ---------
    pooled_channels : int
        Channels of the frames.
    attention_channels : int
        Width of the pooling's attention.
    embedding_dim : int
    """

    def __init__(self, pooled_channels, attention_channels, embedding_dim):
        super().__init__()
        self.asp = AttentiveStatisticsPooling(pooled_channels, attention_channels)
        self.asp_bn = MaskedBatchNorm1d(2 * pooled_channels)
        self.fc = nn.Conv1d(2 * pooled_channels, embedding_dim, kernel_size=1)

    def embed(self, x, padding=None):
        """Map frames (batch, pooled_channels, time) to embeddings (batch, embedding_dim)."""
        return self.embed_pooled(self.asp(x, None if padding is None else padding[1]))

    def embed_parts(self, parts):
        """Map the frames of a recording in parts to its embedding, (batch, embedding_dim).

        Arguments
        ---------
        parts : callable
            As `AttentiveStatisticsPooling.pool_parts` takes it.

        Returns
        -------
        torch.Tensor
            Shape (batch, embedding_dim), float32.
        """
        return self.embed_pooled(self.asp.pool_parts(parts))

    def embed_pooled(self, pooled):
        """Map what the pooling gives, (batch, 2 * pooled_channels), to (batch, embedding_dim)."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.fc(self.asp_bn(pooled)[..., None]).squeeze(2)


class TDNN(Backbone):
    """A small TDNN: three dilated convolutions, a wider 1x1 one, attentive pooling.

    The normalised bands are pooled beside the last convolution's output: their means and
    deviations, which tell speakers apart untrained, need not be learnt.

    Arguments
    ---------
    channels : int
        Channels of the convolutions; the pooled frames have three times as many, and 80 bands.
    embedding_dim : int
    attention_channels : int

    Example
    -------
    >>> backbone = TDNN(32, 24, attention_channels=8)
    >>> backbone.embed(backbone.frames(torch.randn(2, 80, 50))).shape
    torch.Size([2, 24])
    """

    def __init__(self, channels, embedding_dim, attention_channels):
        super().__init__(3 * channels + signal.NUM_MELS, attention_channels, embedding_dim)
        self.norm = MaskedBatchNorm1d(signal.NUM_MELS)
        self.blocks = nn.ModuleList(
            [
                TDNNBlock(signal.NUM_MELS, channels, kernel_size=5, dilation=1, reflect=False),
                TDNNBlock(channels, channels, kernel_size=3, dilation=2, reflect=False),
                TDNNBlock(channels, channels, kernel_size=3, dilation=3, reflect=False),
                TDNNBlock(channels, 3 * channels),
            ]
        )

    def frames(self, x, padding=None):
        """Map features (batch, 80, time) to (batch, 3 * channels + 80, time)."""
        x = bands = self.norm(x, None if padding is None else padding[1])
        for block in self.blocks:
            x = block(x, padding)
        return torch.cat([x, bands], dim=1)
