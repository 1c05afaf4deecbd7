"""The stage that makes its targets while it trains: its loss, its figures, what moves when."""

from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain import Stage
from torch.nn import functional as F

from pretrained.exported import save_model
from recipes.common.data.crops import SpeechBatch
from recipes.common.training.brain import TrainingError
from recipes.common.training.hparams import load_hparams
from recipes.LibriSpeech.pretrain.codes import CodesMeter, CodesOutputs
from recipes.LibriSpeech.pretrain.joint import JointBrain
from tests.training import distributed_gradients as steps
from tests.training.test_brain import joint_hparams, make_brain
from tests.training.test_meters import slow_nearest

HPARAMS = Path(__file__).parents[2] / "recipes" / "LibriSpeech" / "pretrain" / "hparams"
BASE_ENCODER = 94_371_712  # HuBERT Base


def without_units(batch):
    """Return a batch of the same utterances, of which no unit is known."""
    rows = [{k: row[k] for k in ("id", "sig", "mask")} for row in steps.examples()]
    found = SpeechBatch(rows)
    assert found.hidden.equal(batch.hidden) and found.visible.equal(batch.visible)
    return found


def ready(folder):
    """Return a Brain whose codebooks have seen a batch, and the batch."""
    brain, batch = make_brain("codes", folder)
    batch = without_units(batch)
    brain.fit_batch(batch)
    return brain, batch


@pytest.mark.parametrize("predict_from", ["same_layer", "last"])
def test_loss_is_the_cross_entropy_of_the_teachers_codes_at_masked_frames(predict_from, tmp_path):
    brain, batch = ready(tmp_path)
    brain.hparams.predict_from = predict_from
    brain.modules.eval()
    outputs = brain.compute_forward(batch, Stage.VALID)
    loss = brain.compute_objectives(outputs, batch, Stage.VALID)
    modules, losses = brain.modules, []
    for row in steps.examples():  # one by one: no padding
        wav, mask = row["sig"][None], row["mask"][None]
        _, heard = modules.teacher.encoder(wav, output_hidden_states=True)
        _, seen = modules.frame_encoder(wav, mask=mask, output_hidden_states=True)
        for layer, head in enumerate(modules.heads.heads):
            state = heard[layer - 2]
            state = (state - state.mean(1)) / state.std(1, correction=0)
            codes = torch.cdist(state, modules.codebooks.codes[layer][None]).argmin(-1)
            logits = head(seen[-1 if predict_from == "last" else layer - 2])
            losses.append(F.cross_entropy(logits[mask], codes[mask], reduction="none"))
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_teacher_and_codebooks_move_after_the_step_and_not_in_evaluation(tmp_path):
    brain, batch = ready(tmp_path)
    trained = {id(p) for group in brain.optimizer.param_groups for p in group["params"]}
    frozen = [*brain.modules.teacher.parameters(), *brain.modules.frame_encoder.head.parameters()]
    assert frozen and not trained & {id(p) for p in frozen}
    kept = ("teacher.", "codebooks.")
    before = {k: x.clone() for k, x in brain.modules.state_dict().items() if k.startswith(kept)}
    brain.evaluate_batch(batch, Stage.VALID)
    after = brain.modules.state_dict()
    assert all(x.equal(after[name]) for name, x in before.items())
    brain.fit_batch(batch)
    after = brain.modules.state_dict()
    moved = {name for name, x in before.items() if not x.equal(after[name])}
    assert {"codebooks.codes", "codebooks.counts"} < moved
    assert any(name.startswith("teacher.encoder.transformer") for name in moved)
    assert not any("head" in name for name in moved)


def test_the_first_batch_gives_every_code_a_place_among_the_states(tmp_path):
    brain, batch = make_brain("codes", tmp_path)
    states = brain.compute_forward(batch, Stage.TRAIN).states
    far = torch.cdist(brain.modules.codebooks.codes, states).min(-1).values.mean()
    brain.fit_batch(batch)
    near = torch.cdist(brain.modules.codebooks.codes, states).min(-1).values.mean()
    assert near < 0.75 * far and (brain.modules.codebooks.counts > 0).all()


def test_a_batch_without_masked_frames_moves_nothing(tmp_path):
    brain, batch = ready(tmp_path)
    before = brain.modules.codebooks.codes.clone()
    rows = [{**row, "mask": torch.zeros_like(row["mask"])} for row in steps.examples()]
    assert float(brain.fit_batch(SpeechBatch(rows))) == 0.0
    assert brain.modules.codebooks.codes.equal(before)


