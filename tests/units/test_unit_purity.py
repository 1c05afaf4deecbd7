"""Measures of units against counts of frames by loops, and against controls that tell nothing."""

import math
from collections import Counter

import numpy as np
import pytest

from recipes.common.report.unit_figures import read_units
from recipes.common.units.unit_purity import PHONE_MEASURES, unit_quality


def slow_quality(units, phones):
    """Return the measures by the sums of HuBERT's section IV-B."""
    total, pairs = len(units), Counter(zip(phones, units, strict=True))
    of_phone, of_unit = Counter(phones), Counter(units)
    information = sum(
        n / total * math.log((n / total) / (of_phone[p] / total * of_unit[u] / total))
        for (p, u), n in pairs.items()
    )
    entropy = -sum(n / total * math.log(n / total) for n in of_phone.values())
    return {
        "PNMI": information / entropy,
        "phone purity": sum(max(pairs[p, u] for p in of_phone) for u in of_unit) / total,
        "cluster purity": sum(max(pairs[p, u] for u in of_unit) for p in of_phone) / total,
    }


@pytest.mark.parametrize("seed", range(10))
def test_measures_are_those_of_loops(seed):
    rng = np.random.default_rng(seed)
    phones = rng.integers(1 + rng.integers(1, 6), size=200)
    units = (phones + rng.integers(3, size=200)) * rng.integers(1, 3)
    labels = np.array(["AA", "B", "D", "IY", "S", "T"])[phones]
    expected = slow_quality(units.tolist(), labels.tolist())
    assert unit_quality(units, labels) == pytest.approx(expected, abs=1e-12)


def test_one_unit_tells_nothing_and_a_unit_for_each_frame_everything():
    phones = ["a", "a", "a", "b"]
    one, each = unit_quality([7, 7, 7, 7], phones), unit_quality([0, 1, 2, 3], phones)
    assert [one[name] for name in PHONE_MEASURES] == pytest.approx([0, 0.75, 1], abs=1e-12)
    assert [each[name] for name in PHONE_MEASURES] == pytest.approx([1, 1, 0.5], abs=1e-12)


@pytest.mark.parametrize("phones", [[], ["a", "a"]])
def test_frames_of_one_phone_are_refused(phones):
    with pytest.raises(ValueError, match=f"{len(phones)} frames of fewer than two phones"):
        unit_quality([0] * len(phones), phones)


def make_frames(told, seed=0, count=3000):
    """Return frames that lie near a phone's code, or anywhere, and the phones."""
    rng = np.random.default_rng(seed)
    phones = rng.integers(10, size=count)
    codes = told * np.random.default_rng(1).normal(size=(10, 8))
    return codes[phones] + 0.3 * rng.normal(size=(count, 8)), phones


def test_units_of_what_tells_phones_read_high_and_of_noise_as_the_control():
    figures = {}
    for told in (0, 2):
        (train, _), (read, phones) = make_frames(told), make_frames(told, seed=5)
        readings = read_units(train, read, phones, phones % 3, 20, [1, 2, 3])
        figures[told] = {reading["measure"]: reading for reading in readings}
        assert list(figures[told]) == list(PHONE_MEASURES)
    for name in PHONE_MEASURES:
        noise, codes = figures[0][name], figures[2][name]
        assert noise["value"] == pytest.approx(noise["control"], abs=0.03)
        assert codes["value"] > codes["control"] + 0.3
        assert codes["selectivity"] == codes["value"] - codes["control"]
        assert len(codes["values"]) == 3 and codes["value"] == pytest.approx(
            np.mean(codes["values"])
        )
    # Chance is about (units - 1) (phones - 1) / (2 frames) nats above 0 (Miller, 1955).
    expected = 19 * 9 / (2 * 3000) / math.log(10)
    assert figures[0]["PNMI"]["control"] == pytest.approx(expected, rel=0.3)


def test_too_few_frames_are_told():
    frames, phones = make_frames(1, count=10)
    assert "10 different frames are too few for 20 units" in read_units(
        frames, frames, phones, phones, 20, [1]
    )
