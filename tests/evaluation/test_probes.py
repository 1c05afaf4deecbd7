"""Probes read what was put in, chance where nothing was, and say how sure they are."""

import numpy as np
import pytest
import torch
from sklearn.covariance import empirical_covariance
from sklearn.linear_model import LogisticRegression

from recipes.common.evaluation import bootstrap, probe_fitting, probes
from recipes.common.evaluation.bootstrap import bootstrap_groups
from recipes.common.evaluation.probe_fitting import fit_probe
from recipes.common.evaluation.probes import leakage

pytestmark = pytest.mark.long
KINDS = ("linear", "mlp")


def probe(x, y, groups, kind, seed):
    """Return how one kind of probe reads with one seed."""
    return leakage(x, y, groups, [kind], [seed])[kind]


def made_up(seed, strength=0.0, groups=16, items=12, classes=3, dim=6):
    """Return noise with `strength` of a code of the label; each group has every label."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), items)
    y = np.tile(np.arange(classes), groups * items // classes)
    code = np.eye(dim)[:classes]
    return rng.normal(size=(len(y), dim)) + strength * code[y], y, group


def fingerprints(seed, speakers=20, utterances=10, dim=24):
    """Return utterances with a mark of their speaker, the speaker's gender, and the speaker."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), utterances)
    marks = 3 * rng.normal(size=(speakers, dim))
    return marks[speaker] + rng.normal(size=(len(speaker), dim)), speaker % 2, speaker


class Centroids:
    """Reads the class whose mean is nearest: a probe that costs next to nothing."""

    def __init__(self, kind, x, y, valid_x, valid_y, classes, seed):
        self.means = np.stack([x[y == c].mean(0) for c in range(classes)])
        self.log_prior = np.zeros(classes)

    def __call__(self, x):
        return -np.square(x[:, None] - self.means).sum(2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_representation_that_is_the_label_reads_all_of_it(kind):
    _, y, groups = made_up(0, classes=3)
    result = probe(np.eye(3)[y], y, groups, kind, seed=1)
    assert result["value"] == 1.0
    assert result["interval"] == (1.0, 1.0) and result["correct"].all()
    assert result["selectivity"] > 0.4 and abs(result["control"] - 1 / 3) < 0.15
    values = np.random.default_rng(0).normal(size=len(y))
    result = probe(values[:, None], values, groups, kind, seed=1)
    assert result["measure"] == "R2" and result["value"] > 0.98 and result["correct"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_noise_reads_chance(kind):
    runs = [probe(*made_up(seed, groups=12, dim=4), kind, seed) for seed in range(12)]
    chance = runs[0]["chance"]
    assert chance == 1 / 3
    assert 9 <= sum(low <= chance <= high for low, high in (run["interval"] for run in runs))
    assert abs(np.mean([run["value"] for run in runs]) - chance) < 0.03
    assert abs(np.mean([run["control"] for run in runs]) - chance) < 0.03
    assert abs(np.mean([run["selectivity"] for run in runs])) < 0.04


def test_noise_explains_no_variance():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(240, 8)), np.repeat(np.arange(12), 20)
    result = probe(x, rng.normal(size=240), groups, "linear", seed=1)
    low, high = result["interval"]
    assert -0.1 < low <= 0 <= high < 0.1 and abs(result["control"]) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_more_leakage_reads_more(kind):
    runs = [probe(*made_up(3, strength), kind, seed=1) for strength in (0, 0.7, 1.4, 2.8, 5.6)]
    values = [run["value"] for run in runs]
    assert all(np.diff(values) > 0.03) and values[-1] > 0.98
    low, high = runs[0]["interval"]
    assert low <= 1 / 3 <= high and runs[2]["interval"][0] > 1 / 3


def test_variance_explained_is_that_put_in():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 40)
    x = rng.normal(size=(640, 4))
    for noise, truth in ((2.0, 0.2), (1.0, 0.5), (0.5, 0.8)):
        result = probe(x, 7 + x[:, 0] + noise * rng.normal(size=640), groups, "linear", seed=1)
        assert result["value"] == pytest.approx(truth, abs=0.08)
        assert result["interval"][0] < truth < result["interval"][1]


def test_a_leak_that_is_not_linear_is_seen_by_the_mlp_alone():
    rng = np.random.default_rng(0)
    x, groups = rng.normal(size=(800, 4)), np.repeat(np.arange(16), 50)
    y = (x[:, 0] > 0) ^ (x[:, 1] > 0)
    linear, mlp = (probe(x, y, groups, kind, seed=1) for kind in KINDS)
    assert linear["interval"][0] <= 0.5 <= linear["interval"][1]
    assert mlp["value"] > 0.9


def test_what_marks_a_group_is_no_leak_where_groups_are_held_out():
    x, gender, speaker = fingerprints(seed=2)
    by_item = probe(x, gender, np.arange(len(x)), "linear", seed=1)
    by_speaker = probe(x, gender, speaker, "linear", seed=1)
    assert by_item["value"] > 0.85 and by_item["interval"][0] > 0.75
    assert by_speaker["interval"][0] <= 0.5 <= by_speaker["interval"][1]


def test_a_leak_reads_the_same_where_the_representation_hides_it():
    """Each coordinate is loud noise, the same in all but for a thousandth."""
    x, y, groups = made_up(0, strength=4.0, groups=20, items=30)
    mixing = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    loud = 1000 * np.random.default_rng(2).normal(size=(len(x), 1))
    hidden = np.hstack([x, loud]) @ mixing
    plain, scaled = (probe(v, y, groups, "linear", seed=1)["value"] for v in (x, hidden))
    assert plain > 0.95 and scaled == pytest.approx(plain, abs=0.02)


