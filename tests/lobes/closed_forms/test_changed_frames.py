"""Frame encoders whose frames are changed after the last layer: alone, exported, refused."""

import json

import pytest
import torch

from lobes.frame_encoder import FrameEncoder
from pretrained import Learn2Diss
from pretrained.deployment.graphs import Frames
from pretrained.exported import load_folder, load_model, save_model
from pretrained.toolkits.names import erasure_map, export_state_dict
from tests.pretrained.exports import SIZES, frame_encoder, utterance_encoder

LENGTHS = (16000, 9000, 7777)


def signals():
    """Return padded waveforms, their relative lengths, and each alone."""
    generator = torch.Generator().manual_seed(0)
    rows = [0.1 * torch.randn(n, generator=generator) for n in LENGTHS]
    wavs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return wavs, torch.tensor(LENGTHS) / LENGTHS[0], rows


def regressed(frontend="fbank"):
    """Return an encoder whose frames lose what an embedding explains, and what gave that."""
    encoder, other = frame_encoder(frontend), utterance_encoder()
    with torch.no_grad():
        wavs = 0.1 * torch.randn(30, 3200, generator=torch.Generator().manual_seed(1))
        z, u = encoder(wavs), other(wavs)
    encoder.regress(other, z.mean(1), torch.full((30,), z.shape[1]), u, components=5)
    return encoder, other


def changed_encoder(kind):
    if kind == "least_squares":
        return regressed()[0]
    return frame_encoder(frame_norm=kind)


KINDS = ("mean", "mean_std", "least_squares")


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_what_it_gives_alone(kind):
    encoder = changed_encoder(kind)
    wavs, lens, rows = signals()
    frames, hidden, logits = encoder(wavs, lens, None, True, True)
    assert torch.equal(hidden[-1], frames)
    for row, own, own_logits in zip(rows, frames, logits, strict=True):
        alone, alone_logits = encoder(row[None], return_logits=True)
        count = alone.shape[1]
        torch.testing.assert_close(own[:count], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own_logits[:count], alone_logits[0], atol=1e-3, rtol=1e-3)
        assert not own[count:].any()
        if kind != "least_squares":
            assert alone.mean(1).abs().max() < 1e-5


@torch.no_grad()
def test_the_head_sees_normed_frames_and_none_of_least_squares():
    plain, normed = frame_encoder(), frame_encoder(frame_norm="mean_std")
    wavs = signals()[0]
    frames, logits = normed(wavs, return_logits=True)
    torch.testing.assert_close(plain.head(frames), logits)
    fitted, other = regressed()
    expected, logits = frame_encoder()(wavs, return_logits=True)
    found, same = fitted(wavs, return_logits=True)
    assert torch.equal(logits, same)
    explained = fitted.least_squares.explained(other(wavs))
    assert explained.abs().max() > 1e-3
    torch.testing.assert_close(found, expected - explained[:, None])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_loaded(kind, tmp_path):
    encoder, wavs = changed_encoder(kind), signals()[0]
    save_model(tmp_path, {"frame_encoder": encoder})
    found = load_model(tmp_path)["frame_encoder"]
    assert found.config == encoder.config and torch.equal(found(wavs), encoder(wavs))
    blocks = Learn2Diss({"frame_encoder": found}).stream(wavs[0].split(3000))
    steps = [step.frames for step in blocks]
    assert torch.cat(steps, dim=1).shape[1] == 49 and all(x.isfinite().all() for x in steps)


def test_an_export_from_before_loads_as_it_did(tmp_path):
    encoder = frame_encoder()
    for key in ("frame_norm", "least_squares"):
        del encoder.config[key]
    save_model(tmp_path, {"frame_encoder": encoder})
    found = load_model(tmp_path)["frame_encoder"]
    wavs = signals()[0]
    assert torch.equal(found(wavs), encoder(wavs)) and found.config["frame_norm"] == "none"


def test_a_damaged_configuration_is_refused_by_name(tmp_path):
    save_model(tmp_path, {"frame_encoder": regressed()[0]})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for value, message in (
        ({"channel": 8}, "utterance_encoder has no argument 'channel'"),
        ({"channels": 0}, "utterance_encoder.channels must be between 1 and"),
        ("tdnn", "utterance_encoder must be an object of arguments, not 'tdnn'"),
        (None, "least_squares.* is left over"),
    ):
        config["frame_encoder"]["least_squares"] = value
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            load_folder(tmp_path)
    config["frame_encoder"] |= {"least_squares": None, "frame_norm": "variance"}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="frame_norm must be one of none, mean, mean_std"):
        load_folder(tmp_path)


@pytest.mark.parametrize("layout", ["huggingface", "torchaudio"])
def test_layouts_without_a_place_for_it_refuse_it(layout):
    for encoder, key, apart in (
        (frame_encoder("waveform", frame_norm="mean"), "frame_norm", False),
        (regressed("waveform")[0], "least_squares", False),
        (regressed("waveform")[0], "least_squares", True),
    ):
        with pytest.raises(ValueError, match=rf"\({key}\).*layout {layout} has no place"):
            export_state_dict(encoder, layout, changes_apart=apart)
    normed = frame_encoder("waveform", frame_norm="mean")
    found = export_state_dict(normed, layout, changes_apart=True)
    expected = export_state_dict(frame_encoder("waveform"), layout)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_graph_is_made_of_least_squares():
    with pytest.raises(ValueError, match="least_squares.* no graph is made"):
        Frames(regressed()[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["mean", "mean_std"])
def test_graphs_norm_frames_as_the_encoder_does(kind):
    encoder = frame_encoder(frame_norm=kind)
    wavs, lens, _ = signals()
    found, _ = Frames(encoder)(wavs, torch.tensor(LENGTHS))
    torch.testing.assert_close(found, encoder(wavs, lens), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_collapsed_directions_are_one_affine_map():
    encoder = FrameEncoder("fbank", **SIZES).eval()
    wavs = signals()[0]
    plain = encoder(wavs)
    encoder.add_erasure(4)
    encoder.erasure.collapse(torch.randn(20, 32, generator=torch.Generator().manual_seed(2)))
    folded = torch.nn.functional.linear(plain, **erasure_map(encoder))
    torch.testing.assert_close(encoder(wavs), folded, atol=1e-5, rtol=0)
    assert torch.linalg.matrix_rank((plain - folded)[0], atol=1e-3) == 4
