"""A frame encoder in the place of SpeechBrain's WeightedSSLModel."""

import pytest
import torch
from speechbrain.integrations.huggingface.weighted_ssl import WeightedSSLModel

from pretrained.exported import save_model
from pretrained.toolkits.layouts import to_huggingface
from pretrained.toolkits.weighted_frames import WeightedFrames
from tests.pretrained.exports import frame_encoder

WAVS = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weighted")
    encoders = {"frame_encoder": frame_encoder("waveform", dropout=0.3, layer_drop=0.5)}
    save_model(folder / "own", encoders)
    to_huggingface(encoders, folder / "theirs")
    return folder


@pytest.mark.parametrize("layernorm", [False, True])
def test_sums_and_gradients_of_weights_are_speechbrains(layernorm, model):
    ours = WeightedFrames(model / "own", layernorm=layernorm, freeze=True).eval()
    theirs = WeightedSSLModel(str(model / "theirs"), layernorm=layernorm, freeze=True).eval()
    weights = torch.tensor([0.5, -1.0, 2.0])
    with torch.no_grad():
        ours.weighted_sum.weights.copy_(weights)
        theirs.weights.copy_(weights)
    found, expected = ours(WAVS), theirs(WAVS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(
        ours.weighted_sum.weights.grad, theirs.weights.grad, rtol=1e-3, atol=0.1
    )


def test_a_frozen_encoder_stays_as_it_is_in_training(model):
    frozen = WeightedFrames(model / "own", freeze=True)
    expected = frozen.eval()(WAVS)
    assert torch.equal(frozen.train()(WAVS), expected)
    assert [name for name, p in frozen.named_parameters() if p.requires_grad] == [
        "weighted_sum.weights"
    ]
    free = WeightedFrames(model / "own").train()
    assert not torch.equal(free(WAVS), expected)
    free(WAVS).square().sum().backward()
    assert all(p.grad is not None for p in free.states.encoder.transformer.parameters())
