"""The command units: lines of text that name the nearest centre of each frame of a layer."""

import itertools
import re

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import Learn2Diss
from pretrained.__main__ import main
from pretrained.exported import save_model

DIM, UNITS = 16, 6
SECONDS = {"one": 1.3, "two words": 0.9, "long": 31}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return FrameEncoder("fbank", DIM, DIM, 2, 2, 32, pos_conv_kernel=4).eval()


@pytest.fixture
def folder(encoder, tmp_path):
    save_model(tmp_path / "model", {"frame_encoder": encoder})
    return tmp_path / "model"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Audio files of noise by name; the last is longer than a window."""
    root, rng = tmp_path_factory.mktemp("audio"), np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        soundfile.write(root / f"{name}.wav", rng.uniform(-0.5, 0.5, int(16000 * seconds)), 16000)
    return {name: root / f"{name}.wav" for name in SECONDS}


@pytest.fixture
def centroids(tmp_path):
    centres = torch.randn(UNITS, DIM, generator=torch.Generator().manual_seed(1))
    save_file({"centres": centres}, tmp_path / "quantizer.safetensors")
    return tmp_path / "quantizer.safetensors"


def units(folder, centroids, files, out, *more, layer=1):
    """Run the command and return its exit code."""
    words = ["--model", folder, "--layer", layer, "--centroids", centroids, "--out", out, *more]
    return main(["units", *map(str, files), *map(str, words)])


def slow_units(frames, centres):
    """Return the number of the nearest centre of each frame, by loops."""

    def distance(frame, centre):
        return sum((x - c) ** 2 for x, c in zip(frame, centre, strict=True))

    numbers = range(len(centres))
    return [min(numbers, key=lambda n, x=x: distance(x, centres[n])) for x in frames]


def read(path):
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: list(map(int, text.split(" "))) for name, text in lines}


@pytest.mark.parametrize("layer", [0, 2])
def test_a_line_has_the_nearest_centre_of_each_frame(
    layer, encoder, folder, centroids, files, tmp_path
):
    arrays = tmp_path / "centres.npy"
    centres = 0.5 * np.random.default_rng(2).normal(size=(UNITS, DIM))
    np.save(arrays, centres)
    short = [files["one"], files["two words"]]
    assert units(folder, arrays, short, tmp_path / "u.txt", layer=layer) == 0
    found = read(tmp_path / "u.txt")
    assert list(found) == ["one", "two words"]
    model = Learn2Diss({"frame_encoder": encoder})
    for name in found:
        wav = soundfile.read(files[name], dtype="float32")[0]
        states = model.encode(wav, output_hidden_states=True).hidden_states[layer][0]
        assert found[name] == slow_units(states.tolist(), centres.tolist())
    assert len(set(found["one"])) > 2


def test_repeats_are_collapsed_where_that_is_asked_for(folder, centroids, files, tmp_path):
    whole, short = tmp_path / "whole.txt", tmp_path / "short.txt"
    units(folder, centroids, files.values(), whole)
    units(folder, centroids, files.values(), short, "--collapse")
    whole, short = read(whole), read(short)
    assert {name: len(own) for name, own in whole.items()} == {
        "one": 64,
        "two words": 44,
        "long": 1549,
    }
    for name, own in whole.items():
        changes = [own[0], *(b for a, b in itertools.pairwise(own) if a != b)]
        assert short[name] == changes and len(changes) < len(own)


def test_a_bad_file_is_told_and_the_others_are_written(folder, centroids, files, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    out = tmp_path / "u.txt"
    assert units(folder, centroids, [bad, files["one"]], out) == 2
    assert list(read(out)) == ["one"] and "bad.wav" in capsys.readouterr().err
    assert units(folder, centroids, [bad], tmp_path / "none.txt") == 2
    assert not (tmp_path / "none.txt").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": 3}, "layer is 3: .* has the layers 0 to 2"),
        ({"layer": -1}, "layer is -1"),
        ({"centroids": "none.npy"}, "none.npy is not a file"),
        ({"centroids": np.eye(5)}, "has centres of 5 dimensions, but the frames have 16"),
        ({"centroids": np.ones(16)}, r"found shape \(16,\)"),
        ({"centroids": np.full((2, 16), np.nan)}, "expected finite centres"),
        ({"centroids": np.array([object()])}, "holds no centres of k-means"),
        ({"centroids": {"weights": torch.eye(16)}}, "holds no centres of k-means"),
        ({"files": ["a/x.wav", "b/x.flac"]}, "2 files have the name x"),
        ({"model": "utterance"}, "holds no frame_encoder"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    wrong, message, folder, centroids, files, tmp_path, capsys
):
    given = {"folder": folder, "centroids": centroids, "files": [files["one"]]}
    given |= {name: value for name, value in wrong.items() if name in ("files", "layer")}
    if "model" in wrong:
        encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=6)
        save_model(tmp_path / "utterance", {"utterance_encoder": encoder})
        given["folder"] = tmp_path / "utterance"
    if isinstance(wrong.get("centroids"), dict):
        save_file(wrong["centroids"], tmp_path / "wrong.safetensors")
        given["centroids"] = tmp_path / "wrong.safetensors"
    elif isinstance(wrong.get("centroids"), np.ndarray):
        np.save(tmp_path / "wrong.npy", wrong["centroids"], allow_pickle=True)
        given["centroids"] = tmp_path / "wrong.npy"
    elif "centroids" in wrong:
        given["centroids"] = wrong["centroids"]
    assert units(**given, out=tmp_path / "u.txt") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "u.txt").exists()
