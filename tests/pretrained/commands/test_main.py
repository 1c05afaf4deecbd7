"""The command line as a whole: a bad model or file in one line, and export."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrained
from pretrained.__main__ import main
from pretrained.commands import unit_naming
from tests.pretrained.exports import tones, written


def test_a_bad_model_is_one_line(tmp_path, capsys):
    command = ["encode", "a.wav", "--model", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/none is not a folder: expected one that holds config.json.\n"
    )
    with pytest.raises(SystemExit) as caught:
        main(["encode", "a.wav", "--out", str(tmp_path)])
    assert caught.value.code == 2


def test_export_command(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", out]) == 0
    assert (tmp_path / "out" / "hyperparams.yaml").is_file()
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", out]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(folder), "--layout", "huggingface", "--out", out + "2"]) == 2
    assert "frontend='waveform'" in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()


def test_errors_are_one_line(verifier_folder, encoders_folder, speech, tmp_path, capsys):
    a = str(written(tmp_path / "a.wav", speech(1)))
    for command, message in (
        (["verify", a, "none.wav", "--model", str(verifier_folder)], "none.wav is not a file"),
        (["verify", a, a, "--model", str(encoders_folder)], "holds encoders only"),
        (["verify", a, a, "--model", str(tmp_path / "none")], "none is not a folder"),
        (["transcribe", a, "--model", str(verifier_folder)], "a verifier, no transcriber"),
        (["transcribe", a, "--model", str(tmp_path / "none")], "none is not a folder"),
    ):
        assert main(command) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and len(printed.err.splitlines()) == 1
        assert printed.err.startswith("error: ") and message in printed.err


@pytest.mark.parametrize(
    "words",
    [
        "encode a.wav --out out",
        "transcribe a.wav",
        "classify a.wav",
        "verify a.wav b.wav",
        "enroll a.wav --out anna.json",
        "diarize a.wav --out out",
        "units a.wav --layer 0 --centroids c.npy --out units.txt",
    ],
)
def test_a_device_that_is_not_there_is_refused_by_all_that_compute(words, capsys):
    assert main([*words.split(), "--model", "none", "--device", "nonsense"]) == 2
    assert "--device nonsense cannot be used on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Transcriber", "transcribe a.wav"),
        ("Classifier", "classify a.wav"),
        ("SpeakerVerifier", "verify a.wav b.wav"),
        ("SpeakerVerifier", "enroll a.wav --out anna.json"),
        ("Diarizer", "diarize a.wav --out out"),
    ],
)
def test_commands_compute_on_the_device_that_is_given(kind, words, monkeypatch, tmp_path):
    given = []

    def load(model, device, **_):
        given.append(device)
        raise ValueError("enough is known")

    monkeypatch.setattr(getattr(pretrained, kind), "from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    assert main([*words.split(), "--model", "none", "--device", "cpu:0"]) == 2
    assert given == [torch.device("cpu:0")]


def test_units_go_to_a_new_folder_under_names_that_need_not_be_text(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_naming, "make_namer", lambda *_: lambda file: [1, 1, 2])
    out = tmp_path / "new" / "units.txt"
    words = "--layer 0 --centroids c.npy --model none --collapse --out".split()
    assert main(["units", "a.wav", os.fsdecode(b"caf\xe9.wav"), *words, str(out)]) == 0
    assert out.read_bytes() == b"a\t1 2\ncaf\xe9\t1 2\n"


class Speaker:
    """A diarizer that hears one speaker, and counts the files."""

    def __init__(self):
        self.heard = []

    def diarize_file(self, file, speakers):
        self.heard.append(file)
        return [(0.0, 1.0, 0)]


def test_turns_that_are_there_are_not_computed_again(tmp_path, monkeypatch, capsys):
    speaker = Speaker()
    monkeypatch.setattr(pretrained.Diarizer, "from_pretrained", lambda *_, **__: speaker)
    (tmp_path / "a.rttm").touch()
    name = os.fsdecode(b"caf\xe9.wav")
    assert main(["diarize", "a.wav", name, "--model", "none", "--out", str(tmp_path)]) == 2
    assert "a.rttm is there already" in capsys.readouterr().err and speaker.heard == [name]
    assert b"caf\xe9" in (tmp_path / os.fsdecode(b"caf\xe9.rttm")).read_bytes()


@pytest.mark.parametrize("device", ["hpu", "xla"])
def test_devices_of_packages_that_are_not_here_are_refused(device, capsys):
    assert main(["transcribe", "a.wav", "--model", "none", "--device", device]) == 2
    assert f"--device {device} cannot be used on this machine" in capsys.readouterr().err


@pytest.mark.long
def test_a_folder_stands_alone_outside_the_repository(transcriber_folder, tmp_path):
    written(tmp_path / "a.wav", tones(" AB "))
    command = [sys.executable, "-m", "pretrained", "transcribe", "a.wav", "none.wav"]
    done = subprocess.run(
        [*command, "--model", transcriber_folder.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "a.wav\tAB\n"
    assert "error: none.wav is not a file" in done.stderr and "Traceback" not in done.stderr


ROOT = Path(__file__).parents[3]
