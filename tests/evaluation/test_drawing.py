"""Drawings: they are PNGs, and hold the points of the error rates."""

from statistics import NormalDist

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from recipes.common.evaluation import drawing
from recipes.common.evaluation.drawing import draw_det, draw_scores, draw_tradeoff
from recipes.common.evaluation.metrics import eer, error_rates

pytestmark = pytest.mark.long


def trials(count=400, separation=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.3
    return separation * labels + rng.normal(size=count), labels


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that gets every figure that is written."""
    figures = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def colours(path):
    """Return the size of a PNG and its colours."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size, {pixel for _, pixel in image.convert("RGB").getcolors(2**24)}


def curves(figure):
    """Return the labelled lines of a figure."""
    return [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]


def deviates(line):
    """Return where on the axes, as normal deviates, the points of a line are."""
    return line.axes.transScale.transform(line.get_xydata()).T


def test_the_curve_has_the_points_of_the_error_rates(drawn, tmp_path):
    draw_det({"one": trials()}, tmp_path / "det.png")
    _, missed, accepted = error_rates(*trials())
    deviate = np.vectorize(NormalDist().inv_cdf)
    shown = (missed > 0.001) & (missed < 0.9) & (accepted > 0.001) & (accepted < 0.9)
    assert 0.5 < shown.mean() < 1
    found = deviates(curves(drawn[0])[0])
    expected = deviate(accepted[shown]), deviate(missed[shown])
    np.testing.assert_allclose(found[:, shown], expected, atol=1e-9)
    assert np.isfinite(found).all()
    np.testing.assert_allclose([found.min(), found.max()], deviate([0.001, 0.9]))


def test_the_deviates_of_gaussian_scores_lie_on_a_line(drawn, tmp_path):
    draw_det({"one": trials(200_000, separation=1.5)}, tmp_path / "det.png")
    accepted, missed = deviates(curves(drawn[0])[0])
    shown = (accepted > -2) & (missed > -2)
    np.testing.assert_allclose(accepted[shown] + missed[shown], -1.5, atol=0.05)


def test_every_system_is_drawn_and_its_eer_marked(drawn, tmp_path):
    systems = {f"system {i}": trials(separation=1 + 0.2 * i, seed=i) for i in range(9)}
    draw_det(systems, tmp_path / "det.png")
    axis = drawn[0].axes[0]
    lines = curves(drawn[0])
    for line, (name, own) in zip(lines, systems.items(), strict=True):
        _, missed, accepted = error_rates(*own)
        np.testing.assert_array_equal(line.get_data(), np.clip([accepted, missed], 0.001, 0.9))
        assert line.get_label() == f"{name}: EER {100 * eer(*own):.1f} %"
    marks = [line.get_xydata() for line in axis.lines if line.get_marker() == "o"]
    rates = [[eer(*own)] * 2 for own in systems.values()]
    assert [np.unique(mark, axis=0).tolist() for mark in marks] == [[rate] for rate in rates]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    assert len({line.get_linestyle() for line in lines[:4]}) == 4


def test_the_axes_are_labelled_in_percent(drawn, tmp_path):
    draw_det({"one": trials()}, tmp_path / "det.png")
    for side in (drawn[0].axes[0].xaxis, drawn[0].axes[0].yaxis):
        ticks = {label.get_text(): label for label in side.get_ticklabels()}
        places = dict(zip(ticks, side.get_transform().transform(side.get_ticklocs()), strict=True))
        for text in ("1", "10", "40"):
            assert places[text] == pytest.approx(NormalDist().inv_cdf(int(text) / 100))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0]])
def test_perfect_separation_is_drawn(drawn, tmp_path, labels):
    draw_det({"cosine": ([1, 2, 3, 4], labels)}, tmp_path / "det.png")
    assert np.isfinite(curves(drawn[0])[0].get_xydata()).all()
    assert colours(tmp_path / "det.png")[0] == (550, 550)


def test_drawings_are_pngs_that_show_something(tmp_path):
    draw_det({"one": trials(), "two": trials(separation=0.5)}, tmp_path / "det.png")
    draw_scores(*trials(), tmp_path / "scores.png", threshold=0.7)
    for name, expected in (("det", (550, 550)), ("scores", (650, 400))):
        size, found = colours(tmp_path / f"{name}.png")
        assert size == expected
        wanted = {tuple(bytes.fromhex(colour[1:])) for colour in drawing.COLOURS[:2]}
        assert wanted <= found


def test_a_tradeoff_is_drawn_where_its_points_are(drawn, tmp_path):
    curves = {"a": {"0": (90, 22), "40": (60, 21)}, "b": {"0": (80, 23)}}
    points = {"c": [(40, 20), (60, 22)], "d": [(10, 11)]}
    draw_tradeoff(curves, points, ("speaker", "phone"), tmp_path / "tradeoff.png", (48, 21))
    axis = drawn[0].axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    named = {name: place for name, place in lines.items() if not name.startswith("_")}
    means = {"c": [[50, 21]], "d": [[10, 11]]}
    assert named == {"a": [[90, 22], [60, 21]], "b": [[80, 23]], **means}
    others = [place for name, place in lines.items() if name.startswith("_")]
    assert [[40, 20], [60, 22]] in others and len(others) == 3  # and the limits
    assert [[48, 0], [48, 1]] in others and [[0, 21], [1, 21]] in others
    assert [(text.get_text(), text.xy) for text in axis.texts] == [
        *(("0", (90, 22)), ("40", (60, 21))),
        ("0", (80, 23)),
    ]
    assert len({line.get_markeredgecolor() for line in axis.lines}) == 5  # and the limits


def test_histograms_are_those_of_both_kinds_of_trials(drawn, tmp_path):
    scores, labels = trials()
    draw_scores(scores, labels, tmp_path / "scores.png", threshold=0.7)
    axis = drawn[0].axes[0]
    for patch, part in zip(axis.patches, (scores[labels], scores[~labels]), strict=True):
        heights, _ = np.histogram(part, np.histogram_bin_edges(scores, 50), density=True)
        assert patch.get_xy()[:, 1].max() == pytest.approx(heights.max())
        assert set(heights.round(9)) <= set(patch.get_xy()[:, 1].round(9))
    (line,) = axis.lines
    assert set(line.get_xdata()) == {0.7} and "0.7" in line.get_label()
    assert [patch.get_label() for patch in axis.patches] == [
        f"{labels.sum()} target trials",
        f"{(~labels).sum()} other trials",
    ]


def test_no_threshold_draws_no_line(drawn, tmp_path):
    draw_scores([1.0, 1.0, 1.0], [0, 1, 1], tmp_path / "scores.png")
    assert not drawn[0].axes[0].lines


def test_trials_that_cannot_be_judged_are_not_drawn(tmp_path):
    for scores, labels in (([1, 2], [1, 1]), ([1, float("nan")], [0, 1])):
        with pytest.raises(ValueError, match="Error rates need"):
            draw_det({"one": (scores, labels)}, tmp_path / "a.png")
        with pytest.raises(ValueError, match="Error rates need"):
            draw_scores(scores, labels, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
