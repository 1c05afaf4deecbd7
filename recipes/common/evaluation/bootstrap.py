"""Intervals over speakers by the bootstrap: of means, of figures of trials, of their ratios."""

from functools import partial

import numpy as np
from scipy.stats import norm, t

from recipes.common.evaluation.metrics import eer

RESAMPLES = 2000
TRIAL_RESAMPLES = 1000
RESAMPLES_AT_ONCE = 50  # of trials: each takes some 100 bytes a trial on the way
# By how much cross-validation makes the variance greater than that of independent groups. Of one
# probe's score: by the share of the groups outside a fold on which its probe is fitted. Of the
# difference of two probes: by less, as both are fitted on the same folds; found in simulation,
# where intervals then cover 90 to 99 %, most at chance and least where nearly all is read.
PROBE_PAIRED_USE = 1.75
DIFFERENCE_PAIRED_USE = 1.4


def label_scores(values, labels):
    """Return the mean of each label's items: the scores of speakers, where labels are speakers.

    Arguments
    ---------
    values : array_like
        Shape (seeds, items), such as `correct` of `recipes.common.evaluation.probes.leakage`: the
        mean of the scores is then the balanced accuracy.
    labels : array_like
        Shape (items,).

    Returns
    -------
    group_names : numpy.ndarray
        Shape (labels,).
    group_scores : numpy.ndarray
        Shape (seeds, labels).

    Example
    -------
    >>> names, scores = label_scores([[1, 0, 1]], ["a", "a", "b"])
    >>> names.tolist(), scores.tolist()
    (['a', 'b'], [[0.5, 1.0]])
    """
    names, places = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.bincount(places)
    return names, np.stack([np.bincount(places, row) / counts for row in np.asarray(values, float)])


def group_scores(gain, possible, strata, groups):
    """Return scores of groups whose mean is the share gained of what is possible, over all strata.

    The share is the mean over strata of gains by what is possible: balanced accuracy where strata
    are classes. Each score is that share and the group's influence on it, so the spread of the
    scores is that of the share, also where groups differ in size or in classes.

    Arguments
    ---------
    gain, possible : array_like
        Shapes (items,).
    strata, groups : array_like
        Shapes (items,), numbers from 0, each of which is there.

    Returns
    -------
    numpy.ndarray
        Shape (groups,).

    Example
    -------
    >>> float(group_scores([1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]).mean())
    0.75
    """
    gain, possible = np.asarray(gain, float), np.asarray(possible, float)
    total = np.bincount(strata, possible)
    share = np.bincount(strata, gain) / total
    influence = (gain - share[strata] * possible) / total[strata] / len(total)
    by_group = np.bincount(groups, influence)
    return share.mean() + len(by_group) * by_group


def bootstrap_groups(scores, seed, paired_use=PROBE_PAIRED_USE):
    """Return the 95 % interval of a mean over groups, drawn with replacement, and over seeds.

    The groups are tested by cross-validation, so two groups may each be tested by a probe that was
    fitted on the other: where they happen to agree, both readings rise. In noise this makes the
    variance `PROBE_PAIRED_USE` times that of independent groups, and the interval is as much wider.
    Its percentiles also allow for few groups, as Student's t does ("expanded percentiles";
    Hesterberg, 2015, "What Teachers Should Know About the Bootstrap"). Seeds, of which there are
    few, widen it by `widen_for_seeds`.

    Arguments
    ---------
    scores : array_like
        Shape (seeds, groups), such as the `group_scores` of a model, or two models' difference.
    seed : int
        Seed of the 2000 draws of groups.
    paired_use : float
        By how much the variance is that of independent groups, from 1.

    Returns
    -------
    low, high : float

    Example
    -------
    >>> low, high = bootstrap_groups([[0.0, 1.0] * 10], seed=1)
    >>> 0.1 < low < 0.3 and 0.7 < high < 0.9
    True
    """
    scores = np.asarray(scores, float)
    mean, groups = scores.mean(), scores.shape[1]
    drawn = _draw(groups, np.random.default_rng(seed), RESAMPLES) / groups
    means = mean + paired_use**0.5 * (drawn @ scores.mean(0) - mean)
    tail = norm.cdf(np.sqrt(groups / (groups - 1)) * t.ppf(0.025, groups - 1))
    interval = np.percentile(means, [100 * tail, 100 * (1 - tail)])
    of_seeds = scores.mean(1)
    left = scores - of_seeds[:, None] - scores.mean(0) + mean
    counted = np.square(left).sum() / max(1, len(scores) - 1) / (groups - 1) / groups
    return widen_for_seeds(mean, interval, of_seeds, groups, counted)


