"""Error rates against slow and closed forms, and against other libraries."""

import itertools
import math
from functools import partial

import jiwer
import numpy as np
import pytest
import torch
from speechbrain.utils.metric_stats import EER

from recipes.common.evaluation.metrics import (
    cer,
    eer,
    eer_threshold,
    error_counts,
    error_rates,
    min_dcf,
)
from tests.evaluation.reference_rates import slow_eer, slow_rates


def random_trials(count=400, separation=1.0, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    scores = separation * labels + rng.normal(size=count)
    return (scores if decimals is None else scores.round(decimals)), labels


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 0.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 1.0),
        ([5, 5, 5, 5, 5], [1, 1, 0, 0, 0], 0.5),
        ([6, 5, 2, 4, 3, 1], [1, 1, 1, 0, 0, 0], 1 / 3),
        ([3, 2, 2, 1], [1, 1, 0, 0], 0.25),
        ([3, 2, 2, 1], [0, 1, 0, 0], 1 / 3),  # 2/3 at the higher of the nearest thresholds
    ],
)
def test_eer_of_small_cases(scores, labels, expected):
    assert eer(scores, labels) == pytest.approx(expected)
    assert eer(scores[::-1], labels[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_eer_and_its_threshold_agree_with_the_slow_ones(decimals):
    for count, seed in itertools.product((7, 20, 150), range(20)):
        scores, labels = random_trials(count, seed=seed, decimals=decimals)
        rate, threshold = slow_eer(scores, labels)
        assert eer(scores, labels) == pytest.approx(rate, abs=1e-12)
        below = max((s for s in scores if s < threshold), default=threshold)
        assert eer_threshold(scores, labels) == pytest.approx((below + threshold) / 2, abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 0])
def test_error_rates_agree_with_the_slow_ones(decimals):
    scores, labels = random_trials(60, decimals=decimals)
    thresholds, missed, accepted = error_rates(scores, labels)
    expected = np.array(slow_rates(scores, labels), float).T
    np.testing.assert_array_equal(thresholds[:-1], expected[0, :-1])
    assert scores.max() < thresholds[-1] < scores.max() + 1e-12
    np.testing.assert_allclose([missed, accepted], expected[1:], atol=1e-12)


def test_decisions_at_the_threshold_make_the_eer():
    scores, labels = random_trials(decimals=1)
    decided = scores >= eer_threshold(scores, labels)
    rates = np.mean(~decided[labels]), np.mean(decided[~labels])
    assert np.mean(rates) == pytest.approx(eer(scores, labels))
    assert abs(rates[0] - rates[1]) < 0.1


def test_eer_agrees_with_speechbrain_to_one_trial():
    for seed in range(5):
        scores, labels = random_trials(seed=seed)
        theirs, _ = EER(torch.tensor(scores[labels]), torch.tensor(scores[~labels]))
        assert eer(scores, labels) == pytest.approx(theirs, abs=1 / labels.sum())


@pytest.mark.parametrize("separation", [0.5, 1.0, 3.0])
def test_eer_of_two_gaussians(separation):
    expected = 0.5 * math.erfc(separation / 2 / math.sqrt(2))
    assert eer(*random_trials(200_000, separation)) == pytest.approx(expected, abs=0.005)


def test_eer_of_shuffled_labels_is_chance():
    scores, labels = random_trials(20_000, separation=3.0)
    assert eer(scores, labels) < 0.1
    assert eer(scores, np.random.default_rng(1).permutation(labels)) == pytest.approx(0.5, abs=0.02)


def test_weights_count_trials_as_often():
    scores, labels = random_trials(decimals=1)
    weights = np.random.default_rng(1).integers(4, size=(5, len(scores)))
    rates = eer(scores, labels, weights)
    for rate, times in zip(rates, weights, strict=True):
        repeated = eer(np.repeat(scores, times), np.repeat(labels, times))
        assert rate == pytest.approx(repeated, abs=1e-12)
        assert rate == pytest.approx(eer(scores, labels, times), abs=1e-12)


FIGURES = (eer, eer_threshold, error_rates, partial(min_dcf, p_target=0.01))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("label", [0, 1])
def test_error_rates_need_both_kinds_of_trials(figure, label):
    with pytest.raises(ValueError, match="target trials and others"):
        figure([0.1, 0.2], [label, label])


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_error_rates_need_finite_scores(figure, bad):
    with pytest.raises(ValueError, match="finite scores"):
        figure([0.1, bad, 0.3], [0, 1, 1])


def slow_min_dcf(scores, labels, p_target):
    """Decide all trials at each threshold and add up what the decisions cost."""
    targets, costs = sum(labels), []
    for threshold in [-math.inf, *scores, math.inf]:
        cost = 0.0
        for score, label in zip(scores, labels, strict=True):
            if label and score < threshold:
                cost += p_target / targets
            elif not label and score >= threshold:
                cost += (1 - p_target) / (len(labels) - targets)
        costs.append(cost)
    return min(costs) / min(costs[0], costs[-1])


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("p_target", [0.01, 0.05, 0.5, 0.9])
def test_min_dcf_agrees_with_the_slow_one(decimals, p_target):
    for seed in range(5):
        scores, labels = random_trials(80, separation=3.0, seed=seed, decimals=decimals)
        expected = slow_min_dcf(scores, labels, p_target)
        assert min_dcf(scores, labels, p_target) == pytest.approx(expected, abs=1e-9)


def test_min_dcf_is_1_where_scores_tell_nothing_and_0_where_they_tell_all():
    assert min_dcf([1, 2, 3, 4], [1, 1, 0, 0], p_target=0.2) == 1.0
    assert min_dcf([1, 1, 1], [1, 0, 0], p_target=0.8) == 1.0
    assert min_dcf([4, 3, 2, 1], [1, 1, 0, 0], p_target=0.01) == 0.0


def random_texts(tokens, join, count=1000):
    """Return references and hypotheses, which differ by edits at random; references have tokens."""
    rng = np.random.default_rng(0)
    references, hypotheses = [], []
    for _ in range(count):
        reference = rng.choice(tokens, size=rng.integers(1, 12)).tolist()
        chances = rng.random((len(reference), 3)) < rng.uniform(0, 0.5)
        hypothesis = []
        for token, (dropped, replaced, extended) in zip(reference, chances, strict=True):
            hypothesis += [] if dropped else [rng.choice(tokens) if replaced else token]
            hypothesis += [rng.choice(tokens)] if extended else []
        references.append(join.join(reference))
        hypotheses.append(join.join(hypothesis))
    return references, hypotheses


@pytest.mark.parametrize("words", ["one two three four", "AA B CH D EY"])
def test_word_and_phone_errors_agree_with_jiwer(words):
    references, hypotheses = random_texts(words.split(), join=" ")
    assert "" in hypotheses
    theirs = jiwer.process_words(references, hypotheses)
    counts = error_counts([r.split() for r in references], [h.split() for h in hypotheses])
    assert counts["errors"] == theirs.insertions + theirs.deletions + theirs.substitutions
    assert counts["tokens"] == theirs.hits + theirs.deletions + theirs.substitutions
    assert counts["insertions"] - counts["deletions"] == theirs.insertions - theirs.deletions
    rate = counts["errors"] / counts["tokens"]
    assert 0.1 < rate == jiwer.wer(references, hypotheses)


def test_character_errors_agree_with_jiwer():
    references, hypotheses = random_texts(list("abc  "), join="")
    pairs = zip(references, hypotheses, strict=True)
    # An empty reference is an error of jiwer 3.
    references, hypotheses = zip(*[pair for pair in pairs if pair[0].strip()], strict=True)
    assert any(text != " ".join(text.split()) for text in references)
    references, hypotheses = list(references), list(hypotheses)
    assert 0.1 < cer(references, hypotheses) == jiwer.cer(references, hypotheses)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a b c", "a x c", (0, 0, 1)),
        ("a b c", "a b x c", (1, 0, 0)),
        ("a b c", "", (0, 3, 0)),
        ("a b c", "b c x", (1, 1, 0)),
        ("a b c", "x y z w", (1, 0, 3)),
    ],
)
def test_edits_of_small_cases(reference, hypothesis, expected):
    counts = error_counts([reference.split()], [hypothesis.split()])
    edits = counts["insertions"], counts["deletions"], counts["substitutions"]
    assert edits == expected
    assert counts["errors"] == sum(expected) and counts["tokens"] == 3


def test_empty_references_count_what_is_inserted():
    assert error_counts([[], ["a"]], [["b", "c"], ["a"]]) == {
        "insertions": 2,
        "deletions": 0,
        "substitutions": 0,
        "errors": 2,
        "tokens": 1,
    }
    assert cer(["", "ab"], ["c", "ab"]) == 0.5


def test_errors_are_pooled_not_averaged():
    assert cer(["a", "abc"], ["x", "abc"]) == 0.25


@pytest.mark.parametrize("references", [[], [""], ["", "  "]])
def test_an_error_rate_needs_a_token(references):
    with pytest.raises(ValueError, match="at least one token"):
        cer(references, ["a"] * len(references))
