"""Inference and evaluation make no float64 on their device: Apple's has none.

The meta device stands for it. What is read from it is made up: of the right shape and type.
"""

from contextlib import nullcontext

import pytest
import torch
from speechbrain import Stage
from torch.overrides import TorchFunctionMode

from lobes.heads import SpeakerHead
from lobes.states import FbankStates, FrameStates
from pretrained import Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.tokenizers import SymbolTokenizer
from recipes.common.data.crops import SpeechBatch
from recipes.common.downstream.features import Upstream, cache_states
from recipes.common.evaluation.verification import embed, with_baselines
from recipes.VoxCeleb.SpeakerRec.train import Trials
from tests.downstream.tasks import hparams_of, started
from tests.pretrained.exports import (
    LETTERS_FACTS,
    PLAIN,
    frame_encoder,
    modules_of,
    tone_head,
    utterance_encoder,
    written,
)
from tests.training.test_device_use import RefuseFloat64

READS = {
    torch.Tensor.cpu,
    torch.Tensor.numpy,
    torch.Tensor.tolist,
    torch.Tensor.item,
    torch.Tensor.__bool__,
    torch.Tensor.__float__,
    torch.Tensor.__int__,
    torch.Tensor.__index__,
}


class MadeUpValues(TorchFunctionMode):
    """Gives ones where a tensor of the meta device is read, or copied to the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and torch.is_tensor(args[0]) and args[0].is_meta:
            target = kwargs.get("device", args[1] if len(args) > 1 else None)
            if func in READS or (func is torch.Tensor.to and str(target) == "cpu"):
                ones = torch.ones(args[0].shape, dtype=args[0].dtype)
                return func(ones, *args[1:], **kwargs)
        return func(*args, **kwargs)


@pytest.fixture
def device(monkeypatch):
    """The device, on which float64 is refused."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    with MadeUpValues(), RefuseFloat64():
        yield "meta"


@pytest.fixture(params=[1, 40])
def file(request, tmp_path):
    """An audio file of one window, and one of two."""
    samples = torch.rand(request.param * 16000, generator=torch.Generator().manual_seed(0)) - 0.5
    return written(tmp_path / "a.wav", samples.numpy())


def encoders():
    return {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}


def test_float64_on_the_device_is_refused_and_values_are_made_up(device):
    x = torch.zeros(2, device=device)
    assert x.tolist() == [1, 1] and float(x.sum()) == 1 and x.to("cpu").equal(torch.ones(2))
    assert x.cpu().double().dtype == torch.float64
    with pytest.raises(AssertionError, match="makes float64"):
        x.double()


@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
@pytest.mark.parametrize("file", [40], indirect=True)
def test_encoding(backbone, file, device):
    modules = {**encoders(), "utterance_encoder": utterance_encoder(backbone)}
    model = Learn2Diss(modules, device)
    batch = [torch.randn(16000), torch.randn(9000)]
    for encoding in (model.encode(batch, output_hidden_states=True), model.encode_file(file)):
        assert encoding.frames.is_meta and encoding.utterance.is_meta


@pytest.mark.parametrize("features", ["utterance_encoder", "fbank", "frame_encoder"])
def test_verifying(features, file, device):
    modules = modules_of(features)
    if features != "utterance_encoder":
        dim, layers = (FbankStates.dim, 1) if features == "fbank" else (32, 3)
        sizes = {"in_dim": dim, "num_layers": layers, "hidden_dim": 8, "embedding_dim": 4}
        modules["speaker_head"] = SpeakerHead(**sizes, pooling="xvector")
    verifier = SpeakerVerifier(modules, {"features": features, **PLAIN}, device)
    assert verifier.verify_files(file, file).score == pytest.approx(1)


def test_transcribing(file, device):
    transcriber = Transcriber({"ctc_head": tone_head()}, LETTERS_FACTS, device)
    assert transcriber.logits(file).is_meta
    assert isinstance(transcriber.transcribe_file(file), str)


@pytest.mark.parametrize("representation", ["frames", "utterance"])
def test_embedding_of_trials(representation, tmp_path, device):
    encoder = {"frames": frame_encoder, "utterance": utterance_encoder}[representation]()
    path = written(tmp_path / "a.wav", torch.rand(16000).numpy())
    for system in with_baselines(encoder, representation, seed=1).values():
        embeddings = embed(system.to(device), [{"ID": "a", "wav": str(path)}], tmp_path)
        assert embeddings["a"].dtype == "float32"


def test_caching_states(tmp_path, device):
    path = written(tmp_path / "a.wav", torch.rand(16000).numpy())
    upstream = Upstream(FrameStates(frame_encoder()), frozen=True).to(device)
    states = cache_states(upstream, [{"id": "a", "wav": path}], tmp_path / "states")
    assert states["a"].shape[1] == 3


LABELS = {
    "PR": {"text": "A B", "tokens": torch.tensor([1, 2])},
    "SID": {"class_number": 1},
    "xvector": {"class_number": 1},
}


@pytest.mark.parametrize("task", LABELS)
def test_evaluating_a_task(task, tmp_path, monkeypatch, device):
    speakers = {"a": 0, "b": 1}
    trials = {split: [(1, "u0", "u1"), (0, "u0", "u1")] for split in ("valid", "test")}
    labels = {
        "PR": SymbolTokenizer(["A", "B"], "phones"),
        "SID": speakers,
        "xvector": Trials(speakers, trials, {"u0": "a", "u1": "b", "cohort": "a"}, {}),
    }[task]
    brain = started(task, hparams_of(task, tmp_path), labels)
    states = brain.upstream.states
    rows = [
        {"id": name, "duration": 1.0, **LABELS[task]}
        | {"states": torch.randn(frames, states.num_layers, states.dim)}
        for name, frames in (("u0", 60), ("u1", 49))
    ]
    no_meta_kernel = "recipes.common.downstream.ctc.F.ctc_loss"
    monkeypatch.setattr(no_meta_kernel, lambda log_probs, *_, **__: log_probs.sum((0, 2)))
    brain.modules.to(device).eval()
    brain.device, brain.cache = device, {}
    brain.on_stage_start(Stage.VALID, 1)
    brain.evaluate_batch(SpeechBatch(rows), Stage.VALID)
