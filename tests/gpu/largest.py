"""As much audio in a batch as fits: doubled until the memory is full."""

from functools import partial

import torch

from tests.gpu.speed import PEERS, Case, batch_seconds, measure

CASES = [Case(), Case("joint"), Case("utterance"), *(Case(who=who) for who in PEERS)]
DOUBLINGS = {"cuda": 8, "cpu": 1}


def steps(settings, folder):
    """Yield each case with batches twice as large as the one before, until one does not fit."""
    for case in CASES if settings.device == "cuda" else CASES[:1]:
        seconds = batch_seconds(case, settings)
        for _ in range(DOUBLINGS[settings.device]):
            seconds, figures = 2 * seconds, {}
            yield f"{case}, {seconds:g} s", partial(fill, figures, case, seconds, settings, folder)
            if "step_seconds" not in figures:
                break


def fill(figures, case, seconds, settings, folder):
    """Put the figures of a case into a dict, or that its batch does not fit; return it."""
    try:
        figures |= measure(case, seconds, settings, folder)
    except torch.cuda.OutOfMemoryError:
        figures["out_of_memory"] = True
    return figures
