"""Encode where a machine is unlike the author's: paths, rights, a home that is none, spawn."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pretrained.__main__ import main
from tests.pretrained.exports import written
from tests.surroundings import contents, homeless, read_only

ROOT = Path(__file__).parents[3]
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
            env=homeless() | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    assert done.returncode == 0 and "done: 2 file(s) encoded" in done.stderr, done.stderr
    assert contents(place) == before
    assert {path.name for path in (tmp_path / "ö ut").glob("*.npz")} == {"é è.npz", "ß.npz"}


def encode(*words):
    sys.exit(main(["encode", *words]))


@pytest.mark.long
def test_a_spawned_process_encodes_as_this_one_does(place, tmp_path):
    words = [str(place / "speech"), "--model", str(place / "model"), "--out"]
    spawned = multiprocessing.get_context("spawn").Process(
        target=encode, args=(*words, str(tmp_path / "spawned"))
    )
    spawned.start()
    assert main(["encode", *words, str(tmp_path / "own")]) == 0
    spawned.join(120)
    assert spawned.exitcode == 0
    for name in os.listdir(tmp_path / "own"):
        if name.endswith(".npz"):
            own, other = (np.load(tmp_path / out / name) for out in ("own", "spawned"))
            np.testing.assert_array_equal(own["frames"], other["frames"])
