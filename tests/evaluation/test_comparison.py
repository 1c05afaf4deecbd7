"""Paired tests cover as they claim, and tradeoffs go by measures that models share."""

import numpy as np
import pytest

from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.bootstrap import group_scores, label_scores
from recipes.common.evaluation.comparison import ATTACKED, compare, tradeoff
from recipes.common.evaluation.folds import split_groups
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import score_trials
from tests.evaluation.report_figures import GOOD, KEY, MODELS, figures_of, scored


def trials(rng, strength, speakers=20, utterances=6, systems=2):
    """Return systems' embeddings, scored on the trials of speakers with voices of `strength`."""
    speaker = np.repeat(np.arange(speakers), utterances)
    voices = rng.normal(size=(speakers, 4))
    first, second = np.triu_indices(len(speaker), 1)
    names = [(1, a, b) for a, b in zip(first, second, strict=True)]
    labels = speaker[first] == speaker[second]
    pairs = np.stack([speaker[first], speaker[second]], 1)
    for _ in range(systems):
        x = strength * voices[speaker] + rng.normal(size=(len(speaker), 4))
        scores = score_trials(dict(enumerate(x)), names)
        told = {"scores": scores, "labels": labels, "speakers": pairs, "seeds": [1]}
        yield {**KEY, "measure": "EER", **told}


@pytest.mark.long
def test_a_model_against_itself_differs_by_nothing():
    rng = np.random.default_rng(0)
    [voices] = trials(rng, 1.0, systems=1)
    own = [scored(rng.normal(size=(3, 12))), voices]
    entries = compare({"joint": own, "again": own}, seed=1)
    assert [entry["measure"] for entry in entries] == ["x", "EER"]
    assert all(e["difference"] == 0 and e["interval"] == [0, 0] for e in entries)


def test_a_difference_is_the_first_less_the_second():
    rng = np.random.default_rng(0)
    low, high = 1 + rng.random((2, 10)), 3 + rng.random((2, 10))
    [entry] = compare({"a": [scored(low)], "b": [scored(high)]}, seed=1)
    assert entry["difference"] == pytest.approx(low.mean() - high.mean())
    assert entry["interval"][0] < entry["difference"] < entry["interval"][1] < 0
    assert entry["relative"] == pytest.approx(low.mean() / high.mean() - 1)
    assert (entry["first"], entry["second"], entry["speakers"]) == ("a", "b", 10)
    assert entry["seeds"] == [0, 1]
    [other] = compare({"b": [scored(high)], "a": [scored(low)]}, seed=1)
    assert other["difference"] == -entry["difference"]
    assert other["interval"] == pytest.approx([-e for e in entry["interval"][::-1]], abs=0.05)
    [negative] = compare({"a": [scored(low)], "b": [scored(-high)]}, seed=1)
    assert negative["relative"] is None


@pytest.mark.long
def test_the_difference_of_eers_is_that_of_the_trials():
    one, other = trials(np.random.default_rng(1), 1.0)
    other["scores"] = other["scores"] + 3 * np.random.default_rng(2).normal(size=len(one["labels"]))
    [entry] = compare({"a": [one], "b": [other]}, seed=1)
    rates = [eer(own["scores"], own["labels"]) for own in (one, other)]
    assert entry["difference"] == pytest.approx(rates[0] - rates[1])
    assert entry["interval"][0] < entry["difference"] < entry["interval"][1] < 0
    assert entry["speakers"] == 20 and entry["probe"] is None


def test_what_pairs_cancels():
    """Speakers differ by far more than the models do."""
    rng = np.random.default_rng(0)
    speakers = rng.normal(size=30)
    a = speakers + 0.05 * rng.normal(size=(1, 30))
    [entry] = compare({"a": [scored(a)], "b": [scored(speakers + 0.1)]}, seed=1)
    assert entry["interval"][1] < -0.05 and np.ptp(entry["interval"]) < 0.1


def covers(entries, truth=0.0):
    return np.mean([low <= truth <= high for low, high in (e["interval"] for e in entries)])


@pytest.mark.long
@pytest.mark.parametrize("speakers", [8, 15, 40])
def test_intervals_of_speakers_cover_as_they_claim(speakers):
    rng = np.random.default_rng(speakers)
    entries = []
    for _ in range(200):
        shared, gap = rng.normal(size=(2, speakers))
        a, b = (
            shared + side * (gap + 0.3) / 2 + 0.3 * rng.normal(size=(3, 1)) / 2 for side in (1, -1)
        )
        entries += compare({"a": [scored(a)], "b": [scored(b)]}, seed=1)
    assert 0.90 <= covers(entries, 0.3) <= 0.98


