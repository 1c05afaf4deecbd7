"""Drawings: detection error tradeoff curves, histograms of scores, what is kept and removed."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import norm

from recipes.common.evaluation.metrics import eer, error_rates

# Colours of Okabe and Ito, which the colour-blind can tell apart, less yellow, too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*Xp<>h8d"
PERCENT = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90)
RATES = (0.001, 0.9)  # what the axes show
BINS = 50


def det_curve(scores, labels):
    """Return the points of a detection error tradeoff curve as normal deviates.

    Arguments
    ---------
    scores, labels : array_like
        As `recipes.common.evaluation.metrics.error_rates` takes them.

    Returns
    -------
    accepted, missed : numpy.ndarray
        Shape (thresholds,) each, in rising thresholds: where the standard normal distribution
        reaches the rates of false acceptances and of misses. Rates beyond 0.1 % and 90 %, which may
        have no finite deviate, are drawn there.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> accepted, missed = det_curve([1, 2, 3, 4], [0, 1, 0, 1])
    >>> accepted.round(2).tolist(), missed.round(2).tolist()
    ([1.28, 0.0, 0.0, -3.09, -3.09], [-3.09, -3.09, 0.0, 0.0, 1.28])
    """
    _, missed, accepted = error_rates(scores, labels)
    return _deviates(accepted), _deviates(missed)


def _deviates(rates):
    return norm.ppf(np.clip(rates, *RATES))


def draw_det(systems, path):
    """Draw a detection error tradeoff curve for each system, as a PNG; a dot marks the EER.

    Arguments
    ---------
    systems : dict
        By name: scores and labels, as `recipes.common.evaluation.metrics.error_rates` takes them.
    path : str or Path
        The PNG.

    Raises
    ------
    ValueError
        Where a system has no target trial or no other, or a score is not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "det.png"
    >>> draw_det({"cosine": ([1, 2, 3, 4], [0, 1, 0, 1])}, path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    figure, axis = _figure(width=5.5, height=5.5)
    axis.axline((0, 0), slope=1, color="0.8", linewidth=1)
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(STYLES), strict=True)
    for (name, trials), (colour, style) in zip(systems.items(), looks, strict=False):
        rate = eer(*trials)
        label = f"{name}: EER {100 * rate:.1f} %"
        axis.plot(*det_curve(*trials), style, color=colour, label=label)
        axis.plot(*[_deviates(rate)] * 2, "o", color=colour, clip_on=False)
    labels = [f"{percent:g}" for percent in PERCENT]
    for side in (axis.xaxis, axis.yaxis):
        side.set_ticks(norm.ppf(np.divide(PERCENT, 100)), labels)
    axis.set(xlim=_deviates(RATES), ylim=_deviates(RATES), aspect="equal")
    axis.set(xlabel="false acceptances, %", ylabel="misses, %")
    axis.grid(color="0.9")
    axis.legend(loc="upper right")
    figure.savefig(path)


def draw_scores(scores, labels, path, threshold=None):
    """Draw histograms of target and other trials' scores as a PNG, each of area 1.

    Arguments
    ---------
    scores, labels : array_like
        As `recipes.common.evaluation.metrics.error_rates` takes them.
    path : str or Path
        The PNG.
    threshold : float, optional
        From where on trials are accepted; a line marks it.

    Raises
    ------
    ValueError
        Where there is no target trial or no other, or a score is not finite.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.png"
    >>> draw_scores([1, 2, 3, 4], [0, 1, 0, 1], path, threshold=2)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    rate = eer(scores, labels)
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    edges = np.histogram_bin_edges(scores, BINS)
    figure, axis = _figure(width=6.5, height=4)
    for name, part, colour, style in (
        ("target", scores[labels], COLOURS[0], "-"),
        ("other", scores[~labels], COLOURS[1], "--"),
    ):
        look = {"facecolor": f"{colour}55", "edgecolor": colour, "linestyle": style}
        label = f"{len(part)} {name} trials"
        axis.hist(part, edges, density=True, histtype="stepfilled", label=label, **look)
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle=":", label=f"threshold {threshold:.3g}")
    axis.set(xlabel="score", ylabel="density", title=f"EER {100 * rate:.1f} %")
    axis.legend()
    figure.savefig(path)


def draw_tradeoff(curves, points, labels, path):
    """Draw what is removed against what is kept, as a PNG.

    Arguments
    ---------
    curves : dict
        By name: a dict of points, (x, y), in percent, which a line joins in their order; their
        names stand beside them.
    points : dict
        By name: a list of points, (x, y), in percent: the last is filled, the ones before it are
        hollow.
    labels : tuple of str
        Of the axes.
    path : str or Path
        The PNG.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tradeoff.png"
    >>> curve = {"0": (91, 22), "40": (69, 21)}
    >>> points = {"critic": [(86, 23), (44, 20)]}
    >>> draw_tradeoff({"control": curve}, points, ("speaker", "phone"), path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    figure, axis = _figure(width=9, height=5)
    colours = itertools.cycle(COLOURS)
    for (name, curve), colour in zip(curves.items(), colours, strict=False):
        axis.plot(*zip(*curve.values(), strict=True), color=colour, marker=".", label=name)
        for text, point in curve.items():
            axis.annotate(text, point, (4, 4), textcoords="offset points", fontsize=8)
    for (name, places), colour, marker in zip(
        points.items(), colours, itertools.cycle(MARKERS), strict=False
    ):
        look = {"marker": marker, "markeredgecolor": colour}
        before = {"color": "0.85", "linewidth": 0.8, "markerfacecolor": "white", "zorder": 1}
        axis.plot(*zip(*places, strict=True), **look, **before)
        axis.plot(*places[-1], color=colour, linestyle="", label=name, **look)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.grid(color="0.92")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path)


def _figure(width, height):
    """Return a figure of a size in inches, and its axes; it needs no screen."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
