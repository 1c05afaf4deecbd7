"""Audio that is made up: something like voices, which takes no corpus."""

import numpy as np
import soundfile

from lobes.signal import SAMPLE_RATE


def voice(seconds, rng):
    """Return gliding harmonics under the envelope of syllables, in noise, between -1 and 1.

    Example
    -------
    >>> voice(1.0, np.random.default_rng(0)).shape
    (16000,)
    """
    time_axis = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * time_axis))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    tone = sum(np.sin(n * phase) / n for n in range(1, 16))
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(3, 6) * time_axis)
    audio = tone * syllables + 0.03 * rng.normal(size=len(time_axis))
    return 0.5 * audio / np.abs(audio).max()


def write_audio(folder, lengths, suffix, rng):
    """Write a file for each length (s) and return nothing; names are in the lengths' order."""
    folder.mkdir(parents=True)
    for i, seconds in enumerate(lengths):
        soundfile.write(folder / f"{i:04d}{suffix}", voice(seconds, rng), SAMPLE_RATE)
