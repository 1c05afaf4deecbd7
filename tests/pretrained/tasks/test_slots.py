"""An exported classifier of combinations of slots: what it names, and which folders are refused."""

import json
import re

import pytest
import torch

from lobes.heads import ClassificationHead
from pretrained import Classifier
from pretrained.exported import save_model

LABELS = ["go, here", "go, there", "go, up", "stop, here", "stop, there", "stop, up"]


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    head = ClassificationHead(num_classes=6, slots=(2, 3))
    save_model(
        tmp_path / "model",
        {"classification_head": head},
        {"features": "fbank", "labels": LABELS},
    )
    return tmp_path / "model"


@torch.no_grad()
def test_a_combination_is_as_probable_as_its_values_together(folder):
    classifier = Classifier.from_pretrained(folder)
    head = classifier.head
    wavs = 0.1 * torch.randn(2, 8000)
    for found, wav in zip(classifier.classify_batch(wavs), wavs, strict=True):
        states, lens = classifier.states.states(wav[None], None)
        mean = head.weighted_sum(states)[0, : int(lens)].mean(0)
        first, second = (
            part.softmax(0) for part in head.output(head.projection(mean)).split([2, 3])
        )
        expected = {
            label: float(first[int(label.startswith("stop"))] * second[number % 3])
            for number, label in enumerate(LABELS)
        }
        assert found.scores == pytest.approx(expected, rel=1e-4)
        assert found.label == max(expected, key=expected.get)
        assert sum(found.scores.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "slots, message",
    [
        ("ab", "classification_head.slots must be a list of numbers"),
        ([2, 0], "slots must be a list of numbers from 1"),
        ([2, 3.0], "slots must be a list of numbers"),
        ([2, True], "slots must be a list of numbers"),
        ([2, 4], "8 combinations, and num_classes is 6"),
        ([6], "output"),
    ],
)
def test_slots_that_do_not_fit_are_refused(slots, message, folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["classification_head"]["slots"] = slots
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(message)):
        Classifier.from_pretrained(folder)
