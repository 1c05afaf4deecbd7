"""Encoding batches: what comes out, and what is refused."""

import pytest
import torch

from lobes.signal import num_frames
from pretrained import Learn2Diss
from pretrained.exported import save_model
from tests.pretrained.exports import written


def test_encode_is_what_the_encoders_give(encoders, folder):
    model = Learn2Diss.from_pretrained(folder)
    wavs, lens = 0.1 * torch.randn(3, 8000), torch.tensor([1.0, 0.5, 0.81])
    encoding = model.encode(wavs, lens, output_hidden_states=True)
    frames, hidden = encoders["frame_encoder"](wavs, lens, output_hidden_states=True)
    assert torch.equal(encoding.frames, frames)
    assert all(map(torch.equal, encoding.hidden_states, hidden)) and len(hidden) == 3
    assert encoding.frame_lens.tolist() == [num_frames(n) for n in (8000, 4000, 6480)]
    assert encoding.frame_lens.dtype == torch.int64
    assert torch.equal(encoding.utterance, encoders["utterance_encoder"](wavs, lens))
    assert not encoding.frames.requires_grad and not encoding.utterance.requires_grad
    assert model.encode(wavs).hidden_states is None
    assert not any(module.training for module in model.frame_encoder.modules())


@pytest.mark.parametrize("seconds", [1, 40])
@pytest.mark.parametrize("name", ["frame_encoder", "utterance_encoder"])
def test_a_missing_encoder_gives_none(encoders, name, seconds, recording, tmp_path):
    save_model(tmp_path, {name: encoders[name]})
    model = Learn2Diss.from_pretrained(tmp_path)
    encoding = model.encode_file(written(tmp_path / "a.wav", recording(seconds)))
    alone = name == "utterance_encoder"
    assert (model.frame_encoder is None, model.utterance_encoder is None) == (alone, not alone)
    assert (encoding.frames is None, encoding.frame_lens is None) == (alone, alone)
    assert (encoding.utterance is None) == (not alone)


@pytest.mark.parametrize(
    ("wavs", "lens", "message"),
    [
        (torch.zeros(16000), None, r"must be \(batch, samples\)"),
        (torch.zeros(1, 16000, dtype=torch.int16), None, "floating point"),
        (torch.zeros(1, 399), None, "row 0 of wavs has 399 valid samples"),
        (torch.ones(2, 16000), torch.tensor([1.0, 0.02]), "row 1 of wavs has 320"),
        (torch.full((1, 16000), torch.nan), None, "row 0 of wavs holds NaN"),
        (torch.ones(2, 16000), torch.ones(3), "one value for each of the 2 rows"),
    ],
)
def test_batches_that_cannot_be_encoded(encoders, wavs, lens, message):
    with pytest.raises(ValueError, match=message):
        Learn2Diss(encoders).encode(wavs, lens)


def test_padding_may_hold_anything(encoders):
    wavs = 0.1 * torch.randn(2, 16000)
    wavs[1, 8000:] = torch.nan
    encoding = Learn2Diss(encoders).encode(wavs, torch.tensor([1.0, 0.5]))
    assert encoding.frames.isfinite().all() and encoding.utterance.isfinite().all()
