"""Paired tests cover as they claim, and the verdict is what the figures support."""

import numpy as np
import pytest

from recipes.common.evaluation import comparison
from recipes.common.evaluation.comparison import (
    KEPT_MARGIN,
    RULES,
    compare,
    label_scores,
    tradeoff,
    verdict,
)
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.probes import group_scores, split_groups
from recipes.common.evaluation.verification import score_trials

KEY = {"representation": "frame, pooled", "factor": "speaker", "measure": "x", "probe": None}


def scored(scores, **fields):
    scores = np.atleast_2d(scores)
    names = [f"speaker {n}" for n in range(scores.shape[1])]
    seeds = list(range(len(scores)))
    return {**KEY, "group_names": names, "group_scores": scores, "seeds": seeds, **fields}


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
        yield {**KEY, "measure": "EER", "scores": scores, "labels": labels, "speakers": pairs}


def test_a_model_against_itself_differs_by_nothing():
    rng = np.random.default_rng(0)
    [voices] = trials(rng, 1.0, systems=1)
    own = [scored(rng.normal(size=(3, 12))), voices]
    entries = compare({"joint": own}, seed=1, pairs=[("joint", "joint")])
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
    [other] = compare({"a": [scored(low)], "b": [scored(high)]}, 1, pairs=[("b", "a")])
    assert other["difference"] == -entry["difference"]
    assert other["interval"] == pytest.approx([-e for e in entry["interval"][::-1]], abs=0.05)
    [negative] = compare({"a": [scored(low)], "b": [scored(-high)]}, seed=1)
    assert negative["relative"] is None


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
    monkeypatch.setattr(comparison, "RESAMPLES", 200)
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
    assert 0.90 <= covers(entries) <= 0.98


def test_label_scores_average_to_the_balanced_accuracy():
    correct, y = [[1, 0, 1, 1], [0, 0, 1, 1]], np.array(["a", "a", "b", "a"])
    names, scores = label_scores(correct, y)
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(scores, [[2 / 3, 1], [1 / 3, 1]])


def test_what_cannot_be_paired_is_passed_over_or_refused():
    a = scored(np.ones((1, 4)))
    assert compare({"a": [a], "b": [{**KEY, "value": 1.0}]}, seed=1) == []
    assert compare({"a": [a], "b": [{**a, "factor": "phone"}]}, seed=1) == []
    cases = [
        ("no model 'c'", {"a": [a], "b": [a]}, [("a", "c")]),
        ("group_names are", {"a": [a], "b": [{**a, "group_names": list("wxyz")}]}, None),
        ("seeds are", {"a": [a], "b": [{**a, "seeds": [7]}]}, None),
        ("one speaker", {"a": [scored([1.0])], "b": [scored([1.0])]}, None),
    ]
    one, other = trials(np.random.default_rng(0), 1.0, speakers=4)
    other["labels"] = ~other["labels"]
    cases.append(("labels of the trials differ", {"a": [one], "b": [other]}, None))
    for message, measures, pairs in cases:
        with pytest.raises(ValueError, match=message):
            compare(measures, 1, pairs)


LAYERS = ("frame, layer 0", "frame, layer 3")
# Figures of a control and by how much the joint model's are higher, all as its claim has it.
GOOD = {
    ("frame, pooled", "speaker", "balanced accuracy", "linear"): (0.45, -0.14),
    ("frame, pooled", "speaker", "balanced accuracy", "mlp"): (0.48, -0.15),
    ("frame, pooled", "speaker", "EER", None): (0.22, 0.08),
    ("utterance", "phone", "R2", "linear"): (0.30, -0.10),
    ("z and u", "z and u", "InfoNCE", None): (1.60, -0.66),
    ("z and u", "z and u", "likelihood gain", None): (0.20, -0.10),
    ("z and u", "z and u", "CLUB", None): (5.0, 9.0),
    ("frame, layer 0", "phone", "balanced accuracy", "linear"): (0.40, -0.30),
    ("frame, layer 3", "phone", "balanced accuracy", "linear"): (0.60, -0.005),
    ("frame, layer 3", "phone", "ABX error across, cosine", None): (0.10, 0.003),
    ("utterance", "speaker", "EER", None): (0.08, 0.001),
}
MODELS = [
    {"name": "joint", "kind": "model", "folder": None, "beta": 0.007, "train_seed": 1},
    {"name": "beta0", "kind": "model", "folder": None, "beta": 0.0, "train_seed": 1},
    {"name": "FBANK", "kind": "fbank", "folder": None, "beta": None, "train_seed": None},
]
SPEAKER_EER = ("frame, pooled", "speaker", "EER", None)
EMBEDDING_EER = ("utterance", "speaker", "EER", None)
LINEAR = ("frame, pooled", "speaker", "balanced accuracy", "linear")