def test_figures_are_those_of_a_loop_over_frames(tmp_path):
    _, batch = make_brain("codes", tmp_path)
    batch = without_units(batch)
    generator = torch.Generator().manual_seed(0)
    count = len(batch.hidden) + len(batch.visible)
    frames = torch.randn(*batch.mask.data.shape, 3, generator=generator)
    frames.flatten(0, 1)[~torch.isin(torch.arange(frames[..., 0].numel()), at(batch))] = 0.0
    codes = torch.randint(4, (2, count), generator=generator)
    logits = torch.randn(2, count, 4, generator=generator)
    meter = CodesMeter()
    meter.update(CodesOutputs(frames, logits, None, codes, None), batch)
    hidden, right, copied, shares = len(batch.hidden), [], [], np.zeros((2, 4))
    for layer in range(2):
        grid = torch.full((batch.mask.data.numel(),), -100)
        grid[at(batch)] = codes[layer]
        for row, units in enumerate(grid.view(batch.mask.data.shape)):
            mask = batch.mask.data[row]
            guesses = slow_nearest(units, mask.tolist(), int(batch.frame_counts[row]))
            copied += [guesses[t] == int(units[t]) for t in mask.nonzero().flatten().tolist()]
        right += (logits[layer].argmax(-1) == codes[layer]).tolist()
        shares[layer] = np.bincount(codes[layer, :hidden].numpy(), minlength=4) / hidden
    right = np.array(right).reshape(2, count)
    found = meter.figures()
    assert found["masked_accuracy"] == pytest.approx(right[:, :hidden].mean())
    assert found["unmasked_accuracy"] == pytest.approx(right[:, hidden:].mean())
    assert found["copy_accuracy"] == pytest.approx(np.mean(copied))
    assert found["majority_accuracy"] == pytest.approx(shares.max(1).mean())
    for number in (1, 2):
        own = shares[number - 1]
        expected = np.exp(-(own * np.log(own)).sum())
        assert found[f"code_perplexity_{number}"] == pytest.approx(expected)
    deviation = frames.flatten(0, 1)[at(batch)].std(0, correction=0).mean()
    assert found["frame_deviation"] == pytest.approx(float(deviation), rel=1e-4)


def at(batch):
    return torch.cat([batch.hidden, batch.visible])


def test_one_code_for_all_frames_stops_the_run(tmp_path):
    brain, batch = ready(tmp_path)
    brain.on_stage_start(Stage.VALID, 1)
    brain.evaluate_batch(batch, Stage.VALID)
    figures = brain.figures()
    assert min(figures[f"code_perplexity_{layer}"] for layer in (1, 2)) > 4
    brain.check_collapse(figures)
    brain.modules.codebooks.codes[1, 1:] = 1e3  # far from every state
    brain.on_stage_start(Stage.VALID, 1)
    brain.evaluate_batch(batch, Stage.VALID)
    with pytest.raises(TrainingError, match="code_perplexity_2 is 1.00: nearly all frames have"):
        brain.check_collapse(brain.figures())


def test_a_teacher_that_says_the_same_of_all_frames_stops_the_run(tmp_path):
    brain, batch = ready(tmp_path)
    for encoder in (brain.modules.teacher.encoder, brain.modules.frame_encoder):
        for layer in encoder.transformer.layers:
            torch.nn.init.zeros_(layer.final_layer_norm.weight)
    brain.on_stage_start(Stage.VALID, 1)
    brain.evaluate_batch(batch, Stage.VALID)
    with pytest.raises(TrainingError, match="collapsed to a point|nearly all frames have"):
        brain.check_collapse(brain.figures())


def test_stage_c_starts_from_all_but_the_head(tmp_path):
    brain, _ = make_brain("codes", tmp_path)
    trained = brain.modules.frame_encoder
    save_model(tmp_path / "codes" / "model", {"frame_encoder": trained})
    hparams = joint_hparams(tmp_path / "joint", num_targets=24)
    utterance = hparams["modules"]["utterance_encoder"]
    save_model(tmp_path / "utterance" / "model", {"utterance_encoder": utterance})
    hparams |= {"frame_model": tmp_path / "codes" / "model", "teacher_layer": 3}
    with pytest.raises(ValueError, match="num_targets 16, this stage's has 24"):
        JointBrain.initialise(hparams)
    same = joint_hparams(tmp_path / "joint", num_targets=16)
    same |= {"frame_model": hparams["frame_model"], "units_folder": tmp_path / "codes" / "units"}
    with pytest.raises(ValueError, match="units is not there: stage C .*--units_folder null"):
        JointBrain.initialise(same)
    hparams["units_folder"] = None
    started = hparams["modules"]["frame_encoder"]
    head = {name: x.clone() for name, x in started.head.state_dict().items()}
    JointBrain.initialise(hparams)
    assert all(x.equal(head[name]) for name, x in started.head.state_dict().items())
    rest = {name: x for name, x in trained.state_dict().items() if name[:5] != "head."}
    assert len(rest) > 50 and all(x.equal(started.state_dict()[name]) for name, x in rest.items())
    hparams["teacher_layer"] = 4
    with pytest.raises(ValueError, match="teacher_layer is 4: the encoder .* has 3"):
        JointBrain.initialise(hparams)


def test_sizes_of_the_base_size(tmp_path):
    given = {"data_folder": "none", "output_folder": str(tmp_path), "frame_weights": None}
    with torch.device("meta"):
        modules = load_hparams(HPARAMS / "codes.yaml", given)["modules"]
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items()}
    head = sum(p.numel() for p in modules["frame_encoder"].head.parameters())
    assert sizes["frame_encoder"] == sizes["teacher"] == BASE_ENCODER + head
    assert sizes["heads"] == 8 * 769 * 256 and sizes["codebooks"] == 0
    assert modules["codebooks"].codes.shape == (8, 256, 768)
    assert not any(p.requires_grad for p in modules["teacher"].parameters())
