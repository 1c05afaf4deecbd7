"""Probes: what a frozen representation tells of a factor, on groups that no probe was fitted on.

A probe is small and the same for all representations: linear, or with one hidden layer of the same
width, and chosen from the same few settings. The input is not cut to a common size, since what a
model hides in directions of little variance would be cut away first. Instead each probe chooses, on
groups set apart, among features that are standardised, whitened, and half way between.

Each group (the speaker; the utterance where the factor is the speaker) is tested by a probe that
was neither fitted nor chosen on it. The same probe on shuffled labels is the control (Hewitt and
Liang, 2019, "Designing and Interpreting Probes with Control Tasks").
"""

import copy
import itertools

import numpy as np
import torch
from scipy.stats import norm, t
from torch.nn import functional

from recipes.common.data.seeding import derive_rng, derive_seed

HIDDEN = {"linear": 0, "mlp": 64}  # units of the hidden layer
WHITENING = (0.0, 0.5, 1.0)  # 0: standardised features, 1: whitened
WEIGHT_DECAY = (1e-2, 1e-1)
LARGEST_VARIANCE = 5.0  # of an input direction: one learning rate is stable for all
LEARNING_RATE = {"linear": 0.1, "mlp": 0.03}  # hidden units vary together, which needs less
BATCH = 256
MIN_STEPS, MAX_STEPS = 100, 800
PATIENCE = 4  # checks, each after a quarter more steps than the one before
LEAST_GAIN = 1e-3  # of the validation loss, by which a check counts as better
FOLDS = 4
VALID_SHARE = 4  # one in so many of the groups that are not tested is set apart
PAIRED_USE = 1.75  # 1 + the share of the groups outside a fold on which its probe is fitted
MAX_ITEMS = 20000
RESAMPLES = 2000


class Probe:
    """A fitted probe; see `fit_probe`.

    Arguments
    ---------
    project : callable
        From features, shape (items, dim), to the network's input.
    network : torch.nn.Module
        Returns outputs of shape (1, items, outputs).
    log_prior : numpy.ndarray or None
        Shape (classes,): log share of each class in the training part; None in regression.
    location, scale : float
        Mean and deviation of the training part's values, in regression.
    """

    def __init__(self, project, network, log_prior, location, scale):
        self.project, self.network, self.log_prior = project, network, log_prior
        self.location, self.scale = location, scale

    @torch.no_grad()
    def __call__(self, x):
        """Return what the probe reads in features.

        Arguments
        ---------
        x : array_like
            Shape (items, dim).

        Returns
        -------
        numpy.ndarray
            Log probabilities, shape (items, classes); in regression values, shape (items,).
        """
        outputs = self.network(self.project(x))[0]
        if self.log_prior is None:
            return self.location + self.scale * outputs[:, 0].double().numpy()
        return outputs.log_softmax(1).double().numpy()


class _Candidates(torch.nn.Module):
    """Probes that are fitted side by side, one for each row of scales of the input's directions.

    All begin with outputs that are equal to the bias; hidden weights are the same for all.
    """

    def __init__(self, scales, hidden, bias, generator):
        super().__init__()
        count, rank = scales.shape
        self.register_buffer("scales", scales[:, None])
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        if hidden:
            weight = torch.randn(rank, hidden, generator=generator) * (2 / rank) ** 0.5
            self.weights.append(weight.repeat(count, 1, 1))
            self.biases.append(torch.zeros(count, 1, hidden))
        self.weights.append(torch.zeros(count, hidden or rank, len(bias)))
        self.biases.append(bias.repeat(count, 1, 1))

    def forward(self, x):
        """Return outputs, (candidates, items, outputs), of the input, (items, rank)."""
        x = x * self.scales
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.relu(x) if layer else x, weight)
        return x

    def penalties(self):
        """Return half the squared weights of each candidate, (candidates,)."""
        return sum(weight.square().sum((1, 2)) for weight in self.weights) / 2

    def only(self, index):
        """Return a copy with one candidate alone."""
        own = copy.deepcopy(self)
        own.scales = own.scales[index : index + 1]
        for parameter in own.parameters():
            parameter.data = parameter.data[index : index + 1]
        return own