def widen_for_seeds(value, interval, of_seeds, groups, counted=0.0):
    """Return the 95 % interval of a mean over seeds, from that over groups alone.

    Both variances count, each with its degrees of freedom (Satterthwaite, 1946, Biometrics
    Bulletin 2, 110): a plain bootstrap of two or three seeds is too narrow by far.

    Arguments
    ---------
    value : float
        The mean.
    interval : sequence of float
        Its 95 % interval over groups, with the seeds as they are.
    of_seeds : array_like
        Shape (seeds,), the values whose mean it is.
    groups : int
    counted : float
        Of the variance between seeds, what groups make of it: it is in the interval already.

    Returns
    -------
    low, high : float
        The interval itself where there is one seed.

    Example
    -------
    >>> low, high = widen_for_seeds(0.5, (0.4, 0.6), [0.4, 0.5, 0.6], groups=30)
    >>> f"{low:.2f} {high:.2f}"
    '0.31 0.69'
    """
    low, high = map(float, interval)
    if len(of_seeds) == 1:
        return low, high
    quantile = t.ppf(0.975, groups - 1)
    by_group = ((high - low) / 2 / quantile) ** 2
    by_seed = max(np.var(of_seeds, ddof=1) - counted, 0) / len(of_seeds)
    if by_group == 0 or by_seed == 0:
        half = t.ppf(0.975, len(of_seeds) - 1) * by_seed**0.5
        return min(low, float(value - half)), max(high, float(value + half))
    both = by_group + by_seed
    freedom = both**2 / (by_group**2 / (groups - 1) + by_seed**2 / (len(of_seeds) - 1))
    wider = t.ppf(0.975, freedom) / quantile * (both / by_group) ** 0.5
    return float(value - wider * (value - low)), float(value + wider * (high - value))


def _draw(count, rng, resamples):
    """Return how often each of `count` is drawn, with replacement, (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


def bootstrap_mean(values, speakers, seed):
    """Return the mean over speakers of their own means, with its interval over speakers.

    Arguments
    ---------
    values : array_like
        Shape (items,), such as the difference of two systems on each utterance.
    speakers : array_like
        Shape (items,), the speaker of each item.
    seed : int
        Seed of the 2000 draws of the speakers, with replacement.

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
    names, [means] = label_scores([values], speakers)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.percentile(means[drawn].mean(1), [2.5, 97.5])
    return float(means.mean()), (float(low), float(high))


def bootstrap_trials(statistic, labels, speakers, seed):
    """Return the interval over speakers of a figure that trials give.

    Arguments
    ---------
    statistic, labels, speakers, seed
        As `draw_trials` takes them.

    Returns
    -------
    list of float or None
        As `interval_of` returns it.

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
    return interval_of(draw_trials(statistic, labels, speakers, seed))


def draw_trials(statistic, labels, speakers, seed):
    """Return a figure that trials give in each draw of the speakers, with replacement.

    A target trial counts as often as its speaker was drawn, any other as often as the product of
    its two speakers' draws. A draw in which one kind of trials is missing is left out. Which
    speakers are drawn follows from labels, speakers and seed alone: on the same trials, a
    difference of two figures is the difference of their draws.

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
        Seed of the 1000 draws.

    Returns
    -------
    numpy.ndarray
        Shape (draws,).

    Example
    -------
    >>> speakers = [["a", "a"], ["b", "b"], ["a", "b"], ["b", "a"]]
    >>> set(draw_trials(lambda weights: weights[:, 0], [1, 1, 0, 0], speakers, seed=1).tolist())
    {1}
    """
    labels = np.asarray(labels, bool)
    names, places = np.unique(np.asarray(speakers), return_inverse=True)
    places = places.reshape(-1, 2)
    drawn = _draw(len(names), np.random.default_rng(seed), TRIAL_RESAMPLES)
    values = []
    for start in range(0, TRIAL_RESAMPLES, RESAMPLES_AT_ONCE):
        part = drawn[start : start + RESAMPLES_AT_ONCE]
        first, second = part[:, places[:, 0]], part[:, places[:, 1]]
        weights = np.where(labels, first, first * second)
        values.append(statistic(weights[(weights * labels).any(1) & (weights * ~labels).any(1)]))
    return np.concatenate(values)


def interval_of(draws):
    """Return the 95 % percentile interval of draws; None where it is not finite, or of none.

    Example
    -------
    >>> interval_of(range(101))
    [2.5, 97.5]
    """
    ends = np.percentile(draws, [2.5, 97.5]).tolist() if len(draws) else [np.nan]
    return ends if np.isfinite(ends).all() else None


def bootstrap_eer(scores, labels, speakers, seed):
    """Return the equal error rate of trials, with its interval over speakers.

    Arguments
    ---------
    scores : array_like
        Shape (trials,).
    labels, speakers, seed
        As `bootstrap_trials` takes them.

    Returns
    -------
    rate : float
    interval : list of float or None
        As `bootstrap_trials` returns it.
    """
    rate = partial(eer, scores, labels)
    return rate(), bootstrap_trials(rate, labels, speakers, seed)


def bootstrap_eer_ratio(scores, other_scores, labels, speakers, seed):
    """Return the ratio of two systems' EER on the same trials, with its interval over speakers.

    By `bootstrap_trials`, the same speakers drawn for both systems.

    Arguments
    ---------
    scores, other_scores : array_like
        Shape (trials,), of the system and of the one that it is compared with.
    labels, speakers, seed
        As `bootstrap_trials` takes them.

    Returns
    -------
    dict
        `value`, EER of the system divided by the other's, None where that is 0, and `interval`, its
        95 % percentile interval, None where the other's EER is 0 in many draws.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = rng.integers(8, size=(400, 2))
    >>> labels = speakers[:, 0] == speakers[:, 1]
    >>> good, bad = labels + rng.normal(size=400), labels + 3 * rng.normal(size=400)
    >>> ratio = bootstrap_eer_ratio(good, bad, labels, speakers, seed=1)
    >>> ratio["interval"][0] < ratio["value"] < ratio["interval"][1] < 1
    True
    """

    def ratio(weights=None):
        return eer(scores, labels, weights) / eer(other_scores, labels, weights)

    if eer(other_scores, labels) == 0:
        return {"value": None, "interval": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = bootstrap_trials(ratio, labels, speakers, seed)
    return {"value": ratio(), "interval": interval}
