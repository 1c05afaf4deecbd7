"""Triphone ABX against triple loops and recursive time warping, known answers and refusals."""

import math
from functools import lru_cache
from statistics import mean

import numpy as np
import pytest
import torch

from recipes.common.annotations.triphones import Item
from recipes.common.evaluation import abx as module
from recipes.common.evaluation.abx import abx, dtw
from recipes.common.evaluation.bootstrap import bootstrap_mean
from recipes.common.report.measures import read_abx

CONTEXT = ("t", "s")
ANY = {"max_items": 1000, "max_speakers": 1000}
COSINES = {"cosine": lambda c: 1 - c, "angular": lambda c: math.acos(max(-1, min(1, c))) / math.pi}


def slow_dtw(x, y, distance):
    """Return the cost of the cheapest path by its length: by recursion from its end."""

    def frame_distance(i, j):
        dot = sum(a * b for a, b in zip(x[i], y[j], strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in x[i]) * sum(b * b for b in y[j]))
        return COSINES[distance](round(cosine, 12))

    @lru_cache(None)
    def best(i, j):
        if i == j == 0:
            return frame_distance(0, 0), 1
        before = [(i - 1, j), (i, j - 1), (i - 1, j - 1)]
        paths = [best(k, n) for k, n in before if k >= 0 and n >= 0]
        cost, length = min(paths, key=lambda path: (round(path[0], 9), path[1]))
        return cost + frame_distance(i, j), length + 1

    cost, length = best(len(x) - 1, len(y) - 1)
    return round(cost / length, 9)


def slow_abx(features, items, mode, distance):
    """Return the error, and how often each verdict on a triple was given."""

    @lru_cache(None)
    def between(i, j):
        x, y = (features[items[k].utterance][items[k].start : items[k].stop] for k in (i, j))
        return slow_dtw(x.tolist(), y.tolist(), distance)

    cells, verdicts = {}, []
    for i, a in enumerate(items):
        for j, b in enumerate(items):
            for k, x in enumerate(items):
                if not (a.context == b.context == x.context and a.phone == x.phone != b.phone):
                    continue
                if (
                    a.speaker != b.speaker
                    or i == k
                    or (a.speaker == x.speaker) != (mode == "within")
                ):
                    continue
                to_a, to_b = between(i, k), between(j, k)
                verdicts.append(0.5 if to_a == to_b else float(to_a > to_b))
                cell = (a.phone, b.phone, a.speaker, a.context, x.speaker)
                cells.setdefault(cell, []).append(verdicts[-1])
    levels = cells
    # Cells first, then contexts and speakers of X, then speakers of A and B, then pairs of phones.
    for kept in (5, 3, 2, 0):
        merged = {}
        for name, values in levels.items():
            merged.setdefault(name[:kept], []).append(mean(values) if kept == 5 else values)
        levels = {name: mean(values) for name, values in merged.items()}
    return levels[()], verdicts


def make_case(seed, tied):
    """Return features and items: three speakers, two contexts, up to three phones."""
    rng = np.random.default_rng(seed)
    features, items = {}, []
    for number in range(18):
        utterance, spans = f"u{number}", rng.integers(1, 5, size=2)
        frames = rng.normal(size=(spans.sum(), 4)) + rng.normal(size=4)
        if tied:
            # Eight directions: sums of distances that are equal are so but for rounding.
            frames = rng.integers(1, 4) * np.array([[1, 0], [0, 1], [1, 1], [1, -1]])
            frames = frames[rng.integers(4, size=spans.sum())] * rng.choice([-1, 1])
        features[utterance] = frames
        for start, stop in ((0, spans[0]), (spans[0], spans.sum())):
            context = (("t", "s"), ("n", "d"))[rng.integers(2)]
            speaker, phone = f"s{rng.integers(3)}", "aei"[rng.integers(3)]
            items.append(Item(utterance, speaker, context, phone, int(start), int(stop)))
    return features, items


def make_items(make_frames, speakers=4, phones="ae", each=5, length=(2, 6), seed=0):
    """Return features and items of one context; frames come from speaker, phone, length and rng."""
    rng = np.random.default_rng(seed)
    features, items = {}, []
    for speaker in range(speakers):
        for place, phone in enumerate(phones):
            for number in range(each):
                name, frames = f"{speaker}-{phone}-{number}", int(rng.integers(*length))
                features[name] = make_frames(speaker, place, frames, rng)
                items.append(Item(name, str(speaker), CONTEXT, phone, 0, frames))
    return features, items


def told(result):
    """Return the figures of a result, to compare."""
    return result["error"], result["num_triples"], result["speaker_errors"].tolist()


def random_frames(speaker, phone, length, rng):
    return rng.normal(size=(length, 8))


