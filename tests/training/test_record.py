"""The record of a run: finite figures and what they were made from; what model cards tell of it."""

import functools
import json
import os
import shutil
import time

import numpy as np
import pytest
import torch

from recipes.common.data.files import REPOSITORY
from recipes.common.data.manifest import fingerprint
from recipes.common.training import record
from recipes.common.training.description import describe_run
from recipes.common.training.hparams import read_source, save_hparams
from recipes.common.training.record import write_metrics
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb


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
    packages = {"learn2diss", "python", "torch", "torchaudio", "speechbrain", "numpy"}
    assert set(written["versions"]) == packages
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


def listed(path, speakers):
    """Write a manifest of utterances of half an hour each."""
    rows = [f"u{n},1800.0,$data_root/u{n}.wav,{name}\n" for n, name in enumerate(speakers)]
    path.write_text("ID,duration,wav,spk_id\n" + "".join(rows))
    return path


def test_a_run_is_described_by_its_manifests_and_settings(tmp_path):
    manifests = [listed(tmp_path / "a.csv", "xxy"), listed(tmp_path / "b.csv", "xyz")]
    hparams = {
        "prepare": functools.partial(prepare_voxceleb, data_folder="somewhere"),
        "output_folder": str(tmp_path),
        "__set_seed": None,
        "modules": {"encoder": object()},
        "number_of_epochs": 3,
        "lrs": [0.1, 0.2],
        "train_splits": ["a"],
        "frame_weights": "hubert",
        "noise_folder": None,
        "odd": "/home/anna/notes",
        "dev_trials": "veri_dev",
    }
    described = describe_run(hparams, manifests)
    assert described == {
        "corpus": "VoxCeleb",
        "file": None,
        "splits": [
            {"split": "a", "hours": 1.5, "utterances": 3, "speakers": 2},
            {"split": "b", "hours": 1.5, "utterances": 3, "speakers": None},
        ],
        "settings": {
            "output_folder": "(a path)",
            "number_of_epochs": 3,
            "lrs": [0.1, 0.2],
            "train_splits": ["a"],
            "frame_weights": "(a path)",
            "noise_folder": None,
            "odd": "(a path)",
            "dev_trials": "(a path)",
        },
    }


def test_a_file_of_the_repository_is_named_from_its_root(tmp_path):
    name = "recipes/Table/hparams/linear_tiny.yaml"
    save_hparams(
        REPOSITORY / name, {"table": "t.csv", "output_folder": "O", "features": "fbank"}, tmp_path
    )
    assert read_source(tmp_path) == name
