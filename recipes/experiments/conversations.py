"""Conversations made of single utterances, with who speaks when."""

import numpy as np

from lobes.signal import SAMPLE_RATE
from pretrained.diarizer import speech_regions

PAUSE = (0.1, 1.0)  # seconds between two turns
FLOOR = 1e-3  # deviation of the noise under all of it
LEVEL = 0.05  # root mean square of each utterance, plus or minus 3 dB


def make_conversation(utterances, rng):
    """Join utterances in a random order, no speaker twice in a row where it can be avoided.

    Returns samples and the turns: extents of each utterance's speech.
    """
    queue = [utterances[i] for i in rng.permutation(len(utterances))]
    pieces, turns, place, last = [], [], 0.0, None
    while queue:
        at = next((i for i, (speaker, _) in enumerate(queue) if speaker != last), 0)
        last, audio = queue.pop(at)
        regions = speech_regions(audio)
        audio = audio[regions[0][0] * 320 : regions[-1][1] * 320]
        gain = LEVEL * 10 ** (rng.uniform(-3, 3) / 20) / np.sqrt(np.mean(audio**2))
        pause = np.zeros(int(rng.uniform(*PAUSE) * SAMPLE_RATE), np.float32)
        pieces += [pause, gain * audio]
        start = place + len(pause) / SAMPLE_RATE
        place = start + len(audio) / SAMPLE_RATE
        turns.append((start, place, last))
    samples = np.concatenate(pieces)
    return (samples + FLOOR * rng.normal(size=len(samples))).astype(np.float32), turns
