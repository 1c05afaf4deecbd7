"""The memory of encode does not grow with the number of files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.pretrained.exports import frame_encoder, saved

ROOT = Path(__file__).parents[3]
FEW, MANY = 1000, 10_000  # files
MOST_MIB = 40  # that MANY may take more: their paths are 3, and what threads allocate varies by 10


def peak_of(*words):
    """Return the peak memory of a command in a process of its own, MiB, libraries included."""
    command = [sys.executable, "-m", "pretrained", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as running:
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="a process's peak of memory is not told")
def test_ten_thousand_files_take_the_memory_of_one_thousand(tmp_path):
    folder = saved(tmp_path / "model", {"frame_encoder": frame_encoder(num_layers=1)}, None)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 8000).astype(np.float32)
    files = []
    for number, length in enumerate(rng.integers(3200, 6400, MANY)):
        files.append(tmp_path / "speech" / f"{number // 100:03d}" / f"{number:05d}.wav")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(files[-1], noise[:length], 16000)
    peaks = {}
    for count in (FEW, MANY):
        (tmp_path / "list.txt").write_text("\n".join(map(str, files[:count])))
        out = tmp_path / str(count)
        peaks[count] = peak_of(
            "encode", f"@{tmp_path / 'list.txt'}", "--model", folder, "--out", out
        )
        assert sum(path.suffix == ".npz" for path in out.rglob("*")) == count
    print(peaks)
    assert peaks[MANY] < peaks[FEW] + MOST_MIB, peaks
