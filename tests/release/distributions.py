#!/usr/bin/env python3
"""Make the wheel and the source distribution, check them, use each in an environment of its own.

    python -m tests.release.distributions dist      # or: make dist

Both are made of the files that git tracks. twine checks their metadata. Each is then installed with
its dependencies into an empty environment, where it prints its help and its version and encodes a
recording with a small exported model. The packages stay in the folder, which must be empty.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import soundfile

import pretrained
from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.exported import save_model

ROOT = Path(__file__).resolve().parents[2]
NAME = f"learn2diss-{pretrained.__version__}"
WHEEL, SOURCE = f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"


def main():
    """Make, check, install and use both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=lambda path: Path(path).resolve())
    folder = parser.parse_args().folder
    if folder.is_dir() and any(folder.iterdir()):
        sys.exit(f"{folder} is not empty: remove what is in it, or name another folder.")
    build(folder)
    called([sys.executable, "-m", "twine", "check", "--strict", *map(str, folder.iterdir())])
    for name in (WHEEL, SOURCE):
        with tempfile.TemporaryDirectory() as work:
            python = new_environment(Path(work) / "environment")
            install(python, folder / name)
            print(f"{name}: {use(python, Path(work))}", flush=True)
    print(f"{folder} holds {WHEEL} and {SOURCE}.")


def called(command, **options):
    """Run a command and return what it prints; its whole output is shown where it fails.

    PYTHONPATH is left out: what lies there would pass for installed.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options |= {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, **options)
    text = done.stdout.decode()
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{text}")
    return text


def tracked_files():
    """Return the paths of all files that git tracks and that are there, relative to the root."""
    listed = called(["git", "ls-files", "-z"], cwd=ROOT).split("\0")
    return sorted(path for path in listed if path and (ROOT / path).is_file())


def build(folder, options=()):
    """Make the source distribution of the tracked files, and the wheel of it.

    They are copied first: setuptools would take along what it left in the folder on another day.

    Arguments
    ---------
    folder : Path
        Receives both.
    options : iterable of str
        Of `python -m build`.
    """
    with tempfile.TemporaryDirectory() as copy:
        for path in tracked_files():
            (Path(copy) / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, Path(copy) / path)
        called([sys.executable, "-m", "build", *options, "--outdir", str(folder), copy])


def files_of(package):
    """Return the files in a wheel or, below its one folder, in a source distribution, sorted."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return sorted(archive.namelist())
    with tarfile.open(package) as archive:
        names = [member.name for member in archive if member.isfile()]
    return sorted(name.partition("/")[2] for name in names)


def new_environment(folder):
    """Make an environment without any package and return its Python."""
    venv.create(folder, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(python, package, options=()):
    """Install a package into the environment of a Python, with options of `pip install`."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    called([*pip, *options, str(package)])


def use(python, work):
    """Run an installed `python -m pretrained` outside the repository and return its version.

    Arguments
    ---------
    python : Path
        Of the environment.
    work : Path
        A folder, which receives a recording, a model and what is made of them.

    Raises
    ------
    RuntimeError
        Where a command fails, or another version or no encoding comes out.
    """
    command = [str(python), "-m", "pretrained"]
    if "encode" not in called([*command, "--help"], cwd=work):
        raise RuntimeError("The help of the installed package does not name its commands.")
    version = called([*command, "--version"], cwd=work).strip()
    if version != f"learn2diss {pretrained.__version__}":
        raise RuntimeError(f"The installed package says that it is {version!r}.")
    soundfile.write(work / "noise.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 16000), 16000)
    frames = FrameEncoder("fbank", conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    utterances = UtteranceEncoder("tdnn", channels=16, embedding_dim=12)
    save_model(work / "model", {"frame_encoder": frames, "utterance_encoder": utterances})
    words = ["encode", "noise.wav", "--model", "model", "--out", "encoded"]
    called([*command, *words], cwd=work)
    with np.load(work / "encoded" / "noise.npz") as encoding:
        found = {name: encoding[name].shape for name in encoding.files}
    if (49, 32) not in found.values() or (12,) not in found.values():
        raise RuntimeError(f"Another encoding than that of a second came out: {found}.")
    return version


if __name__ == "__main__":
    main()
