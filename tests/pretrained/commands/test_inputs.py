"""Which files words name, and where their results go."""

import io
import os
from types import SimpleNamespace

import numpy as np
import pytest

from pretrained.__main__ import main
from pretrained.commands import inputs
from pretrained.commands.inputs import check_out_file, find_audio, place_results
from tests.pretrained.exports import written


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of empty files, and the current folder beside it."""
    names = ("a/00001.wav", "b/00001.wav", "b/deep/2.FLAC", "b/notes.txt")
    hidden = (".c/3.wav", "a/.4.wav", "a/._00001.wav", ".DS_Store")
    for name in names + hidden:
        path = tmp_path / "speech" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "speech"


def places(*words):
    """Return the place of each file's results, relative to the folder of all of them."""
    found = place_results(find_audio(list(words)), "out")
    return [path.relative_to("out").as_posix() for path in found.values()]


def test_a_folder_is_searched_and_hidden_files_are_not_found(tree):
    assert places("speech") == ["a/00001", "b/00001", "b/deep/2"]
    assert places(str(tree)) == places("speech") == places("./speech/../speech/")
    assert find_audio(["speech"]).files[2] == os.path.join("speech", "b", "deep", "2.FLAC")


def test_pieces_of_a_recording_have_places_of_their_own(tree):
    named = [f"speech/a/00001.wav{mark}" for mark in ("", "#t=0.5,2", "#t=2")]
    assert places(*named) == ["00001", "00001#t=0.5,2", "00001#t=2"]
    assert places("s.tar:512:99#t=0,1", "s.tar:9216:99#t=0,1") == ["s/512#t=0,1", "s/9216#t=0,1"]


@pytest.mark.parametrize("name", ["a.wav", "a.wav#t=0.5,2", "a.wav:512:99", "a.wav:512:99#t=1"])
def test_what_is_read_is_not_written_to(name, tmp_path):
    out = tmp_path / "a.wav"
    if ":" in name:
        name, out = name.replace("wav", "tar"), tmp_path / "a.tar"
    with pytest.raises(ValueError, match="is what is read, and would be lost"):
        check_out_file(out, [tmp_path / "b.wav", str(tmp_path / name)])
    check_out_file(tmp_path / "c.txt", [str(tmp_path / name)])


def test_files_and_folders_keep_their_paths_below_what_they_have_in_common(tree):
    assert places("speech/a", "speech/b") == ["a/00001", "b/00001", "b/deep/2"]
    assert places("speech/b/00001.wav", "speech/a/00001.wav") == ["b/00001", "a/00001"]
    assert places("speech/b/00001.wav") == ["00001"]
    assert places("speech/b/00001.wav", "speech/b/deep/2.FLAC") == ["00001", "deep/2"]
    assert places("speech/b/deep", "gone.wav") == ["speech/b/deep/2", "gone"]


def test_a_hidden_file_that_is_named_is_taken(tree):
    assert places("speech/a/.4.wav") == [".4"]
    (tree / ".c" / "sub").mkdir()
    (tree / ".c" / "sub" / "5.wav").touch()
    assert places("speech/.c") == ["3", "sub/5"]


def test_lists_are_read_from_files_and_standard_input(tree, monkeypatch):
    content = b"\xef\xbb\xbfspeech/a/00001.wav\r\n\n  \nspeech/b\n"
    (tree.parent / "list.txt").write_bytes(content)
    expected = ["a/00001", "b/00001", "b/deep/2"]
    assert places("@list.txt") == expected
    monkeypatch.setattr(inputs.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert places("-") == expected


@pytest.mark.skipif(os.name == "nt", reason="names there are text")
def test_a_name_that_is_no_text_is_taken_from_a_list(tree):
    (tree.parent / "list.txt").write_bytes(b"speech/\xff e.wav\nspeech/ \xc3\xa9.wav\n")
    files = find_audio(["@list.txt"]).files
    assert [os.fsencode(file) for file in files] == [b"speech/\xff e.wav", b"speech/ \xc3\xa9.wav"]


def test_a_file_that_is_named_twice_counts_once(tree):
    again = ("speech/b/deep/2.FLAC", str(tree / "b"), str(tree / "b" / "00001.wav"))
    assert places("speech/b", *again) == ["00001", "deep/2"]


def test_two_files_with_one_place_are_refused(tree):
    (tree / "b" / "00001.mp3").touch()
    with pytest.raises(ValueError, match=r"2 files .* out.b.00001, as .*00001.mp3 and .*00001.wav"):
        places("speech")


def test_what_names_no_audio_is_refused(tree):
    (tree.parent / "list.txt").write_text("\n")
    (tree / "empty").mkdir()
    for word, error, message in (
        ("@list.txt", ValueError, "@list.txt: no audio file is named there"),
        ("@none.txt", FileNotFoundError, "none.txt"),
        ("speech/empty", ValueError, r"empty holds no audio: expected files named \*.aif .*\*.wav"),
    ):
        with pytest.raises(error, match=message):
            find_audio([word])


def test_a_member_of_a_shard_has_a_place_of_its_own(tree):
    shard = tree / "train-0.tar"
    assert places(f"{shard}:512:3200", f"{shard}:4608:3200") == ["train-0/512", "train-0/4608"]


def test_what_is_read_is_never_written_over(
    folder, transcriber_folder, verifier_folder, speech, tmp_path, capsys
):
    a = written(tmp_path / "a.wav", speech(1))
    (tmp_path / "a.srt").write_text("by hand")
    centres = tmp_path / "centres.npy"
    np.save(centres, np.eye(32, dtype=np.float32))
    units = ["units", a, "--model", folder, "--layer", 1, "--centroids", centres, "--out"]
    subtitles = ["transcribe", a, "--model", transcriber_folder, "--format", "srt", "--out"]
    before = {path: path.read_bytes() for path in (a, centres, tmp_path / "a.srt")}
    for words, message in (
        (["enroll", a, "--model", verifier_folder, "--out", a], "what is read"),
        (["enroll", a, "--model", verifier_folder, "--out", tmp_path], "is a folder"),
        ([*units, a], "what is read"),
        ([*units, centres], "what is read"),
        ([*subtitles, tmp_path], "is there already"),
        ([*subtitles, a], "is a file"),
        (["encode", a, "--model", folder, "--out", a], "is a file"),
        (["diarize", a, "--model", folder, "--out", a], "is a file"),
        (["export", folder, "--layout", "speechbrain", "--out", folder / "x"], "own folder"),
        (["export", folder, "--layout", "speechbrain", "--out", a], "is a file"),
    ):
        assert main([*map(str, words)]) == 2, words
        assert message in capsys.readouterr().err, words
    assert before == {path: path.read_bytes() for path in before}


def test_lists_that_are_none(tmp_path, capsys):
    (tmp_path / "a.flac").write_bytes(b"fLaC\0\0")
    for name, message in (("none.txt", "is not a file: expected a list"), ("a.flac", "is no list")):
        assert main(["encode", f"@{tmp_path / name}", "--model", "m", "--out", "o"]) == 2
        assert message in capsys.readouterr().err
