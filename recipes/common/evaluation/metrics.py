"""Figures of a run: error rates, bootstrap intervals and metrics.json."""

import json
import math
import platform
import subprocess
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.edit_distance import accumulatable_wer_stats

from recipes.common.data.manifest import count_left_out, fingerprint, replace_text

RESAMPLES_AT_ONCE = 50
PACKAGES = ("torch", "torchaudio", "speechbrain", "numpy")


def error_rates(scores, labels):
    """Return both error rates at every threshold; a trial is accepted from the threshold on.

    Arguments
    ---------
    scores : array_like
        Shape (trials,), higher where the speakers are more alike.
    labels : array_like
        Shape (trials,), 1 for target trials, 0 for others.

    Returns
    -------
    thresholds : numpy.ndarray
        Shape (thresholds,), rising: each score once, then the next float above all of them.
    missed : numpy.ndarray
        Same shape, in [0, 1]: the share of target trials below the threshold, rising from 0 to 1.
    accepted : numpy.ndarray
        Same shape, in [0, 1]: the share of other trials not below it, falling from 1 to 0.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> thresholds, missed, accepted = error_rates([3, 2, 2, 1], [1, 1, 0, 0])
    >>> thresholds[:3].tolist(), missed.tolist(), accepted.tolist()
    ([1.0, 2.0, 3.0], [0.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0])
    """
    thresholds, (missed, targets), (accepted, others) = _threshold_counts(scores, labels)
    return thresholds, missed / targets, accepted / others


def _threshold_counts(scores, labels, weights=None):
    """Return thresholds, and (misses, targets) and (false acceptances, others) at each of them."""
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if scores.shape != labels.shape:
        raise ValueError(f"{scores.shape} scores do not fit {labels.shape} labels.")
    if labels.all() or not labels.any():
        raise ValueError("Error rates need target trials and others.")
    if not np.isfinite(scores).all():
        raise ValueError("Error rates need finite scores.")
    order = np.argsort(scores, kind="stable")
    scores, labels = scores[order], labels[order]
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, float)[..., order]
    # Trials of equal score fall on the same side of any threshold.
    last = np.append(np.diff(scores) > 0, True)
    thresholds = np.append(scores[last], np.nextafter(scores[-1], np.inf))
    targets = _below(weights * labels, last)
    others = _below(weights * ~labels, last)
    count = others[..., -1:]
    return thresholds, (targets, targets[..., -1:]), (count - others, count)


def _below(weights, last):
    """Return the weight below each threshold, where `last` marks the last trial of a score."""
    sums = np.cumsum(weights, axis=-1)[..., last]
    return np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)


def _nearest(missed, targets, accepted, others):
    """Return the place of the first threshold at which both error rates are nearest."""
    # In whole numbers, as the counts are, equally near thresholds are told to be so.
    return np.argmin(np.abs(missed * others - accepted * targets), axis=-1)


