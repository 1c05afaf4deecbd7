"""Audio files of any rate, container and length as blocks of 16 kHz mono."""

import math
import warnings
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import firwin, resample_poly

from lobes.signal import RECEPTIVE_FIELD, SAMPLE_RATE

BLOCK_SECONDS = 10
ZERO_CROSSINGS = 10  # of the resampling filter, on either side
RATES = (1000, 768000)  # Hz; the filter's length grows with the rate


class AudioError(ValueError):
    """An audio file that cannot be encoded: which, what is wrong with it, what was expected."""


def read_blocks(path):
    """Yield an audio file as blocks of 16 kHz mono; only a few blocks are in memory at a time.

    Channels are averaged. Other rates are resampled, to the same samples as the whole would be; of
    lower ones, which lack the upper part of the spectrum, a UserWarning tells.

    Arguments
    ---------
    path : str or Path
        Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others.

    Yields
    ------
    numpy.ndarray
        Shape (samples,), float32. The last block may be short, and others differ in length.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    AudioError
        Where it is not audio, holds NaN or infinity, is silent, or is shorter than one frame.
        The last two are known only at the end.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, (8000, 2)), 8000)
    >>> sum(len(block) for block in read_blocks(path))
    16000
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: expected an audio file.")
    samples, silent = 0, True
    for block in _read(path):
        samples += len(block)
        silent = silent and not block.any()
        yield block
    if samples < RECEPTIVE_FIELD:
        raise AudioError(
            f"{path} is too short: {samples / SAMPLE_RATE:.4f} s, and one frame takes "
            f"{RECEPTIVE_FIELD / SAMPLE_RATE} s."
        )
    if silent:
        raise AudioError(f"{path} is silent: every sample is zero. Expected speech.")


def _read(path):
    try:
        with soundfile.SoundFile(path) as file:
            yield from resample_blocks(_mono_blocks(file, path), file.samplerate)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats
        reason = getattr(error, "error_string", error)
        raise AudioError(
            f"{path} cannot be read as audio: {reason} Expected WAV, FLAC, OGG, MP3 or another "
            "format that soundfile reads."
        ) from error


def _mono_blocks(file, path):
    rate = file.samplerate
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError(
            f"{path}: the sampling rate is {rate} Hz, expected {RATES[0]} to {RATES[1]} Hz."
        )
    if rate < SAMPLE_RATE:
        warnings.warn(
            f"{path} is sampled at {rate} Hz, so it holds nothing above {rate // 2} Hz. Models of "
            f"{SAMPLE_RATE} Hz speech take that for a channel: speakers are told apart less well, "
            "least of all from speech of another rate.",
            stacklevel=2,
        )
    start = 0
    while len(block := file.read(BLOCK_SECONDS * rate, dtype="float32", always_2d=True)):
        bad = ~np.isfinite(block).all(axis=1)
        if bad.any():
            seconds = (start + bad.argmax()) / rate
            raise AudioError(f"{path} holds NaN or infinity, first at {seconds:.3f} s.")
        start += len(block)
        yield block.mean(axis=1)


def resample_blocks(blocks, rate):
    """Resample a stream to 16 kHz: the blocks together are what the whole gives resampled.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        Shape (samples,) each.
    rate : int
        Their sampling rate, Hz.

    Yields
    ------
    numpy.ndarray
        Shape (samples,). All together have ceil(samples * 16000 / rate).

    Example
    -------
    >>> blocks = resample_blocks([np.ones(48000), np.ones(1)], rate=48000)
    >>> sum(len(block) for block in blocks)
    16001
    """
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    divisor = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // divisor, rate // divisor
    # The window and the cut at the lower Nyquist frequency are resample_poly's own.
    half = ZERO_CROSSINGS * max(up, down)
    taps = firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)
    # In steps of `down` samples, so that blocks begin on samples of either rate.
    margin = down * math.ceil(half / (up * down))
    held, lead = np.empty(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - lead - margin) // down * down
        if ready > 0:
            first, last = lead // down * up, (lead + ready) // down * up
            yield resample_poly(held, up, down, window=taps)[first:last]
            kept = min(margin, lead + ready)
            held, lead = held[lead + ready - kept :], kept
    if len(held) > lead:
        yield resample_poly(held, up, down, window=taps)[lead // down * up :]
