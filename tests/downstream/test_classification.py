"""Classifying utterances: figures against scikit-learn, intervals, balance, files, refusals."""

import csv

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from lobes.states import FbankStates
from recipes.common.data.files import CorpusError
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.data.seeding import Clock
from recipes.common.downstream import classification
from recipes.common.downstream.class_figures import (
    chance_accuracy,
    class_figures,
    class_intervals,
    confusion_rows,
)
from recipes.common.downstream.labels import class_weights
from tests.downstream.tasks import hparams_of, trained
from tests.made_datasets import made_dataset

NAMES = ["go", "no", "stop", "yes"]


def drawn(speakers=40, each=5, seed=0):
    """Return labels, predictions and speakers, some of whom are understood better than others."""
    rng = np.random.default_rng(seed)
    skill = np.repeat(rng.uniform(0.2, 1.0, speakers), each)
    labels = rng.choice(NAMES, len(skill), p=[0.5, 0.2, 0.2, 0.1])
    predicted = np.where(rng.random(len(skill)) < skill, labels, rng.choice(NAMES, len(skill)))
    return labels, predicted, np.repeat(np.arange(speakers), each).astype(str)


def test_figures_are_those_of_scikit_learn():
    labels, predicted, _ = drawn()
    found = class_figures(labels, predicted)
    assert found["accuracy"] == pytest.approx((labels == predicted).mean())
    assert found["error"] == pytest.approx(1 - found["accuracy"])
    assert found["macro_recall"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert abs(found["macro_recall"] - found["accuracy"]) > 0.001
    [heading, *rows] = confusion_rows(NAMES, labels, predicted)
    assert heading == ["label", *NAMES] and [row[0] for row in rows] == NAMES
    expected = confusion_matrix(labels, predicted, labels=NAMES)
    assert [row[1:] for row in rows] == expected.tolist()


@pytest.mark.parametrize("over", ["speakers", "utterances"])
def test_intervals_are_those_of_drawing_again(over):
    labels, predicted, speakers = drawn()
    groups = speakers if over == "speakers" else np.arange(len(labels)).astype(str)
    found = class_intervals(labels, predicted, groups, seed=0)
    assert found["interval_over"] == over
    rng, names, values = np.random.default_rng(1), np.unique(groups), []
    members = {name: np.flatnonzero(groups == name) for name in names}
    for _ in range(1000):
        chosen = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        values.append(class_figures(labels[chosen], predicted[chosen]))
    for figure in ("accuracy", "macro_recall"):
        expected = np.percentile([value[figure] for value in values], [2.5, 97.5])
        low, high = found[f"{figure}_interval"]
        assert (low, high) == pytest.approx(expected, abs=0.02)
        assert low < class_figures(labels, predicted)[figure] < high


def test_utterances_are_drawn_where_the_speakers_are_the_classes_or_one_alone():
    labels, predicted, _ = drawn()
    assert class_intervals(labels, predicted, labels, 0)["interval_over"] == "utterances"
    alone = class_intervals(labels, predicted, ["Ann"] * len(labels), 0)
    assert alone["interval_over"] == "utterances"
    single = class_intervals(["no"], ["no"], ["Ann"], 0)
    assert single["accuracy_interval"] is None and single["macro_recall_interval"] is None


def test_chance_is_of_the_majority_of_training():
    assert chance_accuracy(["b", "a", "a", "b"], ["a", "b", "b", "b"]) == 0.25  # "a" by name
    assert chance_accuracy(["b", "a", "b"], ["a", "c"]) == 0.0


# Balance

SECONDS = np.linspace(1.0, 2.0, 300)
CLASSES = np.array([0] * 240 + [1] * 45 + [2] * 15)


def sampler(epoch=1, rank=0, ranks=1, seed=3):
    clock = Clock()
    made = LengthSortedBatches(
        SECONDS, 12, seed, clock, ranks, rank, weights=1 / np.bincount(CLASSES)[CLASSES]
    )
    made.set_epoch(epoch)
    return made


def test_classes_are_drawn_equally_often_whatever_their_size():
    counts = np.zeros(3)
    for epoch in range(1, 21):
        places = np.concatenate(list(sampler(epoch)))
        assert len(places) == 300
        counts += np.bincount(CLASSES[places], minlength=3)
    assert np.abs(counts / counts.sum() - 1 / 3).max() < 0.02  # 3.3 deviations
    within = np.bincount(np.concatenate([b for e in range(1, 21) for b in sampler(e)]))[285:]
    assert within.min() > 0  # each utterance of the smallest class


def test_balanced_batches_depend_on_seed_and_epoch_and_are_of_like_length():
    batches = list(sampler(epoch=2))
    assert list(sampler(epoch=2)) == batches
    assert list(sampler(epoch=3)) != batches and list(sampler(epoch=2, seed=4)) != batches
    for batch in batches:
        assert SECONDS[batch].max() * len(batch) <= 12
        assert SECONDS[batch].min() > 0.8 * SECONDS[batch].max()
    resumed = sampler(epoch=2)
    resumed.start = 5
    assert list(resumed) == batches[5:]
    shared = [list(sampler(epoch=2, rank=rank, ranks=2)) for rank in range(2)]
    assert len(shared[0]) == len(shared[1])
    places = sorted(p for own in shared for batch in own for p in batch)
    assert places == sorted(p for batch in batches for p in batch)


# A task


def labelled(folder, counts, changes=None):
    """Return datasets of utterances with labels and speakers, and states that tell the labels."""
    torch.manual_seed(0)
    centres = {label: torch.randn(FbankStates.dim) for label in counts}
    states, datasets = {}, {}
    for split in ("train", "valid", "test"):
        own = {}
        for label, count in counts.items():
            for number in range(count if split == "train" else 8):
                name = f"{split}-{label}-{number}"
                own[name] = {"duration": 1.0, "wav": "none", "spk_id": f"{split}{number % 4}"}
                own[name]["label"] = (changes or {}).get(name, label)
                states[name] = centres[label] + 15 * torch.randn(2, 1, FbankStates.dim)
        datasets[split] = made_dataset(folder / "manifest" / f"{split}.csv", own)
    return datasets, states


def task_hparams(folder, **changes):
    return hparams_of("SID", folder, label_column="label", max_batch_seconds=16, **changes)


@pytest.mark.long
def test_a_run_writes_what_became_of_each_utterance(tmp_path):
    hparams = task_hparams(tmp_path, number_of_epochs=2, balanced=True)
    datasets, states = labelled(tmp_path, {"no": 40, "yes": 8, "zoom in": 8})
    labels = classification.dataio_prepare(hparams, datasets)
    assert labels == {"no": 0, "yes": 1, "zoom in": 2}
    brain = trained("SID", hparams, labels, datasets, states)
    assert np.allclose(brain.train_sampler.weights, class_weights(datasets["train"]))
    found = brain.test_figures
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["ID"] for row in rows] == sorted(datasets["test"].data_ids)
    assert all(row["ID"].split("-")[1] == row["label"] for row in rows)
    assert {row["spk_id"] for row in rows} == {f"test{n}" for n in range(4)}
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert found["accuracy"] == pytest.approx(right) and 0.4 < right < 1
    assert all(1 / 3 <= float(row["score"]) <= 1 for row in rows)
    with open(tmp_path / "confusion.csv", newline="") as file:
        [_, *table] = list(csv.reader(file))
    assert sum(int(row[1 + n]) for n, row in enumerate(table)) == round(24 * right)
    assert found["chance"] == pytest.approx(1 / 3) and found["classes"] == 3
    assert found["interval_over"] == "speakers"
    assert brain.facts() == {"labels": ["no", "yes", "zoom in"]}


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ({"no": 4, "yes": 4}, {"test-no-3": "odd"}, "test-no-3: label odd has no utterance in the"),
        ({"no": 4, "yes": 4}, {"valid-yes-1": ""}, "valid-yes-1: label is '': expected a line"),
        ({"no": 4}, {}, "train.csv: all utterances have the label no: .* two classes or more"),
    ],
)
def test_labels_that_are_refused(counts, changes, message, tmp_path):
    datasets, _ = labelled(tmp_path, counts, changes)
    with pytest.raises(CorpusError, match=message):
        classification.dataio_prepare(task_hparams(tmp_path), datasets)


def test_a_manifest_without_labels_is_refused(tmp_path):
    own = {"a": {"duration": 1.0, "wav": "none", "spk_id": "1"}}
    datasets = {"train": made_dataset(tmp_path / "train.csv", own)}
    with pytest.raises(CorpusError, match="train.csv: no column label"):
        classification.dataio_prepare(task_hparams(tmp_path), datasets)


def test_the_control_deals_out_training_labels_alone(tmp_path):
    datasets, _ = labelled(tmp_path, {"no": 30, "yes": 30})
    hparams = task_hparams(tmp_path, shuffle_labels=True)
    classification.dataio_prepare(hparams, datasets)
    for split, dataset in datasets.items():
        dataset.set_output_keys(["label", "class_number"])
        rows = [dataset[place] for place in range(len(dataset))]
        own = np.array([row["class_number"] == (row["label"] == "yes") for row in rows])
        assert own.all() if split != "train" else 0.3 < own.mean() < 0.7
        assert np.mean([row["class_number"] for row in rows]) == 0.5
