"""The stages' Brains: which step reaches which weights, and what stops a run."""

import inspect
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain import Stage
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from torch.utils.data import DataLoader

from recipes.common.data.crops import SpeechBatch
from recipes.common.training.brain import ResumableBrain, TrainingError
from recipes.common.training.checkpoints import AtomicCheckpointer
from recipes.common.training.history import record_epoch
from recipes.common.training.hparams import load_hparams
from recipes.LibriSpeech.pretrain.joint import JointBrain, check_receivers, check_seen
from tests.training import distributed_gradients as steps

JOINT = ["joint", "joint network", "joint classifier"]  # with each critic


def make_brain(stage, folder):
    """Return a Brain in the middle of its stage, and a batch."""
    torch.manual_seed(0)
    brain = steps.build(stage, folder)
    brain.hparams.epoch_counter.current = brain.hparams.number_of_epochs // 2
    brain.modules.train()
    brain.step = 51
    brain.on_stage_start(Stage.TRAIN, 1)
    return brain, SpeechBatch(list(steps.examples(brain.hparams)))


def loader_of(batches):
    """Return a DataLoader that gives the batches themselves."""
    return DataLoader(batches, batch_size=1, collate_fn=itemgetter(0))


def forward(brain, batch):
    outputs = brain.compute_forward(batch, Stage.TRAIN)
    return outputs, brain.compute_objectives(outputs, batch, Stage.TRAIN)


def has_gradient(module):
    return any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(module, before):
    return all(map(torch.equal, module.parameters(), before))


def averages(module):
    return [b.detach().clone() for b in module.buffers()]


