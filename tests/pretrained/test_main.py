"""The command line: what it prints and writes, errors of a line each, and its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pretrained import Learn2Diss
from pretrained.__main__ import main
from pretrained.exported import load_folder
from pretrained.tokenizers import SymbolTokenizer
from tests.pretrained.exports import BAD_AUDIO, saved, tone_head, tones, written


def test_encode_writes_what_there_is(encoders, folder, recording, tmp_path, capsys):
    files = [written(tmp_path / name, recording(1)) for name in ("a.wav", "b.flac")]
    out = tmp_path / "new" / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.npz", "b.npz"]
    with np.load(out / "b.npz") as arrays:
        expected = Learn2Diss(encoders).encode_file(files[1])
        assert sorted(arrays) == ["frames", "utterance"]
        np.testing.assert_array_equal(arrays["frames"], expected.frames[0])
        np.testing.assert_array_equal(arrays["utterance"], expected.utterance[0])
    assert "2/2" in capsys.readouterr().err


def test_bad_files_do_not_stop_good_ones(folder, bad_audio, recording, tmp_path, capsys):
    good = [written(tmp_path / name, recording(1)) for name in ("first.wav", "last.wav")]
    files = [good[0], *map(bad_audio, BAD_AUDIO), good[1]]
    out = tmp_path / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 2
    assert sorted(path.name for path in out.iterdir()) == ["first.npz", "last.npz"]
    text = capsys.readouterr().err
    errors = [line for line in text.replace("\r", "\n").splitlines() if "error: " in line]
    assert len(errors) == len(BAD_AUDIO) and "Traceback" not in text
    for line, (problem, message) in zip(errors, BAD_AUDIO.items(), strict=True):
        assert f"{problem}.wav" in line and message in line


def test_a_warning_is_one_line(folder, recording, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", recording(1)[::2], 8000)
    command = ["encode", str(tmp_path / "a.wav"), "--model", str(folder), "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    [line] = [line for line in lines if "8000 Hz" in line]
    assert line.startswith(f"warning: {tmp_path / 'a.wav'} is sampled at 8000 Hz")


def test_names_that_collide_are_refused_before_anything_is_written(
    folder, recording, tmp_path, capsys
):
    files = [written(tmp_path / name, recording(1)) for name in ("x.wav", "a.wav", "a.flac")]
    out = tmp_path / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 2
    assert not out.exists() and "2 files would be written to" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(folder, recording, tmp_path, monkeypatch, capsys):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    file, out = written(tmp_path / "a.wav", recording(1)), tmp_path / "out"
    assert main(["encode", str(file), "--model", str(folder), "--out", str(out)]) == 2
    assert list(out.iterdir()) == [] and "No space left" in capsys.readouterr().err


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


def test_transcribe_prints_a_line_for_each_file(transcriber_folder, tmp_path, capsys):
    files = [written(tmp_path / f"{n}.wav", tones(t)) for n, t in enumerate((" AB ", " B ", "  "))]
    assert main(["transcribe", *map(str, files), "--model", str(transcriber_folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{files[0]}\tAB\n{files[1]}\tB\n{files[2]}\t\n" and not printed.err


def test_a_bad_file_does_not_stop_the_others(transcriber_folder, tmp_path, capsys):
    good = [written(tmp_path / name, tones(" A ")) for name in ("first.wav", "last.wav")]
    bad = [tmp_path / "none.wav", written(tmp_path / "short.wav", tones("A")[:320])]
    files = map(str, [good[0], *bad, good[1]])
    assert main(["transcribe", *files, "--model", str(transcriber_folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{path}\tA\n" for path in good)
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "none.wav is not a file" in lines[0] and "short.wav is too short" in lines[1]


def test_what_could_steer_a_terminal_is_not_printed(tmp_path, capsys):
    tokenizer = SymbolTokenizer(["\x1b", "B"])
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    folder = saved(tmp_path / "model", {"ctc_head": tone_head()}, facts)
    path = written(tmp_path / "a.wav", tones(" BAB "))
    assert main(["transcribe", str(path), "--model", str(folder)]) == 0
    assert capsys.readouterr().out == f"{path}\tB B\n"


def test_verify_prints_score_threshold_and_decision(verifier_folder, speech, tmp_path, capsys):
    a, b = (str(written(tmp_path / f"{n}.wav", speech(1.5, speaker=n))) for n in (1, 2))
    assert main(["verify", a, a, "--model", str(verifier_folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "score\t1.000000",
        "threshold\t0.500000",
        "threshold set on\ttrials of dev-clean",
        "decision\tsame speaker",
    ]
    modules, facts = load_folder(verifier_folder)
    folder = saved(tmp_path / "strict", modules, {**facts, "threshold": 1})
    assert main(["verify", a, b, "--model", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "decision\tdifferent speakers"


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


ROOT = Path(__file__).parents[2]
