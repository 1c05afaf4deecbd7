"""Datasets of the downstream recipes in workers that are started by spawn."""

import itertools
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from recipes.common.data.crops import SpeechBatch
from recipes.common.data.table import read_manifest
from recipes.common.downstream.sweep import Sweep
from recipes.common.training.run import manifest_paths
from tests.downstream.tasks import TASKS, arguments


def loaders_of(task, corpora, output, **changes):
    """Return a recipe's loaders on made-up speech."""
    sweep = Sweep(arguments(task, corpora, output, **changes), TASKS[task].brain)
    datasets = sweep.prepare()
    TASKS[task].train.dataio_prepare(sweep.hparams, datasets)
    return sweep.make_loaders(datasets)


def same(first, second):
    """Return whether two utterances have the same items."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


@pytest.mark.parametrize("task", TASKS)
def test_datasets_are_picklable(task, corpora, tmp_path):
    for loader in loaders_of(task, corpora, tmp_path).values():
        again = pickle.loads(pickle.dumps(loader.dataset))
        assert len(again) == len(loader.dataset) and same(again[0], loader.dataset[0])


@pytest.mark.long
@pytest.mark.parametrize("cache_folder", ["states", "null"])
def test_spawned_workers_load_what_the_main_process_does(cache_folder, corpora, tmp_path):
    changes = {"upstream": "frozen", "cache_folder": cache_folder}
    dataset = loaders_of("ASR", corpora, tmp_path, **changes)["train"].dataset
    loader = DataLoader(
        dataset, 8, num_workers=2, collate_fn=SpeechBatch, multiprocessing_context="spawn"
    )
    item = "sig" if cache_folder == "null" else "states"
    expected = DataLoader(dataset, 8, collate_fn=SpeechBatch)
    for found, own in zip(loader, expected, strict=True):
        assert found.id == own.id and found.text == own.text
        for key in (item, "tokens"):
            assert torch.equal(getattr(found, key).data, getattr(own, key).data)


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_each_split_is_that_of_its_own_manifests(task, corpora, tmp_path):
    sweep = Sweep(arguments(task, corpora, tmp_path), TASKS[task].brain)
    datasets = sweep.prepare()
    TASKS[task].train.dataio_prepare(sweep.hparams, datasets)
    loaders = sweep.make_loaders(datasets)
    listed = {}
    for split, paths in manifest_paths(sweep.hparams).items():
        listed[split] = {row["ID"] for path in paths for row in read_manifest(path)}
        used = {name for batch in loaders[split] for name in batch.id}
        assert used and used <= listed[split]
    assert not any(a & b for a, b in itertools.combinations(listed.values(), 2))
    if "cohort" in datasets:
        assert {name for batch in loaders["cohort"] for name in batch.id} <= listed["train"]