@pytest.mark.parametrize("stage", JOINT)
def test_the_encoders_step_leaves_the_critics_alone(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    before = averages(brain.modules["critic"])
    assert brain.beta > 0
    forward(brain, batch)[1].backward()
    for name in ("frame_encoder", "utterance_encoder"):
        assert has_gradient(brain.modules[name])
    for name in ("critic", "lower_bound"):
        assert not has_gradient(brain.modules[name])
        assert all(p.requires_grad for p in brain.modules[name].parameters())
    assert all(map(torch.equal, brain.modules["critic"].buffers(), before))


@pytest.mark.parametrize("name", ["frame_encoder", "utterance_encoder"])
def test_the_information_trains_the_encoders_it_is_told_to(name, tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    outputs, loss = forward(brain, batch)
    for _ in range(5):
        brain.on_fit_batch_end(batch, outputs, loss, True)
    brain.hparams.information_trains = [name]
    outputs, _ = forward(brain, batch)
    brain.information(*outputs.pairs, outputs.groups).backward()
    trained = {key: has_gradient(brain.modules[key]) for key in brain.architecture()}
    assert trained == {key: key == name for key in brain.architecture()}


def joint_hparams(folder, **overrides):
    """Return what joint_tiny.yaml builds."""
    pretrain = Path(__file__).parents[2] / "recipes" / "LibriSpeech" / "pretrain" / "hparams"
    overrides |= {"data_folder": "none", "output_folder": str(folder)}
    return load_hparams(pretrain / "joint_tiny.yaml", overrides)


def test_momentum_and_ridge_of_the_yaml_are_those_of_the_critic(tmp_path):
    critic = joint_hparams(tmp_path, critic_momentum=0.25, critic_ridge=0.5)["modules"]["critic"]
    assert (critic.momentum, critic.ridge) == (0.25, 0.5)


@pytest.mark.parametrize(("count", "seen"), [(0, 128), (64, 64)])
def test_the_critics_see_as_many_features_as_the_yaml_says(count, seen, tmp_path):
    modules = joint_hparams(tmp_path, critic_projections=count)["modules"]
    assert len(modules["frame_features"].bias) == count
    for name in ("critic", "lower_bound"):
        assert modules[name].standardise_x.running_mean.shape == (seen,)


@pytest.mark.parametrize("names", ["frame_encoder", [], ["frames"]])
def test_refuses_to_train_what_is_no_encoder(names):
    with pytest.raises(ValueError, match="information_trains is .* such as"):
        check_receivers(names, "linear")


@pytest.mark.parametrize(
    ("norm", "features", "frames", "seen"),
    [
        ("mean_std", 0, None, False),
        ("mean", 0, None, False),
        ("none", 0, None, True),
        ("mean_std", 4, None, True),
        ("mean_std", 0, 8, True),
    ],
)
def test_refuses_a_critic_that_would_see_means_of_nothing(norm, features, frames, seen):
    given = {"frame_norm": norm, "critic_projections": features, "frames_per_pair": frames}
    if seen:
        check_seen(given)
    else:
        with pytest.raises(ValueError, match=f"frame_norm {norm} takes off"):
            check_seen(given)


def test_a_stage_is_refused_before_it_trains_where_its_critic_sees_nothing(tmp_path):
    with pytest.raises(ValueError, match="critic_projections is 0: .* frame_norm mean_std"):
        JointBrain.initialise(joint_hparams(tmp_path, critic_projections=0))


def test_refuses_a_critic_that_does_not_reach_whom_it_is_to_train():
    with pytest.raises(ValueError, match="which critic_kind: classifier does not reach"):
        check_receivers(["utterance_encoder"], "classifier")
    check_receivers(["frame_encoder"], "classifier")


@pytest.mark.parametrize("stage", JOINT)
def test_the_critics_steps_leave_the_encoders_alone(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    outputs, loss = forward(brain, batch)
    names = ("frame_encoder", "utterance_encoder", "critic", "lower_bound")
    before = {name: weights(brain.modules[name]) for name in names}
    fitted = averages(brain.modules["critic"])
    brain.on_fit_batch_end(batch, outputs, loss, True)
    for name in ("frame_encoder", "utterance_encoder"):
        assert not has_gradient(brain.modules[name]) and same(brain.modules[name], before[name])
    assert not same(brain.modules["lower_bound"], before["lower_bound"])
    assert not all(map(torch.equal, brain.modules["critic"].buffers(), fitted))
    if before["critic"]:  # else it is in closed form
        assert not same(brain.modules["critic"], before["critic"])


@pytest.mark.parametrize("stage", JOINT)
def test_the_information_is_added_to_the_loss(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    outputs, loss = forward(brain, batch)
    for _ in range(20):
        brain.on_fit_batch_end(batch, outputs, loss, True)
    brain.modules.eval()
    brain.hparams.beta = 0.0
    without = forward(brain, batch)[1]
    brain.hparams.beta = 0.3
    outputs, with_it = forward(brain, batch)
    information = brain.information(*outputs.pairs, outputs.groups)
    assert information.abs() > 1e-3 and 0 < brain.beta <= 0.3  # it rises in training
    assert torch.allclose(with_it - without, brain.beta * information, rtol=1e-3, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("stage", JOINT)
def test_steps_on_the_information_alone_lower_it(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    brain.hparams.alpha = 0.0
    outputs, loss = forward(brain, batch)
    for _ in range(20):
        brain.on_fit_batch_end(batch, outputs, loss, True)
    optimizer = torch.optim.SGD(brain.modules["frame_encoder"].parameters(), 1e-3)
    values = []
    for _ in range(6):
        outputs = brain.compute_forward(batch, Stage.TRAIN)
        pairs = brain.draw_pairs(outputs.frames, outputs.embeddings, batch, "encoders")
        information = brain.information(*pairs, brain.groups(outputs.counts["rows"]))
        optimizer.zero_grad()
        information.backward()
        optimizer.step()
        values.append(information.item())
    assert values[-1] < values[0]


def test_beta_waits_for_the_critic_and_rises(tmp_path):
    brain, _ = make_brain("joint", tmp_path)
    brain.hparams.epoch_counter.current = 1
    brain.step = 1
    brain.on_fit_batch_start(None, True)
    assert brain.beta == 0.0
    brain.hparams.epoch_counter.current = brain.hparams.number_of_epochs
    brain.on_stage_start(Stage.VALID)
    assert brain.beta == brain.hparams.beta


@pytest.mark.parametrize("frames_per_pair", [1, 8, None])
def test_draws_are_of_valid_frames_and_their_own_utterance(frames_per_pair, tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    brain.hparams.frames_per_pair = frames_per_pair
    brain.modules.frame_features = torch.nn.Identity()
    count, width = batch.units.data.shape
    rows = torch.arange(count)[:, None].expand(count, width)
    padded = batch.units.data < 0
    frames = torch.stack([rows, padded], -1).float()
    embeddings = torch.arange(count).repeat(2)[:, None].float()
    x, y = brain.draw_pairs(frames, embeddings, batch, "test")
    groups = brain.groups(np.array([count]))
    assert padded.any() and (x[:, 1] == 0).all()
    assert torch.equal(x[:, 0], y[:, 0]) and torch.equal(groups.own.float(), y[:, 0])


def test_without_a_number_the_mean_is_over_all_valid_frames(tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    brain.hparams.frames_per_pair = None
    brain.hparams.pairs_per_utterance = 1
    brain.modules.frame_features = torch.nn.Identity()
    frames = torch.randn(*batch.units.data.shape, 4)
    x, _ = brain.draw_pairs(frames, torch.zeros(2 * len(frames), 1), batch, "test")
    spoken = zip(frames, batch.units.data >= 0, strict=True)
    torch.testing.assert_close(x, torch.stack([row[valid].mean(0) for row, valid in spoken]))


def test_draws_are_means_of_several_frames(tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    frames = torch.randn(*batch.units.data.shape, 4)
    embeddings = torch.zeros(2 * len(frames), 1)
    brain.modules.frame_features = torch.nn.Identity()
    brain.hparams.pairs_per_utterance = 2000
    variances = {}
    for count in (1, 16):
        brain.hparams.frames_per_pair = count
        x, _ = brain.draw_pairs(frames, embeddings, batch, "test")
        variances[count] = x.var().item()
    assert variances[16] == pytest.approx(variances[1] / 16, rel=0.3)


def test_units_are_predicted_at_every_valid_frame_without_masks_too(tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    brain.modules.eval()
    brain.hparams.plain_weight = 0.0
    outputs, without = forward(brain, batch)
    brain.hparams.plain_weight = 0.7
    _, with_it = forward(brain, batch)
    units = batch.units.data
    valid = units >= 0
    places = torch.cat([batch.hidden, batch.visible])
    expected = torch.nn.functional.cross_entropy(outputs.plain_logits, units.flatten()[places])
    assert not valid.all()
    torch.testing.assert_close(with_it - without, 0.7 * expected, rtol=1e-4, atol=1e-5)


def test_the_critic_sees_frames_without_masks(tmp_path):
    brain, batch = make_brain("joint", tmp_path)
    first = brain.compute_forward(batch, Stage.TRAIN)
    batch.mask.data[:] = ~batch.mask.data
    second = brain.compute_forward(batch, Stage.TRAIN)
    assert not torch.equal(first.masked_frames, second.masked_frames)
    assert torch.equal(first.frames, second.frames)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["frame", "utterance", "joint"])
def test_the_last_step_is_taken_once_and_what_it_made_is_evaluated_each_time(stage, tmp_path):
    brain, batch = make_brain(stage, tmp_path)
    brain.loaders = {"plain": loader_of([batch])}
    with pytest.raises(RuntimeError, match="Call finalise"):
        brain.evaluate([batch])
    brain.checkpointer.save_checkpoint(meta={"epoch": 3})
    trained = all_tensors(brain)
    brain.finalise()
    made = all_tensors(brain)
    brain.finalise()
    assert same_tensors(made, all_tensors(brain))
    assert (made.keys() == trained.keys() and same_tensors(made, trained)) == (stage != "utterance")
    brain.step, figures = 0, []
    for _ in range(2):
        brain.evaluate(DataLoader([0], collate_fn=lambda _: batch))
        figures.append(brain.test_figures)
    assert figures[0] == figures[1] and same_tensors(made, all_tensors(brain))

    again, _ = make_brain(stage, tmp_path)  # as after a kill
    again.loaders = {}
    again.finalise()
    assert same_tensors(made, all_tensors(again))
    longer, _ = make_brain(stage, tmp_path)
    longer.checkpointer.save_checkpoint(meta={"epoch": 4})  # training has gone on since
    longer.loaders = {"plain": loader_of([batch])}
    taken = []
    longer.last_step = lambda: taken.append(stage)
    longer.finalise()
    assert taken == [stage]


def all_tensors(brain):
    """Return the tensors of all encoders."""
    return {
        f"{name}.{key}": value.clone()
        for name in brain.architecture()
        for key, value in brain.modules[name].state_dict().items()
    }


def same_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    brain, batch = make_brain("utterance", tmp_path)
    brain.hparams.log_steps = 53
    for brain.step in (51, 52, 53):
        if brain.step == 52:
            batch.first.data[0, 100] = float("nan")
        loss = brain.fit_batch(batch)
        if brain.step < 53:
            brain.update_average(loss, 0.0)
    with pytest.raises(TrainingError, match="nan at step 52 of epoch 20"):
        brain.update_average(loss, 0.0)


def test_no_checkpoint_is_written_after_a_loss_that_is_not_finite(tmp_path):
    brain, _ = make_brain("utterance", tmp_path)
    brain.update_average(torch.tensor(float("inf")), 0.0)
    with pytest.raises(TrainingError, match="inf at step 51"):
        brain._save_intra_epoch_ckpt()
    assert brain.checkpointer.find_checkpoint() is None


def test_within_an_epoch_the_mean_loss_of_all_ranks_is_kept(tmp_path, monkeypatch):
    brain, _ = make_brain("utterance", tmp_path)
    monkeypatch.setattr("recipes.common.training.brain.world_size", lambda: 2)
    others = {(): 3.0}  # the other rank's average; of what is not finite it has none
    monkeypatch.setattr(
        "recipes.common.training.brain.sum_over_ranks",
        lambda x: x + (others[x.shape] if x.dtype.kind == "f" else 0),
    )
    brain.avg_train_loss = 1.0
    brain._save_intra_epoch_ckpt()
    assert brain.avg_train_loss == 2.0


def test_losses_are_averaged_as_by_speechbrain_whenever_they_are_read(tmp_path):
    brain, _ = make_brain("utterance", tmp_path)
    losses, expected, found = torch.rand(7), 0.0, 0.0
    for brain.step, loss in enumerate(losses, 1):
        expected = super(ResumableBrain, brain).update_average(loss, expected)
        brain.hparams.log_steps = 3
        found = brain.update_average(loss, found)
    assert brain.read_losses(found) == pytest.approx(expected)


def steps_of(brain, batches, factor):
    """Return the gradients' norms at each step of an epoch of several batches."""
    brain.grad_accumulation_factor, norms = factor, []

    def step():
        whole = torch.cat(
            [p.grad.flatten() for p in brain.modules.parameters() if p.grad is not None]
        )
        norms.append(whole.norm().item())
        brain.zero_grad()
        brain.optimizer_step += 1

    brain.optimizers_step = step
    for brain.step, batch in enumerate(batches, 1):
        brain.fit_batch(batch)
    return norms


@pytest.mark.parametrize(("factor", "count"), [(1, 5), (2, 3), (5, 1), (9, 1)])
def test_what_is_left_at_the_end_of_an_epoch_is_a_step(factor, count, tmp_path, monkeypatch):
    monkeypatch.setattr(steps.LengthSortedBatches, "__len__", lambda own: 5)
    brain, batch = make_brain("utterance", tmp_path)
    brain.on_fit_batch_start = lambda *_: torch.manual_seed(0)  # the same draws in each batch
    norms = steps_of(brain, [batch] * 5, factor)
    assert len(norms) == count and brain.optimizer_step == count
    share = norms[0] / min(factor, 5)  # of a batch
    left = 5 % factor or factor
    assert norms[-1] == pytest.approx(share * min(left, 5), rel=1e-4)


def test_a_checkpoint_within_an_epoch_is_saved_after_a_step(tmp_path):
    brain, _ = make_brain("utterance", tmp_path)
    brain.ckpt_interval_steps, brain.grad_accumulation_factor = 2, 3
    due = []
    for brain.step in range(1, 10):
        due.append(brain._should_save_intra_epoch_ckpt(0.0, brain.step))
    assert due == [False, False, True] * 3


@pytest.mark.parametrize(
    ("name", "value"), [("max_batch_seconds", 2.0), ("seed", 5), ("seconds", [1.0])]
)
def test_within_an_epoch_other_batches_are_refused(name, value, tmp_path):
    brain, _ = make_brain("utterance", tmp_path)
    brain._save_intra_epoch_ckpt()
    brain.check_batches()
    before = getattr(brain.train_sampler, name)
    setattr(brain.train_sampler, name, value)
    with pytest.raises(ValueError, match="within an epoch whose .* the batches are others"):
        brain.check_batches()
    setattr(brain.train_sampler, name, before)
    brain.grad_accumulation_factor = 4
    with pytest.raises(ValueError, match="whose grad_accumulation_factor is 1; now it is 4"):
        brain.check_batches()
    brain.save_epoch({"epoch": 1, "architecture": brain.architecture()})
    brain.check_batches()  # between epochs all of that may change


def test_another_number_of_processes_goes_on_at_the_same_batch(tmp_path, monkeypatch):
    brain, _ = make_brain("utterance", tmp_path)
    monkeypatch.setattr("recipes.common.training.brain.world_size", lambda: 3)
    brain.step = 7  # of 3 processes: 21 batches
    brain._save_intra_epoch_ckpt()
    monkeypatch.setattr("recipes.common.training.brain.world_size", lambda: 2)
    resumed, _ = make_brain("utterance", tmp_path)
    resumed.on_fit_start()
    assert resumed.step == 10


def test_a_collapsed_representation_stops_the_run(tmp_path):
    brain, _ = make_brain("frame", tmp_path)
    brain.check_collapse({"frame_deviation": 0.5})
    with pytest.raises(TrainingError, match="frame_deviation.*collapsed"):
        brain.check_collapse({"frame_deviation": 1e-5})


def test_dropout_depends_on_the_step_alone(tmp_path):
    brain, batch = make_brain("frame", tmp_path)
    draws = []
    for step in (3, 4, 3):
        torch.rand(7)
        brain.step = step
        brain.on_fit_batch_start(batch, True)
        draws.append(torch.rand(5))
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    brain, _ = make_brain("frame", tmp_path)
    architecture = brain.architecture()
    brain.checkpointer.save_checkpoint(meta={"architecture": architecture})
    brain.check_architecture()
    brain.modules["frame_encoder"].config["d_model"] = 999
    with pytest.raises(ValueError, match="frame_encoder.d_model is 128 there and 999 here"):
        brain.check_architecture()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    layer, full = torch.nn.Linear(2, 2), [False]
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"layer": layer})

    def save(module, path):
        if full[0]:
            raise OSError(28, "No space left on device")
        torch.save(module.state_dict(), path)

    checkpointer.custom_save_hooks["layer"] = save
    checkpointer.save_and_keep_only()
    good = layer.weight.detach().clone()
    full[0] = True
    torch.nn.init.zeros_(layer.weight)
    with pytest.raises(OSError, match="No space left.*Earlier checkpoints there are intact"):
        checkpointer.save_and_keep_only()
    assert len(list((tmp_path / "save").iterdir())) == 1
    checkpointer.recover_if_possible()
    assert torch.equal(layer.weight, good)


def test_saving_does_not_lengthen_the_default_of_speechbrain(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"layer": torch.nn.Linear(2, 3)})
    default = inspect.signature(Checkpointer.save_and_keep_only).parameters["importance_keys"]
    before = len(default.default)
    for _ in range(2):
        checkpointer.save_and_keep_only()
    assert len(default.default) == before and len(checkpointer.list_checkpoints()) == 1


def test_a_figure_that_is_not_finite_stops_a_run_and_lists_do_not(tmp_path):
    brain, _ = make_brain("frame", tmp_path)
    brain.check_collapse({"loss": 1.0, "interval": [0.1, 0.2], "steps": 3, "ratio": None})
    for value in (float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="loss is .* after epoch .* no checkpoint is kept"):
            brain.check_collapse({"loss": value})


@pytest.mark.parametrize("content", [b"", b"%", b"a: [", None])
@pytest.mark.parametrize("name", ["CKPT.yaml", "layer.ckpt", "counter.ckpt"])
def test_a_broken_checkpoint_is_named(name, content, tmp_path):
    parts = {"layer": torch.nn.Linear(2, 3), "counter": EpochCounter(3)}
    checkpointer = AtomicCheckpointer(tmp_path / "save", parts)
    saved = checkpointer.save_checkpoint()
    assert checkpointer.recover_if_possible().path == saved.path
    if content is None:
        whole = (saved.path / name).read_bytes()
        content = whole[: len(whole) // 2] if name == "layer.ckpt" else b"\0"
    (saved.path / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded .*remove it") as error:
        checkpointer.recover_if_possible()
    assert str(saved.path) in str(error.value) and len(str(error.value).splitlines()) == 1


def test_the_history_has_each_epoch_once(tmp_path):
    path = tmp_path / "history.jsonl"
    for epoch in (1, 2, 3, 2):
        record_epoch(path, epoch, {}, {})
    assert [line[:12] for line in path.read_text().splitlines()] == ['{"epoch": 1,', '{"epoch": 2,']


def test_optimizers_are_fused_where_they_can_be(tmp_path):
    brain, _ = make_brain("frame", tmp_path)
    parameters = [torch.nn.Parameter(torch.ones(2))]
    for device, fused in (("cpu", True), ("cuda", True), ("mps", None)):
        brain.device_type = device
        assert brain.make_optimizer(parameters).defaults["fused"] is fused
    brain.opt_class = lambda parameters: torch.optim.Rprop(parameters, lr=0.1)
    assert isinstance(brain.make_optimizer(parameters), torch.optim.Rprop)
