"""Error rates: EER and detection cost of trials, errors of words, phones and characters."""

from collections import Counter

import numpy as np
from speechbrain.utils.edit_distance import accumulatable_wer_stats


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


def mean_eer(scores, labels, weights=None):
    """Return the mean over runs of the equal error rate on the same trials.

    Arguments
    ---------
    scores : sequence of array_like
        Of each run, (trials,).
    labels, weights
        As `eer` takes them.

    Returns
    -------
    float or numpy.ndarray
        As `eer` returns it.

    Example
    -------
    >>> mean_eer([[0.9, 0.8, 0.2, 0.1], [0.9, 0.1, 0.8, 0.2]], [1, 1, 0, 0])
    0.25
    """
    mean = np.mean([eer(own, labels, weights) for own in scores], axis=0)
    return float(mean) if mean.ndim == 0 else mean


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


def min_dcf(scores, labels, p_target):
    """Return the smallest detection cost over all thresholds, relative to that without scores.

    Arguments
    ---------
    scores, labels : array_like
        As `error_rates` takes them.
    p_target : float
        How probable target trials are in use, in (0, 1).

    Returns
    -------
    float
        In [0, 1]: p_target * misses + (1 - p_target) * false acceptances, divided by what the
        cheaper of accepting all trials and rejecting all costs.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> min_dcf([3, 2, 2, 1], [1, 1, 0, 0], p_target=0.5)
    0.5
    """
    _, missed, accepted = error_rates(scores, labels)
    costs = p_target * missed + (1 - p_target) * accepted
    return float(np.min(costs) / min(p_target, 1 - p_target))


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
        Where no reference has a token.

    Example
    -------
    >>> counts = error_counts([["a", "b", "c"], []], [["a", "x"], ["y"]])
    >>> counts["insertions"], counts["deletions"], counts["substitutions"], counts["tokens"]
    (1, 1, 1, 3)
    """
    if not any(references):
        raise ValueError("An error rate needs a reference with at least one token.")
    stats = accumulatable_wer_stats(references, hypotheses, Counter())
    counts = {name: stats[name] for name in ("insertions", "deletions", "substitutions")}
    return {**counts, "errors": sum(counts.values()), "tokens": stats["num_ref_tokens"]}


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
        Where no reference has a character.

    Example
    -------
    >>> cer(["one two"], ["one too"]) == 1 / 7
    True
    """
    characters = [[text.strip() for text in texts] for texts in (references, hypotheses)]
    counts = error_counts(*characters)
    return counts["errors"] / counts["tokens"]
