"""Hyperparameters files: the command line's overrides, and files that change another."""

import pytest

from recipes.common.training.hparams import load_hparams
from recipes.common.training.run import prepare


@pytest.fixture
def files(tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1\nlr: 0.1\nfolder: !ref runs/<lr>\n")
    (tmp_path / "other.yaml").write_text("base: base.yaml\nlr: 0.2\n")
    return tmp_path


def test_a_base_takes_the_keys_of_the_file_and_those_of_the_command_line(files):
    assert load_hparams(files / "base.yaml", "") == {"seed": 1, "lr": 0.1, "folder": "runs/0.1"}
    assert load_hparams(files / "other.yaml", "") == {"seed": 1, "lr": 0.2, "folder": "runs/0.2"}
    found = load_hparams(files / "other.yaml", "{seed: 3, lr: 0.4}")
    assert found == {"seed": 3, "lr": 0.4, "folder": "runs/0.4"}


@pytest.mark.parametrize("name", ["base.yaml", "other.yaml"])
def test_an_unknown_option_is_named_together_with_those_that_there_are(files, name):
    with pytest.raises(ValueError, match="--sed .*folder, lr, seed"):
        load_hparams(files / name, "sed: 3")


def test_a_corpus_is_prepared_with_its_own_options(tmp_path):
    calls = []
    hparams = {"train_splits": ["a"], "valid_splits": ["b"], "test_splits": ["c"]}
    hparams |= {"data_folder": "D", "manifest_folder": "M", "skip_prep": False, "skip_bad": True}
    hparams |= {"prepare": lambda **given: calls.append(given), "prepare_options": {"deep": 2}}
    prepare(hparams)
    expected = {"data_folder": "D", "save_folder": "M", "splits": ["a", "b", "c"]}
    assert calls == [{**expected, "skip_prep": False, "skip_bad": True, "deep": 2}]
