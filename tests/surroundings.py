"""Surroundings that a person's machine may have: read-only folders, no home, spawned workers."""

import hashlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
NOWHERE = os.path.join(os.devnull, "home")  # not even root can make a folder there
CACHES = ("XDG_", "MPL", "HF_", "HUGGINGFACE", "TORCH", "TRITON", "NUMBA", "TRANSFORMERS")
SPAWN = """
import multiprocessing, os, sys
multiprocessing.set_start_method("spawn", force=True)
if "--multiprocessing-fork" in sys.orig_argv:
    open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.spawned"), "w").close()
"""


def homeless():
    """Return this process's environment with a home that is not there and cannot be made."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(CACHES)}
    return {**kept, "HOME": NOWHERE, "USERPROFILE": NOWHERE, "OMP_NUM_THREADS": "1"}


def spawning(folder):
    """Return the variables with which workers of a Python process are spawned, as on Windows.

    Arguments
    ---------
    folder : Path
        Made; what Python runs at its start is written there. Each process that is spawned leaves a
        file named `*.spawned` in it.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SPAWN, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@contextmanager
def read_only(folder):
    """Take the right to write from a folder and all in it. To root that changes nothing."""
    changed = {path: path.stat().st_mode for path in [folder, *Path(folder).rglob("*")]}
    for path, mode in changed.items():
        path.chmod(mode & ~WRITE)
    try:
        yield
    finally:
        for path, mode in changed.items():
            path.chmod(mode)


def contents(folder):
    """Return what a folder holds: the time and the digest of each file, the time of each folder.

    By it a folder in which root could have written is known to be as it was.
    """
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, _digest(path))
        for path in [Path(folder), *Path(folder).rglob("*")]
    }


def _digest(path):
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest()
