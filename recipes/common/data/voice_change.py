"""Another voice for an utterance: formants, pitch and channel move, what is said and when do not.

Speaker perturbation as Spin (arXiv 2305.11072) has it of NANSY (Choi et al., arXiv 2110.14513): a
random ratio for the formants, one for the fundamental frequency, and a random equaliser. Frame by
frame of a short-time Fourier transform, so that nothing moves in time.
"""

import numpy as np
import torch
from scipy.fft import irfft, rfft

from lobes.signal import SAMPLE_RATE
from recipes.common.data.augment import rms, set_level

WINDOW = 512  # samples, 32 ms: a longer one tells low voices' harmonics apart, and smears onsets
STEP = 128
BINS = np.arange(WINDOW // 2 + 1)
ENVELOPE_TERMS = 32  # of the cepstrum: 2 ms, below the period of a high voice
MIN_MAGNITUDE = np.float32(1e-7)
EQUALISER_HZ = np.geomspace(60, 7600, 10)  # centres of its bands, as in NANSY
EQUALISER_Q = 2.0, 5.0
EQUALISER_DB = 12.0


class ChangeVoice:
    """Change the voice of an utterance at random, by what follows from the seed of the call.

    Arguments
    ---------
    formant_ratio : float
        Formants move by a ratio of up to this, up or down; 1 leaves them.
    pitch_ratio : float
        The fundamental frequency, likewise.

    Raises
    ------
    ValueError
        Where a ratio is not from 1 to 2.

    Example
    -------
    >>> change_voice = ChangeVoice()
    >>> wav = 0.1 * torch.sin(torch.arange(16000) / 10)
    >>> change_voice(wav, 1).shape
    torch.Size([16000])
    >>> [torch.equal(change_voice(wav, 1), change_voice(wav, seed)) for seed in (1, 2)]
    [True, False]
    """

    def __init__(self, formant_ratio=1.4, pitch_ratio=2.0):
        for name, value in (("formant_ratio", formant_ratio), ("pitch_ratio", pitch_ratio)):
            if not 1 <= value <= 2:
                raise ValueError(f"{name} is {value}: expected a number, 1 to 2.")
        self.formant_ratio, self.pitch_ratio = formant_ratio, pitch_ratio

    def __call__(self, wav, rng_seed):
        """Return the utterance in another voice, as loud as it was.

        Arguments
        ---------
        wav : torch.Tensor
            Shape (samples,), float32, 16 kHz.
        rng_seed : int
            Non-negative.

        Returns
        -------
        torch.Tensor
            Shape (samples,), in [-1, 1]; what is said at a time is said at that time.
        """
        rng = np.random.default_rng(rng_seed)
        formants, pitch = draw_ratio(rng, self.formant_ratio), draw_ratio(rng, self.pitch_ratio)
        changed = move_voice(wav.numpy(), formants, pitch, draw_equaliser(rng))
        return set_level(torch.from_numpy(changed), rms(wav))


def draw_ratio(rng, most):
    """Return a ratio, uniform from 1 to `most`, or its inverse."""
    return rng.uniform(1, most) ** rng.choice([-1, 1])


def draw_equaliser(rng):
    """Return the gains of a random parametric equaliser of ten bands, up to 12 dB each.

    Each band is an analogue filter of second order: a peak or a dip at its centre, the narrower the
    higher its quality Q, 2 to 5.

    Returns
    -------
    numpy.ndarray
        Shape (WINDOW / 2 + 1,), the natural logarithm of the gain of each bin.
    """
    frequencies = np.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)[1:, None]
    low, high = EQUALISER_Q
    quality = low * (high / low) ** rng.uniform(size=len(EQUALISER_HZ))
    gain = 10 ** (rng.uniform(-EQUALISER_DB, EQUALISER_DB, len(EQUALISER_HZ)) / 40)
    detuning = (frequencies / EQUALISER_HZ - EQUALISER_HZ / frequencies) ** 2
    ratio = (detuning + (gain / quality) ** 2) / (detuning + (1 / (gain * quality)) ** 2)
    return np.concatenate([[0.0], np.log(ratio).sum(1) / 2]).astype(np.float32)


