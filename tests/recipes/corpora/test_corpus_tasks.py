"""Recipes of intents, emotions and languages: from a small tree to what is exported."""

import csv
import json
from pathlib import Path

import pytest

from pretrained import Classifier
from recipes.common.data.files import CorpusError
from recipes.common.downstream.classification import dataio_prepare
from recipes.FluentSpeechCommands.train import IntentBrain, slot_values
from tests.made_datasets import made_dataset
from tests.recipes.corpora import trees

RECIPES = Path(__file__).parents[3] / "recipes"
TREES = {  # whose classes are told apart by the pitch of a tone
    "FluentSpeechCommands": lambda root: trees.write_fluent(root, each=4),
    "VoxLingua107": trees.write_voxlingua,
}
OPTIONS = ["--features", "fbank", "--lrs", "[0.03]", "--noprogressbar", "--max_batch_seconds", "3"]


def figures(folder):
    return json.loads((folder / "metrics.json").read_text())["figures"]


def labels_of(data):
    """Return datasets of utterances with labels, as the manifests of splits give them."""
    columns = {"duration": 1.0, "wav": "none", "spk_id": "1"}
    return {
        split: {f"{split}{n}": {**columns, "label": label} for n, label in enumerate(labels)}
        for split, labels in data.items()
    }


def test_an_intent_that_is_not_trained_on_is_made_of_values_that_are(tmp_path):
    data = {
        "train": ["on, lights, hall", "off, lights, none", "on, heat, none"],
        "valid": ["off, heat, hall"],
        "test": ["on, lights, none"],
    }
    hparams = {"label_column": "label", "shuffle_labels": False, "manifest_folder": str(tmp_path)}
    hparams |= {f"{split}_splits": [split] for split in data}

    def prepared(data):
        datasets = {
            split: made_dataset(tmp_path / f"{split}.csv", rows)
            for split, rows in labels_of(data).items()
        }
        classes = dataio_prepare(hparams, datasets, IntentBrain.list_classes)
        with datasets["valid"].output_keys_as(["class_number"]):
            return classes, datasets["valid"][0]["class_number"]

    classes, number = prepared(data)
    assert slot_values(data["train"]) == [["off", "on"], ["heat", "lights"], ["hall", "none"]]
    assert len(classes) == 8 and list(classes)[number] == "off, heat, hall" and number == 0
    assert IntentBrain.list_slots(classes) == [2, 2, 2]
    with pytest.raises(CorpusError, match="valid0: label off, music, none has no utterance"):
        prepared({**data, "valid": ["off, music, none"]})


@pytest.mark.long
@pytest.mark.parametrize("recipe", TREES)
def test_a_recipe_learns_what_tells_its_classes_apart(recipe, commands, tmp_path):
    TREES[recipe](tmp_path / "corpus")
    words = ["hparams/linear_tiny.yaml", "--data_folder", tmp_path / "corpus", *OPTIONS]
    words += ["--output_folder", tmp_path / "O", "--number_of_epochs", 12]
    commands.succeed(RECIPES / recipe / "train.py", *words)
    found = figures(tmp_path / "O")["test"]
    assert found["accuracy"] > 0.8 > 0.5 > found["chance"]
    classifier = Classifier.from_pretrained(tmp_path / "O" / "model")
    manifest = tmp_path / "O" / "manifest" / "test.csv"
    with open(manifest, newline="") as file:
        wavs = {row["ID"]: row["wav"] for row in csv.DictReader(file)}
    with open(tmp_path / "O" / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    path = wavs[row["ID"]].replace("$data_root", str(tmp_path / "corpus"))
    named = classifier.classify_file(path)
    assert named.label == row["predicted"]
    assert named.score == pytest.approx(float(row["score"]), abs=2e-3)  # states are kept in half


@pytest.mark.long
def test_all_folds_are_run_by_one_command_that_goes_on(commands, tmp_path):
    trees.write_emodb(tmp_path / "corpus")
    words = ["hparams/linear_tiny.yaml", "--data_folder", tmp_path / "corpus", *OPTIONS]
    words += ["--number_of_epochs", 4, "--output_folder"]
    script, out = RECIPES / "EmoDB" / "train.py", tmp_path / "O"
    commands.succeed(script, *words, out, points="save")
    found = figures(out)
    assert found["test"]["accuracy"] > 0.8 > found["test"]["chance"]
    assert list(found["folds"]) == list("12345")
    states = list((out / "states").iterdir())
    assert len(states) == 1
    again = tmp_path / "again"
    commands.succeed(script, *words, again, "--test_fold", 4, "--cache_folder", out / "states")
    assert figures(again)["test"] == found["folds"]["4"]["test"]
    assert list((out / "states").iterdir()) == states


@pytest.mark.long
def test_a_session_of_iemocap_is_tested_by_a_training_on_the_others(commands, tmp_path):
    trees.write_iemocap(tmp_path / "corpus")
    words = ["hparams/linear_tiny.yaml", "--data_folder", tmp_path / "corpus", *OPTIONS]
    words += ["--number_of_epochs", 6, "--output_folder", tmp_path / "O", "--test_session", 2]
    commands.succeed(RECIPES / "IEMOCAP" / "train.py", *words)
    found = figures(tmp_path / "O")
    assert found["test"]["accuracy"] > 0.8 > found["test"]["chance"]
    assert found["test"]["classes"] == 4
