"""Scores of verification trials: cosines, AS-norm, and changes of the embeddings beforehand."""

import numpy as np

from recipes.common.evaluation.grouping import group_by
from recipes.common.evaluation.metrics import eer

MIN_COHORT = 2  # speakers: a deviation needs two
SCORINGS = ("plain", "centred", "standardised")


def score_trials(embeddings, trials):
    """Return the cosine similarity of each trial's two embeddings.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    trials : list of tuple
        (label, enrolment ID, test ID).

    Returns
    -------
    numpy.ndarray
        Shape (trials,), float64, in [-1, 1].

    Raises
    ------
    ValueError
        Where an embedding is zero or not finite.

    Example
    -------
    >>> embeddings = {"a": np.array([1.0, 0.0]), "b": np.array([2.0, 0.0])}
    >>> score_trials(embeddings, [(1, "a", "b")])
    array([1.])
    """
    unit = unit_length(embeddings)
    enrolled = np.stack([unit[enrol] for _, enrol, _ in trials])
    tested = np.stack([unit[test] for _, _, test in trials])
    return (enrolled * tested).sum(1)


def unit_length(embeddings):
    """Return embeddings scaled to length 1, float64; ValueError where one has no direction."""
    unit = {}
    for name, embedding in embeddings.items():
        norm = np.linalg.norm(embedding.astype(np.float64))
        if not (np.isfinite(norm) and norm > 0):
            raise ValueError(f"The embedding of {name} has length {norm}: no cosine is defined.")
        unit[name] = embedding / norm
    return unit


def cohort_means(embeddings, speaker_of):
    """Return the cohort of AS-norm: each speaker's mean embedding.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,), of training utterances.
    speaker_of : dict
        ID: speaker.

    Returns
    -------
    dict
        Speaker: array of shape (E,), the mean of embeddings scaled to length 1.

    Example
    -------
    >>> means = cohort_means({"a": np.array([2.0, 0.0]), "b": np.array([0.0, 1.0])}, dict(a=1, b=1))
    >>> means[1].tolist()
    [0.5, 0.5]
    """
    unit = unit_length(embeddings)
    own = group_by(unit, speaker_of.get)
    return {s: np.mean([unit[name] for name in names], axis=0) for s, names in own.items()}


def as_norm(embeddings, trials, cohort, top):
    """Return adaptive s-norm scores (Matejka et al., Interspeech 2017, equation 7 with top files).

    Each side's score is told in deviations from the mean of its own best cohort scores, and the two
    sides are averaged.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    trials : list of tuple
        (label, enrolment ID, test ID).
    cohort : dict
        Embeddings of speakers that no trial names, as `cohort_means` gives them.
    top : int
        How many of the best cohort scores count, at least two; all where there are fewer.

    Returns
    -------
    numpy.ndarray
        Shape (trials,).

    Raises
    ------
    ValueError
        Where the cohort has fewer than two speakers.

    Example
    -------
    >>> cohort = {"x": np.array([1.0, 0.0]), "y": np.array([0.0, 1.0])}
    >>> as_norm({"a": np.array([1.0, 0.0])}, [(1, "a", "a")], cohort, top=2).tolist()
    [1.0]
    """
    if min(len(cohort), top) < MIN_COHORT:
        raise ValueError(f"AS-norm needs {MIN_COHORT} cohort speakers; there are {len(cohort)}.")
    directions = np.stack(list(unit_length(cohort).values()))
    used = {name: embeddings[name] for trial in trials for name in trial[1:]}
    statistics = {}
    for name, value in unit_length(used).items():
        best = np.sort(directions @ value)[-top:]
        statistics[name] = best.mean(), max(best.std(), np.finfo(float).tiny)
    scores = score_trials(embeddings, trials)
    sides = [np.array([statistics[trial[side]] for trial in trials]) for side in (1, 2)]
    return sum((scores - side[:, 0]) / side[:, 1] for side in sides) / 2


def change_embeddings(embeddings, reference, scoring):
    """Return embeddings as a scoring takes them.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    reference : dict
        Embeddings of training data, likewise; at least two.
    scoring : str
        "plain": as they are; "centred": less the mean of the reference; "standardised": divided by
        its deviation too, by dimension.

    Returns
    -------
    dict

    Example
    -------
    >>> reference = {"a": np.array([1.0, 0.0]), "b": np.array([3.0, 4.0])}
    >>> change_embeddings({"c": np.array([4.0, 2.0])}, reference, "centred")
    {'c': array([2., 0.])}
    """
    if scoring == "plain":
        return embeddings
    mean, deviation = statistics_of(reference)
    centred = {name: value - mean for name, value in embeddings.items()}
    if scoring == "centred":
        return centred
    return {name: value / deviation for name, value in centred.items()}


def statistics_of(reference):
    """Return the mean and the deviation of embeddings, (E,) each; 1 in the place of a deviation 0.

    Example
    -------
    >>> mean, deviation = statistics_of({"a": np.array([1.0, 0.0]), "b": np.array([3.0, 0.0])})
    >>> mean.tolist(), deviation.tolist()
    ([2.0, 0.0], [1.0, 1.0])
    """
    values = np.stack(list(reference.values()))
    deviation = values.std(0)
    return values.mean(0), np.where(deviation == 0, 1, deviation)


def rate_scorings(embeddings, reference, trials):
    """Return the equal error rate by each scoring, by plain scores alone without reference data.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    reference : dict or None
        As `change_embeddings` takes it.
    trials : list of tuple
        (label, enrolment ID, test ID).

    Returns
    -------
    dict
        Scoring: its rate. The first of the lowest is to be used.

    Example
    -------
    >>> embeddings = {i: np.array([9 + (i // 2), 9 - (i // 2)]) for i in range(4)}
    >>> rates = rate_scorings(embeddings, embeddings, [(1, 0, 1), (1, 2, 3), (0, 0, 2), (0, 1, 3)])
    >>> rates, min(rates, key=rates.get)
    ({'plain': 0.0, 'centred': 0.0, 'standardised': 0.0}, 'plain')
    """
    labels = [label for label, _, _ in trials]
    rates = {}
    for scoring in SCORINGS if reference is not None else SCORINGS[:1]:
        changed = change_embeddings(embeddings, reference, scoring)
        rates[scoring] = eer(score_trials(changed, trials), labels)
    return rates
