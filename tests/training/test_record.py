"""The record of a run holds finite figures and what they were made from, whole or not at all."""

import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from recipes.common.data.manifest import fingerprint
from recipes.common.training import record
from recipes.common.training.record import write_metrics


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("ID,duration,wav,spk_id\na,1.0,$data_root/a.wav,1\n")
    return path


def test_metrics_tell_what_they_were_made_from(tmp_path, manifest):
    path = tmp_path / "run" / "metrics.json"
    figures = {"eer": 0.1, "ratio": {"interval": [0.5, None]}, "steps": 3}
    write_metrics(path, figures, seed=7, manifests=[manifest], start_time=time.time() - 2)
    written = json.loads(path.read_text())
    assert written["figures"] == figures and written["seed"] == 7
    assert written["data"] == fingerprint([manifest])
    assert 2 <= written["seconds"] < 60 and written["threads"] == torch.get_num_threads()
    assert written["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(written["versions"]) == {"python", "torch", "torchaudio", "speechbrain", "numpy"}
    assert [file.name for file in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_a_figure_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, manifest, bad):
    path = tmp_path / "metrics.json"
    path.write_text("the last good ones")
    with pytest.raises(ValueError, match=r"valid\.loss\[1\]"):
        figures = {"steps": 1, "valid": {"loss": [0.5, bad]}}
        write_metrics(path, figures, seed=7, manifests=[manifest], start_time=0)
    assert path.read_text() == "the last good ones"


def test_an_interrupted_write_leaves_the_last_metrics(tmp_path, manifest, monkeypatch):
    path = tmp_path / "metrics.json"
    path.write_text("the last good ones")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_metrics(path, {"eer": 0.1}, seed=7, manifests=[manifest], start_time=0)
    assert path.read_text() == "the last good ones"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_tells_of_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert record._commit() is None

    def git(*arguments):
        record.subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    commit = record._commit()
    assert len(commit) == 40
    (tmp_path / "changed.py").write_text("")
    assert record._commit() == f"{commit}+"