def principal_axes(x):
    """Return a function that projects on the principal axes of standardised x, and the variances.

    Directions that do not vary are left out.

    Arguments
    ---------
    x : numpy.ndarray
        Shape (items, features), float64.

    Returns
    -------
    project : callable
        Takes (..., features) and returns a torch.Tensor (..., rank), float32.
    variances : numpy.ndarray
        Shape (rank,), of the axes, rising.

    Raises
    ------
    ValueError
        Where no feature varies.

    Example
    -------
    >>> project, variances = principal_axes(np.array([[1.0, 1.0], [3.0, 3.0]]))
    >>> variances.tolist(), project([[1.0, 1.0], [3.0, 3.0]]).abs().mean().square().round().item()
    ([2.0], 2.0)
    """
    mean, deviation = x.mean(0), x.std(0)
    varies = deviation > 1e-7 * np.abs(x).max(0)
    if not varies.any():
        raise ValueError("No feature varies in the training part: there is nothing to probe.")
    mean, deviation = mean[varies], deviation[varies]
    z = (x[:, varies] - mean) / deviation
    variances, axes = np.linalg.eigh(z.T @ z / len(z))
    kept = variances > 1e-10 * variances[-1]
    axes = axes[:, kept] / deviation[:, None]

    def project(features):
        return torch.from_numpy(((np.asarray(features)[..., varies] - mean) @ axes).astype("f4"))

    return project, variances[kept]


def _input_scales(variances):
    """Return factors of the directions, (whitenings, rank), by which they vary by 1 on average."""
    power = -np.array(WHITENING)[:, None] / 2
    scales = variances**power
    varied = scales**2 * variances
    scales /= np.sqrt(varied.mean(1, keepdims=True))
    largest = (scales**2 * variances).max(1, keepdims=True)
    return scales * np.minimum(1, np.sqrt(LARGEST_VARIANCE / largest))


def _losses(outputs, y):
    """Return each candidate's mean loss, (candidates,), by the kind of target."""
    if y.is_floating_point():
        return (outputs[..., 0] - y).square().mean(1) / 2
    count, items, classes = outputs.shape
    flat = functional.cross_entropy(outputs.view(-1, classes), y.repeat(count), reduction="none")
    return flat.view(count, items).mean(1)


def _fit(candidates, decay, rate, train, valid, generator):
    """Fit all candidates on the same batches; return the best on the validation part, as it was."""
    x, y = train
    optimizer = torch.optim.SGD(candidates.parameters(), rate, 0.9, nesterov=True)
    best, best_value, waited, next_check, order = None, float("inf"), 0, 1, torch.empty(0).long()
    size = BATCH if len(x) > 2 * BATCH else len(x)
    for step in range(1, MAX_STEPS + 1):
        if len(order) < size:
            order = torch.randperm(len(x), generator=generator)
        batch, order = order[:size], order[size:]
        losses = _losses(candidates(x[batch]), y[batch]) + decay * candidates.penalties()
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        if step < next_check:
            continue
        next_check = step + 1 + step // 4
        with torch.no_grad():
            value, index = _losses(candidates(valid[0]), valid[1]).min(0)
        waited = 0 if value < best_value - LEAST_GAIN else waited + 1
        if value < best_value:
            best, best_value = candidates.only(int(index)), float(value)
        if waited >= PATIENCE and step >= MIN_STEPS:
            break
    return best


def fit_probe(kind, train_x, train_y, valid_x, valid_y, classes, seed):
    """Fit a probe, and choose its weight decay, whitening and last step on the validation part.

    Arguments
    ---------
    kind : str
        "linear" or "mlp", which has one hidden layer of 64 units.
    train_x, valid_x : array_like
        Shapes (items, dim).
    train_y, valid_y : array_like
        Shapes (items,): labels in [0, classes), each of them in the training part, or values where
        `classes` is None.
    classes : int or None
        How many classes there are; None for regression.
    seed : int
        Seed of the first weights and of the batches.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError
        Where there is no such kind, a class is not in the training part, or no feature varies in
        it.

    Example
    -------
    >>> x, y = np.eye(3)[[0, 1, 2] * 4], np.array([0, 1, 2] * 4)
    >>> probe = fit_probe("linear", x, y, x, y, classes=3, seed=1)
    >>> probe(np.eye(3)).argmax(1).tolist()
    [0, 1, 2]
    """
    if kind not in HIDDEN:
        raise ValueError(f"There is no probe {kind!r}: expected one of {', '.join(HIDDEN)}.")
    project, variances = principal_axes(np.asarray(train_x, float))
    train_y, valid_y = np.asarray(train_y), np.asarray(valid_y)
    log_prior, location, scale = None, 0.0, 1.0
    if classes is None:
        location, scale = train_y.mean(), train_y.std() or 1.0
        targets = [
            torch.from_numpy(((y - location) / scale).astype("f4")) for y in (train_y, valid_y)
        ]
        bias = torch.zeros(1)
    else:
        counts = np.bincount(train_y, minlength=classes)
        if not counts.all():
            raise ValueError(f"Class {counts.argmin()} is not in the probe's training part.")
        log_prior = np.log(counts / len(train_y))
        targets = [torch.from_numpy(y.astype("i8")) for y in (train_y, valid_y)]
        bias = torch.from_numpy(log_prior.astype("f4"))
    settings = list(itertools.product(_input_scales(variances).astype("f4"), WEIGHT_DECAY))
    scales = torch.from_numpy(np.stack([scales for scales, _ in settings]))
    generator = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    candidates = _Candidates(scales, HIDDEN[kind], bias, generator)
    decay = torch.tensor([decay for _, decay in settings])
    inputs = project(train_x), project(valid_x)
    train, valid = zip(inputs, targets, strict=True)
    network = _fit(candidates, decay, LEARNING_RATE[kind], train, valid, generator)
    return Probe(project, network, log_prior, location, scale)


