"""Encoding batches: what comes out, and what is refused."""

import gzip
import io

import numpy as np
import pytest
import torch

from lobes.signal import num_frames
from pretrained import Learn2Diss
from pretrained.audio import AudioError
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
        (torch.zeros(1, 2, 16000), None, r"must be \(batch, samples\)"),
        (torch.zeros(0, 16000), None, "no row is long enough"),
        ([torch.ones(16000), torch.ones(1, 1, 9)], None, r"clip 1 of wavs must be \(samples,\)"),
        ([torch.ones(16000), torch.ones(0)], None, "clip 1 of wavs must be"),
        ([torch.ones(16000), torch.ones(300)], None, "row 1 of wavs has 300"),
        ([torch.ones(16000)], [1.0], "wav_lens must be None for a list of clips"),
        (torch.ones(1, 16000), [0.0], "wav_lens"),
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


def test_samples_of_every_type_are_those_of_float32(encoders):
    model = Learn2Diss(encoders)
    wavs = (torch.randn(2, 9000).clamp(-3, 3) / 4 * 2**15).round() / 2**15
    expected = model.encode(wavs)
    same = {
        "float64": wavs.double(),
        "numpy": wavs.numpy(),
        "float64 of numpy": wavs.double().numpy(),
        "int16": (wavs * 2**15).short(),
        "int32 of numpy": (wavs.double() * 2**31).to(torch.int32).numpy(),
        "lists": wavs.tolist(),
        "clips": [wavs[0], wavs[1].double().numpy()],
        "big endian": wavs.numpy().astype(">f4"),
        "backwards": wavs.flip(1).numpy()[:, ::-1],
        "every second": wavs.repeat_interleave(2, 1).numpy()[:, ::2],
        "long double": wavs.numpy().astype(np.longdouble),
        "clips of two channels": [torch.stack([wav, wav]) for wav in wavs],
    }
    for name, given in same.items():
        found = model.encode(given)
        assert torch.equal(found.frames, expected.frames), name
        assert torch.equal(found.utterance, expected.utterance), name
    rough = model.encode(wavs.half())
    assert rough.frames.dtype == torch.float32
    assert (rough.frames - expected.frames).norm() < 0.05 * expected.frames.norm()
    alone = model.encode(wavs[0])
    assert alone.frames.shape[0] == 1


@pytest.mark.parametrize(
    "lens", [[1.0, 0.5], (1, 0.5), np.array([1.0, 0.5]), torch.tensor([1, 0.5])]
)
def test_lengths_of_every_type(lens, encoders):
    wavs = 0.1 * torch.randn(2, 16000)
    found = Learn2Diss(encoders).encode(wavs, lens)
    assert found.frame_lens.tolist() == [49, 24]
    clips = Learn2Diss(encoders).encode([wavs[0], wavs[1, :8000]])
    assert torch.equal(found.frames, clips.frames) and torch.equal(found.utterance, clips.utterance)


@pytest.mark.parametrize(
    ("wavs", "lens", "message"),
    [
        ("a.wav", None, "wavs must be a tensor, an array or a list of these, not str"),
        (None, None, "not NoneType"),
        ({"a": 1}, None, "not dict"),
        ([torch.ones(16000), "b"], None, "not str"),
        (torch.ones(1, 16000, dtype=torch.complex64), None, "floating point, int16 or int32"),
        (torch.ones(1, 16000, dtype=torch.bool), None, "not torch.bool"),
        (np.ones((1, 16000), np.uint8), None, "not torch.uint8"),
        (np.ones((1, 16000), np.int64), None, "not torch.int64"),
        (torch.ones(1, 16000), "all", "wav_lens must be a tensor"),
        (torch.ones(1, 16000).to_sparse(), None, "not Tensor"),
        (torch.ones(1, 16000, device="meta"), None, "not Tensor"),
        (np.ma.masked_array(np.ones((1, 16000)), True), None, "not MaskedArray"),
        (iter([torch.ones(16000)]), None, "not list_iterator"),
    ],
)
def test_other_types_are_refused_in_a_sentence(wavs, lens, message, encoders):
    with pytest.raises(TypeError, match=message) as error:
        Learn2Diss(encoders).encode(wavs, lens)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("suffix", ["wav", "ogg", "flac"])
def test_an_open_file_is_encoded_like_its_path(suffix, encoders, recording, tmp_path):
    path = written(tmp_path / f"a.{suffix}", recording(1))
    model = Learn2Diss(encoders)
    expected = model.encode_file(path).frames
    with open(path, "rb") as file:
        assert torch.equal(model.encode_file(file).frames, expected)
    assert torch.equal(model.encode_file(io.BytesIO(path.read_bytes())).frames, expected)
    cut = io.BytesIO(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="cut short|cannot be decoded"):
        model.encode_file(cut)
    file.close()
    write_only, gzipped = open(tmp_path / "new", "wb"), gzip.open(tmp_path / "gz", "wb")
    for unreadable in (file, write_only, gzipped):
        with pytest.raises(ValueError, match="is closed, or cannot be read from any place"):
            model.encode_file(unreadable)
        unreadable.close()
    with open(path, encoding="latin-1") as text, pytest.raises(TypeError, match="opened as text"):
        model.encode_file(text)
