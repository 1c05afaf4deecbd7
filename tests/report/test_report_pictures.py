"""What the pictures of a report show is where its values are."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import norm

from recipes.common.report import pictures
from tests.report.made_report import figure_of, figures_of, point

LOOK = {"color": "#0072B2", "linestyle": "-", "marker": "o"}


def drawn(draw, *arguments):
    """Return the axes that a picture is drawn on."""
    axes = Figure().subplots()
    draw.__wrapped__(axes, *arguments)
    axes.figure.draw_without_rendering()
    return axes


def marks_of(axes, marker="o"):
    """Return the places of all marks of a kind, as values."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return [tuple(xy) for line in lines for xy in line.get_xydata()]


def test_a_curve_over_layers_is_at_its_values_and_chance_is_named():
    base = figure_of("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0, chance=0.1)
    values = [0.0, 0.25, 0.5]
    figures = [{**base, "layer": n, "value": v, "interval": None} for n, v in enumerate(values)]
    axes = drawn(pictures.layers, figures[::-1], {"a": LOOK})
    assert marks_of(axes) == [(0, 0), (1, 25), (2, 50)]
    [chance] = axes.texts
    assert chance.get_text() == "chance" and chance.xy == (1, 10)
    assert axes.get_ylabel() == "balanced accuracy, %"


def test_det_axes_are_normal_deviates():
    rates = [0.0, 0.001, 0.02, 0.3, 0.9, 1.0]
    curve = {"model": "a", "eer": 0.2, "false_acceptance": rates[::-1], "false_rejection": rates}
    axes = drawn(pictures.det, [curve], {"a": LOOK})
    assert marks_of(axes) == [(0.2, 0.2)]
    places = axes.transData.transform([(p, p) for p in (0.001, 0.02, 0.2, 0.9)])[:, 0]
    deviates = norm.ppf([0.001, 0.02, 0.2, 0.9])
    shares = (deviates - deviates[0]) / (deviates[-1] - deviates[0])
    np.testing.assert_allclose((places - places[0]) / (places[-1] - places[0]), shares, atol=1e-6)
    [line] = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    assert line.get_xdata().tolist() == [0.9, 0.9, 0.3, 0.02, 0.001, 0.001]
    axes = drawn(pictures.det, [{**curve, "eer": 0.0}], {"a": LOOK})
    assert marks_of(axes) == [(0.001, 0.001)]


@pytest.mark.parametrize(
    "content, speaker", [("balanced accuracy", "balanced accuracy"), ("ABX error", "EER")]
)
def test_better_is_up_and_to_the_right_of_the_trade_off(content, speaker):
    entries = [point("good", None, 0.6, 0.1), point("bad", None, 0.5, 0.4)]
    if speaker == "EER":  # content is told by low errors, and removed speakers by high ones
        entries = [point("good", None, 0.1, 0.4), point("bad", None, 0.2, 0.1)]
    for entry in entries:
        entry["content"]["measure"], entry["speaker"]["measure"] = content, speaker
    axes = drawn(pictures.tradeoff, entries, {"good": LOOK, "bad": LOOK})
    good, bad = axes.transData.transform(marks_of(axes))
    assert good[0] > bad[0] and good[1] > bad[1]


def test_models_are_joined_in_the_order_of_beta():
    entries = [point(n, b, 0.5 + b, 0.3) for n, b in (("a", 0.1), ("b", 0.0), ("c", 0.3))]
    axes = drawn(pictures.tradeoff, entries, dict.fromkeys("abc", LOOK))
    [line] = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert line.get_ydata().tolist() == pytest.approx([50, 60, 80])
    assert [text.get_text() for text in axes.texts] == ["\u03b2 0.1", "\u03b2 0", "\u03b2 0.3"]


def test_bounds_are_drawn_between_independent_and_identical_pairs():
    figures = figures_of("joint", np.random.default_rng(0))
    figures = [f for f in figures if f["measure"] in ("InfoNCE", "CLUB")]
    row = {figure["measure"]: figure for figure in figures}
    axes = drawn(pictures.information, [("joint", row)], ("InfoNCE", "CLUB"))
    [lower], [upper] = marks_of(axes, ">"), marks_of(axes, "<")
    assert (lower[0], upper[0]) == (0.4, 6.3) and lower[1] < upper[1]
    assert marks_of(axes) == [(0.002, lower[1]), (0.05, upper[1])]
    assert marks_of(axes, "s") == [(3.9, lower[1]), (160, upper[1])]
    places = axes.transData.transform([(x, 0) for x in (0.5, 5, 50)])[:, 0]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], rel=0.01)
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks[3:-1] == ["0", "0.1", "1", "10", "100"]


def test_a_map_keeps_shape_and_classes_keep_their_looks():
    points, classes = [[0, 0], [4, 1], [2, 3]], ["x", "y", "z"]
    axes = drawn(pictures.map_of, points, classes, {"x": LOOK, "y": {**LOOK, "marker": "s"}})
    assert marks_of(axes, "s") == [(4, 1)] and marks_of(axes) == [(2, 3), (0, 0)]
    (x0, y0), (x1, y1) = axes.transData.transform([(0, 0), (1, 1)])
    assert x1 - x0 == pytest.approx(y1 - y0)
