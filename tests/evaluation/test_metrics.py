"""Error rates against slow and closed forms, intervals that cover, and what files hold."""

import itertools
import json
import math
import os
import shutil
import time
from fractions import Fraction
from functools import partial

import jiwer
import numpy as np
import pytest
import torch
from speechbrain.utils.metric_stats import EER

from recipes.common.data.manifest import fingerprint
from recipes.common.evaluation import metrics
from recipes.common.evaluation.metrics import (
    bootstrap_eer_ratio,
    bootstrap_mean,
    bootstrap_trials,
    cer,
    eer,
    eer_threshold,
    error_counts,
    error_rates,
    min_dcf,
    wer,
    write_metrics,
)


def eer_interval(scores, labels, speakers, seed, resamples=1000):
    """Return the interval of an equal error rate."""
    return bootstrap_trials(partial(eer, scores, labels), labels, speakers, seed, resamples)


def slow_rates(scores, labels):
    """Return (threshold, misses, false acceptances) in fractions: one loop for each threshold."""
    targets = [s for s, label in zip(scores, labels, strict=True) if label]
    others = [s for s, label in zip(scores, labels, strict=True) if not label]
    rates = []
    for threshold in [*sorted(set(scores)), math.inf]:
        missed = Fraction(sum(s < threshold for s in targets), len(targets))
        accepted = Fraction(sum(s >= threshold for s in others), len(others))
        rates.append((threshold, missed, accepted))
    return rates


def slow_eer(scores, labels):
    """Return the mean of both rates where they are nearest, and the threshold: the first of all."""
    threshold, missed, accepted = min(slow_rates(scores, labels), key=lambda r: abs(r[1] - r[2]))
    return float((missed + accepted) / 2), threshold


