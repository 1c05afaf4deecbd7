"""Spin: what is trained and what is not, where it starts, its figures and its collapse."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain import Stage

from lobes.swapped_prediction import Codebook, swapped_prediction
from pretrained.exported import save_model
from recipes.common.training.brain import TrainingError
from recipes.common.training.hparams import load_hparams
from recipes.LibriSpeech.pretrain.spin import ClusterMeter, SpinBrain, check_trained_layers
from tests.training import distributed_gradients as steps
from tests.training.test_brain import loader_of, make_brain, same, weights

HPARAMS = Path(__file__).parents[2] / "recipes" / "LibriSpeech" / "pretrain" / "hparams"


def tiny(folder, **overrides):
    """Return what spin_tiny.yaml builds."""
    overrides |= {"data_folder": "none", "output_folder": str(folder / "spin")}
    return load_hparams(HPARAMS / "spin_tiny.yaml", overrides)


def test_the_loss_is_that_of_valid_frames_at_the_same_places(tmp_path):
    brain, batch = make_brain("spin", tmp_path)
    brain.modules.eval()
    frames, scores, counts = brain.compute_forward(batch, Stage.TRAIN)
    loss = brain.compute_objectives((frames, scores, counts), batch, Stage.TRAIN)
    encoder, codebook = brain.modules.frame_encoder, brain.modules.codebook
    views = [
        torch.cat([encoder(row[name][None])[0] for row in steps.examples()])
        for name in ("sig", "other_voice")
    ]
    torch.testing.assert_close(frames, torch.cat(views), rtol=1e-4, atol=1e-5)
    expected = swapped_prediction(*map(codebook, views), temperature=0.1, epsilon=0.02)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    brain.hparams.temperature = 0.2
    assert not torch.isclose(brain.compute_objectives((frames, scores, counts), batch, None), loss)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_all_but_the_last_layers_stay_the_same_to_the_bit(layers, tmp_path):
    torch.manual_seed(0)
    brain, batch = make_brain("spin", tmp_path)
    encoder, codebook = brain.modules.frame_encoder, brain.modules.codebook
    encoder.requires_grad_(True)
    brain.hparams.trained_layers = layers
    brain.freeze()
    brain.init_optimizers()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    clusters = weights(codebook)
    brain.hparams.lr, brain.progress = 0.01, 0.5
    brain.step = 50
    brain.fit_batch(batch)
    changed = {k for k, value in encoder.state_dict().items() if not torch.equal(value, before[k])}
    trained = tuple(f"transformer.layers.{3 - number}." for number in range(1, layers + 1))
    assert changed and all(name.startswith(trained) for name in changed)
    assert {name.split(".")[2] for name in changed} == {str(3 - n) for n in range(1, layers + 1)}
    assert not same(codebook, clusters)


def test_it_starts_from_stage_a(tmp_path):
    hparams = tiny(tmp_path)
    with pytest.raises(ValueError, match="frame/model is not there: .* Run that stage first"):
        SpinBrain.initialise(hparams)
    earlier = tiny(tmp_path)["modules"]["frame_encoder"]
    for parameter in earlier.parameters():
        torch.nn.init.normal_(parameter)
    save_model(tmp_path / "frame" / "model", {"frame_encoder": earlier})
    assert not same(hparams["modules"]["frame_encoder"], weights(earlier))
    SpinBrain.initialise(hparams)
    assert same(hparams["modules"]["frame_encoder"], weights(earlier))
    with pytest.raises(ValueError, match="its frame_encoder has num_targets 100, this stage's has"):
        SpinBrain.initialise(tiny(tmp_path, num_targets=50))


def test_more_layers_than_there_are_cannot_be_trained(tmp_path):
    with pytest.raises(ValueError, match="trained_layers is 4: the frame encoder has 3 layers"):
        SpinBrain.initialise(tiny(tmp_path, trained_layers=4))
    check_trained_layers(3, tiny(tmp_path)["modules"]["frame_encoder"])


def test_sizes_are_as_published():
    with torch.device("meta"):
        hparams = load_hparams(HPARAMS / "spin.yaml", {"data_folder": "x", "output_folder": "y"})
    counts = {k: sum(p.numel() for p in m.parameters()) for k, m in hparams["modules"].items()}
    assert counts["codebook"] == 769 * 256 + 2048 * 256
    assert 94e6 < counts["frame_encoder"] < 95e6
    settings = ("trained_layers", "temperature", "sinkhorn_epsilon", "sinkhorn_iterations", "lr")
    assert [hparams[name] for name in settings] == [2, 0.1, 0.02, 3, 0.0001]


def test_figures_are_those_of_a_loop():
    torch.manual_seed(0)
    meter, seen = ClusterMeter(False), []
    for frames in (7, 12):
        rows, scores = torch.randn(2 * frames, 4), torch.randn(2 * frames, 5)
        scores[frames:] += scores[:frames]
        meter.update(rows, scores)
        codes = scores.argmax(1).tolist()
        seen += zip(codes[:frames], codes[frames:], rows[:frames], rows[frames:], strict=True)
    figures = meter.figures()
    first, second = ([row[view] for row in seen] for view in (0, 1))
    pairs = [a == b for a in first for b in second]
    assert figures["code_agreement"] == pytest.approx(np.mean(np.equal(first, second)))
    assert figures["chance_agreement"] == pytest.approx(np.mean(pairs))
    assert figures["code_agreement"] > figures["chance_agreement"]
    shares = np.bincount(first + second) / len(first + second)
    entropy = -sum(share * math.log(share) for share in shares if share)
    assert figures["code_perplexity"] == pytest.approx(math.exp(entropy))
    rows = torch.stack([row[view] for row in seen for view in (2, 3)])
    assert figures["frame_deviation"] == pytest.approx(float(rows.std(0, correction=0).mean()))


def collapse(brain, what):
    """Plant a collapse: all frames in one cluster, or at one point."""
    with torch.no_grad():
        if what == "cluster":
            projection = brain.modules.codebook.projection
            projection.weight.mul_(1e-3)
            projection.bias.copy_(100 * brain.modules.codebook.prototypes[3])
        else:
            norm = brain.modules.frame_encoder.transformer.layers[-1].final_layer_norm
            norm.weight.zero_()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cluster", "code_perplexity is 1.00: nearly all frames are in one cluster"),
        ("point", "frame_deviation is .*: the representation has collapsed to a point"),
        ("nothing", None),
    ],
)
def test_a_collapse_stops_the_run(what, message, tmp_path):
    brain, batch = make_brain("spin", tmp_path)
    if what != "nothing":
        collapse(brain, what)
    brain.finalised = True
    if message:
        with pytest.raises(TrainingError, match=message):
            brain.evaluate(loader_of([batch]))
    else:
        brain.evaluate(loader_of([batch]))
        assert brain.test_figures["code_perplexity"] > 3


def test_training_makes_the_views_agree_and_keeps_the_clusters_in_use():
    """On sounds in two voices, each of which adds a vector of its own to all of them."""
    torch.manual_seed(0)
    codebook, layer = Codebook(64, 12, 16), torch.nn.Linear(16, 64)
    sounds, voices = torch.randn(12, 16), 2 * torch.randn(2, 1, 16)
    optimizer = torch.optim.Adam([*codebook.parameters(), *layer.parameters()], 3e-3)
    told = []
    for _ in range(200):
        spoken = sounds[torch.randint(12, (240,))]
        views = [layer(spoken + voice + 0.1 * torch.randn(240, 16)) for voice in voices]
        meter = ClusterMeter(False)
        meter.update(torch.cat(views), codebook(torch.cat(views)))
        told.append(meter.figures())
        optimizer.zero_grad()
        swapped_prediction(*map(codebook, views)).backward()
        optimizer.step()
    assert told[0]["code_agreement"] < 0.3 and told[-1]["code_agreement"] > 0.8
    assert told[-1]["chance_agreement"] < 0.2 and told[-1]["code_perplexity"] > 8