def _holds(y, groups, labels):
    """Return which group holds which label, (groups, labels)."""
    holds = np.zeros((groups.max() + 1, labels), bool)
    holds[groups, y] = True
    return holds


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
    holds = _holds(y, groups, y.max() + 1)
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


def _refuse(x, y, groups):
    """Raise ValueError where there is nothing to probe, or no probe could be judged."""
    if x.ndim != 2 or not len(x) == len(y) == len(groups):
        raise ValueError(
            f"Features of shape {x.shape}, {len(y)} labels, {len(groups)} groups: expected (items, "
            "dim) and as many labels and groups as items."
        )
    if not np.isfinite(x).all():
        item = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(f"The features of item {item} are not finite.")
    count = len(np.unique(groups))
    if count < FOLDS:
        raise ValueError(f"{count} groups: a probe needs at least {FOLDS}, one for each fold.")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise ValueError(f"The value of item {int(np.argmin(np.isfinite(y)))} is not finite.")
        if y.min() == y.max():
            raise ValueError(f"All values are {y[0]}: there is nothing to predict.")
        return
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"The labels have {len(classes)} class(es): expected at least 2.")
    lonely = [str(name) for name in classes if len(np.unique(groups[y == name])) < 2]
    if lonely:
        raise ValueError(
            f"In one group alone: {', '.join(lonely)}. No probe can be fitted and tested on "
            "different groups: leave the items of these classes out."
        )


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
    """Return each item's gain, what it could gain, its label, and if its likeliest class is right.

    Shapes (items,). In classification an item gains 1 where its class is the one that the probe's
    likelihoods favour, frequent or not. In regression it gains the squared error of the training
    part's mean less the probe's, and could gain the former.
    """
    gain, possible, plain, labels = np.zeros(len(y)), np.ones(len(y)), np.zeros(len(y)), y.copy()
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
            plain[test] = outputs.argmax(1) == own[test]
    return gain, possible, labels if classes else np.zeros(len(y), int), plain


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


