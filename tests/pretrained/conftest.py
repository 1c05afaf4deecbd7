"""Speech, bad audio and exported folders for the tests of `pretrained`."""

import socket

import numpy as np
import pytest

from pretrained.exported import save_model
from tests.pretrained.exports import (
    LETTERS_FACTS,
    PLAIN,
    RATE,
    frame_encoder,
    modules_of,
    saved,
    tone_head,
    utterance_encoder,
    written,
)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.fixture(scope="module")
def encoders():
    return {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}


@pytest.fixture
def folder(encoders, tmp_path):
    save_model(tmp_path / "model", encoders)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def recording(make_voice):
    """Return a function: seconds -> samples, of voices of changing loudness, with a silence."""

    def make(seconds):
        pieces, length = [], 0
        while length < seconds * RATE:
            number = len(pieces)
            voice = make_voice(number % 4, seed=number) * (0.1, 1.0, 0.4)[number % 3]
            pieces += [voice, np.zeros(RATE // 4, np.float32)]
            length += len(voice) + RATE // 4
        return np.concatenate(pieces)[: int(seconds * RATE)]

    return make


@pytest.fixture(scope="module")
def speech(make_voice):
    """Return a function: seconds, speaker -> samples of one voice."""

    def make(seconds, speaker=1):
        pieces = [make_voice(speaker, seed) for seed in range(int(seconds) + 1)]
        return np.concatenate(pieces)[: int(seconds * RATE)]

    return make


@pytest.fixture
def transcriber_folder(tmp_path):
    """A folder whose head hears the letters A and B of `tones`."""
    return saved(tmp_path / "transcriber", {"ctc_head": tone_head()}, LETTERS_FACTS)


@pytest.fixture
def verifier_folder(tmp_path):
    modules = modules_of("utterance_encoder")
    return saved(tmp_path / "verifier", modules, {"features": "utterance_encoder", **PLAIN})


@pytest.fixture
def encoders_folder(tmp_path):
    return saved(tmp_path / "encoders", modules_of("frame_encoder"), None)


@pytest.fixture
def bad_audio(tmp_path):
    """Return a function: what is wrong -> the path of such a file."""

    def make(problem):
        path = tmp_path / f"{problem}.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
        if problem == "nan":
            noise[8000] = np.nan
        samples = {"empty": noise[:0], "short": noise[:320], "zeros": 0 * noise, "nan": noise}
        if problem == "text":
            path.write_text("This is not audio. " * 100)
        elif problem == "rate":
            written(path, noise, 900)
        elif problem in samples:
            written(path, samples[problem], subtype="FLOAT")
        return path

    return make
