"""What each stage's Brain passes to its encoders, losses and meters."""

import json
from pathlib import Path

import pytest
import torch
from speechbrain import Stage
from torch.nn import functional as F

from lobes.distributed import unwrap
from lobes.losses import IGNORED_UNIT
from pretrained.exported import load_model, save_model
from recipes.common.data.crops import SpeechBatch
from recipes.common.training.hparams import load_hparams, read_tree
from recipes.common.training.meters import FrameMeter, UtteranceMeter
from recipes.LibriSpeech.pretrain.train import stage_brain
from recipes.LibriSpeech.pretrain.utterance import embedding_moments
from tests.training import distributed_gradients as steps
from tests.training.test_brain import loader_of, make_brain

RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = ["frame", "spin", "utterance", "joint"]
PREDICTING = ["frame", "joint"]


def logits_of(outputs):
    return outputs.logits if hasattr(outputs, "logits") else outputs[1]


def loss_of(brain, outputs, batch):
    """Return the loss of the masked frames."""
    loss = brain.compute_objectives(outputs, batch, Stage.TRAIN)
    return outputs.parts["frame_loss"] if hasattr(outputs, "parts") else loss


@pytest.mark.parametrize("stage", PREDICTING)
def test_the_encoder_sees_the_mask(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    brain.modules.eval()
    places = torch.cat([batch.hidden, batch.visible])
    first = logits_of(brain.compute_forward(batch, Stage.VALID))
    expected = brain.modules.frame_encoder(
        *batch.sig, mask=batch.mask.data.bool(), return_logits=True
    )[1]
    torch.testing.assert_close(first, expected.flatten(0, 1)[places])
    batch.mask.data.copy_(~batch.mask.data.bool() & (batch.units.data >= 0))
    inverted = logits_of(brain.compute_forward(batch, Stage.VALID))
    assert (first - inverted).norm() > 0.1 * first.norm()


@pytest.mark.parametrize("stage", PREDICTING)
def test_the_loss_is_of_the_masked_frames_alone(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    mask, units = batch.mask.data.bool(), batch.units.data.clone()
    assert len(logits_of(brain.compute_forward(batch, Stage.TRAIN))) == mask.sum()
    outputs = brain.compute_forward(batch, Stage.VALID)  # predicts the others too
    logits, hidden = logits_of(outputs), int(mask.sum())
    expected = F.cross_entropy(logits[:hidden], units[mask])
    assert float(loss_of(brain, outputs, batch)) == pytest.approx(float(expected), rel=1e-5)
    before = loss_of(brain, outputs, batch).item()
    outside = ~mask & (units >= 0)
    with torch.no_grad():
        logits[hidden:] = torch.randn_like(logits[hidden:])
        assert loss_of(brain, outputs, batch).item() == before
        batch.units.data.copy_(torch.where(outside, (units + 1) % steps.UNITS, units))
        assert loss_of(brain, outputs, batch).item() == before
        batch.units.data.copy_(torch.where(mask, (units + 1) % steps.UNITS, units))
        assert loss_of(brain, outputs, batch).item() != before
        batch.units.data.copy_(units)
        logits[:hidden] = torch.randn_like(logits[:hidden])
        assert loss_of(brain, outputs, batch).item() != before


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_other_frames_count_by_their_weight(weight, tmp_path):
    brain, batch = make_brain("frame", tmp_path)
    brain.hparams.visible_weight = weight
    brain.modules.eval()
    units, mask = batch.units.data, batch.mask.data.bool()
    logits = brain.modules.frame_encoder(*batch.sig, mask=mask, return_logits=True)[1]
    expected = 0.0
    for factor, chosen in ((1.0, mask), (weight, ~mask & (units != IGNORED_UNIT))):
        expected += factor * F.cross_entropy(logits[chosen], units[chosen]).item()
    outputs = brain.compute_forward(batch, Stage.TRAIN)
    loss = brain.compute_objectives(outputs, batch, Stage.TRAIN)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def same_crops(**changes):
    """Return a batch in which the second crop of each utterance is the first."""
    rows = list(steps.examples())
    return SpeechBatch([{**row, "second": row["first"].clone(), **changes} for row in rows])


@pytest.mark.parametrize("stage", ["utterance", "joint"])
def test_the_contrast_is_between_the_crops_of_one_utterance(stage, tmp_path):
    brain, _ = make_brain(stage, tmp_path)
    brain.modules.eval()
    outputs = brain.compute_forward(same_crops(), Stage.VALID)
    projections = outputs.projections
    first, second = projections.chunk(2)
    assert torch.allclose(first, second, atol=1e-5)
    loss = brain.compute_objectives(outputs, same_crops(), Stage.VALID)
    loss = outputs.parts["utterance_loss"] if stage == "joint" else loss
    rows = F.normalize(projections, dim=1)
    scores = rows @ rows.T / brain.hparams.temperature
    scores.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(rows)).roll(len(first))
    assert float(loss) == pytest.approx(float(F.cross_entropy(scores, partner)), rel=1e-4)
    brain.on_stage_start(Stage.VALID, 1)
    brain.measure(outputs, same_crops())
    assert float(brain.meters["utterance"].average("retrieval_accuracy")) == 1.0


@pytest.mark.parametrize("stage", PREDICTING)
def test_figures_of_frames_are_those_of_a_loop_over_valid_frames(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    outputs = brain.compute_forward(batch, Stage.VALID)
    frames = outputs.masked_frames if stage == "joint" else outputs[0]
    units, mask = batch.units.data, batch.mask.data.bool()
    with torch.no_grad():
        frames[units < 0] = 1e6  # what padding holds is of no concern
    meter = FrameMeter(False)
    meter.update(frames, logits_of(outputs), batch)
    logits = torch.zeros(*units.shape, steps.UNITS)
    logits.flatten(0, 1)[torch.cat([batch.hidden, batch.visible])] = logits_of(outputs).detach()
    rows = [
        (bool(mask[b, t]), int(logits[b, t].argmax()), int(units[b, t]), frames[b, t].double())
        for b in range(len(units))
        for t in range(units.shape[1])
        if units[b, t] != IGNORED_UNIT
    ]
    figures = meter.figures()
    for name, wanted in (("masked_accuracy", True), ("unmasked_accuracy", False)):
        own = [guess == unit for masked, guess, unit, _ in rows if masked == wanted]
        assert figures[name] == pytest.approx(sum(own) / len(own))
    true = torch.bincount(torch.tensor([unit for masked, _, unit, _ in rows if masked]))
    assert figures["majority_accuracy"] == pytest.approx(float(true.max() / true.sum()))
    vectors = torch.stack([vector.detach() for *_, vector in rows])
    assert figures["frame_deviation"] == pytest.approx(
        float(vectors.std(0, correction=0).mean()), rel=1e-4
    )


def test_figures_of_utterances_are_those_of_a_loop():
    torch.manual_seed(0)
    meter, seen, right = UtteranceMeter(False), [], []
    for size in (3, 5):
        embeddings = torch.randn(2 * size, 4)
        first, second = torch.randn(2, size, 6)
        meter.update(embeddings, first, second)
        for place, row in enumerate(first):
            cosines = [float(F.cosine_similarity(row, other, dim=0)) for other in second]
            right.append(max(range(size), key=cosines.__getitem__) == place)
        seen.append(F.normalize(embeddings, dim=1))
    figures = meter.figures()
    assert figures["retrieval_accuracy"] == pytest.approx(sum(right) / len(right))
    deviation = torch.cat(seen).std(0, correction=0).mean() * 2
    assert figures["embedding_deviation"] == pytest.approx(float(deviation), rel=1e-4)


def plain_batches(seeds):
    """Return batches of whole utterances of unlike length."""
    batches = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        wavs = [torch.randn(n, generator=generator) * 0.1 for n in (9000, 14000, 16000)]
        batches.append(SpeechBatch([{"id": str(n), "sig": wav} for n, wav in enumerate(wavs)]))
    return batches


def test_whitening_is_fitted_on_training_data_by_half_with_its_mean(tmp_path):
    brain, _ = make_brain("utterance", tmp_path)
    brain.modules.eval()
    encoder = brain.modules.utterance_encoder
    train, valid = plain_batches(range(30)), plain_batches(range(50, 80))
    alone = [
        encoder(batch.sig.data[row : row + 1, : int(length)])
        for batch in train
        for row, length in enumerate((batch.sig.lengths * batch.sig.data.shape[1]).round())
    ]
    rows = torch.cat(alone).double().detach()
    mean, covariance = embedding_moments(encoder, loader_of(train), tmp_path / "moments")
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    centred = rows - rows.mean(0)
    torch.testing.assert_close(covariance, centred.T @ centred / len(rows), rtol=1e-3, atol=1e-6)

    brain.loaders = {"plain": loader_of(train), "train": valid, "valid": valid, "test": valid}
    brain.last_step()
    after = torch.cat([encoder(*batch.sig) for batch in train]).double()
    assert after.mean(0).norm() < 1e-3 * after.norm(dim=1).mean()
    spread = torch.linalg.eigvalsh(covariance).flip(0)[:20]
    found = torch.linalg.eigvalsh(torch.cov(after.T, correction=0)).flip(0)[:20]
    # By half: deviations become their square roots, up to one scale for all.
    ratio = found / spread.sqrt()
    assert ratio.max() / ratio.min() < 1.05
    assert spread[0] / spread[-1] > 2  # or whitening in full would look the same


@pytest.mark.parametrize("stage", STAGES)
def test_all_gradients_are_clipped(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    assert 0 < brain.max_grad_norm == brain.hparams.max_grad_norm <= 20
    brain.max_grad_norm = 1e-3
    brain.on_stage_start(Stage.TRAIN, 1)
    norms = {}
    for name, optimizer in brain.optimizers_dict.items():
        reached = {id(p) for group in optimizer.param_groups for p in group["params"]}
        trained = {id(p) for group in optimizer.param_groups[:1] for p in group["params"]}
        assert reached == trained, f"{name}: SpeechBrain clips the first group alone"

        def note(*_, name=name, optimizer=optimizer, **__):
            grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
            norms[name] = torch.cat([g.flatten() for g in grads if g is not None]).norm().item()

        optimizer.step = note
    brain.step = brain.grad_accumulation_factor
    brain.fit_batch(batch)
    assert norms and all(norm <= 1.001e-3 for norm in norms.values())


def test_a_stage_is_the_brain_of_the_file_of_its_name():
    assert stage_brain("joint").__name__ == "JointBrain"
    for word in ("train", "frames", None):
        with pytest.raises(ValueError, match="stage is .*, not one of .*frame, joint"):
            stage_brain(word)


FILES = sorted(RECIPES.rglob("hparams/*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(RECIPES)))
def test_no_file_switches_clipping_off(path):
    value = read_tree(path).get("max_grad_norm", 5.0)
    assert isinstance(value, float) and 0 < value <= 20


@pytest.mark.parametrize("stage", STAGES)
def test_the_options_of_a_stage_reach_its_brain(stage, tmp_path):
    path = RECIPES / "LibriSpeech" / "pretrain" / "hparams" / f"{stage}_tiny.yaml"
    given = {"data_folder": "D", "output_folder": str(tmp_path), "lr": 0.123, "warmup": 0.25}
    hparams = load_hparams(path, given)
    optimizer = hparams["optimizer"]([torch.nn.Parameter(torch.ones(1))])
    assert optimizer.param_groups[0]["lr"] == 0.123 and hparams["warmup"] == 0.25
    assert json.loads(json.dumps(hparams["number_of_epochs"])) == hparams["epoch_counter"].limit


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_a_compiled_stage_saves_and_exports_plain_names(stage, tmp_path, monkeypatch):
    compiled, parts = torch.compile, []

    def trace(part, **_):
        parts.append(part)
        return compiled(part, backend="eager")

    monkeypatch.setattr(torch, "compile", trace)
    plain, _ = make_brain(stage, tmp_path / "plain")
    brain, batch = make_brain(stage, tmp_path / "compiled")
    names = {name: set(module.state_dict()) for name, module in plain.modules.items()}
    brain.compile = True
    brain.on_fit_start()
    assert len(parts) >= 5
    brain.step = 51
    brain.fit_batch(batch)
    encoders = {name: unwrap(brain.modules[name]) for name in brain.architecture()}
    assert encoders.keys() == plain.architecture().keys()
    save_model(tmp_path / "model", encoders)
    assert load_model(tmp_path / "model").keys() == encoders.keys()
    brain.save_epoch({"epoch": 1, "architecture": brain.architecture()})
    saved = brain.checkpointer.find_checkpoint()
    for name, expected in names.items():
        found = torch.load(saved.paramfiles[name], weights_only=True)
        assert set(found) == expected
    plain.checkpointer.checkpoints_dir = brain.checkpointer.checkpoints_dir
    plain.check_architecture()
    plain.checkpointer.recover_if_possible()  # from a compiled run to a plain one
