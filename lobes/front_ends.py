"""Front ends: from waveforms to features at 50 Hz, a row's own whatever it is batched with."""

import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from lobes import signal

CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
MEL_HOP = 160
LOG_FLOOR = 1e-6  # power, for samples in [-1, 1]


class WaveformFrontEnd(nn.Module):
    """HuBERT's seven convolutions over the waveform, one frame per 320 samples.

    Only the first layer is normalised: each channel over time (a group norm of one channel per
    group), here over the frames that the row's own samples fill.

    Arguments
    ---------
    channels : int
        Channels of each layer.

    Example
    -------
    >>> front_end = WaveformFrontEnd(channels=32)
    >>> front_end(torch.randn(2, 16000), torch.tensor([16000, 8000])).shape
    torch.Size([2, 49, 32])
    """

    def __init__(self, channels=512):
        super().__init__()
        self.conv_layers = nn.ModuleList()
        for i, (kernel, stride) in enumerate(zip(CONV_KERNELS, CONV_STRIDES, strict=True)):
            layer = nn.Module()
            layer.conv = nn.Conv1d(1 if i == 0 else channels, channels, kernel, stride, bias=False)
            nn.init.kaiming_normal_(layer.conv.weight)
            self.conv_layers.append(layer)
        self.conv_layers[0].layer_norm = nn.GroupNorm(channels, channels)

    def forward(self, wavs, num_samples=None):
        """Return the features of each frame; those of padded frames are arbitrary but finite.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples).
        num_samples : torch.Tensor, optional
            Shape (batch,), int64, valid samples of each row; None where nothing is padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, frames, channels).
        """
        norm, lens = self.conv_layers[0].layer_norm, None
        if num_samples is not None:
            wavs = wavs.where(signal.length_mask(num_samples, wavs.shape[1]), 0.0)
            # A row too short for one output frame is left out: its statistics would be undefined.
            frames = 1 + (num_samples - CONV_KERNELS[0]) // CONV_STRIDES[0]
            lens = frames.where(signal.num_frames(num_samples) > 0, 0)
        x = F.gelu(_channel_norm(self.conv_layers[0].conv(wavs[:, None]), norm, lens))
        for layer in self.conv_layers[1:]:
            x = F.gelu(layer.conv(x))
        return x.transpose(1, 2)


def _channel_norm(x, norm, lens=None):
    """Apply a group norm of one channel a group over the first `lens` frames of each row, or all.

    Statistics are in float32 and the result has the precision of x, of which no copy in float32
    is made: at base size x takes the most memory of all. Frames beyond are arbitrary but finite.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, frames).
    norm : nn.GroupNorm
        Its weight, bias and eps are used.
    lens : torch.Tensor, optional
        Shape (batch,), int64; 0 leaves a row out.
    """
    with torch.autocast(x.device.type, enabled=False):
        if lens is None:
            weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
            return F.group_norm(x, norm.num_groups, weight, bias, norm.eps)
        valid = signal.length_mask(lens, x.shape[2])[:, None]
        count = lens.clamp(min=1)[:, None, None]
        x = x * valid
        mean = x.sum(2, keepdim=True, dtype=torch.float32) / count
        x = (x - mean.to(x.dtype)) * valid
        deviation = torch.linalg.vector_norm(x, dim=2, keepdim=True, dtype=torch.float32)
        scale = norm.weight[:, None] * torch.rsqrt(deviation.square() / count + norm.eps)
        return torch.addcmul(norm.bias[:, None].to(x.dtype), x, scale.to(x.dtype))


class FbankFrontEnd(nn.Module):
    """Log-mel bands at 100 Hz, normalised per row, and two convolutions down to 50 Hz.

    A frame is centred on the same sample as the waveform front end's and sees 720 samples, its
    own 400 and 160 on either side, so that little of a masked span shows in its neighbours.

    Arguments
    ---------
    channels : int
        Channels of the convolutions.

    Example
    -------
    >>> front_end = FbankFrontEnd(channels=32)
    >>> front_end(torch.randn(2, 16000), torch.tensor([16000, 8000])).shape
    torch.Size([2, 49, 32])
    """

    def __init__(self, channels=512):
        super().__init__()
        # The window of 400 sits in the middle of an FFT of 512: with 400 the lowest bands would
        # fall between two bins and stay empty. The padding lies outside the window.
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=signal.SAMPLE_RATE,
            n_fft=512,
            win_length=signal.RECEPTIVE_FIELD,
            hop_length=MEL_HOP,
            pad=(512 - signal.RECEPTIVE_FIELD) // 2,
            center=False,
            f_min=20.0,
            n_mels=signal.NUM_MELS,
        )
        self.down = nn.Conv1d(signal.NUM_MELS, channels, kernel_size=3, stride=2, padding=1)
        self.pointwise = nn.Conv1d(channels, channels, kernel_size=1)
        for conv in (self.down, self.pointwise):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, wavs, num_samples=None):
        """Return the features of each frame; those of padded frames are arbitrary but finite.

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples).
        num_samples : torch.Tensor, optional
            Shape (batch,), int64, valid samples of each row; None where nothing is padded.

        Returns
        -------
        torch.Tensor
            Shape (batch, frames, channels).
        """
        x = F.gelu(self.down(self._normalised_bands(wavs, num_samples)))
        return F.gelu(self.pointwise(x)).transpose(1, 2)

    def _normalised_bands(self, wavs, num_samples):
        """Return (batch, bands, mel frames) of mean 0 and deviation 1 over each row's own frames.

        Padded frames are zero, which is also what the convolution pads the ends with.
        """
        valid, count = None, 1 + (wavs.shape[1] - signal.RECEPTIVE_FIELD) // MEL_HOP
        if num_samples is not None:
            # Beyond the window the transform multiplies by zero, which a NaN in the padding
            # survives.
            wavs = wavs.where(signal.length_mask(num_samples, wavs.shape[1]), 0.0)
            lens = (1 + (num_samples - signal.RECEPTIVE_FIELD) // MEL_HOP).clamp(min=0)
            valid = signal.length_mask(lens, max(count, 0))
            count = lens.clamp(min=1)[:, None, None]
        with torch.autocast(wavs.device.type, enabled=False):
            # Exactly 0 at the floor: a silent band would come out as rounding errors, magnified.
            x = (self.mel(wavs.float()) / LOG_FLOOR).clamp(min=1).log()
        x = signal.masked(x, valid)
        x = signal.masked(x - x.sum(dim=2, keepdim=True) / count, valid)
        variance = x.square().sum(dim=2, keepdim=True) / count
        return x * torch.rsqrt(variance + 1e-5)


FRONT_ENDS = {"waveform": WaveformFrontEnd, "fbank": FbankFrontEnd}
