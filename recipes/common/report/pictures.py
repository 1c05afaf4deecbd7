"""The pictures of a disentanglement report, each an image that a page holds within itself.

Each function draws on `axes`, which the caller does not give: `picture` makes them.
"""

import functools
import io
from base64 import b64encode
from operator import itemgetter

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from recipes.common.evaluation.drawing import COLOURS, plot_det
from recipes.common.evaluation.grouping import group_by
from recipes.common.report.wording import is_error, named, unit_of

RULE, GRID, INK, SHADE = "#7b838d", "#e6e9ed", "#434b55", "#d6e6f2"
SETTINGS = {
    "svg.hashsalt": "report",  # equal pictures are equal to the byte
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in the name of a model is a $
    "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 8.25,  # points: 11 pixels
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "lines.markeredgewidth": 0,
}
PIXELS = 96  # of a page's inch
METADATA = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "png": {"Software": None},
}
MIME = {"svg": "image/svg+xml", "png": "image/png"}
# How things look are properties of a matplotlib line. OTHER: classes without a colour in maps.
OTHER = {"color": "#d3d7dc", "marker": "o", "linestyle": "none", "ms": 4}
INDEPENDENT = {"color": INK, "marker": "o", "mfc": "none", "mew": 1.5, "linestyle": "none"}
IDENTICAL = {"color": INK, "marker": "s", "linestyle": "none"}
INFORMATION = {  # what a measure is, and how it looks
    "InfoNCE": ("at least", {"color": COLOURS[0], "marker": ">", "linestyle": "none"}),
    "CLUB": ("at most", {"color": COLOURS[1], "marker": "<", "linestyle": "none"}),
    "likelihood gain": (
        "how well the critic of CLUB fits",
        {"color": COLOURS[0], "marker": "D", "linestyle": "none"},
    ),
}
NATS = (-10, -1, -0.1, 0, 0.1, 1, 10, 100, 1000)  # ticks


def picture(width, height, form="svg"):
    """Make of a function that draws on axes one that returns the image's address.

    Arguments
    ---------
    width, height : float
        Pixels of the image.
    form : str
        "svg", or "png" where there are many marks.

    Returns
    -------
    callable
        A decorator. What it makes takes what the function takes after the axes and returns a
        "data:" address, the same for the same arguments; the function is its `__wrapped__`.

    Example
    -------
    >>> @picture(100, 50)
    ... def line(axes, end):
    ...     axes.plot([0, end])
    >>> line(2)[:26], line(2) == line(2)
    ('data:image/svg+xml;base64,', True)
    """

    def decorate(draw):
        @functools.wraps(draw)
        def drawn(*arguments):
            buffer = io.BytesIO()
            with rc_context(SETTINGS):
                size = width / PIXELS, height / PIXELS
                figure = Figure(figsize=size, dpi=2 * PIXELS, layout="constrained")
                draw(figure.subplots(), *arguments)
                figure.savefig(buffer, format=form, metadata=METADATA[form])
            return f"data:{MIME[form]};base64,{b64encode(buffer.getvalue()).decode()}"

        return drawn

    return decorate


@picture(32, 14)
def swatch(axes, look):
    """Draw a look alone, for a key.

    Arguments
    ---------
    look : dict
        Properties of a line.
    """
    _fill(axes)
    axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], clip_on=False, **look)


@picture(340, 240)
def layers(axes, figures, looks):
    """Draw curves over layers: how one kind of probe reads one factor, or one other measure.

    Arguments
    ---------
    figures : list of dict
        Of the same factor, measure and probe, with a layer and a value.
    looks : dict
        The look of each model.
    """
    unit = figures[0]["unit"]
    for chance in {figure["chance"] for figure in figures} - {None}:
        axes.axhline(_scaled(chance, unit), color=RULE, linewidth=0.8)
        place = 1, _scaled(chance, unit)
        axes.annotate("chance", place, (3, -3), axes.get_yaxis_transform(), "offset points")
    for model, look in looks.items():
        own = sorted((f for f in figures if f["model"] == model), key=lambda f: f["layer"])
        sure = [f for f in own if f["interval"]]
        x, ends = [f["layer"] for f in sure], [_scaled(f["interval"], unit) for f in sure]
        if len(own) > 1 and sure:
            axes.fill_between(x, *zip(*ends, strict=True), color=look["color"], alpha=0.15, lw=0)
        elif sure:
            axes.vlines(x, *zip(*ends, strict=True), color=look["color"])
        axes.plot([f["layer"] for f in own], [_scaled(f["value"], unit) for f in own], **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="layer", ylabel=named(figures[0]["measure"], unit))


@picture(300, 300, "png")
def map_of(axes, points, classes, looks):
    """Draw a map of points in the colours of their classes, with the same scale for both axes.

    Arguments
    ---------
    points : list of (float, float)
    classes : list
        The class of each point.
    looks : dict
        The look of some classes; all others have one look.
    """
    pairs = zip(points, classes, strict=True)
    places = group_by(pairs, lambda pair: pair[1] if pair[1] in looks else None)
    for name, look in {None: OTHER, **looks}.items():
        if name in places:
            axes.plot(*np.transpose([point for point, _ in places[name]]), **look)
    _fill(axes)
    axes.set_aspect("equal", "datalim")


