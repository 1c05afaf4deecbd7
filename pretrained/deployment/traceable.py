"""Copies of modules whose Fourier transforms are convolutions, which every exporter translates."""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from lobes.front_ends import FbankFrontEnd
from lobes.utterance_encoder import LogMel


def make_traceable(module):
    """Return a copy of an encoder or a head, on the CPU, that exporters translate.

    Arguments
    ---------
    module : nn.Module
        Of `lobes`.

    Returns
    -------
    nn.Module
        In evaluation mode. What it computes differs by rounding only.

    Example
    -------
    >>> front_end, wavs = FbankFrontEnd(8), torch.randn(1, 8000)
    >>> bool(torch.allclose(make_traceable(front_end)(wavs), front_end(wavs), atol=1e-3))
    True
    """
    module = copy.deepcopy(module).cpu().eval()
    for part in list(module.modules()):
        if isinstance(part, FbankFrontEnd):
            part.mel = MelPower(part.mel)
        elif isinstance(part, LogMel):
            stft = part.fbank.compute_STFT
            padding = stft.n_fft // 2
            part.fbank.compute_STFT = Fourier(stft.window, stft.n_fft, stft.hop_length, padding)
    return module


class Fourier(nn.Module):
    """The short-time Fourier transform as a convolution with the windowed waves.

    Arguments
    ---------
    window : torch.Tensor
        Shape (length,), at most `n_fft`.
    n_fft : int
        Samples of the transform, those beyond the window being zero.
    hop : int
        Samples from one frame to the next.
    padding : int
        Zeros before and after the waveform.

    Example
    -------
    >>> wavs, window = torch.randn(2, 4000), torch.hann_window(400)
    >>> found = Fourier(window, n_fft=400, hop=160, padding=200)(wavs)
    >>> options = dict(hop_length=160, window=window, pad_mode="constant", return_complex=True)
    >>> expected = torch.view_as_real(torch.stft(wavs, 400, **options)).transpose(1, 2)
    >>> found.shape, bool(torch.allclose(found, expected, atol=1e-3))
    (torch.Size([2, 26, 201, 2]), True)
    """

    def __init__(self, window, n_fft, hop, padding=0):
        super().__init__()
        time = torch.arange(len(window), dtype=torch.float64)
        bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
        angles = 2 * math.pi / n_fft * bins[:, None] * time
        waves = torch.cat([angles.cos(), -angles.sin()]) * window.double()
        self.register_buffer("waves", waves.float()[:, None])
        self.hop, self.padding = hop, padding

    def forward(self, wavs):
        """Map (batch, samples) to real and imaginary parts, (batch, frames, n_fft // 2 + 1, 2)."""
        parts = F.conv1d(wavs[:, None], self.waves, stride=self.hop, padding=self.padding)
        return torch.stack(parts.transpose(1, 2).chunk(2, dim=2), dim=-1)


class MelPower(nn.Module):
    """What torchaudio's MelSpectrogram of the log-mel front end gives, without its padding.

    There the window sits in the middle of the transform, and what lies outside it is multiplied
    by zero: only phases change where the transform begins with the window.

    Arguments
    ---------
    mel : torchaudio.transforms.MelSpectrogram
    """

    def __init__(self, mel):
        super().__init__()
        spectrogram = mel.spectrogram
        self.fourier = Fourier(spectrogram.window, spectrogram.n_fft, spectrogram.hop_length)
        self.mel_scale = mel.mel_scale

    def forward(self, wavs):
        """Map (batch, samples) to the power of bands, (batch, bands, frames)."""
        return self.mel_scale(self.fourier(wavs).square().sum(-1).transpose(1, 2))
