"""Intervals over speakers cover as they claim, and are those of draws made one by one."""

import math
from functools import partial

import numpy as np
import pytest

from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.bootstrap import (
    bootstrap_eer,
    bootstrap_eer_ratio,
    bootstrap_groups,
    bootstrap_mean,
    group_scores,
    label_scores,
)
from recipes.common.evaluation.metrics import eer
from tests.evaluation.reference_rates import slow_eer


@pytest.fixture
def resample(monkeypatch):
    """Return a function that sets how often the speakers of trials are drawn."""
    return partial(monkeypatch.setattr, bootstrap, "TRIAL_RESAMPLES")


def eer_interval(scores, labels, speakers, seed):
    """Return the interval of an equal error rate."""
    return bootstrap_eer(scores, labels, speakers, seed)[1]


def speaker_trials(speakers=12, trials=600, seed=0, deviation=0.3):
    """Return labels, speakers and the scores of two systems that share difficult speakers."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(speakers, size=(trials, 2))
    pairs[::2, 1] = pairs[::2, 0]
    labels = pairs[:, 0] == pairs[:, 1]
    difficulty = deviation * rng.normal(size=speakers)[pairs].sum(1)
    scores = [labels * d + difficulty + rng.normal(size=trials) for d in (2.0, 1.0)]
    return scores, labels, pairs


def test_ratio_is_paired():
    (good, bad), labels, speakers = speaker_trials()
    same = bootstrap_eer_ratio(bad, bad, labels, speakers, seed=1)
    assert same == {"value": 1.0, "interval": [1.0, 1.0]}
    ratio, (low, high) = bootstrap_eer_ratio(good, bad, labels, speakers, seed=1).values()
    assert ratio == pytest.approx(eer(good, labels) / eer(bad, labels))
    assert low < ratio < high < 1


def test_ratio_depends_on_its_seed_alone():
    scores, labels, speakers = speaker_trials()
    results = [bootstrap_eer_ratio(*scores, labels, speakers, seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] and results[0]["interval"] != results[2]["interval"]


@pytest.mark.long
def test_intervals_resample_speakers(resample):
    """A draw is the list of trials in which each speaker stands as often as it was drawn."""
    (good, bad), labels, speakers = speaker_trials(speakers=6, trials=200)
    rates, ratios = [], []
    counts = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=120)
    for drawn in counts:
        copies = [
            drawn[a] if label else drawn[a] * drawn[b]
            for label, (a, b) in zip(labels, speakers, strict=True)
        ]
        kept = np.repeat(np.arange(len(labels)), copies)
        if 0 < labels[kept].sum() < len(kept):
            rates.append(slow_eer(good[kept], labels[kept])[0])
            ratios.append(rates[-1] / slow_eer(bad[kept], labels[kept])[0])
    resample(120)
    interval = eer_interval(good, labels, speakers, seed=3)
    assert interval == pytest.approx(np.percentile(rates, [2.5, 97.5]).tolist())
    interval = bootstrap_eer_ratio(good, bad, labels, speakers, seed=3)["interval"]
    assert interval == pytest.approx(np.percentile(ratios, [2.5, 97.5]).tolist())


def test_interval_depends_on_its_seed_alone():
    (scores, _), labels, speakers = speaker_trials()
    first, again, other = (eer_interval(scores, labels, speakers, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] < eer(scores, labels) < first[1]


def test_there_is_no_interval_where_no_draw_has_both_kinds_of_trials(resample):
    speakers = [[0, 0], *([0, other] for other in range(1, 40))]
    labels, scores = [1] + [0] * 39, np.arange(40.0)
    drawn = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40))
    assert drawn[0] == 0
    resample(1)
    assert eer_interval(scores, labels, speakers, seed=2) is None
    resample(50)
    assert eer_interval(scores, labels, speakers, seed=2) is not None


def test_intervals_need_both_kinds_of_trials():
    with pytest.raises(ValueError, match="target trials and others"):
        eer_interval([0.1, 0.2], [1, 1], [[0, 0], [1, 1]], seed=1)
    with pytest.raises(ValueError, match="target trials and others"):
        bootstrap_eer_ratio([0.1, 0.2], [0.1, 0.3], [0, 0], [[0, 1], [1, 2]], seed=1)


def test_interval_of_an_eer_covers(resample):
    """Over data sets of new speakers, 95 % intervals hold the true rate."""
    truth = 0.5 * math.erfc(0.5 / 2**0.5)
    held = 0
    resample(200)
    for seed in range(40):
        (_, scores), labels, pairs = speaker_trials(40, 1500, seed=seed, deviation=0.0)
        low, high = eer_interval(scores, labels, pairs, seed=1)
        held += low <= truth <= high
        assert high - low < 0.15
    assert 33 <= held


def test_interval_of_a_ratio_widens_with_fewer_speakers(resample):
    resample(200)

    def width(speakers):
        scores, labels, pairs = speaker_trials(speakers, trials=2000, deviation=1.0)
        low, high = bootstrap_eer_ratio(*scores, labels, pairs, seed=1)["interval"]
        return high - low

    assert width(8) > 1.5 * width(80)


@pytest.mark.long
def test_interval_of_a_ratio_covers(resample):
    """Over data sets of new speakers, 95 % intervals hold the true ratio; 40 speakers suffice."""
    truth = 0.5 * math.erfc(1 / 2**0.5) / (0.5 * math.erfc(0.5 / 2**0.5))
    held = 0
    resample(200)
    for seed in range(40):
        scores, labels, pairs = speaker_trials(40, 1500, seed=seed, deviation=0.0)
        low, high = bootstrap_eer_ratio(*scores, labels, pairs, seed=1)["interval"]
        held += low <= truth <= high
    assert 33 <= held


def test_mean_weighs_speakers_alike():
    mean, interval = bootstrap_mean([0.0, 0.0, 0.0, 4.0], ["a", "a", "a", "b"], seed=1)
    assert mean == 2.0 and interval == (0.0, 4.0)


def test_interval_of_a_mean_covers_where_utterances_of_a_speaker_are_alike(monkeypatch):
    """Resampling utterances instead would hold the truth in a third of the cases."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(25), 40)
    held = 0
    for seed in range(100):
        values = rng.normal(size=25)[speakers] + 0.3 * rng.normal(size=len(speakers))
        low, high = bootstrap_mean(values, speakers, seed)[1]
        held += low <= 0 <= high
    assert 86 <= held <= 99


