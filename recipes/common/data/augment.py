"""Augmentation of utterance crops: what undoes the channel that two crops share.

Two crops of one utterance have the same room, microphone and background, so contrastive training
on clean crops learns those along with the speaker. Here each crop gets a room, noise and a channel
of its own. Built on `speechbrain.augment`; the recordings of noise and of rooms are optional, and
synthetic ones stand in for them.
"""

import contextlib
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.fft import irfft, rfft  # several times as fast as torch's on a CPU
from speechbrain.augment.time_domain import AddNoise, DropChunk, DropFreq, SpeedPerturb
from speechbrain.dataio import audio_io
from torchaudio.functional import resample

from lobes.signal import SAMPLE_RATE
from recipes.common.data.files import list_files
from recipes.common.data.transmission import (
    A_LAW,
    MP3_20K,
    MP3_30K,
    MU_LAW,
    OPUS_9K,
    fft_size,
    limit_band,
    transmit,
    zero_phase,
)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
RIR_BANK_SIZE = 64
RIR_BANK_SEED = 2407
NOTCH_TAPS = 101  # of the filter of DropFreq
CUTOFFS = (3400, 4000, 5500, 7000)  # Hz: telephones, sampling at 8, 11 and 14 to 16 kHz
TELEPHONES = (MU_LAW, A_LAW)
CODECS = (MP3_20K, MP3_30K, OPUS_9K)


