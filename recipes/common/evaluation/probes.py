"""Probes: what a frozen representation tells of a factor, on groups that no probe was fitted on.

Each group (the speaker; the utterance where the factor is the speaker) is tested by a probe that
was neither fitted nor chosen on it. The same probe on shuffled labels is the control (Hewitt and
Liang, 2019, "Designing and Interpreting Probes with Control Tasks").
"""

import numpy as np

from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.evaluation.bootstrap import PROBE_PAIRED_USE, bootstrap_groups, group_scores
from recipes.common.evaluation.folds import FOLDS, split_groups
from recipes.common.evaluation.probe_fitting import fit_probe

MAX_ITEMS = 20000


def leakage(x, y, groups, kinds, seeds):
    """Return how well each kind of probe reads a factor on groups held out, over several seeds.

    With each seed every group is tested once, by cross-validation over 4 folds (`split_groups`). At
    most 20,000 items are used, the same for all representations of the same items.

    Arguments
    ---------
    x : array_like
        Shape (items, dim), features.
    y : array_like
        Shape (items,): labels, integers or text, each in several groups, or values, floats, which
        differ, for regression.
    groups : array_like
        Shape (items,), what training and test must not share: the speaker, or the utterance where
        the factor is the speaker.
    kinds : list of str
        Of "linear" and "mlp".
    seeds : list of int
        Each divides the groups anew, and is that of the probes; the first, of the bootstrap.

    Returns
    -------
    dict
        For each kind: `measure`: "balanced accuracy", the mean over classes of the share that is
        right, or "R2", the variance explained beyond the training part's mean. `value`: that
        measure; `control`: the measure where labels are shuffled over the items of each part;
        `selectivity`: `value` less `control`: means over seeds. `values`: of each seed; `interval`:
        95 % over groups and seeds. `chance`: 1 by the number of classes, or 0. `items`: places of
        the items used. `correct`: (seeds, items), 1 or 0 as `value` counts it; None in regression.
        `group_names`, and `group_scores`, (seeds, groups), whose mean is `value`: what paired tests
        compare. `seeds`.

    Raises
    ------
    ValueError
        Where there are fewer than 4 groups, or no feature varies.

    Example
    -------
    >>> y = np.arange(64) % 2
    >>> result = leakage(np.eye(2)[y], y, np.arange(64) // 4, ["linear"], seeds=[1, 2])
    >>> result["linear"]["value"], result["linear"]["values"], result["linear"]["chance"]
    (1.0, [1.0, 1.0], 0.5)
    """
    x, y, groups = np.asarray(x), np.asarray(y), np.asarray(groups)
    names, groups = np.unique(groups, return_inverse=True)
    if len(names) < FOLDS:
        raise ValueError(f"{len(names)} groups: a probe needs at least {FOLDS}, one for each fold.")
    classes, strata = None, np.zeros(len(y), int)
    if y.dtype.kind != "f":
        labels, y = np.unique(y, return_inverse=True)
        classes, strata = len(labels), y
    items = _choose_items(strata, groups)
    x, y, strata = x[items], y[items], strata[items]
    kept, groups = np.unique(groups[items], return_inverse=True)
    chance = 1 / classes if classes else 0.0
    results = {}
    for kind in kinds:
        correct, scores, controls = [], [], []
        for seed in seeds:
            data = x, y, classes, split_groups(strata, groups, seed), kind, seed
            gain, *rest = _test_each_fold(*data)
            correct.append(gain)
            scores.append(group_scores(gain, *rest, groups))
            shuffled = _test_each_fold(*data, shuffled=True)
            controls.append(float(group_scores(*shuffled, groups).mean()))
        values, scores = [float(own.mean()) for own in scores], np.stack(scores)
        results[kind] = {
            "measure": "balanced accuracy" if classes else "R2",
            "chance": chance,
            "items": items,
            "group_names": names[kept],
            "value": float(np.mean(values)),
            "control": float(np.mean(controls)),
            "selectivity": float(np.mean(np.subtract(values, controls))),
            "values": values,
            "interval": _interval(scores, seeds[0], chance),
            "group_scores": scores,
            "correct": np.stack(correct) if classes else None,
            "seeds": list(seeds),
        }
    return results


def _choose_items(y, groups):
    """Return the places of up to `MAX_ITEMS` items, rising: some of each class and group first.

    The choice depends on labels and groups alone, so all representations and seeds share it.
    """
    shuffled = derive_rng("items").permutation(len(y))
    cells = groups * (y.max() + 1) + y
    first = np.zeros(len(y), bool)
    first[shuffled[np.unique(cells[shuffled], return_index=True)[1]]] = True
    return np.sort(shuffled[np.argsort(~first[shuffled], kind="stable")[:MAX_ITEMS]])


def _shuffle_parts(y, parts, seed):
    """Return labels shuffled over the items of each part, which so keeps its classes."""
    shuffled, rng = y.copy(), derive_rng(seed, "control")
    for part in parts:
        shuffled[part] = rng.permutation(y[part])
    return shuffled


def _test_each_fold(x, y, classes, splits, kind, seed, shuffled=False):
    """Return each item's gain, what it could gain, and its label, 0 in regression.

    Shapes (items,). In classification an item gains 1 where its class is the one that the probe's
    likelihoods favour, frequent or not. In regression it gains the squared error of the training
    part's mean less the probe's, and could gain the former.
    """
    gain, possible, labels = np.zeros(len(y)), np.ones(len(y)), y.copy()
    for fold, parts in enumerate(splits):
        fold_seed = derive_seed(seed, fold)
        own = _shuffle_parts(y, parts, fold_seed) if shuffled else y
        train, valid, test = parts
        fitted = fit_probe(kind, x[train], own[train], x[valid], own[valid], classes, fold_seed)
        outputs = fitted(x[test])
        labels[test] = own[test]
        if classes is None:
            possible[test] = np.square(own[test] - own[train].mean())
            gain[test] = possible[test] - np.square(own[test] - outputs)
        else:
            gain[test] = (outputs - fitted.log_prior).argmax(1) == own[test]
    return gain, possible, labels if classes else np.zeros(len(y), int)


def _interval(scores, seed, chance):
    """Return the interval of a measure with the highest value 1, within what it can be.

    What groups share by chance matters less the more the probe reads: the interval is widened in
    full at chance, and not at all where everything is read.
    """
    skill = np.clip((scores.mean() - chance) / (1 - chance), 0, 1)
    interval = bootstrap_groups(scores, seed, 1 + (PROBE_PAIRED_USE - 1) * (1 - skill))
    lowest = 0.0 if chance else -np.inf
    return tuple(float(np.clip(value, lowest, 1.0)) for value in interval)
