"""Cross-validation: which folds are run and how, and what the summary says of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from recipes.common.downstream.cross_validation import cross_validate, read_predictions
from recipes.common.training.command_line import split_words

YAML = """
seed: 1
data_folder: !PLACEHOLDER
output_folder: !PLACEHOLDER
manifest_folder: !ref <output_folder>/manifest
cache_folder: states
test_fold: null
"""
FOLDS = {1: "aab", 2: "aabbc"}  # how each utterance is taken, which is an "a"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "linear.yaml"
    path.write_text(YAML)
    return path


class Recorder:
    """Stands for a recipe's training: notes the options, and writes what a run writes."""

    def __init__(self):
        self.ran = []

    def __call__(self, arguments):
        _, _, options = split_words(arguments)
        self.ran.append(options)
        fold, folder = int(options["test_fold"]), Path(options["output_folder"])
        (folder / "manifest").mkdir(parents=True, exist_ok=True)
        (folder / "manifest" / "test.csv").write_text(f"ID of fold {fold}")
        taken = FOLDS[fold]
        accuracy = taken.count("a") / len(taken)
        test = {"accuracy": accuracy, "accuracy_interval": [0.0, 1.0], "classes": 2}
        common = {"features": "fbank", "representation": "frames", "upstream": "frozen"}
        figures = {**common, "lr": 0.1 * fold, "utterances": {}, "valid": {}, "test": test}
        (folder / "metrics.json").write_text(json.dumps({"figures": figures}))
        with open(folder / "predictions.csv", "w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["ID", "spk_id", "label", "predicted", "score"])
            rows = enumerate(taken)
            writer.writerows([n, f"{fold}{n % 2}", "a", word, 1.0] for n, word in rows)


def run(file, *words):
    recorder = Recorder()
    words = [str(file), "--data_folder", "D", *map(str, words)]
    cross_validate(words, recorder, "test_fold", FOLDS)
    return recorder.ran


def test_a_fold_that_is_named_is_run_as_it_is(file, tmp_path):
    ran = run(file, "--output_folder", tmp_path / "O", "--test_fold", 2)
    assert ran == [{"data_folder": "D", "output_folder": str(tmp_path / "O"), "test_fold": "2"}]
    figures = json.loads((tmp_path / "O" / "metrics.json").read_text())["figures"]
    assert "folds" not in figures


@pytest.mark.parametrize("cache", ["states", "null", "/elsewhere/states"])
def test_all_folds_have_folders_of_their_own_and_share_the_states(cache, file, tmp_path):
    ran = run(file, "--output_folder", tmp_path / "O", "--cache_folder", cache)
    assert [options["test_fold"] for options in ran] == ["1", "2"]
    folders = [str(tmp_path / "O" / f"fold_{fold}") for fold in FOLDS]
    assert [options["output_folder"] for options in ran] == folders
    expected = {"states": str(tmp_path / "O" / "states")}.get(cache, cache)
    assert {options["cache_folder"] for options in ran} == {expected}


def test_the_summary_has_means_deviations_and_pooled_figures(file, tmp_path):
    run(file, "--output_folder", tmp_path / "O")
    metrics = json.loads((tmp_path / "O" / "metrics.json").read_text())
    figures, accuracies = metrics["figures"], [2 / 3, 2 / 5]
    assert figures["test"] == {"accuracy": pytest.approx(np.mean(accuracies))}
    assert figures["deviation"] == {
        "accuracy": pytest.approx(abs(accuracies[0] - accuracies[1]) / np.sqrt(2))
    }
    assert [figures["folds"][str(fold)]["lr"] for fold in FOLDS] == [0.1, 0.2]
    pooled = figures["pooled"]
    assert pooled["accuracy"] == 4 / 8 and pooled["interval_over"] == "speakers"
    low, high = pooled["accuracy_interval"]
    assert low < 0.5 < high
    assert metrics["seed"] == 1 and metrics["data"]
    assert read_predictions(tmp_path / "O" / "fold_1")[2] == ("a", "b", "10")


def test_a_quick_look_leaves_no_summary(file, tmp_path):
    run(file, "--output_folder", tmp_path / "O", "--debug")
    assert not (tmp_path / "O" / "metrics.json").exists()


def test_what_cannot_be_run_in_a_row_is_refused(file, tmp_path, monkeypatch):
    out = ["--output_folder", tmp_path / "O"]
    with pytest.raises(ValueError, match="--output_folder is missing"):
        run(file)
    with pytest.raises(ValueError, match="--manifest_folder cannot be used for all folds"):
        run(file, *out, "--manifest_folder", tmp_path)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="one fold at a time: give --test_fold"):
        run(file, *out)
    assert not (tmp_path / "O").exists()
    assert len(run(file, *out, "--test_fold", 1)) == 1
