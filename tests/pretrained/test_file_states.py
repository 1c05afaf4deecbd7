"""States of files longer than a window: those of the whole recording."""

import numpy as np
import pytest
import torch

from pretrained import Learn2Diss
from pretrained.file_states import FileStates, make_states
from tests.pretrained.exports import RATE, modules_of, written


def only_layer(states):
    return states[:, :, 0]


@pytest.mark.long
@pytest.mark.parametrize("features", ["fbank", "fbank_statistics", "utterance_encoder"])
@pytest.mark.parametrize("seconds", [30.01, 45])
def test_states_of_a_long_file_are_those_of_the_whole(features, seconds, speech, tmp_path):
    samples = speech(seconds)
    samples[35 * RATE :] *= 0.05  # the last window's own floor and level are others
    samples = np.ascontiguousarray(samples)
    modules = modules_of(features)
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found, found_lens = FileStates(features, modules, only_layer)(path)
    with torch.no_grad():
        whole, lens = make_states(features, modules)(torch.from_numpy(samples)[None])
        part, _ = make_states(features, modules)(torch.from_numpy(samples[: 20 * RATE])[None])
    assert found_lens.tolist() == lens.tolist() and found.shape == whole[:, :, 0].shape
    assert (found - whole[:, :, 0]).abs().max() < 1e-4
    assert (found[:, :500] - part[:, :500, 0]).abs().max() > 1e-3


@pytest.mark.long
def test_frames_of_a_long_file_are_those_of_its_encoding(speech, tmp_path):
    path = written(tmp_path / "a.wav", speech(40))
    modules = modules_of("frame_encoder")
    found, lens = FileStates("frame_encoder", modules, lambda states: states[:, :, -1])(path)
    expected = Learn2Diss(modules).encode_file(path)
    assert torch.equal(found, expected.frames) and torch.equal(lens, expected.frame_lens)
