"""Recordings longer than a window: what comes of the windows is what comes of the whole."""

import pytest
import torch

from lobes.signal import num_frames
from pretrained import Learn2Diss
from tests.pretrained.exports import RATE, utterance_encoder, written


def test_a_file_of_one_window_is_encoded_as_it_is(encoders, recording, tmp_path):
    samples = recording(30)
    model = Learn2Diss(encoders)
    encoding = model.encode_file(written(tmp_path / "a.wav", samples, subtype="FLOAT"))
    expected = model.encode(torch.from_numpy(samples)[None])
    assert torch.equal(encoding.frames, expected.frames)
    assert torch.equal(encoding.utterance, expected.utterance)
    assert encoding.frame_lens.tolist() == [1499]


@pytest.mark.long
@pytest.mark.parametrize("seconds", [30.02, 56, 82.7])
def test_windows_make_up_the_grid_of_the_whole(encoders, seconds, recording, tmp_path):
    samples = recording(seconds)
    model = Learn2Diss(encoders)
    encoding = model.encode_file(written(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert encoding.frames.shape[1] == num_frames(len(samples)) == int(encoding.frame_lens)
    for start in range(0, len(samples) - 4 * RATE, 26 * RATE):
        window = torch.from_numpy(samples[start : start + 30 * RATE])[None]
        alone = model.encode(window).frames
        lead = 100 if start else 0
        last = start + 30 * RATE >= len(samples)
        own = alone[:, lead : None if last else 1400]
        place = start // 320 + lead
        assert torch.equal(encoding.frames[:, place : place + own.shape[1]], own)


@pytest.mark.long
def test_the_tdnn_gives_what_the_whole_gives(recording, tmp_path):
    samples = recording(95)
    encoder = utterance_encoder()
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found = Learn2Diss({"utterance_encoder": encoder}).encode_file(path).utterance
    with torch.no_grad():
        whole = encoder(torch.from_numpy(samples)[None])
        part = encoder(torch.from_numpy(samples[: 30 * RATE])[None])
    assert (found - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (part - whole).abs().max() > 1e-3


@pytest.mark.long
def test_ecapa_is_near_to_what_the_whole_gives(recording, tmp_path):
    samples = recording(70)
    encoder = utterance_encoder("ecapa")
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found = Learn2Diss({"utterance_encoder": encoder}).encode_file(path).utterance
    with torch.no_grad():
        whole = encoder(torch.from_numpy(samples)[None])
    assert torch.cosine_similarity(found, whole) > 0.999
