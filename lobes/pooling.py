"""Statistics over the valid frames of padded batches: masks, pooling and batch normalisation.

Everything here gives a row the same result however far it is padded.

References
----------
Desplanques et al., ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in TDNN
Based Speaker Verification, arXiv 2005.07143 (section 3.1, the pooling).
Ioffe and Szegedy, Batch Normalization, arXiv 1502.03167.
"""

import torch
from torch import nn
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, world_size

MIN_VARIANCE = 1e-12  # Bounds the slope of the square root; the value of SpeechBrain's pooling.


def num_valid_samples(wavs, wav_lens=None):
    """Return how many samples of each row are valid.

    Arguments
    ---------
    wavs : torch.Tensor
        Shape (batch, samples).
    wav_lens : torch.Tensor, optional
        Shape (batch,), relative lengths in (0, 1]; None if all are full.

    Returns
    -------
    torch.Tensor
        Shape (batch,), int64: the relative length times the width, rounded.

    Raises
    ------
    ValueError
        Where a shape does not fit or a relative length is outside (0, 1].

    Example
    -------
    >>> num_valid_samples(torch.zeros(2, 116800), torch.tensor([1.0, 7777 / 116800])).tolist()
    [116800, 7777]
    """
    if wavs.ndim != 2:
        raise ValueError(f"wavs must be (batch, samples), not of shape {tuple(wavs.shape)}")
    if wav_lens is None:
        return torch.full((len(wavs),), wavs.shape[1], device=wavs.device)
    if wav_lens.shape != wavs.shape[:1]:
        raise ValueError(
            f"wav_lens must have one value for each of the {len(wavs)} rows of wavs, "
            f"not shape {tuple(wav_lens.shape)}"
        )
    if not bool(((wav_lens > 0) & (wav_lens <= 1)).all()):
        raise ValueError(
            f"wav_lens must be relative lengths in (0, 1], not {wav_lens.tolist()}; "
            "divide the numbers of samples by the width of the batch"
        )
    return torch.round(wav_lens.to(wavs.device).double() * wavs.shape[1]).long()


def length_mask(lens, max_len):
    """Return which positions of each row are valid.

    Arguments
    ---------
    lens : torch.Tensor
        Shape (batch,), int64, valid positions of each row.
    max_len : int
        Width of the batch.

    Returns
    -------
    torch.Tensor
        Shape (batch, max_len), bool, True at the first `lens` positions of each row.

    Example
    -------
    >>> length_mask(torch.tensor([1, 3]), 3).tolist()
    [[True, False, False], [True, True, True]]
    """
    return torch.arange(max_len, device=lens.device) < lens[:, None]


