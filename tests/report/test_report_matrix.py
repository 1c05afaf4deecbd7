"""The leakage matrix is the darker the more is told, and always readable."""

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from recipes.common.report.matrix import heat, matrix
from tests.report.made_report import figure_of


def contrast(first, second):
    """Return the contrast of two colours as the WCAG defines it."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    light = sorted(luminance(to_rgb(colour)) + 0.05 for colour in (first, second))
    return light[1] / light[0]


@pytest.mark.parametrize("wanted", (True, False, None))
def test_more_is_darker_and_the_text_is_always_readable(wanted):
    cells = [heat(share, wanted) for share in np.linspace(0, 1, 101)]
    lightness = [contrast(background, "#000000") for background, _ in cells]
    assert all(b <= a for a, b in zip(lightness, lightness[1:], strict=False))
    assert lightness[0] > 18 and lightness[-1] < 3
    assert min(contrast(*cell) for cell in cells) >= 4.5


def cell_of(**figure):
    """Return the only cell of a table."""
    base = figure_of("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0.5)
    table = matrix([{"name": "a", "kind": "model"}], [{**base, **figure}])
    [(_, [cell])] = table["models"][0]["rows"]
    return cell


def colour_of(**figure):
    return re.match(r"background:(#\w+);", cell_of(**figure)["style"])[1]


@pytest.mark.parametrize("better, hue", [("high", True), ("low", False), (None, None)])
def test_chance_is_the_lightest_cell_and_all_is_the_darkest(better, hue):
    for value, share in ((0.25, 0), (0.0, 0), (1.0, 1), (0.625, 0.5)):
        colour = colour_of(value=value, chance=0.25, better=better)
        assert colour == heat(share, hue)[0]


@pytest.mark.parametrize(
    "measure, interval, bold",
    [
        ("balanced accuracy", [0.55, 0.65], True),
        ("balanced accuracy", [0.35, 0.45], False),
        ("balanced accuracy", [0.45, 0.55], False),
        ("EER", [0.35, 0.45], True),
        ("EER", [0.55, 0.65], False),
    ],
)
def test_bold_is_more_than_chance_by_the_whole_interval(measure, interval, bold):
    value = sum(interval) / 2
    cell = cell_of(measure=measure, value=value, chance=0.5, interval=interval)
    assert cell["bold"] == bold and cell["value"] == f"{100 * value:.1f}"


def test_columns_of_a_factor_are_side_by_side():
    read = (("phone", "balanced accuracy"), ("speaker", "balanced accuracy"), ("phone", "R2"))
    figures = [figure_of("a", "frame", "leakage", *told, "", 0.5) for told in read]
    table = matrix([{"name": "a", "kind": "model"}], figures)
    assert table["above"] == [
        ("phone", "balanced accuracy", 1),
        ("phone", "R\u00b2", 1),
        ("speaker", "balanced accuracy", 1),
    ]


def test_errors_are_the_darker_the_lower_and_leak_where_high_is_better():
    for value, share in ((0.5, 0), (0.6, 0), (0.0, 1), (0.125, 0.75)):
        error = {"measure": "EER", "value": value, "chance": 0.5}
        leak, wanted = (colour_of(**error, better=better) for better in ("high", "low"))
        assert (leak, wanted) == (heat(share, False)[0], heat(share, True)[0])
    assert colour_of(value=0.7, chance=None) == "#ffffff"
