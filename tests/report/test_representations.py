"""Representations: what each system gives is its encoders' own, of the same frames for all."""

import os

import numpy as np
import pytest
import soundfile
import torch

from lobes.frame_encoder import FrameEncoder
from lobes.signal import num_frames
from lobes.states import FbankStates
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.audio import read_speech
from pretrained.exported import load_model, save_model
from recipes.common.closed_forms.rival_models import make_rival
from recipes.common.downstream import features as downstream_features
from recipes.common.report import representations
from recipes.common.report.representations import (
    draw_places,
    encode,
    learn_layer_weights,
    load_systems,
)

LENGTHS = (8000, 16000, 21234)  # samples


def make_model(folder, seed=0, layers=2, parts=("frame_encoder", "utterance_encoder")):
    """Export tiny encoders with random weights; return the folder."""
    torch.manual_seed(seed)
    encoders = {
        "frame_encoder": FrameEncoder("fbank", 16, 16, layers, 2, 32, pos_conv_kernel=4),
        "utterance_encoder": UtteranceEncoder("tdnn", channels=8, embedding_dim=6),
    }
    save_model(folder, {name: encoders[name] for name in parts})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("run") / "joint" / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory, make_voice):
    """Three utterances of different lengths."""
    folder, listed = tmp_path_factory.mktemp("audio"), []
    for place, length in enumerate(LENGTHS):
        audio = np.resize(make_voice(place, seed=1), length)
        path = folder / f"{place}.wav"
        soundfile.write(path, audio, 16000)
        listed.append({"ID": f"u{place}", "duration": length / 16000, "wav": path})
    return listed


def test_what_is_kept_is_what_the_encoders_give(folder, rows, tmp_path):
    system = load_systems([folder], controls=False, seed=0)[0]
    encoded = encode(system, rows, 7, tmp_path, whole=True)
    encoders = load_model(folder)
    for place, row in enumerate(rows):
        wav = read_speech(row["wav"])[None]
        with torch.no_grad():
            _, hidden = encoders["frame_encoder"](wav, output_hidden_states=True)
            embedding = encoders["utterance_encoder"](wav)[0]
        hidden = torch.stack(hidden, 2)[0].numpy()
        assert hidden.shape == (num_frames(LENGTHS[place]), 3, 16)
        np.testing.assert_array_equal(encoded.frames[place], hidden[draw_places(row, 7)])
        np.testing.assert_allclose(encoded.means[place], hidden[:, -1].mean(0), atol=1e-6)
        np.testing.assert_allclose(encoded.whole[place], hidden[:, -1], atol=2e-3)
        scaled = embedding * 6**0.5 / embedding.norm()
        np.testing.assert_allclose(encoded.embeddings[place], scaled.numpy(), rtol=1e-5)


def test_a_model_without_an_encoder_lacks_its_representation(rows, tmp_path):
    folders = [
        make_model(tmp_path / name / "model", parts=(f"{name}_encoder",))
        for name in ("frame", "utterance")
    ]
    frame, utterance, fbank, *random = load_systems(folders, controls=True, seed=0)
    assert [system.name for system in random] == ["random weights", "random weights (utterance)"]
    encoded = encode(frame, rows, 2, tmp_path)
    assert encoded.embeddings is None and encoded.whole is None and encoded.frames is not None
    encoded = encode(utterance, rows, 2, tmp_path)
    assert encoded.frames is encoded.means is None and encoded.embeddings.shape == (3, 6)
    assert encode(fbank, rows, 2, tmp_path).frames.shape == (3, 2, 1, 240)


def test_frames_of_bands_are_those_whose_centres_are_nearest(rows, tmp_path):
    fbank = load_systems([], controls=True, seed=0)[0]
    whole = encode(fbank, rows, 2, tmp_path, whole=True).whole
    for row, length, found in zip(rows, LENGTHS, whole, strict=True):
        states = FbankStates()(read_speech(row["wav"])[None])[0][0, :, 0].numpy()
        band_centres = 0.02 * np.arange(len(states))
        centres = 0.0125 + 0.02 * np.arange(num_frames(length))
        nearest = np.abs(centres[:, None] - band_centres).argmin(1)
        np.testing.assert_allclose(found, states[nearest], atol=2e-2, rtol=2e-3)


def test_drawn_places_are_the_same_for_all_systems_and_no_frame_comes_twice(rows):
    for row, length in zip(rows, LENGTHS, strict=True):
        places = draw_places(row, 9)
        assert places.tolist() == sorted(set(places.tolist()))
        assert 0 <= places[0] and places[-1] < num_frames(length)
        assert places.tolist() == draw_places(dict(row), 9).tolist()
    short = draw_places({"ID": "a", "duration": 0.1}, 9)
    assert len(short) == 9 and short.max() < num_frames(1600)
    assert not np.array_equal(draw_places({**rows[2], "ID": "other"}, 9), draw_places(rows[2], 9))


