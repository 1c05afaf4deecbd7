"""How a recipe's command ends where it refuses its input."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from recipes.common.training.brain import ResumableBrain, TrainingError
from recipes.common.training.hparams import load_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.LibriSpeech.pretrain.train import main

ROOT = Path(__file__).parents[2]
SCRIPTS = [*ROOT.glob("recipes/**/train.py"), *ROOT.glob("recipes/**/verify.py")]


def train_astray(arguments):
    ResumableBrain.check_collapse(SimpleNamespace(epoch=2), {"loss": float("nan")})


def unpack(arguments):
    first, second = arguments
    return first, second


REFUSALS = {  # by what is said: what a recipe does
    "mask_prob is 80: expected": lambda _: check_limits({"mask_prob": 80}),
    "none.yaml": lambda _: main(["none.yaml"]),
    "folder none": lambda _: prepare_librispeech("none", "none/made", ["train-clean-100"]),
    "loss is nan after epoch 2": train_astray,
    "No such file or directory: 'lexicon'": lambda _: open("lexicon"),
}
DEFECTS = {
    "not enough values to unpack": unpack,
    "invalid literal": lambda _: int("many"),
    "must match": lambda _: torch.zeros(2) + torch.zeros(3),
    "normal expects std >= 0.0": lambda _: torch.empty(2).normal_(std=-1),
    "key": lambda _: {}["key"],
    "Expected parameter scale": lambda _: torch.distributions.Normal(0.0, -1.0),  # a ValueError
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_ends_a_command_with_its_message_alone(said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as end:
        run_recipe(REFUSALS[said])
    assert isinstance(end.value.code, str) and said in end.value.code  # which is status 1
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])
    with pytest.raises((ValueError, TrainingError, OSError), match=said):
        run_recipe(REFUSALS[said])


@pytest.mark.parametrize("said", DEFECTS)
def test_a_defect_keeps_its_traceback(said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(Exception, match=said):  # SystemExit is none
        run_recipe(DEFECTS[said])


def test_the_words_of_the_command_line_and_more_reach_a_recipe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "a.yaml", "--seed", "1"])
    given = []
    run_recipe(lambda *words: given.extend(words), "test_fold", [1, 2])
    assert given == [["a.yaml", "--seed", "1"], "test_fold", [1, 2]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_recipe_begins_so(script):
    assert 'if __name__ == "__main__":\n    run_recipe(' in script.read_text(encoding="utf-8")


def test_values_that_a_file_leaves_open_are_asked_for_together(tmp_path):
    path = tmp_path / "open.yaml"
    path.write_text("data_folder: !PLACEHOLDER\nseed: 1\noutput_folder: !PLACEHOLDER\n")
    with pytest.raises(ValueError, match="a value for --data_folder and for --output_folder"):
        load_hparams(path, {"seed": 2})
    with pytest.raises(ValueError, match="a value for --output_folder, missing"):
        load_hparams(path, {"data_folder": "D"})
