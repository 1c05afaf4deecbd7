"""The stages with frames that lose their utterance's mean: in training as later."""

import pytest
import torch
from speechbrain import Stage

from lobes.critics.club import RandomFeatures
from lobes.frame_encoder import FrameNorm
from recipes.common.training.limits import check_limits
from tests.training.test_brain import joint_hparams, make_brain
from tests.training.test_device_use import reads_of


def normed_brain(stage, kind, folder):
    """Return a Brain whose frame encoder has a norm, and a batch."""
    brain, batch = make_brain(stage, folder)
    brain.modules.frame_encoder.frame_norm = FrameNorm(kind)
    brain.modules.frame_encoder.config["frame_norm"] = brain.hparams.frame_norm = kind
    return brain, batch


@pytest.mark.parametrize(("stage", "kind"), [("frame", "mean_std"), ("joint", "mean")])
def test_a_step_is_finite_and_reads_nothing(stage, kind, tmp_path):
    brain, batch = normed_brain(stage, kind, tmp_path)
    outputs = brain.compute_forward(batch, Stage.TRAIN)
    loss = brain.compute_objectives(outputs, batch, Stage.TRAIN)
    loss.backward()
    gradients = [p.grad for p in brain.modules.frame_encoder.parameters() if p.grad is not None]
    assert torch.isfinite(loss) and all(torch.isfinite(x).all() for x in gradients)
    for optimizer in (brain.optimizer, *getattr(brain, "critic_optimizers", {}).values()):
        optimizer.step = lambda: None
    assert reads_of(lambda: brain.fit_batch(batch)) == {}


def test_means_of_whole_utterances_tell_the_critic_nothing_and_break_nothing(tmp_path):
    brain, batch = normed_brain("joint", "mean", tmp_path)
    brain.hparams.frames_per_pair = None
    of_means = joint_hparams(tmp_path, critic_projections=0)["modules"]
    for name in ("frame_features", "critic", "lower_bound"):
        brain.modules[name] = of_means[name]
    outputs = brain.compute_forward(batch, Stage.TRAIN)
    loss = brain.compute_objectives(outputs, batch, Stage.TRAIN)
    loss.backward()
    assert outputs.pairs[0].abs().max() < 1e-5 and torch.isfinite(loss)
    assert all(
        torch.isfinite(p.grad).all()
        for p in brain.modules.frame_encoder.parameters()
        if p.grad is not None
    )


def test_random_features_tell_the_critic_of_what_the_norm_leaves(tmp_path):
    brain, batch = normed_brain("joint", "mean_std", tmp_path)
    brain.hparams.frames_per_pair = None
    frames = torch.randn(*batch.units.data.shape, 128, requires_grad=True)
    embeddings = torch.randn(2 * len(frames), brain.modules.critic.weight.shape[1])
    valid = batch.units.data >= 0
    means = {}
    for count in (0, 64):
        brain.modules.frame_features = RandomFeatures(128, count)
        normed = FrameNorm("mean_std")(frames, valid)
        means[count], _ = brain.draw_pairs(normed, embeddings, batch, 0)
    assert means[0].abs().max() < 1e-5
    means[64].var(0).sum().backward()
    moved = frames.grad.abs().sum(-1) > 0
    assert torch.equal(moved, valid)


def test_the_setting_reaches_the_encoder_and_another_word_is_refused(tmp_path):
    hparams = joint_hparams(tmp_path, frame_norm="mean_std")
    assert hparams["modules"]["frame_encoder"].config["frame_norm"] == "mean_std"
    with pytest.raises(ValueError, match="frame_norm is 'x', not none or mean or mean_std"):
        check_limits({"frame_norm": "x"})