@pytest.mark.parametrize("seed", range(50))
def test_the_error_is_that_of_triple_loops_and_recursive_warping(seed):
    mode, distance = ("within", "across")[seed % 2], ("cosine", "angular")[seed // 2 % 2]
    tied = seed % 5 < 2
    features, items = make_case(seed, tied)
    expected, verdicts = slow_abx(features, items, mode, distance)
    result = abx(features, items, mode, distance, seed, **ANY)
    assert result["error"] == pytest.approx(expected, abs=1e-9)
    assert result["num_triples"] == len(verdicts)
    assert (0.5 in verdicts) == tied
    assert {0.0, 1.0} <= set(verdicts)


@pytest.mark.parametrize("distance", ["cosine", "angular"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 7), (7, 3), (6, 6)])
def test_warped_distances_are_those_of_the_recursion_and_symmetric(distance, shape):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(20, length, 5)) for length in shape)
    unit = [torch.nn.functional.normalize(torch.from_numpy(z), dim=2) for z in (x, y)]
    expected = [slow_dtw(*pair, distance) for pair in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_allclose(dtw(*unit, distance), expected, atol=2e-9)
    assert torch.equal(dtw(*unit, distance), dtw(*unit[::-1], distance))


def test_of_equally_cheap_paths_the_shortest_counts():
    x, y = torch.eye(2, dtype=torch.float64)
    # Straight on costs 1 + 1; around a corner it costs 1 + 0 + 1.
    assert dtw(torch.stack([x, y])[None], torch.stack([y, x])[None], "cosine").tolist() == [1.0]


def test_the_longest_items_have_room_for_the_greatest_distance():
    x = torch.ones(1, 512, 1, dtype=torch.float64)
    assert dtw(x, -x, "cosine").tolist() == [2.0]
    assert dtw(x, -x, "angular").tolist() == [1.0]
    assert dtw(x[:, :1], -x, "cosine").tolist() == [2.0]


@pytest.mark.parametrize("distance", ["cosine", "angular"])
@pytest.mark.parametrize("mode", ["within", "across"])
def test_labels_give_0_and_constants_half(mode, distance):
    labels = make_items(lambda speaker, phone, length, _: np.eye(3)[[phone] * length], phones="aei")
    assert abx(*labels, mode, distance, seed=0)["error"] == 0
    constant = np.random.default_rng(0).normal(size=16)
    same = make_items(
        lambda speaker, phone, length, rng: rng.random() * np.tile(constant, (length, 1))
    )
    assert abx(*same, mode, distance, seed=0)["error"] == 0.5


def test_items_nearer_to_the_other_phone_give_1():
    features = {"p": np.array([[1, 0], [-1, 0]]), "q": np.array([[0, 1], [0, -1]])}
    items = [Item(p, "1", CONTEXT, p, i, i + 1) for p in "pq" for i in range(2)]
    result = abx(features, items, "within", "cosine", seed=0)
    assert result["error"] == 1 and result["num_triples"] == 8


def test_intervals_of_random_features_cover_half():
    covered, errors = 0, []
    for seed in range(20):
        features, items = make_items(random_frames, speakers=30, each=3, seed=seed)
        result = abx(features, items, "within", "angular", seed=0)
        _, (low, high) = bootstrap_mean(result["speaker_errors"], result["speakers"], seed)
        covered += low <= 0.5 <= high
        errors.append(result["error"])
    assert covered >= 16
    assert abs(mean(errors) - 0.5) < 0.03


def test_a_strong_speaker_and_a_weak_phone_read_well_within_speakers_only():
    def frames(speaker, phone, length, rng):
        own = 5 * np.eye(6)[speaker] + 0.3 * np.eye(6)[4 + phone]
        return own + 0.1 * rng.normal(size=(length, 6))

    features, items = make_items(frames, each=10)
    within, across = (abx(features, items, mode, "cosine", 0) for mode in ("within", "across"))
    assert within["error"] < 0.05
    assert 0.3 < across["error"] < 0.5
    for mode, result in (("within", within), ("across", across)):
        reading = read_abx(features, items, mode, "cosine", 0)
        assert reading["measure"] == f"ABX error {mode}, cosine"
        assert reading["value"] == result["error"]


@pytest.mark.parametrize("mode", ["within", "across"])
def test_the_length_of_frames_does_not_matter(mode):
    features, items = make_items(random_frames)
    scaled = {name: 1e3 * frames / 7 for name, frames in features.items()}
    tensors = {name: torch.from_numpy(frames) for name, frames in features.items()}
    expected = told(abx(features, items, mode, "angular", 0))
    assert told(abx(scaled, items, mode, "angular", 0)) == expected
    assert told(abx(tensors, items, mode, "angular", 0)) == expected


@pytest.mark.parametrize("tied", [False, True])
def test_swapping_a_and_b_turns_the_error_around(tied):
    def frames(speaker, phone, length, rng):
        return np.eye(2)[rng.integers(2, size=length)] if tied else rng.normal(size=(length, 8))

    features, items = make_items(frames, speakers=2)
    # The second speaker has one phone only, so A and B are the first's.
    items = [item for item in items if item.speaker == "0" or item.phone == "a"]
    swap = {"a": "e", "e": "a"}
    swapped = [i._replace(phone=swap[i.phone]) if i.speaker == "0" else i for i in items]
    result, other = (abx(features, i, "across", "cosine", 0, **ANY) for i in (items, swapped))
    assert result["num_triples"] == other["num_triples"] == 5**3
    assert result["error"] + other["error"] == pytest.approx(1, abs=1e-12)
    assert result["error"] != 0.5


def test_contexts_count_alike_then_speakers_then_pairs():
    # Of the two triples of "bad", one is wrong and one equal: 0.75. Speaker 1 has both contexts.
    good, bad = ([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]), ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0])
    cells = [("1", ("t", "s"), good), ("1", ("n", "d"), bad), ("2", ("n", "d"), bad)]
    features, items = {}, []
    for speaker, context, (x, a, b) in cells:
        name = "-".join((speaker, *context))
        features[name] = np.array([x, a, b])
        phones = [("p", 0), ("p", 1), ("q", 2)]
        items += [Item(name, speaker, context, phone, i, i + 1) for phone, i in phones]
    result = abx(features, items, "within", "cosine", 0)
    assert result["error"] == (0.75 / 2 + 0.75) / 2 and result["num_triples"] == 6
    assert result["speakers"].tolist() == ["1", "2"]
    assert result["speaker_errors"].tolist() == [0.375, 0.75]


