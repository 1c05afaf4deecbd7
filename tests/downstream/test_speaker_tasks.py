"""The tasks on speakers: learning from made-up states, its control, a few trials."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from recipes.common.evaluation.metrics import eer
from recipes.VoxCeleb.SpeakerRec.train import Trials, VerificationBrain, few_trials
from tests.downstream.tasks import identify


@pytest.mark.long
def test_speakers_are_told_apart_unless_their_labels_are_dealt_out(tmp_path):
    right = identify(tmp_path / "right", number_of_epochs=6)
    assert right.test_figures["accuracy"] > 0.9
    dealt = identify(tmp_path / "dealt", number_of_epochs=12, shuffle_labels=True)
    low, high = binom.interval(0.95, 100, 1 / 100)
    assert low <= 100 * dealt.test_figures["accuracy"] <= high
    assert dealt.train_figures["accuracy"] > 0.2  # it learns what it is told


def test_as_norm_of_the_recipe_is_against_training_speakers(tmp_path):
    rng = np.random.default_rng(0)
    made, speaker_of = {}, {}
    for part in ("cohort", "valid", "test"):
        made[part] = {}
        for number in range(24):
            name, speaker = f"{part}{number}", f"{part} {number // 4}"
            speaker_of[name] = speaker
            centre = np.random.default_rng(list(speaker.encode())).normal(size=6)
            made[part][name] = centre + 1.5 * rng.normal(size=6)
    trials = {
        part: [
            (int(speaker_of[a] == speaker_of[b]), a, b)
            for a, b in itertools.combinations(made[part], 2)
        ]
        for part in ("valid", "test")
    }
    brain = object.__new__(VerificationBrain)
    brain.labels = Trials({}, trials, speaker_of, {"valid": 0, "test": 3})
    brain.hparams = SimpleNamespace(seed=1, cohort_top=3, output_folder=tmp_path)
    brain.embed, brain.draw = made.__getitem__, lambda *drawn: None
    found = brain.test_trials(made["test"])
    assert found["trials_left_out"] == 3

    unit = {name: x / np.linalg.norm(x) for part in made.values() for name, x in part.items()}
    names = sorted({speaker_of[name] for name in made["cohort"]})
    means = [np.mean([unit[n] for n in made["cohort"] if speaker_of[n] == s], 0) for s in names]
    means = [mean / np.linalg.norm(mean) for mean in means]
    scores = []
    for _, *pair in trials["test"]:
        cosine, sides = unit[pair[0]] @ unit[pair[1]], []
        for name in pair:
            best = sorted(mean @ unit[name] for mean in means)[-3:]
            sides.append((cosine - np.mean(best)) / np.std(best))
        scores.append(np.mean(sides))
    expected = eer(np.array(scores), [label for label, *_ in trials["test"]])
    assert found["as_norm"]["eer"] == pytest.approx(expected, abs=1e-9)
    assert found["as_norm"]["eer"] != found["eer"]


def test_a_few_trials_are_of_either_label():
    trials = [(number % 2, "a", str(number)) for number in range(30)]
    found = few_trials(trials)
    assert [label for label, *_ in found] == [1] * 10 + [0] * 10 and set(found) <= set(trials)
    assert few_trials(trials[:3]) == [trials[1], trials[0], trials[2]]