@pytest.mark.long
@pytest.mark.parametrize(("speakers", "strength"), [(8, 1.0), (15, 0.5), (15, 1.5)])
def test_intervals_of_eers_cover_as_they_claim(monkeypatch, speakers, strength):
    monkeypatch.setattr(bootstrap, "TRIAL_RESAMPLES", 200)
    rng = np.random.default_rng(speakers)
    entries = []
    for _ in range(150):
        one, other = trials(rng, strength, speakers, utterances=3)
        entries += compare({"a": [one], "b": [other]}, seed=1)
    assert 0.90 <= covers(entries) <= 0.98


def read_by_centroids(x, y, groups, seed):
    """Return which items the nearest mean gets right, by the probes' own cross-validation."""
    correct = np.zeros(len(y))
    for train, _, test in split_groups(y, groups, seed):
        means = np.stack([x[train][y[train] == label].mean(0) for label in np.unique(y)])
        correct[test] = np.square(x[test][:, None] - means).sum(2).argmin(1) == y[test]
    return correct


def speaker_probes(rng, strength):
    """Return speakers' scores of a probe for the speaker, and of another model's."""
    y = np.repeat(np.arange(12), 10)
    for _ in range(2):
        x = strength * rng.normal(size=(12, 8))[y] + rng.normal(size=(len(y), 8))
        correct = [read_by_centroids(x, y, np.arange(len(y)), seed) for seed in (1, 2)]
        yield label_scores(correct, y)[1]


def phone_probes(rng, strength):
    """Return speakers' scores of a probe for the phone, and of another model's."""
    speaker, y = np.repeat(np.arange(15), 24), np.tile(np.arange(4), 15 * 6)
    for _ in range(2):
        x = rng.normal(size=(len(y), 6)) + strength * np.eye(6)[y]
        correct = [read_by_centroids(x, y, speaker, seed) for seed in (1, 2)]
        yield np.stack([group_scores(own, np.ones(len(y)), y, speaker) for own in correct])


@pytest.mark.long
@pytest.mark.parametrize(
    ("probes", "strength"), [(speaker_probes, 0.8), (phone_probes, 0.0), (phone_probes, 1.0)]
)
def test_intervals_of_probes_cover_as_they_claim(probes, strength):
    """Two models that tell equally much, each with noise of its own."""
    rng = np.random.default_rng(0)
    entries = []
    for _ in range(150):
        a, b = (scored(scores, probe="linear") for scores in probes(rng, strength))
        entries += compare({"a": [a], "b": [b]}, seed=1)
    assert 0.90 <= covers(entries) <= 0.99


def test_what_cannot_be_paired_is_passed_over_or_refused():
    a = scored(np.ones((1, 4)))
    assert compare({"a": [a], "b": [{**KEY, "value": 1.0}]}, seed=1) == []
    assert compare({"a": [a], "b": [{**a, "factor": "phone"}]}, seed=1) == []
    with pytest.raises(ValueError, match="a and b, .* one speaker"):
        compare({"a": [scored([1.0])], "b": [scored([1.0])]}, seed=1)


def test_the_tradeoff_goes_by_beta_with_measures_that_models_share():
    figures = figures_of(GOOD)[0]
    pooled = {"representation": ATTACKED, "factor": "speaker", "interval": None}
    figures += [
        {
            **pooled,
            "model": "FBANK",
            "measure": "balanced accuracy",
            "probe": "linear",
            "value": 0.6,
        },
        {**pooled, "model": "FBANK", "measure": "balanced accuracy", "probe": "mlp", "value": 0.7},
        {
            **pooled,
            "model": "FBANK",
            "representation": "frame, layer 0",
            "factor": "phone",
            "measure": "balanced accuracy",
            "probe": "linear",
            "value": 0.3,
        },
    ]
    entries = tradeoff(MODELS, figures)
    assert [(e["model"], e["beta"]) for e in entries] == [
        ("beta0", 0.0),
        ("joint", 0.007),
        ("FBANK", None),
    ]
    assert [e["content"]["value"] for e in entries] == pytest.approx([0.6, 0.595, 0.3])
    assert [e["speaker"]["value"] for e in entries] == pytest.approx([0.45, 0.31, 0.6])
    assert entries[0]["content"].keys() == {"measure", "value", "interval"}
    unaligned = [f for f in figures if f["factor"] != "phone" or f["probe"] is None]
    entries = tradeoff(MODELS, unaligned)
    assert {e["content"]["measure"] for e in entries} == {"ABX error across, cosine"}
    assert len(entries) == 2 and tradeoff(MODELS, []) == []
