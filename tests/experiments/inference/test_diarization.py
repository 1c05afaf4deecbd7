"""The diarization error rate against a slow count, another library and cases by hand."""

import itertools

import numpy as np
import pytest

from pretrained.tasks.diarizer import Turn, to_rttm
from recipes.common.data.files import CorpusError
from recipes.experiments.inference.diarization import diarization_errors, read_rttm


def drawn_turns(rng, speakers, most=12.0):
    """Return turns whose times are multiples of 10 ms; other speakers' may overlap."""
    turns = []
    for speaker in speakers:
        times = np.sort(rng.choice(int(most * 100), 6, replace=False)) / 100
        turns += [(a, b, speaker) for a, b in zip(times[::2], times[1::2], strict=True)]
    return turns


def slow_errors(reference, found, collar, skip_overlap):
    """Count milliseconds under every mapping of speakers."""
    times = np.arange(0, 13, 0.001) + 0.0005
    counted = np.ones(len(times), bool)
    for start, end, _ in reference:
        for boundary in (start, end):
            counted &= ~((times > boundary - collar) & (times < boundary + collar))
    sides = []
    for turns in (reference, found):
        names = sorted({speaker for *_, speaker in turns}, key=str)
        spans = {n: [(a, b) for a, b, speaker in turns if speaker == n] for n in names}
        sides.append([sum((times > a) & (times < b) for a, b in spans[n]) > 0 for n in names])
    theirs, ours = (np.array(side).reshape(-1, len(times)) for side in sides)
    if skip_overlap:
        counted &= theirs.sum(0) < 2
    theirs, ours = theirs[:, counted], ours[:, counted]
    agreed = 0
    size = max(len(theirs), len(ours))
    for order in itertools.permutations(range(size)):
        pairs = [(i, j) for i, j in enumerate(order) if i < len(theirs) and j < len(ours)]
        agreed = max(agreed, sum((theirs[i] & ours[j]).sum() for i, j in pairs))
    a, b = theirs.sum(0), ours.sum(0)
    missed, alarms = np.maximum(a - b, 0).sum(), np.maximum(b - a, 0).sum()
    counts = missed, alarms, np.minimum(a, b).sum() - agreed, a.sum()
    return [count / 1000 for count in counts]


CASES = list(itertools.product(range(4), (0.0, 0.25), (False, True)))


@pytest.mark.parametrize(("seed", "collar", "skip_overlap"), CASES)
def test_errors_are_those_of_a_slow_count(seed, collar, skip_overlap):
    rng = np.random.default_rng(seed)
    reference = drawn_turns(rng, "abc"[: 1 + seed % 3])
    found = drawn_turns(rng, range(1 + (seed + 1) % 4))
    errors = diarization_errors(reference, found, collar, skip_overlap)
    assert errors == pytest.approx(slow_errors(reference, found, collar, skip_overlap), abs=1e-6)
    assert errors.rate == pytest.approx(sum(errors[:3]) / errors.total)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("seed", "collar", "skip_overlap"), CASES)
def test_errors_are_those_of_pyannote(seed, collar, skip_overlap):
    reason = "pyannote.metrics is not installed"
    metrics = pytest.importorskip("pyannote.metrics.diarization", reason=reason)
    core = pytest.importorskip("pyannote.core", reason=reason)

    def annotation(turns):
        made = core.Annotation()
        for track, (start, end, speaker) in enumerate(turns):
            made[core.Segment(start, end), track] = str(speaker)
        return made

    rng = np.random.default_rng(seed)
    reference, found = drawn_turns(rng, "abc"), drawn_turns(rng, range(1 + seed))
    rate = metrics.DiarizationErrorRate(collar=2 * collar, skip_overlap=skip_overlap)
    expected = rate(
        annotation(reference),
        annotation(found),
        detailed=True,
        uem=core.Timeline([core.Segment(0, 13)]),
    )
    errors = diarization_errors(reference, found, collar, skip_overlap)
    names = ("missed detection", "false alarm", "confusion", "total")
    assert errors == pytest.approx([expected[name] for name in names], abs=1e-6)


def test_nothing_found_and_nothing_wrong():
    reference = [(1.0, 3.0, "a"), (3.0, 5.0, "b")]
    assert diarization_errors(reference, []) == (3.0, 0.0, 0.0, 3.0)
    swapped = [(1.0, 3.0, "b"), (3.0, 5.0, "a")]
    assert diarization_errors(reference, swapped) == (0.0, 0.0, 0.0, 3.0)
    assert diarization_errors(reference, [(0.0, 9.0, 0)], collar=0.0) == (0.0, 5.0, 2.0, 4.0)
    for nothing in ([], [(1.0, 1.4, "a")]):
        with pytest.raises(ValueError, match="no speech of the reference counts"):
            diarization_errors(nothing, reference)


def test_rttm_comes_back(tmp_path):
    turns = [Turn(0.5, 2.04, 0), Turn(2.04, 3.0, 1)]
    path = tmp_path / "a.rttm"
    path.write_text("SPKR-INFO a 1 <NA> <NA> <NA> adult speaker0\n\n" + to_rttm("a", turns))
    found = read_rttm(path)
    assert [speaker for *_, speaker in found] == ["speaker0", "speaker1"]
    assert np.allclose([turn[:2] for turn in found], [turn[:2] for turn in turns])


@pytest.mark.parametrize(
    "line", ["SPEAKER a 1 0.5", "SPEAKER a 1 x 1 <NA> <NA> s", "SPEAKER a 1 -1 1 <NA> <NA> s"]
)
def test_a_bad_line_is_named(line, tmp_path):
    path = tmp_path / "a.rttm"
    path.write_text(f"SPEAKER a 1 0 1 <NA> <NA> s <NA> <NA>\n{line}\n")
    with pytest.raises(CorpusError, match=f"{path}, line 2: expected SPEAKER"):
        read_rttm(path)
    with pytest.raises(FileNotFoundError):
        read_rttm(tmp_path / "none.rttm")
