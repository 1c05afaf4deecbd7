"""Cosine scores and AS-norm against slow ones, and what they refuse."""

import numpy as np
import pytest
import torch

from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import (
    as_norm,
    change_embeddings,
    cohort_means,
    rate_scorings,
    score_trials,
)


def test_scores_are_cosines_whatever_the_level():
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=5).astype(np.float32) for name in "abc"}
    trials = [(1, "a", "b"), (0, "b", "c"), (1, "a", "a")]
    scores = score_trials(embeddings, trials)
    for score, (_, x, y) in zip(scores, trials, strict=True):
        x, y = torch.tensor(embeddings[x]), torch.tensor(embeddings[y])
        assert score == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), abs=1e-6)
    louder = {name: 3 * value for name, value in embeddings.items()}
    np.testing.assert_allclose(score_trials(louder, trials), scores, atol=1e-6)


def test_scores_name_what_is_wrong():
    embeddings = {"a": np.ones(2), "b": np.zeros(2), "c": np.array([1.0, np.nan])}
    with pytest.raises(ValueError, match="embedding of b"):
        score_trials({name: embeddings[name] for name in "ab"}, [(1, "a", "b")])
    with pytest.raises(ValueError, match="embedding of c"):
        score_trials({name: embeddings[name] for name in "ac"}, [(1, "a", "c")])


def test_standardised_data_has_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    data = {str(i): np.append(rng.normal(3, 2, size=4), 7.0) for i in range(50)}
    values = np.stack(list(change_embeddings(data, data, "standardised").values()))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(0), [1, 1, 1, 1, 0], atol=1e-9)
    values = np.stack(list(change_embeddings(data, data, "centred").values()))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(0), np.stack(list(data.values())).std(0))


def test_scorings_are_rated_by_their_own_scores():
    rng = np.random.default_rng(0)
    voices = 2 + rng.normal(size=(4, 3)) * [1, 1, 9]
    embeddings = {i: voices[i // 5] + rng.normal(size=3) for i in range(20)}
    trials = [(int(a // 5 == b // 5), a, b) for a in range(20) for b in range(a)]
    rates = rate_scorings(embeddings, embeddings, trials)
    assert len(set(rates.values())) == 3
    for scoring, rate in rates.items():
        changed = change_embeddings(embeddings, embeddings, scoring)
        assert rate == eer(score_trials(changed, trials), [label for label, _, _ in trials])
    assert rate_scorings(embeddings, None, trials) == {"plain": rates["plain"]}


def slow_as_norm(embeddings, trials, cohort, top):
    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    scores = []
    for _, enrol, test in trials:
        own, sides = cosine(embeddings[enrol], embeddings[test]), []
        for name in (enrol, test):
            best = sorted((cosine(embeddings[name], c) for c in cohort.values()), reverse=True)
            best = best[:top]
            mean = sum(best) / len(best)
            deviation = (sum((b - mean) ** 2 for b in best) / len(best)) ** 0.5
            sides.append((own - mean) / deviation)
        scores.append(sum(sides) / 2)
    return scores


@pytest.mark.parametrize("top", [2, 5, 100])
def test_as_norm_agrees_with_the_slow_one(top):
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=6) for name in "abcd"}
    cohort = {number: rng.normal(size=6) for number in range(9)}
    trials = [(1, "a", "b"), (0, "c", "d"), (1, "b", "d")]
    expected = slow_as_norm(embeddings, trials, cohort, top)
    np.testing.assert_allclose(as_norm(embeddings, trials, cohort, top), expected, atol=1e-12)
    swapped = [(label, test, enrol) for label, enrol, test in trials]
    np.testing.assert_allclose(as_norm(embeddings, swapped, cohort, top), expected, atol=1e-12)


def test_as_norm_needs_a_cohort():
    with pytest.raises(ValueError, match="2 cohort speakers; there are 1"):
        as_norm({"a": np.ones(2)}, [(1, "a", "a")], {"x": np.ones(2)}, top=5)


def test_as_norm_undoes_a_session_that_is_near_to_everyone():
    rng = np.random.default_rng(0)
    speakers = rng.normal(size=(40, 16))
    common = 3 * rng.normal(size=16)
    trials, labels, embeddings = [], [], {}
    for number in range(200):
        label, speaker = number % 2, number % 20
        other = speaker if label else (speaker + 1 + number // 20) % 20
        odd = common if number % 3 == 0 else 0 * common
        for side, own in (("e", speaker), ("t", other)):
            embeddings[f"{side}{number}"] = speakers[own] + odd + 0.7 * rng.normal(size=16)
        trials.append((label, f"e{number}", f"t{number}"))
        labels.append(label)
    cohort = {n: speakers[n] + (common if n % 3 == 0 else 0 * common) for n in range(20, 40)}
    plain = eer(score_trials(embeddings, trials), labels)
    assert eer(as_norm(embeddings, trials, cohort, top=7), labels) < 0.8 * plain


def test_the_cohort_is_the_speakers_mean_directions():
    embeddings = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 0.5]), "c": np.array([1.0, 1.0])}
    means = cohort_means(embeddings, {"a": "x", "b": "x", "c": "y"})
    np.testing.assert_allclose(means["x"], [0.5, 0.5])
    np.testing.assert_allclose(means["y"], [0.5**0.5, 0.5**0.5])
