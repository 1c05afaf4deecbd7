"""Error rates against slow and closed forms, intervals that cover, and what metrics.json holds."""

import json
import math
import os
import shutil
import time

import numpy as np
import pytest
import torch
from speechbrain.utils.metric_stats import EER

from recipes.common import metrics
from recipes.common.manifest import fingerprint
from recipes.common.metrics import bootstrap_eer_ratio, bootstrap_mean, eer, write_metrics


def slow_eer(scores, labels):
    """Walk the thresholds and stop between the two where misses overtake false acceptances."""
    targets = [s for s, label in zip(scores, labels, strict=True) if label]
    others = [s for s, label in zip(scores, labels, strict=True) if not label]
    missed, accepted = 0.0, 1.0
    for threshold in sorted(set(scores)):
        before = missed, accepted
        missed = sum(s <= threshold for s in targets) / len(targets)
        accepted = sum(s > threshold for s in others) / len(others)
        if missed >= accepted:
            part = (before[1] - before[0]) / (before[1] - before[0] + missed - accepted)
            return before[0] + part * (missed - before[0])


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
    ],
)
def test_eer_of_small_cases(scores, labels, expected):
    assert eer(scores, labels) == pytest.approx(expected)
    assert eer(scores[::-1], labels[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_eer_agrees_with_the_slow_one(decimals):
    for seed in range(20):
        scores, labels = random_trials(150, seed=seed, decimals=decimals)
        assert eer(scores, labels) == pytest.approx(slow_eer(scores, labels), abs=1e-12)


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


@pytest.mark.parametrize("label", [0, 1])
def test_eer_needs_both_kinds_of_trials(label):
    with pytest.raises(ValueError, match="target trials and others"):
        eer([0.1, 0.2], [label, label])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_eer_needs_finite_scores(bad):
    with pytest.raises(ValueError, match="finite scores"):
        eer([0.1, bad, 0.3], [0, 1, 1])


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


def test_ratio_resamples_speakers():
    """A draw is the list of trials in which each speaker stands as often as it was drawn."""
    (good, bad), labels, speakers = speaker_trials(speakers=6, trials=200)
    ratios = []
    counts = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), size=200)
    for drawn in counts:
        copies = [
            drawn[a] if label else drawn[a] * drawn[b]
            for label, (a, b) in zip(labels, speakers, strict=True)
        ]
        kept = np.repeat(np.arange(len(labels)), copies)
        if 0 < labels[kept].sum() < len(kept):
            ratios.append(slow_eer(good[kept], labels[kept]) / slow_eer(bad[kept], labels[kept]))
    _, interval = bootstrap_eer_ratio(good, bad, labels, speakers, seed=3, resamples=200)
    assert interval == pytest.approx(np.percentile(ratios, [2.5, 97.5]))


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
