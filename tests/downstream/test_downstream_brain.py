"""A head on an upstream: which of them learns, and when."""

from types import SimpleNamespace

import pytest
import torch

from recipes.common.data.crops import SpeechBatch
from recipes.common.downstream.downstream_brain import digest_labels
from tests.downstream.tasks import hparams_of, moved, started, state_of
from tests.made_datasets import made_dataset


def step(brain, batch):
    brain.step += 1
    return brain.fit_batch(batch)


def speaker_batch():
    """Return a batch of three speakers, an utterance each."""
    rows = [
        {"id": f"u{i}", "duration": 0.5, "sig": 0.1 * torch.randn(8000), "class_number": i}
        for i in range(3)
    ]
    return SpeechBatch(rows)


SPEAKERS = {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_the_head_learns_alone_in_the_frozen_steps(representation, model, tmp_path):
    changes = {"representation": representation, "upstream": "finetune", "frozen_steps": 2}
    brain = started("SID", hparams_of("SID", tmp_path, features=model, **changes), SPEAKERS)
    upstream, batch = brain.upstream, speaker_batch()
    learning = {name for name, p in upstream.named_parameters() if p.requires_grad}
    for thawed in (False, False, True):
        before, head = state_of(upstream), state_of(brain.modules["classification_head"])
        step(brain, batch)
        assert upstream.training == thawed
        assert moved(brain.modules["classification_head"], head)
        assert moved(upstream, before) >= learning if thawed else not moved(upstream, before)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in brain.optimizers_dict.values()]
    assert rates[1] / rates[0] == pytest.approx(brain.hparams.upstream_lr / brain.hparams.lr)


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_a_frozen_upstream_never_moves(representation, model, tmp_path):
    given = hparams_of("SID", tmp_path, features=model, representation=representation)
    brain = started("SID", given, SPEAKERS)
    upstream, head = state_of(brain.upstream), state_of(brain.modules["classification_head"])
    batch = speaker_batch()
    for _ in range(3):
        step(brain, batch)
    assert not moved(brain.upstream, upstream)
    assert moved(brain.modules["classification_head"], head)
    assert list(brain.optimizers_dict) == ["optimizer"]


def test_saving_an_epoch_takes_as_many_looks_as_saving_the_one_before(model, tmp_path):
    brain = started("SID", hparams_of("SID", tmp_path, features=model), SPEAKERS)
    find, looks = brain.checkpointer.find_checkpoints, []
    brain.checkpointer.find_checkpoints = lambda *args, **kw: looks.append(1) or find(*args, **kw)
    counts = []
    for epoch in range(1, 6):
        brain.valid_figures = {"error": 0.5}
        brain.save_epoch({"epoch": epoch, "architecture": brain.architecture()})
        counts.append(len(looks))
        looks.clear()
    assert len(set(counts)) == 1 and counts[0] > 0


def labelled(folder, **labels):
    """Return loaders of a split each, with utterances of which a label is known."""
    loaders = {}
    for split, own in labels.items():
        rows = {name: {"duration": 1.0, "wav": "none", "spk_id": label} for name, label in own}
        dataset = made_dataset(folder / f"{split}.csv", rows)
        loaders[split] = SimpleNamespace(dataset=dataset)
    return loaders


def test_labels_are_told_from_others_but_for_those_of_the_test(tmp_path):
    train, valid = [("a", "x"), ("b", "y")], [("c", "x")]
    given = {"train": train, "valid": valid, "test": [("d", "y")]}
    changes = {
        "of training": {**given, "train": [("a", "y"), ("b", "x")]},
        "of another utterance": {**given, "train": [("a", "x"), ("e", "y")]},
        "of validation": {**given, "valid": [("c", "y")]},
    }
    digest = digest_labels(["x", "y"], labelled(tmp_path / "0", **given), "spk_id")
    assert digest_labels(["x", "z"], labelled(tmp_path / "1", **given), "spk_id") != digest
    for number, (what, changed) in enumerate(changes.items(), 2):
        loaders = labelled(tmp_path / str(number), **changed)
        assert digest_labels(["x", "y"], loaders, "spk_id") != digest, what
    same = {**given, "train": train[::-1], "test": [("d", "x")]}
    assert digest_labels(["x", "y"], labelled(tmp_path / "9", **same), "spk_id") == digest