def figures_of(table, joint="joint", control="beta0", flip=False, half=0.01):
    """Return figures and comparisons with intervals of `half` on each side of a difference."""
    figures, comparisons = [], []
    for key, (value, difference) in table.items():
        head = dict(zip(("representation", "factor", "measure", "probe"), key, strict=True))
        for name, own in ((joint, value + difference), (control, value)):
            figure = {"model": name, **head, "value": own, "interval": [own - half, own + half]}
            chance = 0.5 if key[2] == "EER" else None
            figures.append({**figure, "chance": chance, "independent": 0.0})
        names = (control, joint) if flip else (joint, control)
        shown = -difference if flip else difference
        ends = [shown - half, shown + half]
        entry = {"first": names[0], "second": names[1], **head, "difference": shown}
        comparisons.append(
            {**entry, "interval": ends, "relative": None, "speakers": 30, "seeds": [1]}
        )
    return figures, comparisons


def judge(changes=None, models=MODELS, **options):
    return verdict(models, *figures_of({**GOOD, **(changes or {})}, **options))


@pytest.mark.parametrize("flip", [False, True])
def test_a_verdict_supports_where_leakage_is_lower_at_kept_quality(flip):
    found = judge(flip=flip)
    assert found["supports"] is True and len(found["sentences"]) == 2
    first, second = found["sentences"]
    assert first.startswith("Joint training does what it is for") and "beta 0.007" in first
    assert "give the speaker away in 31.0 % of utterances (45.0 % without)" in second
    assert "by their embeddings in 8.1 % of comparisons (8.0 % without)" in second
    reasons = "\n".join(found["reasons"])
    assert "balanced accuracy, linear probe 31.0 against 45.0 % (-14.0, -15.0 to -13.0)" in reasons
    assert "InfoNCE 0.94 against 1.6 nats (-0.66, -0.67 to -0.65), 30 speakers: less" in reasons
    assert "CLUB" not in reasons and "layer 0" not in reasons and "not judged" not in reasons
    assert "of which there is 1 for each beta" in reasons


@pytest.mark.parametrize("key", [key for key in GOOD if key[2] != "CLUB" and key[0] != LAYERS[0]])
def test_each_judged_figure_can_make_the_verdict_fail(key):
    value, difference = GOOD[key]
    kept = abs(difference) < 0.01
    wrong = 30 * difference if kept else -difference
    found = judge({key: (value, wrong)})
    assert found["supports"] is False
    word = "not shown to be kept" if kept and abs(wrong) <= 0.01 else "worse" if kept else "more"
    assert sum(line.endswith(f": {word}.") for line in found["reasons"]) == 1
    assert "not support that joint training disentangles" in found["sentences"][0]


def test_a_difference_that_may_be_none_is_not_lower():
    found = judge({LINEAR: (0.45, -0.009)})
    assert found["supports"] is False
    assert any(line.endswith("not shown to be less.") for line in found["reasons"])
    assert "frames tell less of the speaker (2 of 3 figures)" in found["sentences"][0]
    assert "frames give the speaker away in 44.1 %" in found["sentences"][1]


def test_none_of_the_claims_is_told_plainly():
    found = judge({key: (value, 0.0) for key, (value, _) in GOOD.items()})
    first = found["sentences"][0]
    assert found["supports"] is False and first.startswith("The figures do not support")
    claims = first.split("it is not shown that")[1]
    assert "of the speaker (0 of 3 figures)" in claims
    assert "of what is said (0 of 3 figures)" in claims


def test_a_mixed_result_is_told_as_mixed():
    unchanged = {key: (value, 0.0) for key, (value, _) in GOOD.items() if key[0] == "z and u"}
    found = judge(unchanged)
    first = found["sentences"][0]
    assert found["supports"] is False and first.startswith("The result is mixed")
    holds, fails = first.split("it is not shown that")
    assert "frames tell less of the speaker" in holds
    assert "embeddings tell less of what is said (1 of 3 figures)" in fails


def test_quality_that_is_lost_is_told():
    found = judge({EMBEDDING_EER: (0.08, 0.09)})
    first, second = found["sentences"]
    assert found["supports"] is False and first.startswith("The result is mixed")
    assert "apart as well as before (0 of 1 figures)" in first
    assert "by their embeddings in 17.0 % of comparisons (8.0 % without)" in second
    assert any(line.endswith("speakers: worse.") for line in found["reasons"])


def test_kept_is_decided_by_the_worse_end_of_the_interval():
    for rise, kept in ((KEPT_MARGIN - 0.011, True), (KEPT_MARGIN - 0.009, False)):
        found = judge({EMBEDDING_EER: (0.08, rise)})
        assert found["supports"] is kept
    better = judge({EMBEDDING_EER: (0.08, -0.05)})
    assert better["supports"] is True


@pytest.mark.parametrize("models", [MODELS[:1], MODELS[1:], []])
def test_without_a_control_nothing_is_concluded(models):
    found = judge(models=models)
    assert found["supports"] is None and "Nothing can be concluded" in found["sentences"][0]
    assert len(found["sentences"]) == 2 and len(found["reasons"]) == len(RULES)


