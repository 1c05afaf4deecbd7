"""Division of groups, such as speakers, into folds that share no group and keep every class."""

import numpy as np

from recipes.common.data.seeding import derive_rng

FOLDS = 4
VALID_SHARE = 4  # one in so many of the groups that are not tested is set apart


def split_groups(y, groups, seed):
    """Divide groups into folds; of the groups outside each fold, set some apart for validation.

    About 56 % of the groups are for training, 19 % for validation and 25 % for the test, each with
    its share of the labels where the groups allow it. The split depends on nothing but the
    arguments: it is the same for all representations.

    Arguments
    ---------
    y : numpy.ndarray
        Shape (items,), labels from 0.
    groups : numpy.ndarray
        Shape (items,), numbers of the groups from 0.
    seed : int
        Seed of the division.

    Returns
    -------
    list of tuple of numpy.ndarray
        For each of the 4 folds the places of its training, validation and test items. Every label
        of the test items is in training. Each item is in one test part.

    Raises
    ------
    ValueError
        Where the groups are too few for such a division.

    Example
    -------
    >>> groups = np.arange(16).repeat(2)
    >>> folds = split_groups(groups % 2, groups, seed=1)
    >>> [len(part) for part in folds[0]], len(np.concatenate([test for _, _, test in folds]))
    ([18, 6, 8], 32)
    """
    holds = np.zeros((groups.max() + 1, y.max() + 1), bool)  # which group has which label
    holds[groups, y] = True
    for attempt in range(20):
        rng = derive_rng(seed, "folds", attempt)
        fold = _deal(holds, FOLDS, rng)
        parts = [fold[groups] == number for number in range(FOLDS)]
        if all(holds[fold != number].any(0).all() for number in range(FOLDS)):
            break
    else:
        raise ValueError("No division of the groups has every class in training: add groups.")
    splits = []
    for number, test in enumerate(parts):
        rest = np.flatnonzero(fold != number)
        apart = np.zeros(len(fold), bool)
        apart[rest] = _set_apart(holds[rest], rng)
        if not apart.any():
            raise ValueError("No group can be set apart for validation: add groups.")
        valid = apart[groups]
        splits.append(tuple(np.flatnonzero(m) for m in (~test & ~valid, valid, test)))
    return splits


def _deal(holds, parts, rng):
    """Deal groups to parts in turn, those of the rarest label first: the part of each, (groups,).

    Groups that share their rarest label come one after another, so that each part gets its share.
    """
    frequency = np.where(holds, holds.sum(0), len(holds) + 1)
    rarest = frequency.argmin(1)
    order = np.lexsort((rng.random(len(holds)), rarest, frequency.min(1)))
    part = np.empty(len(holds), int)
    part[order] = (np.arange(len(holds)) + rng.integers(parts)) % parts
    return part


def _set_apart(holds, rng):
    """Return which groups are for validation: every label stays in another group."""
    left = holds.sum(0)
    apart = np.zeros(len(holds), bool)
    for group in np.argsort(_deal(holds, VALID_SHARE, rng), kind="stable"):
        if apart.sum() >= max(1, round(len(holds) / VALID_SHARE)):
            break
        if (left[holds[group]] > 1).all():
            apart[group] = True
            left = left - holds[group]
    return apart
