"""The verdict on stage C: what meets an aim, what does not, and where there is nothing to judge."""

import csv

import numpy as np
import pytest

from recipes.common.training.hparams import check_options
from recipes.experiments import judge
from recipes.experiments.runner import PRETRAIN

SPEAKERS = 20


def reading(value, seed, spread=0.05, shuffled=0.0):
    noise = np.random.default_rng(seed).normal(0, spread, SPEAKERS)
    scores = value + noise - noise.mean()
    return {"value": value, "scores": scores.tolist(), "shuffled": shuffled}


def verification(noise, seed):
    """Return trials of 20 speakers whose scores are as noisy as asked."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(SPEAKERS, size=(2, 2000))
    second = np.where(rng.random(2000) < 0.5, first, second)
    labels = (first == second).astype(int)
    scores = labels + noise * np.random.default_rng(seed + 1).normal(size=2000)
    value = judge.eer(scores, labels)
    speakers = np.stack([first, second], 1).astype(str).tolist()
    return {"value": value, "scores": scores, "labels": labels, "speakers": speakers}


def run(seed, speaker, phones, last_phones, noise, content, spread=0.05):
    return {
        "speaker": reading(speaker, seed, spread),
        "phones": reading(phones, seed + 1, 0.01),
        "last_phones": reading(last_phones, seed + 3, 0.01),
        "eer": verification(noise, seed=5),
        "content": reading(content, seed + 2, shuffled=-0.05),
    }


def verdict(joint, control=(0.8, 0.7, 0.75, 0.3, 0.2), seeds=3, **options):
    pairs = [
        {"joint": run(s, *joint, **options), "joint_beta0": run(s + 50, *control, **options)}
        for s in range(seeds)
    ]
    return judge.judge(pairs)


def met(*args, **options):
    return [line["met"] for line in verdict(*args, **options)]


def test_a_joint_model_that_does_all_it_should_meets_every_aim():
    assert met((0.3, 0.7, 0.75, 0.3, 0.05)) == [True] * 5


def test_a_joint_model_like_its_control_meets_only_what_is_to_be_kept():
    lines = verdict((0.8, 0.7, 0.75, 0.3, 0.2))
    assert [line["met"] for line in lines] == [False, True, True, True, False]
    assert lines[0]["margin"] == pytest.approx(0.8 - 0.6 * 0.8)
    assert lines[4]["interval"][0] < 0 < lines[4]["interval"][1]


@pytest.mark.long
@pytest.mark.parametrize(
    "joint, missed",
    [
        ((0.5, 0.7, 0.75, 0.3, 0.05), 0),  # 37 % lower
        ((0.3, 0.73, 0.75, 0.3, 0.05), 1),  # 4 % higher
        ((0.3, 0.7, 0.78, 0.3, 0.05), 2),
        ((0.3, 0.7, 0.75, 0.42, 0.05), 3),
        ((0.3, 0.7, 0.75, 0.3, 0.3), 4),
    ],
)
def test_each_aim_can_be_missed(joint, missed):
    assert met(joint) == [place != missed for place in range(5)]


def test_an_aim_met_only_on_average_is_not_met():
    assert met((0.46, 0.7, 0.75, 0.3, 0.05), spread=0.01)[0]
    assert not met((0.46, 0.7, 0.75, 0.3, 0.05), spread=0.5)[0]


def test_seeds_that_disagree_widen_the_interval():
    pairs = [
        {"joint": run(s, 0.2 + 0.4 * (s == 2), 0.7, 0.75, 0.3, 0.05)}
        | {"joint_beta0": run(s + 50, 0.8, 0.7, 0.75, 0.3, 0.2)}
        for s in range(3)
    ]
    apart = judge.judge(pairs)[0]
    alike = verdict((1 / 3, 0.7, 0.75, 0.3, 0.05))[0]
    assert apart["margin"] == pytest.approx(alike["margin"])
    width = [high - low for low, high in (apart["interval"], alike["interval"])]
    assert width[0] > 2 * width[1] and alike["met"] and not apart["met"]


def test_there_is_nothing_to_lower_where_the_control_tells_nothing():
    assert met((0.3, 0.7, 0.75, 0.3, -0.05), control=(0.8, 0.7, 0.75, 0.3, -0.05))[4] is None


def test_phones_are_counted_over_all_words_and_by_speaker(tmp_path):
    rows = [("a-1", "A B C D", "A B C"), ("a-2", "A B", "A B"), ("b-1", "A A", "B B")]
    with open(tmp_path / "hypotheses.csv", "w", newline="") as file:
        csv.writer(file).writerows([("ID", "reference", "greedy"), *rows])
    ids, speakers = np.array(["a-1", "b-1", "a-2"]), np.array(["a", "b", "a"])
    texts, errors = judge.read_phones(tmp_path, ids, speakers)
    assert texts["a-2"] == "A B" and errors["value"] == pytest.approx(3 / 8)
    assert np.mean(errors["scores"]) == pytest.approx(3 / 8)
    assert errors["scores"][1] > errors["scores"][0]


def test_the_options_of_each_run_are_those_of_its_stage():
    assert {name for step in judge.STEPS for name in step} >= set(judge.ROWS)
    for step in judge.STEPS:
        for name, given in step.items():
            yaml = PRETRAIN / "hparams" / f"{name.partition('_')[0]}_tiny.yaml"
            check_options(yaml, given)