def random_trials(count=400, separation=1.0, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    scores = separation * labels + rng.normal(size=count)
    return (scores if decimals is None else scores.round(decimals)), labels


def speaker_trials(speakers=12, trials=600, seed=0, deviation=0.3):
    """Return labels, speakers and the scores of two systems that share difficult speakers."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(speakers, size=(trials, 2))
    pairs[::2, 1] = pairs[::2, 0]
    labels = pairs[:, 0] == pairs[:, 1]
    difficulty = deviation * rng.normal(size=speakers)[pairs].sum(1)
    scores = [labels * d + difficulty + rng.normal(size=trials) for d in (2.0, 1.0)]
    return scores, labels, pairs


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


@pytest.mark.parametrize("figure", [eer, eer_threshold, error_rates, min_dcf])
@pytest.mark.parametrize("label", [0, 1])
def test_error_rates_need_both_kinds_of_trials(figure, label):
    with pytest.raises(ValueError, match="target trials and others"):
        figure([0.1, 0.2], [label, label])


@pytest.mark.parametrize("figure", [eer, eer_threshold, error_rates, min_dcf])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_error_rates_need_finite_scores(figure, bad):
    with pytest.raises(ValueError, match="finite scores"):
        figure([0.1, bad, 0.3], [0, 1, 1])


def test_error_rates_need_a_label_for_each_score():
    with pytest.raises(ValueError, match=r"\(3,\) scores .* \(4,\) labels"):
        eer([0.1, 0.2, 0.3], [0, 1, 1, 1])


def slow_min_dcf(scores, labels, p_target, c_miss, c_fa):
    """Decide all trials at each threshold and add up what the decisions cost."""
    targets, costs = sum(labels), []
    for threshold in [-math.inf, *scores, math.inf]:
        cost = 0.0
        for score, label in zip(scores, labels, strict=True):
            if label and score < threshold:
                cost += c_miss * p_target / targets
            elif not label and score >= threshold:
                cost += c_fa * (1 - p_target) / (len(labels) - targets)
        costs.append(cost)
    return min(costs) / min(costs[0], costs[-1])


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("costs", [(0.01, 1.0, 1.0), (0.05, 10.0, 1.0), (0.5, 1.0, 3.0)])
def test_min_dcf_agrees_with_the_slow_one(decimals, costs):
    for seed in range(5):
        scores, labels = random_trials(80, separation=3.0, seed=seed, decimals=decimals)
        expected = slow_min_dcf(scores, labels, *costs)
        assert min_dcf(scores, labels, *costs) == pytest.approx(expected, abs=1e-9)


def test_min_dcf_is_that_of_a_target_probability_of_one_percent():
    scores, labels = random_trials(separation=3.0)
    expected = slow_min_dcf(scores, labels, 0.01, 1.0, 1.0)
    assert min_dcf(scores, labels) == pytest.approx(expected) and 0.1 < expected < 0.9


def test_min_dcf_is_1_where_scores_tell_nothing_and_0_where_they_tell_all():
    assert min_dcf([1, 2, 3, 4], [1, 1, 0, 0], p_target=0.2) == 1.0
    assert min_dcf([1, 1, 1], [1, 0, 0], p_target=0.8) == 1.0
    assert min_dcf([4, 3, 2, 1], [1, 1, 0, 0]) == 0.0


@pytest.mark.parametrize("costs", [(0.0, 1, 1), (1.0, 1, 1), (0.1, 0, 1), (0.1, 1, -1)])
def test_min_dcf_needs_a_probability_and_positive_costs(costs):
    with pytest.raises(ValueError, match=f"p_target is {costs[0]}"):
        min_dcf([1, 2], [0, 1], *costs)


def test_ratio_is_paired():
    (good, bad), labels, speakers = speaker_trials()
    assert bootstrap_eer_ratio(bad, bad, labels, speakers, seed=1) == (1.0, (1.0, 1.0))
    ratio, (low, high) = bootstrap_eer_ratio(good, bad, labels, speakers, seed=1)
    assert ratio == pytest.approx(eer(good, labels) / eer(bad, labels))
    assert low < ratio < high < 1


def test_ratio_depends_on_its_seed_alone():
    scores, labels, speakers = speaker_trials()
    results = [bootstrap_eer_ratio(*scores, labels, speakers, seed, 100) for seed in (1, 1, 2)]
    assert results[0] == results[1] and results[0][1] != results[2][1]


def test_intervals_resample_speakers():
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
    interval = eer_interval(good, labels, speakers, seed=3, resamples=120)
    assert interval == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))
    _, interval = bootstrap_eer_ratio(good, bad, labels, speakers, seed=3, resamples=120)
    assert interval == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))


def test_interval_depends_on_its_seed_alone():
    (scores, _), labels, speakers = speaker_trials()
    first, again, other = (eer_interval(scores, labels, speakers, seed, 100) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] < eer(scores, labels) < first[1]


def test_interval_is_nan_where_no_draw_has_both_kinds_of_trials():
    speakers = [[0, 0], *([0, other] for other in range(1, 40))]
    labels, scores = [1] + [0] * 39, np.arange(40.0)
    drawn = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40))
    assert drawn[0] == 0
    assert np.isnan(eer_interval(scores, labels, speakers, seed=2, resamples=1)).all()
    assert not np.isnan(eer_interval(scores, labels, speakers, seed=2, resamples=50)).any()


def test_intervals_need_both_kinds_of_trials():
    with pytest.raises(ValueError, match="target trials and others"):
        eer_interval([0.1, 0.2], [1, 1], [[0, 0], [1, 1]], seed=1)
    with pytest.raises(ValueError, match="target trials and others"):
        bootstrap_eer_ratio([0.1, 0.2], [0.1, 0.3], [0, 0], [[0, 1], [1, 2]], seed=1)


def test_interval_of_an_eer_covers():
    """Over data sets of new speakers, 95 % intervals hold the true rate."""
    truth = 0.5 * math.erfc(0.5 / 2**0.5)
    held = 0
    for seed in range(40):
        (_, scores), labels, pairs = speaker_trials(40, 1500, seed=seed, deviation=0.0)
        low, high = eer_interval(scores, labels, pairs, seed=1, resamples=200)
        held += low <= truth <= high
        assert high - low < 0.15
    assert 33 <= held


def test_interval_of_a_ratio_widens_with_fewer_speakers():
    def width(speakers):
        scores, labels, pairs = speaker_trials(speakers, trials=2000, deviation=1.0)
        low, high = bootstrap_eer_ratio(*scores, labels, pairs, seed=1, resamples=200)[1]
        return high - low

    assert width(8) > 1.5 * width(80)


def test_interval_of_a_ratio_covers():
    """Over data sets of new speakers, 95 % intervals hold the true ratio; 40 speakers suffice."""
    truth = 0.5 * math.erfc(1 / 2**0.5) / (0.5 * math.erfc(0.5 / 2**0.5))
    held = 0
    for seed in range(40):
        scores, labels, pairs = speaker_trials(40, 1500, seed=seed, deviation=0.0)
        low, high = bootstrap_eer_ratio(*scores, labels, pairs, seed=1, resamples=200)[1]
        held += low <= truth <= high
    assert 33 <= held


def test_mean_weighs_speakers_alike():
    mean, interval = bootstrap_mean([0.0, 0.0, 0.0, 4.0], ["a", "a", "a", "b"], seed=1)
    assert mean == 2.0 and interval == (0.0, 4.0)


def test_interval_of_a_mean_covers_where_utterances_of_a_speaker_are_alike():
    """Resampling utterances instead would hold the truth in a third of the cases."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(25), 40)
    held = 0
    for seed in range(100):
        values = rng.normal(size=25)[speakers] + 0.3 * rng.normal(size=len(speakers))
        low, high = bootstrap_mean(values, speakers, seed, resamples=400)[1]
        held += low <= 0 <= high
    assert 86 <= held <= 99


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
    assert 0.1 < wer(references, hypotheses) == jiwer.wer(references, hypotheses)


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
    assert wer(["", "a b"], ["c", ""]) == 1.5
    assert cer(["", "ab"], ["c", "ab"]) == 0.5


def test_errors_are_pooled_not_averaged():
    assert wer(["a", "a b c"], ["x", "a b c"]) == 0.25


@pytest.mark.parametrize("rate", [wer, cer])
@pytest.mark.parametrize("references", [[], [""], ["", "  "]])
def test_an_error_rate_needs_a_token(rate, references):
    with pytest.raises(ValueError, match="at least one token"):
        rate(references, ["a"] * len(references))


@pytest.mark.parametrize("rate", [wer, cer])
def test_an_error_rate_needs_a_hypothesis_for_each_reference(rate):
    with pytest.raises(ValueError, match="1 hypotheses do not fit 2 references"):
        rate(["a", "b"], ["a"])


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("ID,duration,wav,spk_id\na,1.0,$data_root/a.wav,1\n")
    return path


def test_metrics_tell_what_they_were_made_from(tmp_path, manifest):
    path = tmp_path / "run" / "metrics.json"
    figures = {"eer": 0.1, "ratio": {"interval": [0.5, None]}, "steps": 3}
    write_metrics(path, figures, seed=7, manifests=[manifest], start_time=time.time() - 2)
    written = json.loads(path.read_text())
    assert written["figures"] == figures and written["seed"] == 7
    assert written["data"] == fingerprint([manifest])
    assert 2 <= written["seconds"] < 60 and written["threads"] == torch.get_num_threads()
    assert written["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(written["versions"]) == {"python", "torch", "torchaudio", "speechbrain", "numpy"}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_a_figure_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, manifest, bad):
    path = tmp_path / "metrics.json"
    path.write_text("the last good ones")
    with pytest.raises(ValueError, match=r"valid\.loss\[1\]"):
        figures = {"steps": 1, "valid": {"loss": [0.5, bad]}}
        write_metrics(path, figures, seed=7, manifests=[manifest], start_time=0)
    assert path.read_text() == "the last good ones"


def test_an_interrupted_write_leaves_the_last_metrics(tmp_path, manifest, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("the last good ones")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_metrics(path, {"eer": 0.1}, seed=7, manifests=[manifest], start_time=0)
    assert path.read_text() == "the last good ones"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_tells_of_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "__file__", str(tmp_path / "metrics.py"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert metrics._commit() is None

    def git(*arguments):
        metrics.subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    commit = metrics._commit()
    assert len(commit) == 40
    (tmp_path / "changed.py").write_text("")
    assert metrics._commit() == f"{commit}+"