def test_label_scores_average_to_the_balanced_accuracy():
    correct, y = [[1, 0, 1, 1], [0, 0, 1, 1]], np.array(["a", "a", "b", "a"])
    names, scores = label_scores(correct, y)
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(scores, [[2 / 3, 1], [1 / 3, 1]])


def slow_balanced_accuracy(correct, y):
    return np.mean([np.mean(correct[y == label]) for label in np.unique(y)])


def test_group_scores_spread_as_the_measure_does():
    """Against balanced accuracy worked out anew for each draw of the groups."""
    rng = np.random.default_rng(0)
    groups = rng.integers(40, size=2000)
    y = (rng.random(2000) < 0.2).astype(int)
    correct = rng.random(2000) < np.array([0.9, 0.5])[y] - 0.3 * (groups % 2)
    draws = []
    for _ in range(400):
        places = [np.flatnonzero(groups == g) for g in rng.integers(40, size=40)]
        drawn = np.concatenate(places)
        draws.append(slow_balanced_accuracy(correct[drawn], y[drawn]))
    scores = group_scores(correct, np.ones(2000), y, groups)
    assert scores.mean() == pytest.approx(slow_balanced_accuracy(correct, y))
    assert scores.std() / 40**0.5 == pytest.approx(np.std(draws), rel=0.15)


def test_an_interval_of_many_groups_is_that_of_the_plain_bootstrap():
    scores = np.random.default_rng(0).normal(size=400)
    expected = bootstrap_mean(scores, np.arange(400), seed=1)[1]
    own = bootstrap_groups(scores[None], seed=1, paired_use=1.0)
    np.testing.assert_allclose(own, expected, atol=0.01)
    wide = bootstrap_groups(scores[None], seed=1)
    assert np.ptp(wide) == pytest.approx(1.75**0.5 * np.ptp(own), rel=1e-6)


@pytest.mark.parametrize(("seeds", "spread"), [(2, 0.0), (3, 0.0), (2, 0.04), (3, 0.02), (3, 0.04)])
def test_intervals_over_few_seeds_cover_as_they_claim(seeds, spread):
    """Speakers differ, seeds differ, and each speaker differs a little with each seed."""
    rng, held = np.random.default_rng(seeds), []
    for _ in range(400):
        scores = 0.1 * rng.normal(size=35) + spread * rng.normal(size=(seeds, 1))
        scores = scores + 0.05 * rng.normal(size=(seeds, 35))
        low, high = bootstrap.bootstrap_groups(scores, seed=1, paired_use=1.0)
        held.append(low <= 0 <= high)
    assert 0.88 <= np.mean(held) <= 0.985


def test_one_seed_leaves_an_interval_as_it_is():
    assert bootstrap.widen_for_seeds(0.5, (0.4, 0.7), [0.5], groups=30) == (0.4, 0.7)


def test_seeds_widen_by_both_variances_and_their_degrees_of_freedom():
    """Where groups hardly vary, the interval is Student's of the seeds."""
    widen = bootstrap.widen_for_seeds
    low, high = widen(0.5, (0.5 - 1e-9, 0.5 + 1e-9), [0.4, 0.5, 0.6], groups=30)
    assert high - 0.5 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert widen(0.5, (0.5, 0.5), [0.4, 0.5, 0.6], groups=30) == pytest.approx((low, high))
    low, high = widen(0.5, (0.45, 0.6), [0.5, 0.5], groups=30)  # seeds agree
    assert (low, high) == (0.45, 0.6)
