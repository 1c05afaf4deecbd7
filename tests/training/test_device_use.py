"""What a training step asks of its device: hardly a value, no tensor elsewhere, no float64."""

from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrained.tokenizers import SymbolTokenizer
from recipes.common.data.crops import SpeechBatch
from recipes.VoxCeleb.SpeakerRec.train import Trials
from tests.downstream.tasks import hparams_of, started
from tests.training import distributed_gradients as steps
from tests.training.test_brain import make_brain

STAGES = ["frame", "codes", "spin", "utterance", "joint"]
STAGES += [f"utterance {method}" for method in steps.METHODS]
STAGES += [
    pytest.param(f"joint {kind}", marks=pytest.mark.long) for kind in ("network", "classifier")
]
READS = {
    "aten::_local_scalar_dense",  # item(), float(), bool()
    "aten::nonzero",
    "aten::masked_select",
    "aten::bincount",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::equal",
    "aten::_linalg_check_errors",
}


class CountReads(TorchDispatchMode):
    """Counts the operations that make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition(".")[0]
        boolean = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            torch.is_tensor(index) and index.dtype == torch.bool for index in args[1]
        )
        if name in READS or boolean:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def reads_of(step):
    """Return what a step reads, by operation."""
    with CountReads() as mode:
        step()
    return dict(mode.found)


def test_what_reads_is_counted():
    x = torch.arange(3.0)
    assert reads_of(lambda: float(x[1])) == {"aten::_local_scalar_dense": 1}
    assert reads_of(lambda: x[x > 1]) and reads_of(lambda: x.bool().nonzero())
    assert not reads_of(lambda: (x * 2).sum())


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_reads_no_value(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    assert len(set(batch.sig.lengths.tolist())) > 1
    optimizers = {"optimizer": brain.optimizer, **getattr(brain, "critic_optimizers", {})}
    for optimizer in optimizers.values():
        optimizer.step = lambda: None  # torch's counters are on the host
    assert reads_of(lambda: brain.fit_batch(batch)) == {}


class RefuseFloat64(TorchDispatchMode):
    """Raises where a tensor of float64 is made on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if torch.is_tensor(x) and x.is_meta:
                assert x.dtype != torch.float64, f"{func.name()} makes float64"
        return result


class CountWaits(TorchDispatchMode):
    """Counts the copies to the device for which the host waits."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        copies = func.name().startswith("aten::_to_copy") and not kwargs.get("non_blocking")
        self.found += copies and result.is_meta and not args[0].is_meta
        return result


@contextmanager
def skip_where_weight_norm_is_missing():
    """Skip a test where torch, as 2.7 does, lacks this operation on the meta device."""
    try:
        yield
    except NotImplementedError as error:
        if "_weight_norm_interface_backward" not in str(error):
            raise
        pytest.skip(f"torch {torch.__version__} has no weight_norm on the meta device")


@pytest.mark.parametrize("stage", STAGES)
def test_all_of_a_step_is_on_the_device_and_nothing_is_read_from_it(stage, tmp_path, monkeypatch):
    """The meta device computes nothing, so that reading raises, as does mixing devices."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    brain = steps.build(stage, tmp_path)
    brain.modules.to("meta")
    brain.device = brain.device_type = "meta"
    brain.init_optimizers()
    brain.hparams.epoch_counter.current = brain.hparams.number_of_epochs // 2
    brain.modules.train()
    brain.step = 51
    brain.on_stage_start(steps.Stage.TRAIN, 1)
    with RefuseFloat64(), skip_where_weight_norm_is_missing():
        loss = brain.fit_batch(SpeechBatch(list(steps.examples(brain.hparams))))
    assert loss.is_meta and brain.optimizer_step == 1
    with CountWaits() as waits, skip_where_weight_norm_is_missing():
        brain.fit_batch(SpeechBatch(list(steps.examples(brain.hparams))))
    assert waits.found == 0
    with CountWaits() as waits:
        torch.ones(2).to("meta")
    assert waits.found == 1
    with pytest.raises(RuntimeError):
        torch.ones(2, device="meta") + torch.ones(2)
    with pytest.raises(RuntimeError):
        float(loss)


LABELS = {
    "PR": {"text": "AB", "tokens": torch.tensor([1, 2])},
    "SID": {"class_number": 1},
    "xvector": {"class_number": 1},
}


@pytest.mark.parametrize("task", LABELS)
def test_all_of_a_tasks_step_is_on_the_device(task, tmp_path, monkeypatch):
    speakers = {"a": 0, "b": 1}
    labels = {
        "PR": SymbolTokenizer(["A", "B"], "characters"),
        "SID": speakers,
        "xvector": Trials(speakers, {}, {}, {}),
    }[task]
    brain = started(task, hparams_of(task, tmp_path), labels)
    states = brain.upstream.states
    rows = [
        {"id": name, "duration": 1.0, **LABELS[task]}
        | {"states": torch.randn(frames, states.num_layers, states.dim)}
        for name, frames in (("u0", 60), ("u1", 49))
    ]
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    no_meta_kernel = "recipes.common.downstream.ctc.F.ctc_loss"
    monkeypatch.setattr(no_meta_kernel, lambda log_probs, *_, **__: log_probs.sum((0, 2)))
    brain.modules.to("meta")
    brain.device, brain.device_type, brain.cache = "meta", "meta", {}
    brain.init_optimizers()
    with RefuseFloat64():
        loss = brain.fit_batch(SpeechBatch(rows))
    assert loss.is_meta
