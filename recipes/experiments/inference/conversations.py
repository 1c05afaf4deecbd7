#!/usr/bin/env python3
"""Make conversations of utterances, one speaker at a time, with who speaks when.

    python conversations.py SPLIT OUT --count 40

SPLIT is a folder of a folder for each speaker, with audio at any depth: LibriSpeech/test-clean.
OUT gets NAME.wav and NAME.rttm of each conversation: two, three or four speakers, with pauses of
0.1 to 1 s, levels that differ by up to 6 dB, faint noise under all of it. Nothing overlaps, and a
speaker has the channel of the readings: real conversations are harder.
"""

import argparse
import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import soundfile

from lobes.signal import HOP, SAMPLE_RATE
from pretrained.audio import read_speech
from pretrained.tasks.diarizer import Turn, speech_regions, to_rttm

SPEAKERS = (2, 3, 4)
PIECES, LONGEST = 6, 4.0  # of each speaker, at most, and seconds of each
PAUSE = (0.1, 1.0)  # seconds
LEVEL, SPREAD, NOISE = 0.05, 3.0, 0.001  # root mean squares, and dB up and down
SEED = 2407
SUFFIXES = {".flac", ".wav", ".opus", ".ogg"}


def cut_pieces(paths, rng):
    """Return up to six pieces of up to 4 s of a speaker's recordings, drawn at random."""
    pieces = []
    for path in rng.permutation([str(path) for path in paths])[:PIECES]:
        samples = read_speech(path).numpy()
        pieces += np.array_split(samples, -(-len(samples) // int(LONGEST * SAMPLE_RATE)))
    return [pieces[place] for place in rng.permutation(len(pieces))[:PIECES]]


def join_pieces(pieces, rng):
    """Join pieces in a random order, no speaker twice in a row where that can be avoided.

    Arguments
    ---------
    pieces : list of tuple
        A speaker's number, and samples (samples,).
    rng : numpy.random.Generator

    Returns
    -------
    samples : numpy.ndarray
        Shape (samples,), float32.
    turns : list of Turn
        From the first to the last speech of each piece, by its level.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> pieces = [(speaker, rng.normal(0, 0.1, 16000)) for speaker in (0, 0, 1, 1)]
    >>> samples, turns = join_pieces(pieces, rng)
    >>> [before.speaker != turn.speaker for before, turn in zip(turns, turns[1:])]
    [True, True, True]
    """
    queue = [pieces[place] for place in rng.permutation(len(pieces))]
    parts, turns, place, last = [], [], 0, None
    while queue:
        ready = [number for number, (speaker, _) in enumerate(queue) if speaker != last]
        last, samples = queue.pop(ready[0] if ready else 0)
        regions = speech_regions(samples)
        if not regions:
            continue
        samples = samples[regions[0][0] * HOP : regions[-1][1] * HOP]
        level = LEVEL * 10 ** (rng.uniform(-SPREAD, SPREAD) / 20)
        pause = np.zeros(round(rng.uniform(*PAUSE) * SAMPLE_RATE))
        parts += [pause, samples * level / np.sqrt(np.mean(samples**2))]
        start = place + len(pause)
        place = start + len(samples)
        turns.append(Turn(start / SAMPLE_RATE, place / SAMPLE_RATE, last))
    joined = np.concatenate(parts)
    return (joined + NOISE * rng.normal(size=len(joined))).astype(np.float32), turns


def main(arguments=None):
    """Write the conversations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", type=Path, metavar="SPLIT")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    parser.add_argument("--count", type=int, default=40)
    options = parser.parse_args(arguments)
    found = {
        folder.name: sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        for folder in sorted(options.split.iterdir())
        if folder.is_dir()
    }
    names = [name for name, paths in found.items() if paths]
    if len(names) < max(SPEAKERS):
        parser.error(f"{options.split} has {len(names)} speakers, and {max(SPEAKERS)} are needed")
    options.out.mkdir(parents=True)
    for number, speakers in enumerate(islice(cycle(SPEAKERS), options.count)):
        rng = np.random.default_rng([SEED, number])
        chosen = rng.choice(names, speakers, replace=False)
        pieces = [(i, x) for i, name in enumerate(chosen) for x in cut_pieces(found[name], rng)]
        samples, turns = join_pieces(pieces, rng)
        path = options.out / f"{number:04d}.wav"
        soundfile.write(path, samples, SAMPLE_RATE)
        path.with_suffix(".rttm").write_text(to_rttm(path.stem, turns), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
