"""The record of a run: metrics.json, its figures and what they were made from."""

import json
import math
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from pretrained import __version__
from recipes.common.data.files import REPOSITORY, replace_text
from recipes.common.data.manifest import count_left_out, fingerprint

CODE = ("lobes", "pretrained", "recipes")  # the folders of this project's own
PACKAGES = ("torch", "torchaudio", "speechbrain", "numpy")


def write_metrics(path, figures, *, seed, manifests, start_time):
    """Write metrics.json: the figures and what they were made from.

    Arguments
    ---------
    path : str or Path
        The file; its folder is made where it is missing.
    figures : dict
        Numbers, texts, lists and dicts of these.
    seed : int
        The run's seed.
    manifests : list of Path
        The manifests of the data.
    start_time : float
        When the run began, s since the epoch.

    Raises
    ------
    ValueError
        Where a figure is NaN or infinite; names its key.
    """
    _refuse_nonfinite(figures, "figures")
    metrics = {
        "figures": figures,
        "seed": seed,
        "data": fingerprint(manifests),
        "left_out": count_left_out(manifests),
        "commit": _commit(),
        "versions": {
            "learn2diss": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "seconds": round(time.time() - start_time, 1),
        "threads": torch.get_num_threads(),
        "code": loaded_code(),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(metrics, indent=2) + "\n")


def loaded_code():
    """Return the files of this project that were loaded: a list of str, relative to its folder.

    Example
    -------
    >>> "recipes/common/training/record.py" in loaded_code()
    True
    """
    # Not getattr: a lazy module would be loaded
    files = (vars(module).get("__file__") for module in list(sys.modules.values()))
    paths = {Path(file).resolve() for file in files if file}
    own = [path.relative_to(REPOSITORY) for path in paths if path.is_relative_to(REPOSITORY)]
    return sorted(path.as_posix() for path in own if path.parts[0] in CODE)


def _refuse_nonfinite(value, name):
    if isinstance(value, dict):
        for key, part in value.items():
            _refuse_nonfinite(part, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            _refuse_nonfinite(part, f"{name}[{place}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: metrics.json holds finite figures only.")


def _commit():
    """Return the commit of the code, with "+" where files are changed; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "") or None
