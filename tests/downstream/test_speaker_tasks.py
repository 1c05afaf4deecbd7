"""The tasks on speakers: learning from made-up states, its control, a few trials."""

import pytest
from scipy.stats import binom

from recipes.VoxCeleb.SpeakerRec.train import few_trials
from tests.downstream.tasks import identify


@pytest.mark.long
def test_speakers_are_told_apart_unless_their_labels_are_dealt_out(tmp_path):
    right = identify(tmp_path / "right", number_of_epochs=6)
    assert right.test_figures["accuracy"] > 0.9
    dealt = identify(tmp_path / "dealt", number_of_epochs=12, shuffle_labels=True)
    low, high = binom.interval(0.95, 100, 1 / 100)
    assert low <= 100 * dealt.test_figures["accuracy"] <= high
    assert dealt.train_figures["accuracy"] > 0.2  # it learns what it is told


def test_a_few_trials_are_of_either_label():
    trials = [(number % 2, "a", str(number)) for number in range(30)]
    found = few_trials(trials)
    assert [label for label, *_ in found] == [1] * 10 + [0] * 10 and set(found) <= set(trials)
    assert few_trials(trials[:3]) == [trials[1], trials[0], trials[2]]