def bootstrap_groups(scores, seed, paired_use=PAIRED_USE):
    """Return the 95 % interval of a mean over seeds and groups, both drawn with replacement.

    The groups are tested by cross-validation, so two groups may each be tested by a probe that was
    fitted on the other: where they happen to agree, both readings rise. In noise this makes the
    variance `PAIRED_USE` times that of independent groups, and the interval is as much wider. Its
    percentiles also allow for few groups, as Student's t does ("expanded percentiles"; Hesterberg,
    2015, "What Teachers Should Know About the Bootstrap").

    Arguments
    ---------
    scores : array_like
        Shape (seeds, groups), such as the `group_scores` of a model, or two models' difference.
    seed : int
        Seed of the 2000 draws.
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
    seeds, groups = scores.shape
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    of_groups = rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES) / groups
    mean = scores.mean()
    by_group = of_groups @ scores.mean(0) - mean
    by_seed = of_seeds @ scores.mean(1) - mean
    means = mean + paired_use**0.5 * by_group + by_seed
    tail = norm.cdf(np.sqrt(groups / (groups - 1)) * t.ppf(0.025, groups - 1))
    low, high = np.percentile(means, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def _interval(scores, seed, chance):
    """Return the interval of a measure with the highest value 1, within what it can be.

    What groups share by chance matters less the more the probe reads: the interval is widened in
    full at chance, and not at all where everything is read.
    """
    skill = np.clip((scores.mean() - chance) / (1 - chance), 0, 1)
    interval = bootstrap_groups(scores, seed, 1 + (PAIRED_USE - 1) * (1 - skill))
    lowest = 0.0 if chance else -np.inf
    return tuple(float(np.clip(value, lowest, 1.0)) for value in interval)


def probe(x, y, groups, kind, seed):
    """Return how well a factor is read from a representation, on groups held out.

    Every group is tested once, by cross-validation over 4 folds (`split_groups`). At most 20,000
    items are used, the same for all representations of the same items.

    Arguments
    ---------
    x : array_like
        Shape (items, dim), features.
    y : array_like
        Shape (items,): labels, integers or text, or values, floats, for regression.
    groups : array_like
        Shape (items,), what training and test must not share: the speaker, or the utterance where
        the factor is the speaker.
    kind : str
        "linear" or "mlp".
    seed : int
        Seed of the division, of the probes and of the bootstrap.

    Returns
    -------
    dict
        `measure`: "balanced accuracy", the mean over classes of the share that is right, or "R2",
        the variance explained beyond the training part's mean. `value`: that measure. `interval`:
        its 95 % interval over groups. `chance`: 1 by the number of classes, or 0. `control`: the
        measure where labels are shuffled over the items of each part. `selectivity`: `value` less
        `control`. `plain_accuracy`: the share of items that is right where the probe minds how
        frequent classes are, and `majority`: the share of the most frequent; None in regression.
        `items`: places of the items used. `correct`: 1 or 0 for each of these, as `value` counts
        it; None in regression. `group_names`, and `group_scores`, whose mean is `value`: what
        paired tests compare. `classes`: number of classes, None in regression. `seed`.

    Raises
    ------
    ValueError
        Where features or values are not finite, lengths differ, there are fewer than 2 classes or 4
        groups, or a class is in one group alone.

    Example
    -------
    >>> y = np.arange(64) % 2
    >>> result = probe(np.eye(2)[y], y, groups=np.arange(64) // 4, kind="linear", seed=1)
    >>> result["value"], result["interval"], result["chance"]
    (1.0, (1.0, 1.0), 0.5)
    """
    x, y, groups = np.asarray(x), np.asarray(y), np.asarray(groups)
    _refuse(x, y, groups)
    names, groups = np.unique(groups, return_inverse=True)
    classes, strata = None, np.zeros(len(y), int)
    if y.dtype.kind != "f":
        labels, y = np.unique(y, return_inverse=True)
        classes, strata = len(labels), y
    items = _choose_items(strata, groups)
    x, y, strata = x[items], y[items], strata[items]
    kept, groups = np.unique(groups[items], return_inverse=True)
    splits = split_groups(strata, groups, seed)
    gain, possible, strata, plain = _test_each_fold(x, y, classes, splits, kind, seed)
    scores = group_scores(gain, possible, strata, groups)
    *shuffled, _ = _test_each_fold(x, y, classes, splits, kind, seed, shuffled=True)
    value, control = float(scores.mean()), float(group_scores(*shuffled, groups).mean())
    known = classes is not None
    chance = 1 / classes if known else 0.0
    return {
        "measure": "balanced accuracy" if known else "R2",
        "value": value,
        "interval": _interval(scores[None], seed, chance),
        "chance": chance,
        "control": control,
        "selectivity": value - control,
        "plain_accuracy": float(plain.mean()) if known else None,
        "majority": float(np.bincount(y).max() / len(y)) if known else None,
        "items": items,
        "correct": gain if known else None,
        "group_names": names[kept],
        "group_scores": scores,
        "classes": classes,
        "seed": seed,
    }


def leakage(x, y, groups, kinds, seeds):
    """Return how well each kind of probe reads a factor, over several seeds.

    Arguments
    ---------
    x, y, groups : array_like
        As `probe` takes them.
    kinds : list of str
        Of "linear" and "mlp".
    seeds : list of int
        Each divides the groups anew.

    Returns
    -------
    dict
        For each kind: `measure`, `chance`, `majority`, `items`, `group_names` and `classes` as
        `probe` returns them; `value`, `control`, `selectivity`, `plain_accuracy`: means over seeds;
        `values`: of each seed; `spread`: their standard deviation, None of one seed; `interval`:
        95 % over groups and seeds; `group_scores`: (seeds, groups); `correct`: (seeds, items), None
        in regression; `seeds`.

    Raises
    ------
    ValueError
        As `probe`, or where there is no seed.

    Example
    -------
    >>> y = np.arange(64) % 2
    >>> result = leakage(np.eye(2)[y], y, np.arange(64) // 4, ["linear"], seeds=[1, 2])
    >>> result["linear"]["value"], result["linear"]["spread"]
    (1.0, 0.0)
    """
    if not len(seeds):
        raise ValueError("A leakage needs at least one seed.")
    results = {}
    for kind in kinds:
        runs = [probe(x, y, groups, kind, seed) for seed in seeds]
        shared = ("measure", "chance", "majority", "items", "group_names", "classes")
        averaged = ("value", "control", "selectivity")
        known = runs[0]["classes"] is not None
        values = [run["value"] for run in runs]
        scores = np.stack([run["group_scores"] for run in runs])
        results[kind] = {
            **{name: runs[0][name] for name in shared},
            **{name: float(np.mean([run[name] for run in runs])) for name in averaged},
            "plain_accuracy": float(np.mean([r["plain_accuracy"] for r in runs]))
            if known
            else None,
            "values": values,
            "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "interval": _interval(scores, seeds[0], runs[0]["chance"]),
            "group_scores": scores,
            "correct": np.stack([run["correct"] for run in runs]) if known else None,
            "seeds": list(seeds),
        }
    return results
