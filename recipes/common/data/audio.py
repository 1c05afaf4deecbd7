"""Audio as the recipes read it, 16 kHz mono, and the check of files before that."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import soundfile
import torch
from scipy.signal import resample_poly
from tqdm import tqdm

from lobes.signal import SAMPLE_RATE

RATES = (1000, 768000)  # Hz; the resampling filter's length grows with the rate
MP3_FRAME = 1152  # samples


def read_speech(path):
    """Read an audio file as 16 kHz mono: channels are averaged, other rates resampled.

    The samples depend on the file alone, neither on the number of threads nor on the worker.

    Arguments
    ---------
    path : str or Path
        Of a format that soundfile reads: WAV, FLAC, OGG, Opus, MP3, AIFF and others.

    Returns
    -------
    torch.Tensor
        Shape (samples,), float32; `resampled_length` of the file's own samples.

    Example
    -------
    >>> path = getfixture("tmp_path") / "stereo.wav"
    >>> soundfile.write(path, np.zeros((44100, 2)), 44100)
    >>> read_speech(path).shape
    torch.Size([16000])
    """
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        audio = file.read(dtype="float32", always_2d=True).mean(axis=1)
    if rate != SAMPLE_RATE:
        divisor = math.gcd(rate, SAMPLE_RATE)
        audio = resample_poly(audio, SAMPLE_RATE // divisor, rate // divisor)
    return torch.from_numpy(audio)


def resampled_length(samples, rate):
    """Return how many samples at 16 kHz `read_speech` makes of samples at another rate.

    Example
    -------
    >>> resampled_length(44101, 44100)
    16001
    """
    return -(-samples * SAMPLE_RATE // rate)


def check_audio(path, any_rate=False):
    """Decode a file and say what is wrong with it.

    Arguments
    ---------
    path : str or Path
        An audio file.
    any_rate : bool
        Let rates other than 16 kHz and several channels pass.

    Returns
    -------
    duration : float
        Seconds of what `read_speech` returns; 0 where the file cannot be used.
    problem : str or None
        What is wrong: not audio, another rate than 16 kHz, more than one channel, cut short,
        empty, not finite, or silent.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, frames, form = file.samplerate, file.channels, file.frames, file.format
            audio = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:  # a length past all memory
        return 0.0, f"cannot be decoded ({error})"
    if not any_rate and (rate != SAMPLE_RATE or channels != 1):
        return 0.0, f"has {channels} channel(s) at {rate} Hz, expected 1 at {SAMPLE_RATE} Hz"
    if not RATES[0] <= rate <= RATES[1]:
        return 0.0, f"has a rate of {rate} Hz, expected {RATES[0]} to {RATES[1]} Hz"
    if _riff_is_cut(path):
        return 0.0, "is cut short: its header announces more samples than it holds"
    if frames == 0 or len(audio) == 0:
        return 0.0, "is empty"
    # An MP3 without a header of its own has its length estimated.
    if frames - len(audio) > (2 * MP3_FRAME if form == "MP3" else 0):
        return 0.0, f"is cut short: {len(audio)} of {frames} samples"
    if not np.isfinite(audio).all():
        return 0.0, "holds values that are not finite (NaN or infinity)"
    mono = audio.mean(axis=1)
    if mono.min() == mono.max():
        return 0.0, "is silent: all samples are equal, or the channels cancel"
    return resampled_length(len(mono), rate) / SAMPLE_RATE, None


def _riff_is_cut(path):
    """Tell whether a WAV file is shorter than its header says: libsndfile reads what there is."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return False
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                # A header that was written to a pipe says about 2 or 4 GiB, for "unknown".
                return size < 0x7FFFF000 and os.path.getsize(path) < file.tell() + size
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def scan_audio(paths, num_workers=None, any_rate=False):
    """Check many files in parallel.

    Arguments
    ---------
    paths : list of Path
        Audio files.
    num_workers : int, optional
        Threads, which decode side by side; as many as cores if None.
    any_rate : bool
        As for `check_audio`.

    Returns
    -------
    list of tuple
        What `check_audio` returns, in order.
    """
    workers = os.cpu_count() if num_workers is None else num_workers
    check = partial(check_audio, any_rate=any_rate)
    bar = {"total": len(paths), "desc": "Checking audio", "dynamic_ncols": True}
    if workers <= 1 or len(paths) < 100:
        return list(tqdm(map(check, paths), **bar))
    with ThreadPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(check, paths), **bar))