def test_caps_bound_the_triples_whatever_the_order_of_items():
    features, items = make_items(random_frames, speakers=6, phones="aei", each=7)
    options = {"max_items": 3, "max_speakers": 2}
    within = abx(features, items, "within", "cosine", 0, **options)
    assert within["num_triples"] == 6 * 6 * 3 * 2 * 3  # speakers, pairs, X, A, B
    across = abx(features, items, "across", "cosine", 0, **options)
    assert across["num_triples"] == 6 * 6 * 2 * 3 * 3 * 3
    turned = abx(features, items[::-1], "across", "cosine", 0, **options)
    assert told(turned) == told(across)
    other = abx(features, items, "across", "cosine", 1, **options)
    assert other["error"] != across["error"]
    assert abx(features, items, "across", "cosine", 0, **ANY)["num_triples"] == 6 * 6 * 5 * 7**3


def test_only_the_utterances_of_triples_are_asked_for_and_each_once():
    features, items = make_items(random_frames, phones="ae")
    items.append(Item("alone", "0", ("x", "y"), "a", 0, 1))
    asked = []

    class Asked(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    abx(Asked(features), items, "within", "cosine", 0)
    assert sorted(asked) == sorted(features)


def test_the_size_of_batches_does_not_matter(monkeypatch):
    features, items = make_items(random_frames)
    expected = abx(features, items, "across", "angular", 0)
    monkeypatch.setattr(module, "FRAME_PAIRS_AT_ONCE", 40)
    assert told(abx(features, items, "across", "angular", 0)) == told(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_items": 0}, "max_items is 0"),
        ({"max_speakers": 0}, "max_speakers is 0"),
        ({"items": []}, "0 kinds of item .* no triple within speakers"),
        ({"items": [Item("a", "1", CONTEXT, p, 0, 2) for p in "pq"]}, "no triple within speakers"),
        ({"mode": "across"}, "no triple across speakers: .* another speaker"),
        ({"features": {"a": np.ones((9, 2))}}, "item of a has the frames from 8 to 10.* has 9"),
        ({"features": {"a": np.eye(10, 2)}}, "Frame 2 of a has length 0.0"),
        ({"features": {"a": np.full((10, 2), np.nan)}}, "Frame 0 of a has length nan"),
    ],
)
@pytest.mark.parametrize("distance", ["cosine", "angular"])
def test_what_cannot_be_measured_is_refused(distance, change, message):
    spans = [("p", 0, 4), ("p", 4, 8), ("q", 8, 10)]
    given = {"features": {"a": np.ones((10, 2))}, "mode": "within", "distance": distance, "seed": 0}
    given["items"] = [Item("a", "1", CONTEXT, *span) for span in spans]
    with pytest.raises(ValueError, match=message):
        abx(**{**given, **change})


def test_items_of_more_than_512_frames_are_refused():
    items = [Item("a", "1", CONTEXT, *span) for span in [("p", 0, 4), ("p", 4, 8), ("q", 8, 521)]]
    with pytest.raises(ValueError, match="item of a has 513 frames, more than the 512"):
        abx({"a": np.ones((600, 2))}, items, "within", "cosine", 0)