def masked_mean(x, valid=None):
    """Return the mean over the valid frames of each row, in float32.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time); finite where padded.
    valid : torch.Tensor, optional
        Shape (batch, time), bool, True at frames to average; None for all.

    Returns
    -------
    torch.Tensor
        Shape (batch, channels); zero for a row without a valid frame.

    Example
    -------
    >>> masked_mean(torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    x = x.float()
    if valid is None:
        return x.mean(dim=2)
    total = _masked(x, valid).sum(dim=2)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)


def masked_mean_std(x, valid=None):
    """Return the mean and the (biased) standard deviation over each row's valid frames.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time); finite where padded.
    valid : torch.Tensor, optional
        Shape (batch, time), bool, True at frames to use; None for all.

    Returns
    -------
    tuple of torch.Tensor
        Mean and standard deviation, (batch, channels) each, float32. The deviation is at least
        1e-6.

    Example
    -------
    >>> valid = torch.tensor([[True, True, False]])
    >>> mean, std = masked_mean_std(torch.tensor([[[1.0, 3.0, 9.0]]]), valid)
    >>> mean.item(), round(std.item(), 6)
    (2.0, 1.0)
    """
    mean = masked_mean(x, valid)
    centred, count = x.float() - mean[..., None], x.shape[2]
    if valid is not None:
        centred.mul_(valid[:, None])
        count = valid.sum(dim=1, keepdim=True).clamp(min=1)
    # A norm keeps no copy of the squares.
    variance = torch.linalg.vector_norm(centred, dim=2).square() / count
    return mean, variance.clamp(min=MIN_VARIANCE).sqrt()


class MaskedBatchNorm1d(nn.Module):
    """Batch normalisation whose statistics come from valid frames only, those of all ranks.

    Parameters and buffers have the names of `torch.nn.BatchNorm1d`, which it equals in one
    process where nothing is padded. It is not a subclass of it: it is synchronised by itself.

    Arguments
    ---------
    num_features : int
        Number of channels.
    eps : float
        Added to the variance.
    momentum : float
        Weight of the newest batch in the running statistics.
    affine : bool
        Whether to learn a scale and a shift per channel.

    Example
    -------
    >>> norm = MaskedBatchNorm1d(8)
    >>> valid = length_mask(torch.tensor([20, 5]), 20)
    >>> norm(torch.randn(2, 8, 20), valid).shape
    torch.Size([2, 8, 20])
    >>> norm(torch.randn(6, 8)).shape
    torch.Size([6, 8])
    """

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
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
        if not self.training:
            out = self._native(values, training=False)
        elif valid is None and world_size() == 1:
            self._check_count(x.numel() // x.shape[1])
            self.num_batches_tracked += 1
            out = self._native(values, training=True)
        else:
            out = self._normalise_globally(values, valid)
        if valid is not None:
            out.mul_(valid[:, None])
        return out.to(x.dtype)

    def _native(self, x, training):
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            self.momentum,
            self.eps,
        )

    def _normalise_globally(self, x, valid):
        """Normalise with the statistics of the valid frames of all ranks, and track these."""
        dims = [d for d in range(x.ndim) if d != 1]
        # Sum and count travel together; squares are summed after centring, which keeps precision.
        count = x.new_tensor([x.numel() // x.shape[1]]) if valid is None else valid.sum()[None]
        totals = all_reduce_sum(torch.cat([_masked(x, valid).sum(dims), count.to(x.dtype)]))
        sums, count = totals[:-1], totals[-1].detach()
        self._check_count(int(count))
        mean = sums / count
        centred = x - _per_channel(mean, x)
        variance = all_reduce_sum(_masked(centred, valid).square().sum(dims)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is None:
            return centred * _per_channel(scale, x)
        return centred * _per_channel(scale * self.weight, x) + _per_channel(self.bias, x)

    @torch.no_grad()
    def _track(self, mean, unbiased_variance):
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)

    def _check_count(self, count):
        if count < 2:
            raise ValueError(
                f"Batch normalisation in training needs at least two valid rows or frames, got "
                f"{count}: use larger batches, or eval() for a single utterance"
            )


def _masked(x, valid):
    # A product is several times faster on a CPU than to fill or to choose, and as exact.
    return x if valid is None else x * valid[:, None]


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
    >>> pooling = AttentiveStatisticsPooling(64)
    >>> pooling(torch.randn(2, 64, 50), length_mask(torch.tensor([50, 20]), 50)).shape
    torch.Size([2, 128])
    """

    def __init__(self, channels, attention_channels=128):
        super().__init__()
        self.tdnn = nn.ModuleDict(
            {
                "conv": nn.Conv1d(3 * channels, attention_channels, kernel_size=1),
                "norm": MaskedBatchNorm1d(attention_channels),
            }
        )
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
        scores = self.scores(x, *masked_mean_std(x, valid), valid)
        if valid is not None:
            scores.masked_fill_(~valid[:, None], float("-inf"))
        weights = torch.softmax(scores, dim=2)
        x = x.float()
        mean = (weights * x).sum(dim=2)
        variance = (weights * (x - mean[..., None]).square()).sum(dim=2)
        return torch.cat([mean, variance.clamp(min=MIN_VARIANCE).sqrt()], dim=1)

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
        conv, norm = self.tdnn["conv"], self.tdnn["norm"]
        channels = x.shape[1]
        # The context is the same at all frames: its part of the product is computed once per row.
        context = F.linear(torch.cat([mean, std], dim=1), conv.weight[:, channels:, 0], conv.bias)
        hidden = F.conv1d(x, conv.weight[:, :channels]) + context[..., None]
        hidden = norm(hidden.relu_(), valid).tanh_()
        return self.conv(hidden).float()
