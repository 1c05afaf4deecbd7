"""Triphones have the frames of their phones, and silences break them."""

from fractions import Fraction

import numpy as np
import pytest

from lobes.signal import num_frames
from recipes.common.annotations.triphones import triphones


@pytest.mark.parametrize("seed", range(5))
def test_items_have_the_frames_with_centres_in_three_phones(seed):
    rng = np.random.default_rng(seed)
    times = [0, *np.cumsum(rng.integers(1, 150, size=30))]  # ms
    phones = [(a / 1000, b / 1000, "p") for a, b in zip(times, times[1:], strict=False)]
    centres = [Fraction(125 + 200 * frame, 10) for frame in range(num_frames(times[-1] * 16))]
    expected = []
    for start, stop in zip(times, times[3:], strict=False):
        inside = [frame for frame, centre in enumerate(centres) if start <= centre < stop]
        expected += [(inside[0], inside[-1] + 1)] if inside else []
    assert [(i.start, i.stop) for i in triphones([("a", "1", phones)])] == expected


def test_a_centre_at_a_border_belongs_to_what_follows():
    # Centres lie at 12.5, 32.5, ... ms, and these borders cannot be told exactly in binary.
    for frame in range(3, 200):
        border = round(0.0125 + 0.02 * frame, 4)
        before = [(0, 0.01, "SIL"), (0.01, 0.02, "a"), (0.02, 0.03, "b"), (0.03, border, "c")]
        after = [(border, border + 0.1, "d"), (border + 0.1, 9, "e"), (9, 9.1, "f")]
        items = triphones([("a", "1", before + after)])
        assert items[0].stop == items[3].start == frame


def test_silences_and_gaps_break_contexts_and_short_stretches_are_dropped():
    def contexts(*phones):
        return [(*i.context, i.phone) for i in triphones([("a", "1", list(phones))])]

    row = [(0.0, 0.1, "a"), (0.1, 0.2, "b"), (0.2, 0.3, "c"), (0.3, 0.4, "d")]
    assert contexts(*row) == [("a", "c", "b"), ("b", "d", "c")]
    for silence in ("SIL", "sil", "sp", "spn", ""):
        assert contexts(*row, (0.4, 0.5, silence), (0.5, 0.6, "e")) == contexts(*row)
        assert contexts(row[0], (0.1, 0.2, silence), *row[2:]) == []
    assert contexts(*row[:2], (0.219, 0.3, "c")) == [("a", "c", "b")]
    assert contexts(*row[:2], (0.221, 0.3, "c")) == []
    assert contexts((0.0, 0.004, "a"), (0.004, 0.008, "b"), (0.008, 0.012, "c"), row[3]) == []
    assert contexts() == []
