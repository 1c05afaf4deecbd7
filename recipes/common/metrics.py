"""Figures of a run: equal error rates, bootstrap intervals, and metrics.json."""

import json
import math
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from recipes.common.manifest import count_left_out, fingerprint, replace_text

RESAMPLES_AT_ONCE = 50
PACKAGES = ("torch", "torchaudio", "speechbrain", "numpy")


def eer(scores, labels, weights=None):
    """Return the equal error rate, between thresholds by linear interpolation.

    Arguments
    ---------
    scores : array_like
        Shape (trials,), higher where the speakers are more alike.
    labels : array_like
        Shape (trials,), 1 for target trials, 0 for others.
    weights : array_like, optional
        Shape (trials,) or (resamples, trials), how often each trial counts.

    Returns
    -------
    float or numpy.ndarray
        In [0, 1]; an array of shape (resamples,) where weights has two dimensions.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> eer([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    0.0
    >>> eer([0.9, 0.1, 0.8, 0.2], [1, 1, 0, 0])
    0.5
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if labels.all() or not labels.any():
        raise ValueError("An equal error rate needs target trials and others.")
    if not np.isfinite(scores).all():
        raise ValueError("An equal error rate needs finite scores.")
    order = np.argsort(scores, kind="stable")
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)
    counted = weights[..., order]
    targets = np.cumsum(counted * labels[order], axis=-1)
    others = np.cumsum(counted * ~labels[order], axis=-1)
    # Trials of equal score fall on the same side of any threshold.
    last = np.append(np.diff(scores[order]) > 0, True)
    missed = _from_zero(targets[..., last]) / targets[..., -1:]
    accepted = 1 - _from_zero(others[..., last]) / others[..., -1:]
    gap = missed - accepted
    above = np.argmax(gap >= 0, axis=-1)[..., None]
    after, before = np.take_along_axis(gap, above, -1), np.take_along_axis(gap, above - 1, -1)
    part = -before / (after - before)
    low = np.take_along_axis(missed, above - 1, -1)
    rate = (low + part * (np.take_along_axis(missed, above, -1) - low))[..., 0]
    return float(rate) if rate.ndim == 0 else rate


def _from_zero(x):
    return np.concatenate([np.zeros((*x.shape[:-1], 1)), x], axis=-1)


def bootstrap_eer_ratio(scores, other_scores, labels, speakers, seed, resamples=1000):
    """Return the ratio of two systems' EER on the same trials, with its interval over speakers.

    Speakers are drawn with replacement. A target trial counts as often as its speaker was drawn,
    any other as often as the product of its two speakers' draws.

    Arguments
    ---------
    scores, other_scores : array_like
        Shape (trials,), of the system and of the one that it is compared with.
    labels : array_like
        Shape (trials,), 1 for target trials, 0 for others.
    speakers : array_like
        Shape (trials, 2), the speakers of each trial.
    seed : int
        Seed of the draws.
    resamples : int
        How many draws.

    Returns
    -------
    ratio : float
        EER of the system divided by the other's.
    interval : tuple of float
        Its 95 % percentile interval.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = rng.integers(8, size=(400, 2))
    >>> labels = speakers[:, 0] == speakers[:, 1]
    >>> good, bad = labels + rng.normal(size=400), labels + 3 * rng.normal(size=400)
    >>> ratio, (low, high) = bootstrap_eer_ratio(good, bad, labels, speakers, seed=1)
    >>> low < ratio < high < 1
    True
    """
    labels = np.asarray(labels, bool)
    names, places = np.unique(np.asarray(speakers), return_inverse=True)
    places = places.reshape(-1, 2)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    drawn = drawn.astype(np.uint16)
    first, second = drawn[:, places[:, 0]], drawn[:, places[:, 1]]
    weights = np.where(labels, first, first * second)
    weights = weights[(weights * labels).any(1) & (weights * ~labels).any(1)]
    # A part at a time: each resample takes some 100 bytes a trial on the way.
    parts = np.array_split(weights, -(-len(weights) // RESAMPLES_AT_ONCE))
    rates = [(eer(scores, labels, part), eer(other_scores, labels, part)) for part in parts]
    ratios = np.concatenate([own / other for own, other in rates])
    low, high = np.percentile(ratios, [2.5, 97.5])
    return eer(scores, labels) / eer(other_scores, labels), (float(low), float(high))


def bootstrap_mean(values, speakers, seed, resamples=2000):
    """Return the mean over speakers of their own means, with its interval over speakers.

    Arguments
    ---------
    values : array_like
        Shape (items,), such as the difference of two systems on each utterance.
    speakers : array_like
        Shape (items,), the speaker of each item.
    seed : int
        Seed of the draws.
    resamples : int
        How many draws of the speakers, with replacement.

    Returns
    -------
    mean : float
    interval : tuple of float
        The 95 % percentile interval.

    Example
    -------
    >>> mean, (low, high) = bootstrap_mean([1.0, 3.0, 2.0, 2.0], ["a", "a", "b", "b"], seed=0)
    >>> mean, low, high
    (2.0, 2.0, 2.0)
    """
    names, places = np.unique(np.asarray(speakers), return_inverse=True)
    sums = np.bincount(places, np.asarray(values, float))
    means = sums / np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    low, high = np.percentile(means[drawn].mean(1), [2.5, 97.5])
    return float(means.mean()), (float(low), float(high))


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
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "seconds": round(time.time() - start_time, 1),
        "threads": torch.get_num_threads(),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(metrics, indent=2) + "\n")


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
