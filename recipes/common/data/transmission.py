"""What a line does to speech on its way: filters without delay, telephone bands and codecs.

Codecs are libsndfile's, through memory: what comes back is what a file of that format would hold,
of the same length and in step with what went in.
"""

import io
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from scipy.fft import irfft, next_fast_len, rfft  # several times as fast as torch's on a CPU

from lobes.signal import SAMPLE_RATE

FFT_STEP = 4096
CODED_PEAK = 0.5  # of what a codec of fixed range takes
TELEPHONE_BAND = 300, 3400  # Hz (ITU-T G.712)
TRANSITION = 0.1  # how wide a filter's slope is, by its cut-off


class Codec(NamedTuple):
    """A way to code speech that loses some of it.

    Attributes
    ----------
    rate : int
        Samples a second that it codes.
    container, subtype : str
        As soundfile names them.
    compression : float, optional
        In [0, 1]: soundfile's `compression_level`. The bit rates of MP3 vary.
    """

    rate: int
    container: str
    subtype: str
    compression: float | None = None


MU_LAW = Codec(8000, "AU", "ULAW")  # ITU-T G.711, 64 kbit/s
A_LAW = Codec(8000, "AU", "ALAW")
GSM = Codec(8000, "WAV", "GSM610")  # full rate, 13 kbit/s
MP3_20K = Codec(16000, "MP3", "MPEG_LAYER_III", 0.99)  # about 20 kbit/s of speech
MP3_30K = Codec(16000, "MP3", "MPEG_LAYER_III", 0.5)
MP3_NARROW = Codec(8000, "MP3", "MPEG_LAYER_III", 0.99)
OPUS_9K = Codec(16000, "OGG", "OPUS", 0.99)


def code(wav, codec):
    """Encode a waveform and decode it.

    Arguments
    ---------
    wav : numpy.ndarray
        Shape (samples,), float32, in [-1, 1], at the codec's rate.
    codec : Codec

    Returns
    -------
    numpy.ndarray
        Shape (samples,), float32, without the codec's delay.

    Example
    -------
    >>> wav = np.sin(np.arange(8000) / 10).astype(np.float32)
    >>> coded = code(wav, MU_LAW)
    >>> coded.shape, bool(0.001 < np.abs(coded - wav).max() < 0.02)
    ((8000,), True)
    """
    file = io.BytesIO()
    soundfile.write(
        file,
        wav,
        codec.rate,
        format=codec.container,
        subtype=codec.subtype,
        compression_level=codec.compression,
    )
    file.seek(0)
    # Some hold whole blocks only: the length is cut or filled up.
    return soundfile.read(file, len(wav), dtype="float32", fill_value=0.0)[0]


def transmit(wav, codec):
    """Send a waveform through a codec; of 8 kHz, through the telephone's band on the way.

    Arguments
    ---------
    wav : torch.Tensor
        Shape (1, samples), 16 kHz, of any level.
    codec : Codec
        Of 8 or 16 kHz.

    Returns
    -------
    torch.Tensor
        Shape (1, samples), of any level.

    Example
    -------
    >>> transmit(torch.randn(1, 16001), A_LAW).shape
    torch.Size([1, 16001])
    """
    if codec.rate == SAMPLE_RATE:
        return code_at_level(wav, codec)
    narrow = code_at_level(halve(wav), codec)
    return double(narrow)[:, : wav.shape[1]]


def code_at_level(wav, codec):
    """Encode and decode a waveform, (1, samples), at the level of speech; silence stays silence."""
    peak = wav.abs().max().item()
    if peak == 0:
        return wav
    return torch.from_numpy(code((wav[0] * (CODED_PEAK / peak)).numpy(), codec))[None]


def halve(wav):
    """Limit a waveform, (1, samples), to the telephone's band, and keep every second sample.

    Example
    -------
    >>> halve(torch.randn(1, 16001)).shape
    torch.Size([1, 8001])
    """
    samples = -(-wav.shape[1] // 2)
    size = padded_size(samples)
    spectrum = rfft(wav.numpy(), 2 * size) * band_gains(2 * size, *TELEPHONE_BAND)
    return torch.from_numpy(irfft(spectrum[:, : size // 2 + 1] / 2, size)[:, :samples])


def double(wav):
    """Sample a waveform, (1, samples), at twice its rate, without anything new above it.

    Example
    -------
    >>> double(torch.randn(1, 8001)).shape
    torch.Size([1, 16002])
    """
    samples = wav.shape[1]
    size = padded_size(samples)
    return torch.from_numpy(irfft(2 * rfft(wav.numpy(), size), 2 * size)[:, : 2 * samples])


def limit_band(wav, cutoff):
    """Take away what a waveform, (1, samples), has above a cut-off in Hz, as by a lower rate."""
    size = padded_size(wav.shape[1])
    return filtered(wav, size, band_gains(size, 0, cutoff))


@lru_cache(maxsize=64)
def band_gains(size, low, high):
    """Return the gains of a band: 1 within it, and nothing from a tenth of its limits outside.

    Arguments
    ---------
    size : int
        Of the FFT, at 16 kHz.
    low, high : float
        Its limits, in Hz; a `low` of 0 limits nothing.

    Returns
    -------
    numpy.ndarray
        Shape (size // 2 + 1,), float32, in [0, 1].

    Example
    -------
    >>> band_gains(160, 0, 4000)[[40, 42, 44]].tolist()
    [1.0, 0.5, 0.0]
    """
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    outside = np.maximum((low - frequencies) / max(low, 1), (frequencies - high) / high)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(outside / TRANSITION, 0, 1))).astype(np.float32)


def zero_phase(wav, response):
    """Filter a waveform by FFT without moving it in time.

    Arguments
    ---------
    wav : torch.Tensor
        Shape (1, samples).
    response : callable
        Takes frequencies in Hz, shape (bins,), and returns float32 gains of the same shape.

    Returns
    -------
    torch.Tensor
        Shape (1, samples).

    Example
    -------
    >>> zero_phase(torch.ones(1, 500), np.zeros_like).shape
    torch.Size([1, 500])
    """
    size = padded_size(wav.shape[1])
    return filtered(wav, size, response(np.fft.rfftfreq(size, 1 / SAMPLE_RATE)))


def filtered(wav, size, gains):
    """Return a waveform, (1, samples), times gains, (size // 2 + 1,), by an FFT of a size."""
    return torch.from_numpy(irfft(rfft(wav.numpy(), size) * gains, size)[:, : wav.shape[1]])


def padded_size(samples):
    """Return the size of an FFT that lets a filter ring for 50 ms."""
    return fft_size(samples + SAMPLE_RATE // 20)


def fft_size(samples):
    """Return a length, at least `samples`, that is quick to transform and like other crops' ones.

    Half of the time of a transform goes into tables for its length; SciPy keeps those of a few.

    Example
    -------
    >>> fft_size(30000)
    32768
    """
    return next_fast_len(-(-samples // FFT_STEP) * FFT_STEP, real=True)
