"""The command verify: two files, and lists of trials in which each file is embedded once."""

import pytest

from pretrained import SpeakerVerifier
from pretrained.__main__ import main
from pretrained.exported import load_folder
from tests.pretrained.exports import saved, written


@pytest.fixture
def verify(verifier_folder):
    """Return a function: words -> the exit code."""
    return lambda *words: main(["verify", *map(str, words), "--model", str(verifier_folder)])


@pytest.fixture
def voices(speech, tmp_path, monkeypatch):
    """Three recordings in the current folder, two of them of one speaker."""
    monkeypatch.chdir(tmp_path)
    for name, speaker in (("a.wav", 1), ("b b.wav", 1), ("c.wav", 2)):
        written(tmp_path / name, speech(1 + 0.2 * len(name), speaker=speaker))
    return tmp_path


def test_verify_prints_score_threshold_and_decision(
    verify, verifier_folder, voices, tmp_path, capsys
):
    assert verify("a.wav", "a.wav") == 0
    assert capsys.readouterr().out.splitlines() == [
        "score\t1.000000",
        "threshold\t0.500000",
        "threshold set on\ttrials of dev-clean",
        "decision\tsame speaker",
    ]
    modules, facts = load_folder(verifier_folder)
    folder = saved(tmp_path / "strict", modules, {**facts, "threshold": 1})
    assert main(["verify", "a.wav", "c.wav", "--model", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "decision\tdifferent speakers"


@pytest.mark.parametrize(
    "text",
    [
        "1 a.wav a.wav\n0 c.wav a.wav\n\n1 a.wav c.wav\n",
        "a.wav a.wav\r\nc.wav a.wav\r\na.wav c.wav",
    ],
)
def test_a_line_for_each_trial(text, verify, verifier_folder, voices, monkeypatch, capsys):
    read, own = [], SpeakerVerifier.embed_file

    def embed_file(self, path):
        read.append(path)
        return own(self, path)

    monkeypatch.setattr(SpeakerVerifier, "embed_file", embed_file)
    (voices / "trials.txt").write_bytes(text.encode())
    assert verify("--trials", "trials.txt") == 0
    assert read == ["a.wav", "c.wav"]
    printed = capsys.readouterr()
    assert printed.err == "done: 3 trial(s) scored; 0 left out for bad files\n"
    verifier = SpeakerVerifier.from_pretrained(verifier_folder)
    lines = printed.out.splitlines()
    pairs = [("a.wav", "a.wav"), ("c.wav", "a.wav"), ("a.wav", "c.wav")]
    for line, pair in zip(lines, pairs, strict=True):
        alone = verifier.verify_files(*pair)
        decision = "same" if alone.same_speaker else "different"
        assert line == "\t".join([f"{alone.score:.6f}", decision, *pair])
    assert lines[0].startswith("1.000000\tsame") and not lines[1].startswith("1.000000")


def test_tabs_separate_paths_with_spaces(verify, voices, capsys):
    (voices / "trials.txt").write_text("1\ta.wav\tb b.wav\n0\tc.wav\tb b.wav\n")
    assert verify("--trials", "trials.txt") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[2:] for line in lines] == [["a.wav", "b b.wav"], ["c.wav", "b b.wav"]]


def test_a_bad_file_is_told_once_and_its_trials_left_out(verify, voices, capsys):
    (voices / "text.wav").write_text("no audio" * 9)
    trials = ("none.wav text.wav", "a.wav c.wav", "none.wav a.wav", "a.wav text.wav")
    (voices / "trials.txt").write_text("\n".join(trials))
    assert verify("--trials", "trials.txt") == 2
    printed = capsys.readouterr()
    assert [line.split("\t")[2:] for line in printed.out.splitlines()] == [["a.wav", "c.wav"]]
    first, second, last = printed.err.splitlines()
    assert first.startswith("error: none.wav is not a file")
    assert second.startswith("error: text.wav cannot be decoded")
    assert last == "done: 1 trial(s) scored; 3 left out for bad files"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "trials.txt holds no trial"),
        ("1 a.wav c.wav\n2 a.wav c.wav\n", "line 2: expected two files"),
        ("a.wav c.wav\n1 a.wav c.wav\n", "line 2: expected two files"),
        ("a.wav\n", "line 1: expected two files"),
        ("1 a.wav b b.wav\n", "line 1: expected two files"),
        ("1\ta.wav\t\n", "line 1: expected two files"),
    ],
)
def test_a_list_that_is_none_is_refused_by_its_line(text, message, verify, voices, capsys):
    (voices / "trials.txt").write_text(text)
    assert verify("--trials", "trials.txt") == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == "" and len(printed.err.splitlines()) == 1


def test_two_files_or_a_list(verify, voices, capsys):
    for words in (["a.wav"], [], ["a.wav", "c.wav", "--trials", "t"], ["a.wav", "a.wav", "a.wav"]):
        assert verify(*words) == 2
        assert "two, one beside --voice, or none beside --trials" in capsys.readouterr().err
