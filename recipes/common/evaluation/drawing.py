"""Drawings: detection error tradeoff curves, histograms of scores, what is kept and removed."""

import itertools

import numpy as np
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


def plot_det(axes, curves):
    """Draw detection error tradeoff curves on normal-deviate axes; a mark is at the EER.

    Arguments
    ---------
    axes : matplotlib.axes.Axes
    curves : list of tuple
        (accepted, missed, rate, look): the rates of false acceptances and of misses in the order of
        thresholds, the equal error rate, and properties of a line, those of the marker for the mark
        alone. Rates beyond 0.1 % and 90 %, which may have no finite deviate, are drawn there.
    """
    deviates = {"functions": (norm.ppf, norm.cdf)}
    axes.set_xscale("function", **deviates)
    axes.set_yscale("function", **deviates)
    axes.plot(RATES, RATES, color="0.6", linewidth=0.8)
    for accepted, missed, rate, look in curves:
        axes.plot(*np.clip([accepted, missed], *RATES), **{**look, "marker": ""})
        axes.plot(*np.clip([rate, rate], *RATES), **{**look, "label": None, "clip_on": False})
    ticks = np.divide(PERCENT, 100), [f"{percent:g}" for percent in PERCENT]
    axes.set_xticks(*ticks)
    axes.set_yticks(*ticks)
    axes.set(xlim=RATES, ylim=RATES, xlabel="false acceptances, %", ylabel="misses, %")
    axes.set_box_aspect(1)


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
    figure = Figure((5.5, 5.5), layout="constrained")
    axes, curves = figure.subplots(), []
    looks = zip(itertools.cycle(COLOURS), itertools.cycle(STYLES), strict=True)
    for (name, trials), (colour, style) in zip(systems.items(), looks, strict=False):
        _, missed, accepted = error_rates(*trials)
        rate = eer(*trials)
        label = f"{name}: EER {100 * rate:.1f} %"
        look = {"color": colour, "linestyle": style, "marker": "o", "label": label}
        curves.append((accepted, missed, rate, look))
    plot_det(axes, curves)
    axes.grid(color="0.9")
    axes.legend(loc="upper right")
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
    figure = Figure((6.5, 4), layout="constrained")
    axis = figure.subplots()
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


def draw_tradeoff(curves, points, labels, path, limits=None):
    """Draw what is removed against what is kept, as a PNG.

    Arguments
    ---------
    curves : dict
        By name: a dict of points, (x, y), in percent, which a line joins in their order; their
        names stand beside them.
    points : dict
        By name: a list of points, (x, y), in percent: one of each seed. Their mean is drawn large.
    labels : tuple of str
        Of the axes.
    path : str or Path
        The PNG.
    limits : tuple of float, optional
        Of x and of y: dashed lines.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tradeoff.png"
    >>> curve = {"0": (91, 22), "40": (69, 21)}
    >>> points = {"critic": [(44, 20), (46, 21)]}
    >>> draw_tradeoff({"control": curve}, points, ("speaker", "phone"), path)
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    figure = Figure((9, 5), layout="constrained")
    axis = figure.subplots()
    colours = itertools.cycle(COLOURS)
    for (name, curve), colour in zip(curves.items(), colours, strict=False):
        axis.plot(*zip(*curve.values(), strict=True), color=colour, marker=".", label=name)
        for text, point in curve.items():
            axis.annotate(text, point, (4, 4), textcoords="offset points", fontsize=8)
    for (name, places), colour, marker in zip(
        points.items(), colours, itertools.cycle(MARKERS), strict=False
    ):
        look = {"color": colour, "linestyle": "", "marker": marker}
        axis.plot(*np.mean(places, 0), markersize=8, label=name, **look)
        if len(places) > 1:
            axis.plot(*zip(*places, strict=True), markersize=3, alpha=0.7, **look)
    for draw, limit in zip((axis.axvline, axis.axhline), limits or (), strict=False):
        draw(limit, color="0.5", linestyle="--", linewidth=0.8)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.grid(color="0.92")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path)
