"""Encode where a machine is unlike the author's: paths, rights, a home that is none, spawn."""

import subprocess
import sys

import pytest

from tests.pretrained.exports import written
from tests.surroundings import contents, homeless, read_only, spawning

PLACE = "Löß & 语料 'a' %s {b}"


@pytest.fixture
def place(folder, recording, tmp_path):
    """A folder with a hard name that holds a model and audio."""
    (tmp_path / PLACE / "speech").mkdir(parents=True)
    folder.rename(tmp_path / PLACE / "model")
    for number, name in enumerate(("é è.wav", "ß.flac")):
        written(tmp_path / PLACE / "speech" / name, recording(1 + number))
    return tmp_path / PLACE


@pytest.mark.long
def test_a_read_only_corpus_of_a_hard_name_without_a_home(place, tmp_path):
    before = contents(place)
    command = [sys.executable, "-m", "pretrained", "encode", "speech", "--model", "model"]
    with read_only(place):
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "ö ut")],
            cwd=place,
            env=homeless() | spawning(tmp_path / "start"),
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    assert done.returncode == 0 and "done: 2 file(s) encoded" in done.stderr, done.stderr
    assert contents(place) == before
    assert not list((tmp_path / "start").glob("*.spawned"))  # threads read, and nothing is spawned
    assert {path.name for path in (tmp_path / "ö ut").glob("*.npz")} == {"é è.npz", "ß.npz"}