@picture(360, 360)
def det(axes, curves, looks):
    """Draw detection error tradeoff curves on normal-deviate axes; a mark is at the EER.

    Arguments
    ---------
    curves : list of dict
        With `model`, `false_acceptance` and `false_rejection`, rates in the order of thresholds,
        and `eer`.
    looks : dict
        The look of each model.
    """
    told = itemgetter("false_acceptance", "false_rejection", "eer")
    plot_det(axes, [(*told(curve), looks[curve["model"]]) for curve in curves])


@picture(400, 320)
def information(axes, rows, measures):
    """Draw estimates of mutual information, each on the scale of independent to identical pairs.

    Arguments
    ---------
    rows : list of (str, dict)
        A name, and figures by their measure.
    measures : tuple of str
        ("InfoNCE", "CLUB"), with what lies between them shaded, or ("likelihood gain",).
    """
    step = 1.6 + len(measures)
    axes.figure.set_figheight((16 * step * len(rows) + 50) / PIXELS)
    unit = rows[0][1][measures[0]]["unit"]
    axes.set(ylim=(step * len(rows) - 0.6, -0.8), yticks=[], xlabel=unit)
    axes.spines["left"].set_visible(False)
    if unit == "nats":
        axes.set_xscale("asinh", linear_width=0.1)
        axes.xaxis.set(major_locator=FixedLocator(NATS), major_formatter="{x:g}")
        axes.set_xlabel("nats; from 0.1 on each step is tenfold")
    for place, (name, row) in enumerate(rows):
        top = place * step
        text = axes.text(0, top, name, transform=axes.get_yaxis_transform(), weight="bold")
        text.set(va="center", in_layout=False)
        tracks = {m: top + 1 + n for n, m in enumerate(measures)}
        if len(tracks) == 2 and row["InfoNCE"]["value"] <= row["CLUB"]["value"]:
            ends = [row[measure]["value"] for measure in tracks]
            axes.plot(ends, list(tracks.values()), color=SHADE, linewidth=6, zorder=1)
        for measure, y in tracks.items():
            _track(axes, row[measure], y)


def _track(axes, figure, y):
    """Draw a figure, its interval, and what it is of independent and of identical pairs."""
    _, look = INFORMATION[figure["measure"]]
    ends = [figure["independent"], figure["identical"]]
    axes.hlines(y, *ends, color=RULE, linewidth=0.8)
    for end, own in zip(ends, (INDEPENDENT, IDENTICAL), strict=True):
        axes.plot(end, y, **own)
    axes.hlines(y, *figure["interval"], color=look["color"])
    axes.plot(figure["value"], y, **look)


@picture(380, 320)
def tradeoff(axes, entries, looks):
    """Draw models as points: content kept upwards, speaker removed to the right.

    Arguments
    ---------
    entries : list of dict
        With `model`, `beta`, and under `content` and `speaker` `measure`, which is the same for
        all, `value` and `interval`.
    looks : dict
        The look of each model.
    """
    content, speaker = (entries[0][part]["measure"] for part in ("content", "speaker"))
    units = unit_of(speaker), unit_of(content)
    points = []
    for number, entry in enumerate(entries):
        parts = [entry["speaker"], entry["content"]]
        x, y = (_scaled(part["value"], unit) for part, unit in zip(parts, units, strict=True))
        colour = looks[entry["model"]]["color"]
        if parts[0].get("interval"):
            axes.hlines(y, *_scaled(parts[0]["interval"], units[0]), color=colour, linewidth=1.2)
        if parts[1].get("interval"):
            axes.vlines(x, *_scaled(parts[1]["interval"], units[1]), color=colour, linewidth=1.2)
        axes.plot(x, y, **looks[entry["model"]])
        text, beta = entry["model"], entry["beta"]
        if beta is not None:
            text = f"\u03b2 {beta:g}"
            points.append((beta, x, y))
        place = 5, 5 if number % 2 else -11  # names of equal points are apart
        axes.annotate(text, (x, y), place, textcoords="offset points", weight="bold")
    if len(points) > 1:
        _, xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, color=OTHER["color"], linewidth=2.5, zorder=1)
    axes.set_xlabel(f"\u2192 speaker removed ({named(speaker, units[0])})")
    axes.set_ylabel(f"\u2191 content kept ({named(content, units[1])})")
    axes.xaxis.set_inverted(not is_error(speaker))
    axes.yaxis.set_inverted(is_error(content))


def _fill(axes):
    """Make axes without ticks fill the picture but for an edge."""
    axes.set_axis_off()
    axes.set_position((0.04, 0.04, 0.92, 0.92))


def _scaled(value, unit):
    """Return a value or an interval as it is drawn."""
    return np.multiply(value, 100 if unit == "%" else 1)