def test_a_linear_probe_is_as_good_as_another_library_makes_it():
    x, y, _ = made_up(0, strength=1.0, groups=20, items=300, classes=6, dim=20)
    train, valid, test = slice(0, 900), slice(900, 1200), slice(1200, None)
    fitted = fit_probe("linear", x[train], y[train], x[valid], y[valid], 6, seed=1)
    theirs = LogisticRegression(C=0.1).fit(x[train], y[train])
    ours = np.mean(fitted(x[test]).argmax(1) == y[test])
    assert ours == pytest.approx(theirs.score(x[test], y[test]), abs=0.015)
    np.testing.assert_allclose(np.exp(fitted(x[test])).sum(1), 1, atol=1e-5)


def test_whitened_features_are_white():
    x = np.random.default_rng(0).normal(size=(200, 5)) @ np.diag([1, 10, 100, 0, 1]) + 3
    x[:, 4] = x[:, 0] + x[:, 1]
    project, variances = probe_fitting.principal_axes(x)
    scales = probe_fitting._input_scales(variances)
    assert len(variances) == 3  # a constant and a sum of others add nothing
    whitened = project(x).numpy() * scales[-1]
    np.testing.assert_allclose(empirical_covariance(whitened), np.eye(3), atol=1e-4)
    standardised = project(x).numpy() * scales[0]
    np.testing.assert_allclose(np.trace(empirical_covariance(standardised)), 3, atol=1e-4)


def test_frequent_classes_do_not_pass_for_a_leak():
    rng = np.random.default_rng(0)
    y, groups = (rng.random(600) < 0.1).astype(int), np.repeat(np.arange(20), 30)
    result = probe(rng.normal(size=(600, 4)), y, groups, "linear", seed=1)
    assert np.mean(y == 0) > 0.85 and result["chance"] == 0.5
    assert result["interval"][0] <= 0.5 <= result["interval"][1]


def slow_balanced_accuracy(correct, y):
    return np.mean([np.mean(correct[y == label]) for label in np.unique(y)])


def test_the_value_is_that_of_the_items_told():
    x, y, groups = made_up(0, strength=1.0)
    names = np.array([f"speaker {g}" for g in groups])
    texts = np.array(["ah", "b", "zh"])[y]
    result = probe(x[5:], texts[5:], names[5:], "linear", seed=1)
    assert result["value"] == pytest.approx(slow_balanced_accuracy(result["correct"][0], y[5:]))
    assert result["value"] == pytest.approx(result["group_scores"].mean())
    assert result["selectivity"] == pytest.approx(result["value"] - result["control"])
    assert result["group_names"].tolist() == np.unique(names).tolist()
    assert result["items"].tolist() == list(range(len(x) - 5))


def coverage(make, truth=None, count=400):
    """Return in how many of the data sets the interval holds the truth, the mean where not told."""
    runs = [probe(*make(seed), "linear", seed) for seed in range(count)]
    truth = np.mean([run["value"] for run in runs]) if truth is None else truth
    return np.mean([run["interval"][0] <= truth <= run["interval"][1] for run in runs])


@pytest.mark.parametrize(
    ("make", "truth"),
    [(made_up, 1 / 3), (lambda s: made_up(s, 1.5), None), (fingerprints, 0.5)],
    ids=["noise", "leak", "fingerprints"],
)
def test_intervals_cover_as_they_claim(monkeypatch, make, truth):
    monkeypatch.setattr(probes, "fit_probe", Centroids)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    assert 0.90 <= coverage(make, truth) <= 0.98


def test_a_seed_decides_everything():
    data = made_up(0, strength=1.0, groups=8)
    first, again, other = (probe(*data, "mlp", seed) for seed in (1, 1, 2))
    assert first["value"] == again["value"] and first["control"] == again["control"]
    assert (first["correct"] == again["correct"]).all()
    assert (first["correct"] != other["correct"]).any()
    state = torch.get_rng_state()
    probe(*data, "linear", seed=1)
    assert torch.equal(state, torch.get_rng_state())


def test_many_items_are_thinned_alike_and_keep_every_class_of_every_group(monkeypatch):
    monkeypatch.setattr(probes, "MAX_ITEMS", 80)
    x, y, groups = made_up(0, groups=10, items=30)
    y = np.where(np.arange(len(y)) % 30 == 0, 3, y)
    first, other = (probe(v, y, groups, "linear", s) for v, s in ((x, 1), (x[:, ::-1] + 1, 2)))
    items = first["items"]
    assert len(items) == first["correct"].shape[1] == 80 and (items == other["items"]).all()
    assert len(set(zip(y[items], groups[items], strict=True))) == 40


def test_leakage_is_the_mean_over_seeds_with_an_interval_over_both():
    data = made_up(0, strength=1.0, groups=8)
    result = leakage(*data, ["linear"], seeds=[1, 2, 3])["linear"]
    runs = [probe(*data, "linear", seed) for seed in (1, 2, 3)]
    values = [run["value"] for run in runs]
    assert result["values"] == values
    for name in ("value", "control", "selectivity"):
        assert result[name] == pytest.approx(np.mean([run[name] for run in runs]))
    assert result["interval"][0] < result["value"] < result["interval"][1]
    assert result["correct"].shape == (3, 96) and result["group_scores"].shape == (3, 8)
    scores = np.arange(3.0)[:, None] + np.zeros((3, 8))
    assert np.ptp(bootstrap_groups(scores, seed=1)) > 1  # seeds that differ widen the interval


def test_what_cannot_be_probed_is_refused():
    x, y, groups = made_up(0)
    with pytest.raises(ValueError, match="3 groups: a probe needs at least 4"):
        probe(x, y, groups % 3, "linear", seed=1)
    with pytest.raises(ValueError, match="No feature varies"):
        probe(np.ones_like(x), y, groups, "linear", seed=1)
