"""The memory of encode does not grow with the number of files.

    python -m tests.pretrained.commands.test_encoding_memory 1000 10000

prints the peaks (MiB) of so many files each; the test takes fewer, since 10,000 take a minute.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.pretrained.exports import frame_encoder, saved

ROOT = Path(__file__).parents[3]
FEW, MANY = 300, 2000  # files
MOST_MIB = 30  # that MANY may take more: what threads allocate varies by 10


def peak_of(*words):
    """Return the peak memory of a command in a process of its own, MiB, libraries included."""
    command = [sys.executable, "-m", "pretrained", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as running:
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def peaks_of(folder, counts):
    """Return the peak memory of encoding so many files, for each of some numbers."""
    model = saved(folder / "model", {"frame_encoder": frame_encoder(num_layers=1)}, None)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 8000).astype(np.float32)
    files = []
    for number, length in enumerate(rng.integers(3200, 6400, max(counts))):
        files.append(folder / "speech" / f"{number // 100:03d}" / f"{number:05d}.wav")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(files[-1], noise[:length], 16000)
    peaks, listed = {}, folder / "list.txt"
    for count in counts:
        listed.write_text("\n".join(map(str, files[:count])), encoding="utf-8")
        out = folder / str(count)
        peaks[count] = peak_of("encode", f"@{listed}", "--model", model, "--out", out)
        assert sum(path.suffix == ".npz" for path in out.rglob("*")) == count
    return peaks


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="a process's peak of memory is not told")
def test_many_files_take_the_memory_of_few(tmp_path):
    peaks = peaks_of(tmp_path, (FEW, MANY))
    assert peaks[MANY] < peaks[FEW] + MOST_MIB, peaks


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        print(peaks_of(Path(work), [int(word) for word in sys.argv[1:]]))