def test_what_was_computed_is_read_and_other_weights_or_utterances_are_not(
    folder, rows, tmp_path, monkeypatch
):
    system = load_systems([folder], controls=False, seed=0)[0]
    before = encode(system, rows, 3, tmp_path, whole=True)
    calls = []
    compute = representations._compute
    monkeypatch.setattr(
        representations, "_compute", lambda *args: calls.append(args) or compute(*args)
    )
    again = encode(system, rows, 3, tmp_path, whole=True)
    assert not calls
    for name in ("frames", "means", "embeddings"):
        np.testing.assert_array_equal(getattr(again, name), getattr(before, name))
    assert [len(part) for part in again.whole] == [num_frames(length) for length in LENGTHS]
    changed = make_model(tmp_path / "other" / "model", seed=1)
    other = load_systems([changed], controls=False, seed=0)[0]
    encode(other, rows, 3, tmp_path, whole=True)
    encode(system, rows[:2], 3, tmp_path, whole=True)
    encode(system, rows, 4, tmp_path, whole=True)
    encode(system, rows, 3, tmp_path)
    assert len(calls) == 4 and not list(tmp_path.glob("*.partial"))
    os.utime(rows[0]["wav"])  # as where it was replaced
    encode(system, rows, 3, tmp_path)
    monkeypatch.setattr(downstream_features, "digest_code", lambda *places: "other code")
    encode(system, rows, 3, tmp_path)
    assert len(calls) == 6


def test_an_interrupted_computation_leaves_nothing(folder, rows, tmp_path):
    system = load_systems([folder], controls=False, seed=0)[0]
    broken = {**rows[0], "ID": "broken", "wav": tmp_path / "broken.wav"}
    broken["wav"].write_bytes(b"no audio")
    with pytest.raises((OSError, RuntimeError, ValueError), match=r"broken\.wav"):
        encode(system, [*rows, broken], 3, tmp_path / "states")
    assert not list((tmp_path / "states").iterdir())


def test_states_that_are_not_finite_are_refused_by_name(rows, tmp_path):
    path = make_model(tmp_path / "broken" / "model")
    system = load_systems([path], controls=False, seed=0)[0]
    with torch.no_grad():
        next(system.utterance.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the states of u0 are not finite"):
        encode(system, rows, 3, tmp_path)


def test_systems_are_called_as_their_runs(folder, tmp_path):
    alone = make_model(tmp_path / "exported", layers=1)
    systems = load_systems([folder, alone], controls=True, seed=0)
    assert [(system.name, system.kind) for system in systems] == [
        ("joint", "model"),
        ("exported", "model"),
        ("FBANK", "fbank"),
        ("random weights", "random"),
        ("random weights (exported)", "random"),
    ]
    assert len({system.digest() for system in systems}) == 5
    with pytest.raises(ValueError, match="there is a model joint already"):
        load_systems([folder, folder], controls=False, seed=0)
    with pytest.raises(FileNotFoundError):
        load_systems([tmp_path / "nowhere"], controls=False, seed=0)


def test_random_weights_are_of_the_same_architecture_once_and_by_the_seed(folder, tmp_path):
    twin = make_model(tmp_path / "twin" / "model", seed=5)
    systems = load_systems([folder, twin], controls=True, seed=0)
    assert [system.name for system in systems] == ["joint", "twin", "FBANK", "random weights"]
    again = load_systems([twin], controls=True, seed=0)[-1]
    other = load_systems([folder], controls=True, seed=1)[-1]
    assert systems[-1].digest() == again.digest() != other.digest()
    shapes = [[p.shape for p in s.frames.parameters()] for s in (systems[0], systems[-1])]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("change", ["erased", "normed"])
def test_random_weights_are_shared_by_models_that_differ_after_the_last_layer(
    change, rows, tmp_path
):
    control, changed = tmp_path / "control" / "model", tmp_path / change / "model"
    encoders = load_model(make_model(control))
    if change == "erased":
        axes = torch.eye(16)[:12]
        encoders["frame_encoder"].erase(4, axes.mean(0), torch.eye(16), axes, torch.eye(12))
    else:
        encoders["frame_encoder"] = make_rival("mean_std", encoders["frame_encoder"], None)
    save_model(changed, encoders)
    *models, _, random = load_systems([control, changed], controls=True, seed=0)
    assert [system.name for system in [*models, random]] == ["control", change, "random weights"]
    assert random.folder == str(control)
    other = load_systems([changed], controls=True, seed=0)[-1]
    frames = [encode(system, rows, 3, tmp_path / "states").frames for system in (random, other)]
    np.testing.assert_array_equal(*frames)
    before, after = (encode(system, rows, 3, tmp_path / "states").means for system in models)
    assert np.abs(before - after).max() > 1e-3


@pytest.mark.long
def test_layer_weights_find_the_layer_that_tells_and_not_the_largest_one():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=800)
    frames = rng.normal(size=(800, 3, 8)).astype(np.float32)
    frames[:, 1] += 4 * np.eye(8)[labels]
    weights = learn_layer_weights(frames, labels.astype(str), seed=1)
    assert weights.sum() == pytest.approx(1) and weights.argmax() == 1 and weights[1] > 0.6
    np.testing.assert_array_equal(weights, learn_layer_weights(frames, labels.astype(str), seed=1))
