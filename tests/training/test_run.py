"""The beginning of a recipe's run."""

import subprocess
import sys

import pytest

from recipes.common.training import run
from recipes.common.training.run import check_epochs, claim, prepare


def test_a_corpus_is_prepared_with_its_own_options(tmp_path):
    calls = []
    hparams = {"train_splits": ["a"], "valid_splits": ["b"], "test_splits": ["c"]}
    hparams |= {"data_folder": "D", "manifest_folder": "M", "skip_prep": False, "skip_bad": True}
    hparams |= {"prepare": lambda **given: calls.append(given), "prepare_options": {"deep": 2}}
    prepare(hparams)
    expected = {"data_folder": "D", "save_folder": "M", "splits": ["a", "b", "c"]}
    assert calls == [{**expected, "skip_prep": False, "skip_bad": True, "deep": 2}]


HOLDING = """
import sys
from recipes.common.training.run import claim
claim(sys.argv[1])
print("claimed", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_run_s_until_that_ends_or_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LOCK_SECONDS", 0.1)
    folder = tmp_path / "O" / "run"
    command = [sys.executable, "-c", HOLDING, folder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ValueError, match="Another run is at work in .*run: wait"):
            claim(folder)
        other.kill()
    claim(folder)
    claim(folder / ".." / "run")  # its own


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "two", None])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(ValueError, match="number_of_epochs is .*: expected a whole number"):
        check_epochs({"number_of_epochs": epochs})
    check_epochs({"number_of_epochs": 1})