class UtteranceAugment:
    """Augment a crop at random: room, noise, channel, line, dropped bands and chunks, level.

    Everything random follows from the seed of the call, so a crop comes out the same in whichever
    worker, batch or run it is made. The parts act in the order of a recording: reverberation,
    additive noise, channel colouring, limit of the band, telephone (300 to 3400 Hz, sampled at
    8 kHz, mu-law or A-law), codec (MP3 or Opus at a low rate), dropped frequency bands, dropped
    chunks, gain. Each happens with its own probability.

    Arguments
    ---------
    noise_folder : str, optional
        Folder of noise recordings, searched with its subfolders; any rate, first channel taken.
        Without it noise is synthetic: white to brown, half of it modulated as slowly as babble.
    rir_folder : str, optional
        Folder of room impulse responses, likewise. Without it, exponentially decaying noise behind
        a direct path, RT60 0.1 to 0.7 s (Polack's model).
    noise_prob, reverb_prob, channel_prob, drop_freq_prob, drop_chunk_prob, gain_prob : float
        Probability of each part, in [0, 1].
    band_limit_prob, telephone_prob, codec_prob : float
        Likewise. A codec takes ten times as long as any other part, or more.
    snr_low, snr_high : float
        Range of the signal-to-noise ratio, in dB.
    max_gain : float
        The level changes by up to so many dB either way.
    speeds : list of int, optional
        Of `change_voice`, in percent: each utterance gets one of them. Without it, none is changed.

    Raises
    ------
    FileNotFoundError
        Where a folder is given that holds no audio.
    ValueError
        Where a probability is none.

    Example
    -------
    >>> augment = UtteranceAugment()
    >>> crop = 0.1 * torch.sin(torch.arange(32000) / 10)
    >>> augment(crop, 1).shape
    torch.Size([32000])
    >>> [torch.equal(augment(crop, 1), augment(crop, seed)) for seed in (1, 2)]
    [True, False]
    """

    def __init__(
        self,
        noise_folder=None,
        rir_folder=None,
        noise_prob=0.8,
        reverb_prob=0.5,
        channel_prob=0.8,
        drop_freq_prob=0.5,
        drop_chunk_prob=0.5,
        gain_prob=1.0,
        band_limit_prob=0.3,
        telephone_prob=0.2,
        codec_prob=0.0,
        snr_low=0.0,
        snr_high=20.0,
        max_gain=10.0,
        speeds=None,
    ):
        for name, value in locals().items():
            if name.endswith("_prob") and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}: expected a probability, 0 to 1.")
        self.noise_files = audio_files(noise_folder) if noise_folder else None
        self.rir_files = audio_files(rir_folder) if rir_folder else None
        self.rir_bank = None if rir_folder else synthetic_rirs(RIR_BANK_SIZE)
        self.max_gain = max_gain
        add_noise = AddNoise(snr_low=snr_low, snr_high=snr_high, noise_funct=self.noise_like)
        self.drop_freq = DropFreq(drop_freq_low=0.01, drop_freq_high=0.95)
        self.drop_chunk = DropChunk(drop_length_low=800, drop_length_high=2400)
        self.parts = [  # each takes a crop, shape (1, samples), and returns another
            (reverb_prob, self.reverberate),
            (noise_prob, partial(add_noise, lengths=torch.ones(1))),
            (channel_prob, partial(zero_phase, response=channel_response)),
            (band_limit_prob, limit_any_band),
            (telephone_prob, partial(transmit_any, codecs=TELEPHONES)),
            (codec_prob, partial(transmit_any, codecs=CODECS)),
            (drop_freq_prob, partial(zero_phase, response=self.band_response)),
            (drop_chunk_prob, self.chunks),
        ]
        self.gain_prob = gain_prob
        self.speed = SpeedPerturb(SAMPLE_RATE, speeds) if speeds else None

    def __call__(self, wav, rng_seed):
        """Return the augmented crop.

        Arguments
        ---------
        wav : torch.Tensor
            Shape (samples,), float32, 16 kHz.
        rng_seed : int
            Non-negative. Its lower 32 bits count. The state of the global generators is left alone.

        Returns
        -------
        torch.Tensor
            Shape (samples,), in [-1, 1]; all zero only where the crop is.
        """
        with torch.no_grad(), seeded(rng_seed):
            out = wav.unsqueeze(0)
            for probability, part in self.parts:
                if happens(probability):
                    out = part(out)
            gain = uniform(-self.max_gain, self.max_gain) if happens(self.gain_prob) else 0.0
        return set_level(out.squeeze(0), rms(wav) * 10 ** (gain / 20))

    def change_voice(self, wav, rng_seed):
        """Play a crop faster or slower: pitch and formants move, as if another person spoke.

        Both crops of an utterance get the same seed, and with it the same speed. So there are more
        voices to tell apart than speakers, and fewer crops to learn by heart (speaker augmentation:
        Yamamoto et al., Interspeech 2019).

        Arguments
        ---------
        wav : torch.Tensor
            Shape (samples,), float32, 16 kHz.
        rng_seed : int
            As in `__call__`.

        Returns
        -------
        torch.Tensor
            Shape (about samples * 100 / speed,).

        Example
        -------
        >>> UtteranceAugment(speeds=[80]).change_voice(torch.randn(16000), 1).shape
        torch.Size([20000])
        """
        if self.speed is None:
            return wav
        with torch.no_grad(), seeded(rng_seed):
            return self.speed(wav.unsqueeze(0)).squeeze(0)

    def noise_like(self, wav):
        """Return noise of the shape of `wav`, (1, samples), of any level."""
        samples = wav.shape[1]
        if self.noise_files is not None:
            return read_random_segment(choose(self.noise_files), samples).unsqueeze(0)
        noise = coloured_noise(samples, max_exponent=1.0)
        if happens(0.5):
            noise = noise * syllabic_envelope(samples)
        return noise.unsqueeze(0)

    def reverberate(self, wav):
        """Put the speech into a random room, the direct path staying where it was; of any level."""
        samples = wav.shape[1]
        if self.rir_files is not None:
            rir = read_mono(choose(self.rir_files))
            rir = rir[rir.abs().argmax() :]
        else:
            # A tail's energy is 1, so the direct path's square is the direct-to-reverberant ratio.
            rir = choose(self.rir_bank).clone()
            rir[0] = 10 ** (uniform(-3, 12) / 20)
        rir = rir[:samples].numpy()
        size = fft_size(samples + len(rir))
        spectrum = rfft(wav.numpy(), size) * rfft(rir, size)
        return torch.from_numpy(irfft(spectrum, size)[:, :samples])

    def band_response(self, frequencies):
        """Return a frequency response of `DropFreq`: up to three bands of a few hundred Hz less."""
        impulse = torch.zeros(1, NOTCH_TAPS)
        impulse[0, NOTCH_TAPS // 2] = 1
        # Filtering the crop itself in the time domain takes up to ten times as long.
        taps = torch.nn.functional.pad(self.drop_freq(impulse)[0], (0, 1024 - NOTCH_TAPS))
        response = rfft(taps.roll(-(NOTCH_TAPS // 2)).numpy()).real  # the filter is symmetric
        grid = np.linspace(0, SAMPLE_RATE / 2, len(response))
        return np.interp(frequencies, grid, response).astype(np.float32)

    def chunks(self, wav):
        """Drop up to three stretches of 50 to 150 ms, unless nothing would be left."""
        dropped = self.drop_chunk(wav, torch.ones(1))
        return dropped if dropped.any() else wav


@contextlib.contextmanager
def seeded(seed):
    """Draw from a seed inside the block, and leave torch's generator as it was.

    SpeechBrain's augmentations draw from torch's global generator. One thread, because a sum that
    is split over threads rounds otherwise.

    Example
    -------
    >>> with seeded(1):
    ...     first = torch.rand(2)
    >>> with seeded(1):
    ...     torch.equal(torch.rand(2), first)
    True
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def uniform(low, high):
    """Return a number drawn from [low, high)."""
    return low + (high - low) * torch.rand(()).item()


def happens(probability):
    """Return True with a probability."""
    return torch.rand(()).item() < probability


def choose(items):
    """Return one of a list's items, each as likely."""
    return items[torch.randint(len(items), ()).item()]


def rms(wav):
    """Return the root mean square of a waveform as a float; the same for any number of threads."""
    return math.sqrt(np.mean(np.square(wav.numpy(), dtype=np.float64)))


def set_level(wav, level):
    """Return a waveform scaled to a root mean square, or lower where its peak would exceed 1."""
    present, peak = rms(wav), wav.abs().max().item()
    if present == 0:
        return wav
    return wav * min(level / present, 1 / peak)


def coloured_noise(samples, max_exponent):
    """Return noise whose amplitude falls with frequency to the power of a random exponent.

    White noise has exponent 0, pink noise 0.5 and brown noise 1. Below 100 Hz the spectrum is flat,
    since the level of brown noise would lie in what no one hears.

    Arguments
    ---------
    samples : int
        Length.
    max_exponent : float
        The exponent is drawn from 0 to this.

    Returns
    -------
    torch.Tensor
        Shape (samples,), of no particular level.

    Example
    -------
    >>> coloured_noise(1000, max_exponent=1.0).shape
    torch.Size([1000])
    """
    size = fft_size(samples)
    frequencies = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE).clamp(min=100)
    spectrum = torch.randn(len(frequencies), dtype=torch.complex64)
    spectrum *= frequencies ** -uniform(0, max_exponent)
    return torch.from_numpy(irfft(spectrum.numpy(), size)[:samples])


def syllabic_envelope(samples):
    """Return an envelope that moves at the rate of syllables, 2 to 8 Hz; shape (samples,)."""
    points = torch.rand(2 + int(samples / SAMPLE_RATE * uniform(2, 8)))
    return torch.nn.functional.interpolate(
        points[None, None], size=samples, mode="linear", align_corners=True
    )[0, 0]


def synthetic_rirs(count):
    """Return room impulse responses without their direct path, the same at each call.

    Arguments
    ---------
    count : int
        How many.

    Returns
    -------
    list of torch.Tensor
        Shape (samples,): silence of 1 to 10 ms, then noise that falls by 60 dB within RT60, 0.1 to
        0.7 s. The energy of each is 1.

    Example
    -------
    >>> [rir.square().sum().round().item() for rir in synthetic_rirs(2)]
    [1.0, 1.0]
    """
    rirs = []
    with seeded(RIR_BANK_SEED):
        for _ in range(count):
            rt60 = uniform(0.1, 0.7)
            decay = 10 ** (-3 * torch.arange(round(rt60 * SAMPLE_RATE)) / (rt60 * SAMPLE_RATE))
            tail = coloured_noise(len(decay), max_exponent=0.5) * decay
            silence = torch.zeros(round(uniform(0.001, 0.01) * SAMPLE_RATE))
            rirs.append(torch.cat([silence, tail / tail.norm()]))
    return rirs


def channel_response(frequencies):
    """Return a random frequency response: a smooth equalizer, a tilt, and at times a pass band.

    Arguments
    ---------
    frequencies : numpy.ndarray
        Shape (bins,), in Hz.

    Returns
    -------
    numpy.ndarray
        Shape (bins,), float32 gains, at least 1e-3 (-60 dB).

    Example
    -------
    >>> channel_response(np.array([0.0, 100.0, 1000.0])).shape
    (3,)
    """
    # The curve is drawn over octaves, coarsely, and then looked up at each bin.
    octaves = np.linspace(math.log2(40), math.log2(SAMPLE_RATE / 2), 60)
    knots = np.linspace(octaves[0], octaves[-1], 8)
    decibels = np.interp(octaves, knots, [uniform(-6, 6) for _ in knots])
    decibels += uniform(-2, 2) * (octaves - math.log2(1000))
    if happens(0.5):
        low, high, slope = uniform(5.5, 8.5), uniform(11.5, 13), uniform(12, 36)
        decibels -= slope * (np.maximum(low - octaves, 0) + np.maximum(octaves - high, 0))
    positions = np.log2(np.maximum(frequencies, 1))
    gains = 10 ** (np.maximum(decibels, -60) / 20)
    return np.interp(positions, octaves, gains).astype(np.float32)


def limit_any_band(wav):
    """Take away what is above one of `CUTOFFS`, (1, samples)."""
    return limit_band(wav, choose(CUTOFFS))


def transmit_any(wav, codecs):
    """Send a waveform, (1, samples), through one of several codecs; of any level."""
    return transmit(wav, choose(codecs))


def audio_files(folder):
    """Return the audio files of a folder and its subfolders, in the same order on every machine.

    Arguments
    ---------
    folder : str
        Where to look for .wav, .flac, .ogg, .opus and .mp3 files.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        Where there are none.
    """
    files = list_files(folder) if Path(folder).is_dir() else []
    paths = [path for path in files if path.suffix.lower() in AUDIO_SUFFIXES]
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no audio found ({', '.join(AUDIO_SUFFIXES)}); expected a folder of "
            "recordings, or no folder at all for synthetic ones."
        )
    return [str(path) for path in sorted(paths, key=lambda path: path.relative_to(folder).parts)]


def read_mono(path, start=0, count=-1):
    """Return the first channel of a file, or of a part of it, at 16 kHz; shape (samples,).

    The mean of several, as speech is read, would be of no one place in a room.
    """
    wav, rate = audio_io.load(path, frame_offset=start, num_frames=count)
    return resample(wav[0], rate, SAMPLE_RATE)


def read_random_segment(path, samples):
    """Return a random stretch of a file, which repeats where it is short; shape (samples,)."""
    info = audio_io.info(path)
    count = min(info.frames, math.ceil(samples * info.sample_rate / SAMPLE_RATE))
    start = torch.randint(info.frames - count + 1, ()).item()
    segment = read_mono(path, start, count)
    return segment.repeat(math.ceil(samples / len(segment)))[:samples]
