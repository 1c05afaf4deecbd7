"""A recipe of one's own: another mask, critic, encoder and figure, by YAML and a subclass."""

import copy
import json

import pytest
import torch
from torch import nn

from lobes.critics.club import MICritic
from lobes.frame_encoder import FrameEncoder
from recipes.common.training import run
from recipes.common.training.hparams import load_hparams
from recipes.experiments.runner import PRETRAIN
from tests.training.test_brain import make_brain, same, weights

TRAIN = """
import torch

from recipes.common.training.refusals import run_recipe
from recipes.LibriSpeech.pretrain.frame import FrameBrain
from recipes.LibriSpeech.pretrain.train import main


class OwnBrain(FrameBrain):
    def measure(self, outputs, batch):
        super().measure(outputs, batch)
        self.meters["frame"].add("masked_share", len(batch.hidden), batch.frame_counts.sum())


run_recipe(main, OwnBrain)
"""
OWN = """
base: {base}
span_mask: !name:tests.recipes.pretraining.test_own_parts.every_fourth
"""
CRITIC = """
base: {base}
modules:
    critic: !new:tests.recipes.pretraining.test_own_parts.Product
        x_dim: !ref <frame_features.num_features>
        y_dim: !ref <utterance[embedding_dim]>
"""


def every_fourth(num_frames, rng):
    return torch.arange(num_frames) % 4 == int(rng.integers(4))


class Product(MICritic):
    """A bound with one weight, which is no bound at all."""

    def __init__(self, x_dim, y_dim):
        super().__init__(x_dim, y_dim)
        self.weight = nn.Parameter(torch.ones(()))

    def _estimate(self, x, y, groups):
        return self.weight * (x[:, 0] * y[:, 0]).mean() - self.weight**2


class Encoder(FrameEncoder):
    """The frame encoder by another name."""


@pytest.mark.long
def test_masks_by_yaml_and_a_figure_by_a_subclass(librispeech, commands, tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "own.yaml").write_text(OWN.format(base=PRETRAIN / "hparams" / "frame_tiny.yaml"))
    words = ["own.yaml", "--data_folder", librispeech, "--output_folder", tmp_path / "frame"]
    words += ["--number_of_epochs", "1", "--num_targets", "16", "--kmeans_passes", "2"]
    commands.succeed(tmp_path / "train.py", *words)
    [row] = map(json.loads, (tmp_path / "frame" / "history.jsonl").read_text().splitlines())
    for split in ("train", "valid"):
        assert row[split]["masked_share"] == pytest.approx(0.25, abs=0.01)


def test_a_critic_by_yaml_is_trained_and_trains_the_encoder(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(CRITIC.format(base=PRETRAIN / "hparams" / "joint_tiny.yaml"))
    given = {"data_folder": "none", "output_folder": str(tmp_path)}
    own = load_hparams(path, given)["modules"]["critic"]
    assert isinstance(own, Product)
    brain, batch = make_brain("joint", tmp_path)
    brain.modules["critic"] = own
    brain.init_optimizers()
    initial = copy.deepcopy(brain.modules.state_dict())
    before, encoder = weights(own), weights(brain.modules.frame_encoder)
    brain.fit_batch(batch)
    assert not same(own, before) and brain.beta > 0
    pulled = weights(brain.modules.frame_encoder)
    brain.modules.load_state_dict(initial)
    brain.hparams.beta = 0.0
    brain.init_optimizers()
    brain.fit_batch(batch)
    assert not same(brain.modules.frame_encoder, encoder)
    assert not same(brain.modules.frame_encoder, pulled)


def test_what_no_optimizer_would_train_is_told_before_training(tmp_path):
    brain, _ = make_brain("joint", tmp_path)
    brain.check_trained()
    brain.modules["more"] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"modules\.more has parameters that no optimizer trains"):
        brain.check_trained()
    brain.modules["more"].requires_grad_(False)
    brain.check_trained()


def test_an_encoder_that_could_not_be_exported_is_told_before_training():
    given = {"num_layers": 1, "d_model": 16, "nhead": 2, "d_ffn": 16, "num_targets": 4}
    run.check_exportable({"frame_encoder": FrameEncoder(**given), "critic": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"frame_encoder is a .*test_own_parts\.Encoder: expected"):
        run.check_exportable({"frame_encoder": Encoder(**given)})