def eer(scores, labels, weights=None):
    """Return the equal error rate: both rates' mean at the threshold where they are nearest.

    Of equally near thresholds, the lowest counts.

    Arguments
    ---------
    scores, labels : array_like
        As `error_rates` takes them.
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
    _, (missed, targets), (accepted, others) = _threshold_counts(scores, labels, weights)
    place = _nearest(missed, targets, accepted, others)[..., None]
    rates = missed / targets + accepted / others
    rate = np.take_along_axis(rates, place, -1)[..., 0] / 2
    return float(rate) if rate.ndim == 0 else rate


def eer_threshold(scores, labels):
    """Return the threshold of the equal error rate.

    Arguments
    ---------
    scores, labels : array_like
        As `error_rates` takes them.

    Returns
    -------
    float
        Halfway between the score of the threshold and the one below: rounding decides no trial.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> eer_threshold([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    0.5
    """
    thresholds, misses, acceptances = _threshold_counts(scores, labels)
    place = _nearest(*misses, *acceptances)
    return float(thresholds[max(place - 1, 0) : place + 1].mean())


def min_dcf(scores, labels, p_target=0.01, c_miss=1.0, c_fa=1.0):
    """Return the smallest detection cost over all thresholds, relative to that without scores.

    Arguments
    ---------
    scores, labels : array_like
        As `error_rates` takes them.
    p_target : float
        How probable target trials are in use, in (0, 1).
    c_miss, c_fa : float
        What a miss and a false acceptance cost, positive.

    Returns
    -------
    float
        In [0, 1]: c_miss * p_target * misses + c_fa * (1 - p_target) * false acceptances, divided
        by what the cheaper of accepting all trials and rejecting all costs.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, a score is not finite, or a parameter is out of
        its range.

    Example
    -------
    >>> min_dcf([3, 2, 2, 1], [1, 1, 0, 0], p_target=0.5)
    0.5
    """
    if not (0 < p_target < 1 and c_miss > 0 and c_fa > 0):
        raise ValueError(
            f"p_target is {p_target}, c_miss {c_miss}, c_fa {c_fa}: expected a probability between "
            "0 and 1 and positive costs."
        )
    _, missed, accepted = error_rates(scores, labels)
    misses, acceptances = c_miss * p_target, c_fa * (1 - p_target)
    return float(np.min(misses * missed + acceptances * accepted) / min(misses, acceptances))


def bootstrap_trials(statistic, labels, speakers, seed, resamples=1000):
    """Return the interval over speakers of a figure that trials give.

    Speakers are drawn with replacement. A target trial counts as often as its speaker was drawn,
    any other as often as the product of its two speakers' draws. A draw in which one kind of
    trials is missing is left out.

    Arguments
    ---------
    statistic : callable
        Takes the weights of the trials in some of the draws, shape (draws, trials), and returns
        the figure of each, (draws,).
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
    low, high : float
        The 95 % percentile interval; NaN where no draw has both kinds of trials.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = rng.integers(8, size=(400, 2))
    >>> labels = speakers[:, 0] == speakers[:, 1]
    >>> scores = labels + rng.normal(size=400)
    >>> def rate(weights=None):
    ...     return eer(scores, labels, weights)
    >>> low, high = bootstrap_trials(rate, labels, speakers, seed=1)
    >>> low < rate() < high
    True
    """
    labels = np.asarray(labels, bool)
    names, places = np.unique(np.asarray(speakers), return_inverse=True)
    places = places.reshape(-1, 2)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    values = []
    # A part at a time: each resample takes some 100 bytes a trial on the way.
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        part = drawn[start : start + RESAMPLES_AT_ONCE]
        first, second = part[:, places[:, 0]], part[:, places[:, 1]]
        weights = np.where(labels, first, first * second)
        values.append(statistic(weights[(weights * labels).any(1) & (weights * ~labels).any(1)]))
    values = np.concatenate(values)
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
    return float(low), float(high)


def bootstrap_eer_ratio(scores, other_scores, labels, speakers, seed, resamples=1000):
    """Return the ratio of two systems' EER on the same trials, with its interval over speakers.

    By `bootstrap_trials`, the same speakers drawn for both systems.

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
        Its 95 % percentile interval; not finite where the other's EER is 0 in many draws.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.
    ZeroDivisionError
        Where the other's EER is 0.

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
    ratio = eer(scores, labels) / eer(other_scores, labels)

    def ratio_of(weights):
        return eer(scores, labels, weights) / eer(other_scores, labels, weights)

    return ratio, bootstrap_trials(ratio_of, labels, speakers, seed, resamples)


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


def error_counts(references, hypotheses):
    """Return how many edits make the references the hypotheses, over all pairs.

    Arguments
    ---------
    references, hypotheses : list of sequence
        Tokens of each utterance: words, phones, or a text as its characters.

    Returns
    -------
    dict
        `insertions`, `deletions` and `substitutions` of the fewest edits, their sum `errors`, and
        `tokens`, how many the references have.

    Raises
    ------
    ValueError
        Where there are not as many hypotheses as references, or no reference has a token.

    Example
    -------
    >>> counts = error_counts([["a", "b", "c"], []], [["a", "x"], ["y"]])
    >>> counts["insertions"], counts["deletions"], counts["substitutions"], counts["tokens"]
    (1, 1, 1, 3)
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses do not fit {len(references)} references.")
    if not any(references):
        raise ValueError("An error rate needs a reference with at least one token.")
    stats = accumulatable_wer_stats(references, hypotheses, Counter())
    counts = {name: stats[name] for name in ("insertions", "deletions", "substitutions")}
    return {**counts, "errors": sum(counts.values()), "tokens": stats["num_ref_tokens"]}


def wer(references, hypotheses):
    """Return the word error rate, or that of phones where the texts are phones.

    Arguments
    ---------
    references, hypotheses : list of str
        Words, or phones, are what stands between white space.

    Returns
    -------
    float
        Errors by words of the references, from 0; above 1 where many words are inserted.

    Raises
    ------
    ValueError
        Where there are not as many hypotheses as references, or no reference has a word.

    Example
    -------
    >>> wer(["one two", "three four"], ["one too", "three four"])
    0.25
    """
    words = [[text.split() for text in texts] for texts in (references, hypotheses)]
    counts = error_counts(*words)
    return counts["errors"] / counts["tokens"]


def cer(references, hypotheses):
    """Return the character error rate. Spaces count, but for those at a text's ends.

    Arguments
    ---------
    references, hypotheses : list of str

    Returns
    -------
    float
        Errors by characters of the references, from 0; above 1 where many are inserted.

    Raises
    ------
    ValueError
        Where there are not as many hypotheses as references, or no reference has a character.

    Example
    -------
    >>> cer(["one two"], ["one too"]) == 1 / 7
    True
    """
    characters = [[text.strip() for text in texts] for texts in (references, hypotheses)]
    counts = error_counts(*characters)
    return counts["errors"] / counts["tokens"]


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
