"""A head on an upstream: which of them learns, and when."""

import pytest
import torch

from recipes.common.data.crops import SpeechBatch
from tests.downstream.tasks import hparams_of, moved, started, state_of


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