def move_voice(wav, formants, pitch, equaliser=0.0):
    """Move formants and pitch by ratios of their own, and leave times as they are.

    A frame's log magnitudes are a smooth envelope, from the first terms of its cepstrum, plus what
    the voice's harmonics add. The envelope is read at frequency / `formants`, the harmonics at
    frequency / `pitch`, whose phases advance as much faster (phase vocoder: Flanagan and Golden,
    1966). Where that is beyond the highest frequency, noise is taken from below it.

    Arguments
    ---------
    wav : numpy.ndarray
        Shape (samples,), float32.
    formants, pitch : float
        Ratios of new to old frequencies; 1 leaves them.
    equaliser : numpy.ndarray or float
        The natural logarithm of the gain of each bin, shape (WINDOW / 2 + 1,).

    Returns
    -------
    numpy.ndarray
        Shape (samples,), float32.

    Example
    -------
    >>> wav = np.sin(np.arange(8000, dtype=np.float32) / 5)
    >>> bool(np.abs(move_voice(wav, 1.0, 1.0) - wav).max() < 1e-3)
    True
    """
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    centred = np.where(BINS % 2, -1, 1).astype(np.float32)  # phases at the middle of the window
    spectrum = rfft(frames_of(wav) * window, axis=1) * centred
    magnitudes = np.abs(spectrum)
    envelopes = log_envelopes(magnitudes)
    source, folded = source_bins(pitch)
    gains = envelopes[:, source_bins(formants)[0]] - envelopes[:, source] + np.float32(equaliser)
    magnitudes = magnitudes[:, source] * np.exp(gains)

    phases = torch.from_numpy(spectrum).angle().numpy()  # four times as fast as NumPy's
    target, ratios = np.where(folded, BINS, source * pitch), np.where(folded, 1.0, pitch)
    phases = move_phases(phases, source, target, ratios)
    moved = np.empty_like(spectrum)
    moved.real, moved.imag = magnitudes * np.cos(phases), magnitudes * np.sin(phases)
    return overlap_add(irfft(moved * centred, axis=1) * window, len(wav))


def source_bins(ratio):
    """Return the bin that each one is moved from by a ratio, and where that is folded back.

    Example
    -------
    >>> source, folded = source_bins(0.5)
    >>> source[[0, 10, 128, 129, 256]].tolist(), folded[[128, 129]].tolist()
    ([0, 20, 256, 254, 0], [False, True])
    """
    source = np.rint(BINS / ratio).astype(int)
    folded = source > BINS[-1]
    return np.where(folded, 2 * BINS[-1] - source, source), folded


def log_envelopes(magnitudes):
    """Return the logarithm of magnitudes, smoothed over frequency: the first terms of a cepstrum.

    Arguments
    ---------
    magnitudes : numpy.ndarray
        Shape (frames, bins), float32.

    Returns
    -------
    numpy.ndarray
        Shape (frames, bins), float32.
    """
    cepstrum = irfft(np.log(np.maximum(magnitudes, MIN_MAGNITUDE)), axis=1)
    cepstrum[:, ENVELOPE_TERMS : 1 - ENVELOPE_TERMS] = 0.0  # it is symmetric
    return rfft(cepstrum, axis=1).real


def frames_of(wav):
    """Return a waveform's windows, (frames, WINDOW), of which the outermost are of silence."""
    steps = -(-len(wav) // STEP)
    padded = np.pad(wav, (WINDOW, steps * STEP - len(wav) + WINDOW))
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP]


def overlap_add(frames, samples):
    """Return the waveform of so many samples whose windows, twice weighted, are given."""
    parts = WINDOW // STEP
    blocks = np.zeros((len(frames) + parts - 1, STEP), np.float32)
    for part in range(parts):
        blocks[part : part + len(frames)] += frames[:, part * STEP : (part + 1) * STEP]
    # The squares of Hann windows, a quarter of their length apart, add up to 1.5.
    return blocks.ravel()[WINDOW : WINDOW + samples] / np.float32(1.5)


def move_phases(phases, source, target, ratios):
    """Return phases that advance from frame to frame by ratios of what those of other bins do.

    Arguments
    ---------
    phases : numpy.ndarray
        Shape (frames, bins), float32.
    source : numpy.ndarray
        Shape (bins,), the bin that each one's advance is taken from.
    target : numpy.ndarray
        Shape (bins,), the frequency, in bins, that its middle is moved to.
    ratios : numpy.ndarray
        Shape (bins,), of what a frequency deviates from the middle.

    Returns
    -------
    numpy.ndarray
        Shape (frames, bins), float32.
    """
    turn = 2 * np.pi
    expected = turn * STEP / WINDOW
    deviation = np.diff(phases[:, source], axis=0) - (expected * source).astype(np.float32)
    deviation -= np.float32(turn) * np.rint(deviation / np.float32(turn))
    advance = np.mod(expected * target, turn).astype(np.float32)
    steps = deviation * ratios.astype(np.float32) + advance
    return np.concatenate([phases[:1, source], phases[:1, source] + np.cumsum(steps, axis=0)])
