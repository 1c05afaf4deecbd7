"""Fit a probe: linear, or with one hidden layer, the same for all representations.

A probe is chosen from the same few settings for all representations. The input is not cut to a
common size, since what a model hides in directions of little variance would be cut away first.
Instead each probe chooses, on groups set apart, among features that are standardised, whitened, and
half way between.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from recipes.common.data.seeding import derive_seed

HIDDEN = {"linear": 0, "mlp": 64}  # units of the hidden layer
WHITENING = (0.0, 0.5, 1.0)  # 0: standardised features, 1: whitened
WEIGHT_DECAY = (1e-2, 1e-1)
LARGEST_VARIANCE = 5.0  # of an input direction: one learning rate is stable for all
LEARNING_RATE = {"linear": 0.1, "mlp": 0.03}  # hidden units vary together, which needs less
BATCH = 256
MIN_STEPS, MAX_STEPS = 100, 800
PATIENCE = 4  # checks, each after a quarter more steps than the one before
LEAST_GAIN = 1e-3  # of the validation loss, by which a check counts as better


@dataclass
class Probe:
    """A fitted probe; see `fit_probe`.

    Arguments
    ---------
    project : callable
        From features, shape (items, dim), to the network's input.
    scales : torch.Tensor
        Of the input's directions.
    layers : list of tuple
        As `_outputs` takes them, of one candidate.
    log_prior : numpy.ndarray or None
        Shape (classes,): log share of each class in the training part; None in regression.
    location, scale : float
        Mean and deviation of the training part's values, in regression.
    """

    project: Callable
    scales: torch.Tensor
    layers: list
    log_prior: np.ndarray | None
    location: float
    scale: float

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
        outputs = _outputs(self.project(x), self.scales, self.layers)[0]
        if self.log_prior is None:
            return self.location + self.scale * outputs[:, 0].double().numpy()
        return outputs.log_softmax(1).double().numpy()


def fit_probe(kind, train_x, train_y, valid_x, valid_y, classes, seed):
    """Fit a probe, and choose its weight decay, whitening and last step on the validation part.

    Arguments
    ---------
    kind : str
        "linear" or "mlp", which has one hidden layer of 64 units.
    train_x, valid_x : array_like
        Shapes (items, dim).
    train_y, valid_y : numpy.ndarray
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
        Where no feature varies in the training part.

    Example
    -------
    >>> x, y = np.eye(3)[[0, 1, 2] * 4], np.array([0, 1, 2] * 4)
    >>> probe = fit_probe("linear", x, y, x, y, classes=3, seed=1)
    >>> probe(np.eye(3)).argmax(1).tolist()
    [0, 1, 2]
    """
    project, variances = principal_axes(np.asarray(train_x, float))
    log_prior, location, scale, both = None, 0.0, 1.0, (train_y, valid_y)
    if classes is None:
        location, scale = train_y.mean(), train_y.std() or 1.0
        targets = [torch.from_numpy(((y - location) / scale).astype("f4")) for y in both]
        bias = torch.zeros(1)
    else:
        log_prior = np.log(np.bincount(train_y, minlength=classes) / len(train_y))
        targets = [torch.from_numpy(y.astype("i8")) for y in both]
        bias = torch.from_numpy(log_prior.astype("f4"))
    settings = list(itertools.product(_input_scales(variances).astype("f4"), WEIGHT_DECAY))
    scales = torch.from_numpy(np.stack([scales for scales, _ in settings]))[:, None]
    generator = torch.Generator().manual_seed(derive_seed(seed, "probe"))
    layers = _first_layers(scales, HIDDEN[kind], bias, generator)
    decay = torch.tensor([decay for _, decay in settings])
    inputs = project(train_x), project(valid_x)
    train, valid = zip(inputs, targets, strict=True)
    fitted = _fit(scales, layers, decay, LEARNING_RATE[kind], train, valid, generator)
    return Probe(project, *fitted, log_prior, location, scale)


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


def _first_layers(scales, hidden, bias, generator):
    """Return a weight and a bias for each layer of probes that are fitted side by side.

    There is one for each row of scales, (candidates, 1, rank). All begin with outputs that are
    equal to the bias; hidden weights are the same for all.
    """
    count, _, rank = scales.shape
    layers = [(torch.zeros(count, hidden or rank, len(bias)), bias.repeat(count, 1, 1))]
    if hidden:
        weight = torch.randn(rank, hidden, generator=generator) * (2 / rank) ** 0.5
        layers.insert(0, (weight.repeat(count, 1, 1), torch.zeros(count, 1, hidden)))
    return layers


def _outputs(x, scales, layers):
    """Return outputs, (candidates, items, outputs), of the input, (items, rank)."""
    x = x * scales
    for number, (weight, bias) in enumerate(layers):
        x = torch.baddbmm(bias, torch.relu(x) if number else x, weight)
    return x


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


def _fit(scales, layers, decay, rate, train, valid, generator):
    """Fit all candidates on the same batches.

    Return the scales and the layers of the best on the validation part, as it was then.
    """
    x, y = train
    parameters = [tensor.requires_grad_() for layer in layers for tensor in layer]
    optimizer = torch.optim.SGD(parameters, rate, 0.9, nesterov=True)
    best, best_value, waited, next_check, order = None, float("inf"), 0, 1, torch.empty(0).long()
    size = BATCH if len(x) > 2 * BATCH else len(x)
    for step in range(1, MAX_STEPS + 1):
        if len(order) < size:
            order = torch.randperm(len(x), generator=generator)
        batch, order = order[:size], order[size:]
        penalties = sum(weight.square().sum((1, 2)) for weight, _ in layers) / 2
        losses = _losses(_outputs(x[batch], scales, layers), y[batch]) + decay * penalties
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        if step < next_check:
            continue
        next_check = step + 1 + step // 4
        with torch.no_grad():
            value, index = _losses(_outputs(valid[0], scales, layers), valid[1]).min(0)
        waited = 0 if value < best_value - LEAST_GAIN else waited + 1
        if value < best_value:
            own = [tuple(t[index][None].detach().clone() for t in layer) for layer in layers]
            best, best_value = (scales[index][None], own), float(value)
        if waited >= PATIENCE and step >= MIN_STEPS:
            break
    return best
