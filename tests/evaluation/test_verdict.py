"""The verdict is what the figures support."""

import numpy as np
import pytest

from recipes.common.evaluation.comparison import ATTACKED, compare
from recipes.common.evaluation.verdict import KEPT_MARGIN, RULES, verdict
from tests.evaluation.report_figures import GOOD, LAYERS, MODELS, figures_of, scored

EMBEDDING_EER = ("utterance", "speaker", "EER", None)
LINEAR = (ATTACKED, "speaker", "balanced accuracy", "linear")


def judge(changes=None, models=MODELS, **options):
    return verdict(models, *figures_of({**GOOD, **(changes or {})}, **options))


@pytest.mark.parametrize("flip", [False, True])
def test_a_verdict_supports_where_leakage_is_lower_at_kept_quality(flip):
    found = judge(flip=flip)
    assert found["supports"] is True and len(found["sentences"]) == 2
    first, second = found["sentences"]
    assert first.startswith("Joint training does what it is for") and "beta 0.007" in first
    assert "give the speaker away in 31.0 % of utterances (45.0 % in the control)" in second
    assert "by their embeddings in 8.1 % of comparisons (8.0 % in the control)" in second
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
    assert "frames tell less of the speaker (1 of 2 figures)" in found["sentences"][0]
    assert "frames give the speaker away in 44.1 %" in found["sentences"][1]


def test_none_of_the_claims_is_told_plainly():
    found = judge({key: (value, 0.0) for key, (value, _) in GOOD.items()})
    first = found["sentences"][0]
    assert found["supports"] is False and first.startswith("The figures do not support")
    claims = first.split("it is not shown that")[1]
    assert "of the speaker (0 of 2 figures)" in claims
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
    assert "by their embeddings in 17.0 % of comparisons (8.0 % in the control)" in second
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
    fewer = {key: v for key, v in GOOD.items() if key[2] != "ABX error across, cosine"}
    found = verdict(MODELS, *figures_of(fewer))
    assert found["supports"] is True
    [line] = [line for line in found["reasons"] if "not judged" in line]
    assert "content kept: frame, last layer, phone, ABX error" in line
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


def test_of_several_controls_the_one_without_norm_is_taken():
    normed = {**MODELS[1], "name": "normed", "frame_norm": "mean_std"}
    figures, comparisons = figures_of(GOOD)
    found = verdict([MODELS[0], normed, MODELS[1]], figures, comparisons)
    assert found["reasons"][0].startswith("joint against beta0")
    other = {**MODELS[1], "train_seed": 9}  # of another seed: the same training counts more
    found = verdict([MODELS[0], other, normed], *figures_of(GOOD, control="normed"))
    assert found["reasons"][0].startswith("joint against normed")


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
