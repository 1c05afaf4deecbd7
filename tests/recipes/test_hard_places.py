"""A recipe on a read-only corpus of a hard name, without a home, with workers that are spawned."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.surroundings import contents, homeless, read_only, spawning

PRETRAIN = Path(__file__).parents[2] / "recipes" / "LibriSpeech" / "pretrain"
OPTIONS = {
    "--num_targets": 8,
    "--kmeans_passes": 1,
    "--number_of_epochs": 1,
    "--max_batch_seconds": 40,
    "--num_workers": 1,
}


@pytest.mark.long
def test_the_frame_stage_trains_there(librispeech, tmp_path):
    corpus = tmp_path / "Löß & 语料" / "Libri Speech"
    shutil.copytree(librispeech, corpus)
    before, output = contents(corpus), tmp_path / "Löß & 语料" / "ö ut"
    options = {"--data_folder": corpus, "--output_folder": output, **OPTIONS}
    words = [str(word) for pair in options.items() for word in pair]
    with read_only(corpus):
        done = subprocess.run(
            [sys.executable, "train.py", "hparams/frame_tiny.yaml", *words],
            cwd=PRETRAIN,
            env=homeless() | spawning(tmp_path / "start"),
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    assert done.returncode == 0, done.stderr[-5000:]
    assert contents(corpus) == before
    assert list((tmp_path / "start").glob("*.spawned"))
    figures = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["figures"]
    assert figures["epochs"] == 1 and (output / "model" / "model.safetensors").is_file()
    assert (output / "curves.png").stat().st_size > 1000
