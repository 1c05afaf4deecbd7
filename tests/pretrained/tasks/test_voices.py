"""Enrolled voices: what they are the mean of, how they are kept, and whose they are."""

import json

import numpy as np
import pytest

from lobes.heads import SpeakerHead
from pretrained import SpeakerVerifier, Voice
from pretrained.__main__ import main
from pretrained.exported import load_folder
from tests.pretrained.exports import PLAIN, modules_of, saved, utterance_encoder, written


@pytest.fixture
def verifier(verifier_folder):
    return SpeakerVerifier.from_pretrained(verifier_folder)


@pytest.fixture
def files(speech, tmp_path):
    """Return three recordings of each of two voices, of different lengths and levels."""
    paths = []
    for number, level in enumerate((0.2, 0.9, 0.5) * 2):
        samples = level * speech(1 + number % 3, speaker=1 + number // 3)
        paths.append(written(tmp_path / f"{number}.wav", samples))
    return paths


@pytest.mark.parametrize("scoring", ["plain", "standardised"])
def test_a_voice_is_the_mean_of_unit_embeddings(scoring, files, tmp_path):
    known = {"mean": [0.1] * 12, "deviation": np.linspace(0.5, 2, 12).tolist()}
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": scoring}
    facts |= known if scoring == "standardised" else {}
    folder = saved(tmp_path / "model", modules_of("utterance_encoder"), facts)
    verifier = SpeakerVerifier.from_pretrained(folder)
    embeddings = np.stack([verifier.embed_file(file) for file in files])
    if scoring == "standardised":
        embeddings = (embeddings - known["mean"]) / known["deviation"]
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = units[:3].sum(0) / 3
    found = verifier.verify(verifier.enroll(files[:3]), files[3])
    assert found.score == pytest.approx(mean @ units[3] / np.linalg.norm(mean), abs=1e-9)
    assert found.same_speaker == (found.score >= 0.5) and found.set_on == PLAIN["threshold_set_on"]
    alone = verifier.verify(verifier.enroll(files[:1]), files[3]).score
    assert alone == pytest.approx(verifier.verify_files(files[0], files[3]).score, abs=1e-12)
    assert abs(alone - found.score) > 1e-4


def test_a_voice_comes_back_as_it_was_and_tells_its_model(
    verifier, verifier_folder, files, tmp_path
):
    voice = verifier.enroll(files[:2])
    voice.save(tmp_path / "voice.json")
    back = Voice.load(tmp_path / "voice.json")
    assert np.array_equal(back.direction, voice.direction) and back[1:] == voice[1:]
    config = json.loads((verifier_folder / "config.json").read_text())
    assert back.sha256 == {key: config["sha256"][key] for key in ("weights", "facts")}
    assert back.files == 2 and verifier.verify(back, files[2]) == verifier.verify(voice, files[2])


def test_the_voice_of_another_model_is_refused(verifier, verifier_folder, files):
    modules, facts = load_folder(verifier_folder)
    others = {
        "weights": SpeakerVerifier({"utterance_encoder": utterance_encoder(seed=1)}, facts),
        "facts": SpeakerVerifier(modules, {**facts, "scoring": "centred", "mean": [0.5] * 12}),
    }
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"another model: the SHA-256 of its {name} is"):
            verifier.verify(other.enroll(files[:1]), files[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "not text in UTF-8"),
        ({"format": "learn2diss-1"}, "is not the file of a voice"),
        ({"direction": [0.0] * 12}, "is damaged"),
        ({"direction": [[1.0]]}, "is damaged"),
        ({"direction": "one"}, "is damaged"),
        ({"direction": [float("nan")] * 12}, "is damaged"),
        ({"sha256": "0"}, "is damaged"),
        ({"files": "two"}, "is damaged"),
        ({"code": "import os"}, "is damaged"),
        ({"code": " " * 1_000_001}, "is larger than"),
    ],
)
def test_what_is_no_voice_is_refused(change, message, tmp_path):
    path = tmp_path / "voice.json"
    Voice(np.array([0.6, 0.8]), 1, {"weights": "0", "facts": "0"}).save(path)
    if change is None:
        path.write_bytes(b"\x80\x04\x95pickle")
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        Voice.load(path)
    with pytest.raises(FileNotFoundError):
        Voice.load(tmp_path / "none.json")


def test_what_cannot_be_enrolled(verifier, files, bad_audio):
    for bad in ([], str(files[0])):
        with pytest.raises(ValueError, match="a list of at least one file"):
            verifier.enroll(bad)
    with pytest.raises(ValueError, match="zeros.wav is silent"):
        verifier.enroll([files[0], bad_audio("zeros")])
    modules = modules_of("utterance_encoder", speaker_head=SpeakerHead(1, 12, 4))
    for parameter in modules["speaker_head"].parameters():
        parameter.data.zero_()
    silent = SpeakerVerifier(modules, {"features": "utterance_encoder", **PLAIN})
    with pytest.raises(ValueError, match="its embedding has length 0.0"):
        silent.enroll(files)


def test_embeddings_that_cancel_are_refused(verifier, files, monkeypatch):
    opposed = {files[0]: np.eye(12)[0], files[1]: -np.eye(12)[0]}
    monkeypatch.setattr(verifier, "embed_file", opposed.get)
    with pytest.raises(ValueError, match="embeddings of 2 files cancel"):
        verifier.enroll(files[:2])


def test_the_commands(verifier, verifier_folder, files, tmp_path, capsys):
    model, voice = ["--model", str(verifier_folder)], str(tmp_path / "anna.json")
    assert main(["enroll", *map(str, files[:3]), *model, "--out", voice]) == 0
    assert main(["verify", str(files[4]), "--voice", voice, *model]) == 0
    expected = verifier.verify(verifier.enroll(files[:3]), files[4])
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert lines["score"] == f"{expected.score:.6f}"
    assert lines["decision"] == ("same speaker" if expected.same_speaker else "different speakers")
    for command in (["verify", *map(str, files[:2]), "--voice", voice], ["verify", str(files[0])]):
        assert main([*command, *model]) == 2
        assert "expected two, one beside --voice" in capsys.readouterr().err
    bad = str(tmp_path / "bad.json")
    assert main(["enroll", str(files[0]), str(tmp_path / "none.wav"), *model, "--out", bad]) == 2
    assert "none.wav is not a file" in capsys.readouterr().err
    assert not (tmp_path / "bad.json").exists()
