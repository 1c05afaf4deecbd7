"""Training beside other processes: threads that wait leave their cores to them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrained.commands.runtime import SPINS

ROOT = Path(__file__).parents[2]
SCRIPTS = [*ROOT.glob("recipes/**/train.py"), *ROOT.glob("recipes/**/verify.py")]
TRAINING = sorted(path.relative_to(ROOT).as_posix() for path in SCRIPTS)
# What prints the shortest step (s) of the tiny frame encoder on 40 s, alone and beside another.
STEPS = r"""
import os, subprocess, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import recipes
import torch
from lobes.frame_encoder import FrameEncoder
from pretrained.commands.runtime import keep_freed_memory

BUSY = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"  # if this is killed

def step():
    began = time.perf_counter()
    optimizer.zero_grad()
    encoder(wavs, torch.ones(8))[0].square().mean().backward()
    optimizer.step()
    return time.perf_counter() - began

torch.set_num_threads(2)
keep_freed_memory()
encoder = FrameEncoder("fbank", 128, d_model=128, num_layers=3, nhead=4, d_ffn=512)
optimizer, wavs = torch.optim.AdamW(encoder.parameters()), torch.randn(8, 80000)
[step() for _ in range(3)]
alone, beside = [], []
for _ in range(4):
    alone += [step() for _ in range(3)]
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    time.sleep(0.3)
    try:
        beside += [step() for _ in range(3)]
    finally:
        busy.kill()
        busy.wait()
print(min(alone), min(beside))
"""


def run(code, **variables):
    """Return what code prints in a process of its own, which has two threads."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    env = {**inherited, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SHOW = "import recipes, os; print(os.environ.get('GOMP_SPINCOUNT'))"


def test_the_environment_of_a_user_wins():
    assert run(SHOW) == [SPINS]
    assert run(SHOW, GOMP_SPINCOUNT="7") == ["7"]
    assert run(SHOW, OMP_WAIT_POLICY="active") == ["None"]


@pytest.mark.parametrize("script", TRAINING)
def test_recipes_come_before_torch(script):
    nodes = ast.parse((ROOT / script).read_text(encoding="utf-8")).body
    lines = {}
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            lines.setdefault(name.split(".")[0], node.lineno)
    loaders = [lines[name] for name in ("torch", "torchaudio", "speechbrain") if name in lines]
    assert all(lines["recipes"] < line for line in loaders)


@pytest.mark.long
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes cannot be kept to cores"
)
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads take two cores")
def test_a_step_beside_a_busy_process_takes_little_more_than_its_share():
    alone, beside = map(float, run(STEPS))
    assert beside < 2.5 * alone, (alone, beside)