def test_a_beta_that_is_not_known_is_no_control():
    models = [MODELS[0], {**MODELS[1], "beta": None}]
    assert judge(models=models)["supports"] is None


def test_what_is_missing_is_named_and_what_is_left_is_judged():
    fewer = {key: v for key, v in GOOD.items() if key != SPEAKER_EER}
    found = verdict(MODELS, *figures_of(fewer))
    assert found["supports"] is True
    [line] = [line for line in found["reasons"] if "not judged" in line]
    assert "speaker in frames: frame, pooled, speaker, EER" in line
    without = {key: v for key, v in GOOD.items() if key != EMBEDDING_EER}
    found = verdict(MODELS, *figures_of(without))
    assert found["supports"] is False
    assert "not judged whether embeddings tell speakers apart" in found["sentences"][0]
    figures, comparisons = figures_of(GOOD)
    undefined = [{**c, "interval": None} for c in comparisons]
    found = verdict(MODELS, figures, undefined)
    assert found["supports"] is False and len(found["sentences"]) == 2
    assert sum("not judged" in line for line in found["reasons"]) == len(RULES)


def test_figures_without_values_are_judged_by_their_difference():
    comparisons = figures_of(GOOD)[1]
    found = verdict(MODELS, [], comparisons)
    assert found["supports"] is True and "No figure of both" in found["sentences"][1]
    assert any("linear probe % (-14.0" in line for line in found["reasons"])


def test_where_there_is_nothing_to_lower_a_figure_is_not_judged():
    key = next(key for key in GOOD if key[:3] == ("utterance", "phone", "R2"))
    figures, comparisons = figures_of({**GOOD, key: (0.005, 0.0)})
    found = verdict(MODELS, figures, comparisons)
    assert found["supports"] is True
    [line] = [line for line in found["reasons"] if line.endswith("neither is above chance.")]
    assert "utterance, phone, R2" in line
    leaking = verdict(MODELS, *figures_of({**GOOD, key: (0.05, 0.0)}))
    assert leaking["supports"] is False
    rates = {key: (0.5, -0.005) for key in GOOD if key[2] == "EER" and key[0] == "frame, pooled"}
    assert verdict(MODELS, *figures_of({**GOOD, **rates}))["supports"] is True


def several(betas_and_seeds, changes):
    """Return models, figures and comparisons with a joint model for each (beta, training seed)."""
    seeds = {seed for _, seed in betas_and_seeds}
    models = [{**MODELS[1], "name": f"control{seed}", "train_seed": seed} for seed in seeds]
    figures, comparisons = [], []
    for beta, seed in betas_and_seeds:
        name = f"joint{beta}-{seed}"
        models.append({**MODELS[0], "name": name, "beta": beta, "train_seed": seed})
        table = {**GOOD, **changes.get((beta, seed), {})}
        more = figures_of(table, name, f"control{seed}")
        figures, comparisons = figures + more[0], comparisons + more[1]
    return models, figures, comparisons


def test_of_several_betas_the_best_is_told_and_that_it_was_chosen():
    bad = {LINEAR: (0.45, 0.0)}
    found = verdict(*several([(0.001, 1), (0.01, 1)], {(0.001, 1): bad}))
    assert found["supports"] is True
    assert "beta 0.01, the best of 2 values" in found["sentences"][0]
    assert any("expect less anew" in line for line in found["reasons"])
    assert any(line.startswith("joint0.001-1 against control1") for line in found["reasons"])


def test_a_beta_is_worth_what_its_worst_training_run_is():
    bad = {LINEAR: (0.45, 0.0)}
    found = verdict(*several([(0.01, 1), (0.01, 2)], {(0.01, 2): bad}))
    assert found["supports"] is False
    assert found["reasons"][0].startswith("joint0.01-2 against control2")
    assert verdict(*several([(0.01, 1), (0.01, 2)], {}))["supports"] is True


def test_the_verdict_of_compared_scores_follows_what_was_planted():
    """From speakers' scores to the verdict, through `compare`."""
    rng = np.random.default_rng(0)
    measures = {"joint": [], "beta0": []}
    for key, (value, difference) in GOOD.items():
        head = dict(zip(("representation", "factor", "measure", "probe"), key, strict=True))
        speakers = value + 0.02 * rng.normal(size=(2, 30))
        change = difference + 0.005 * rng.normal(size=(2, 30))
        measures["beta0"].append(scored(speakers, **head))
        measures["joint"].append(scored(speakers + change, **head))
    same = {"joint": measures["beta0"], "beta0": measures["beta0"]}
    for own, supports in ((measures, True), (same, False)):
        assert verdict(MODELS, [], compare(own, seed=1))["supports"] is supports


def test_the_tradeoff_goes_by_beta_with_measures_that_models_share():
    figures = figures_of(GOOD)[0]
    pooled = {"representation": "frame, pooled", "factor": "speaker", "interval": None}
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
