"""The page of a report holds every figure and picture, names what is missing and loads nothing."""

import base64
import copy
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.stats import norm

from recipes.common.report import page as pages
from recipes.common.report import pictures
from recipes.common.report.matrix import heat, matrix
from recipes.common.report.page import write_page
from recipes.common.report.wording import bare

SECTIONS = ("read", "leakage", "layers", "maps", "retrieval", "information", "tradeoff")
SECTIONS += ("comparisons", "figures", "notes", "missing")
MODELS = {"joint": 0.1, "strong": 0.3, "separate": 0.0}
CONTROLS = {"FBANK": "fbank", "random weights": "random"}
SVG = "{http://www.w3.org/2000/svg}"
EVIL = """<script>alert(1)</script>"'&$x^{$<img src=x onerror=alert(2)>"""


def figure_of(model, representation, group, factor, measure, unit, value, **more):
    """Return a figure with an interval about its value."""
    return {
        **pages.FIGURE,
        "model": model,
        "representation": representation,
        "group": group,
        "factor": factor,
        "measure": measure,
        "unit": unit,
        "value": value,
        "interval": [value - 0.03, value + 0.035],
        "seeds": [1, 2, 3],
        "values": [value - 0.01, value, value + 0.01],
        "speakers": 24,
        **more,
    }


def figures_of(model, rng):
    """Yield a model's figures of every group; those of frames are of three layers."""
    for name, layer in [(f"frame, layer {n}", n) for n in range(3)] + [("utterance", None)]:
        for factor, measure, unit, chance, better in (
            ("phone", "balanced accuracy", "%", 1 / 40, "low" if layer is None else "high"),
            ("age", "R2", "", 0.0, None),
        ):
            for probe in ("linear", "mlp"):
                value = chance + 0.5 * rng.random()
                more = {"layer": layer, "probe": probe, "chance": chance, "better": better}
                more |= {"control": chance + 0.01, "selectivity": value - chance - 0.01}
                yield figure_of(model, name, "leakage", factor, measure, unit, value, **more)
    chance = {"chance": 0.5, "better": "low"}
    yield figure_of(model, "utterance", "retrieval", "speaker", "EER", "%", 0.09, **chance)
    yield figure_of(model, "frame", "retrieval", "phone", "ABX error across", "%", 0.1, **chance)
    if model == "FBANK":
        return
    for measure, unit, value, ends in (
        ("InfoNCE", "nats", 0.4, (0.002, 3.9)),
        ("CLUB", "nats", 6.3, (0.05, 160.0)),
        ("likelihood gain", "bits per dimension", 0.07, (-0.002, 1.31)),
    ):
        ends = dict(zip(("independent", "identical"), ends, strict=True))
        yield figure_of(model, "z and u", "information", "z and u", measure, unit, value, **ends)


def maps_of(model, rng, count):
    """Yield a map of frames and one of utterances."""
    for representation in ("frame", "utterance"):
        yield {
            "model": model,
            "representation": representation,
            "method": "t-SNE",
            "points": rng.normal(size=(count, 2)).tolist(),
            "phone": [f"P{n:02d}" for n in rng.integers(40, size=count)],
            "speaker": [f"s{n:02d}" for n in rng.integers(24, size=count)],
        }


def det_of(model, representation, eer, trials=200):
    """Return the curve of normal scores that are apart as the equal error rate says."""
    thresholds = np.linspace(-4, 6, trials)
    accepted = norm.sf(thresholds).tolist()
    missed = norm.cdf(thresholds + 2 * norm.ppf(eer)).tolist()
    rates = {"false_acceptance": accepted, "false_rejection": missed, "eer": eer}
    return {"model": model, "representation": representation, **rates}


def comparison(second, difference, probe):
    """Return a difference between the first model and another."""
    return {
        "first": "joint",
        "second": second,
        "representation": "utterance",
        "factor": "phone",
        "measure": "balanced accuracy",
        "probe": probe,
        "difference": difference,
        "interval": [difference - 0.04, difference + 0.04],
        "relative": difference / 0.3,
        "speakers": 24,
        "seeds": [1, 2, 3],
    }


def point(model, beta, content, speaker):
    """Return a model's place in the trade-off."""
    parts = {"content": content, "speaker": speaker}
    parts = {
        name: {"measure": "balanced accuracy", "value": x, "interval": [x - 0.02, x + 0.02]}
        for name, x in parts.items()
    }
    return {"model": model, "beta": beta, **parts}


def make_report(points=60):
    """Return a report of three models and two controls, with all parts of report.json."""
    rng = np.random.default_rng(0)
    names = [*MODELS, *CONTROLS]
    unknown = {"folder": None, "beta": None, "train_seed": None}
    models = [
        {"name": name, "kind": "model", "folder": f"runs/{name}", "beta": beta, "train_seed": 1}
        for name, beta in MODELS.items()
    ]
    notes = ("balanced accuracy", "R2", "EER", "InfoNCE", "CLUB", "likelihood gain")
    return {
        "title": "Disentanglement of joint, strong and separate",
        "corpus": "LibriSpeech: dev-clean, test-clean",
        "seeds": [1, 2, 3],
        "date": "2026-01-05T12:00:00",
        "commit": "0123abc",
        "versions": {"torch": "2.8.0", "speechbrain": "1.0.3"},
        "seconds": 1234.5,
        "data": {"rows": 480, "digest": "5f0c"},
        "read_on": {
            "splits": ["dev-clean", "test-clean"],
            "speakers": 24,
            "utterances": 480,
            "seconds": 4012.0,
            "sessions_told_apart": False,
        },
        "models": models + [{"name": n, "kind": k, **unknown} for n, k in CONTROLS.items()],
        "figures": [figure for name in names for figure in figures_of(name, rng)],
        "maps": [entry for name in MODELS for entry in maps_of(name, rng, points)],
        "det": [
            det_of(name, representation, 0.1 + 0.05 * place)
            for place, name in enumerate(names)
            for representation in ("frame, pooled", "utterance")
        ],
        "comparisons": [
            comparison(second, difference, probe)
            for second in ("strong", "separate")
            for difference, probe in ((0.06, "linear"), (-0.01, "mlp"))
        ],
        "tradeoff": [
            point(name, MODELS.get(name), 0.6 - 0.05 * n, 0.4 - 0.1 * n)
            for n, name in enumerate(names)
        ],
        "verdict": {
            "supports": False,
            "sentences": ["Joint training does not do it: a probe names 18 of 100.", "It keeps."],
            "reasons": ["Speaker from frames: \u22125.1 to 0.2 points.", "Phone from frames."],
        },
        "notes": {
            name: {"how": f"How {name} was computed.", "fails_if": f"{name} above chance."}
            for name in notes
        },
        "missing": [{"what": "session", "why": "the corpus has one session of each speaker"}],
    }


@pytest.fixture(scope="module")
def report():
    """A report; do not change it."""
    return make_report()


def only(report, names):
    """Return a report of some of its models."""
    parts = {
        part: [entry for entry in report[part] if entry["model"] in names]
        for part in ("figures", "maps", "det", "tradeoff")
    }
    models = [model for model in report["models"] if model["name"] in names]
    return {**report, **parts, "models": models}


@pytest.fixture(scope="module")
def small(report):
    """A report of few figures of two models, without pictures; do not change it."""
    small = {**only(report, ("joint", "FBANK")), "maps": [], "det": [], "tradeoff": []}
    small["figures"] = [
        figure
        for figure in small["figures"]
        if figure["layer"] in (None, 0) and figure["group"] != "information"
    ]
    return {**small, "comparisons": report["comparisons"][:2]}


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    """The page of `report`."""
    return Page(report, tmp_path_factory.mktemp("page"))


class Page(HTMLParser):
    """A page that was written and read: what it holds; an element that is not closed fails."""

    def __init__(self, report, folder):
        super().__init__()
        path = folder / "report.html"
        write_page(report, path)
        self.html = path.read_text(encoding="utf-8")
        self.elements, self.texts, self.open, self.section = [], {}, [], "header"
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "hr"):
            self.open.append(tag)
        if tag in ("section", "footer"):
            self.section = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        kept = [] if "style" in self.open else [data.replace("\xa0", " ")]
        self.texts[self.section] = self.texts.get(self.section, []) + kept

    def text(self, section):
        return " ".join("\n".join(self.texts.get(section, [])).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self):
        """Return the roots of all SVG images."""
        start = "data:image/svg+xml;base64,"
        sources = [a["src"] for a in self.all("img") if a["src"].startswith(start)]
        return [ElementTree.fromstring(base64.b64decode(s.removeprefix(start))) for s in sources]


def test_every_section_is_there_in_order_behind_the_verdict(page, report):
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in SECTIONS]
    verdict = report["verdict"]
    short, _, rest = verdict["sentences"][0].partition(": ")
    texts = [report["title"], short, rest, *verdict["sentences"][1:], *verdict["reasons"]]
    places = [page.text("header").index(text) for text in texts]
    assert places == sorted(places) and "\u2717" in page.text("header")


def test_every_figure_is_in_the_table_with_all_that_is_known_of_it(page, report):
    part = page.html.split('id="figures"')[1].split("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    assert len(rows) == 1 + len(report["figures"])
    for row, figure in zip(rows[1:], report["figures"], strict=True):
        row, unit = row.replace("\xa0", " "), figure["unit"]
        scale, decimals = (100, 1) if unit == "%" else (1, 2)
        if unit not in ("%", ""):
            decimals = 3 if abs(figure["value"]) < 0.0995 else 2
        value = f"{scale * figure['value']:.{decimals}f}".replace("-", "\u2212")
        assert f">{value} {unit}".rstrip() + "</td>" in row
        for name in ("chance", "control", "selectivity"):
            if figure[name] is not None:
                shown = f"{round(scale * figure[name], decimals) + 0.0:.{decimals}f}"
                assert f">{shown}<".replace("-", "\u2212") in row
        for name in ("model", "representation", "factor"):
            assert figure[name] in row
        assert "1, 2, 3" in row and ">24<" in row and " to " in row
        assert figure["measure"].replace("R2", "R\u00b2") in row and (figure["probe"] or "") in row


def test_other_parts_are_shown(page, report):
    for curve in report["det"]:
        assert f"{curve['model']}: EER {100 * curve['eer']:.1f} %" in page.text("retrieval")
    for figure in report["figures"]:
        if figure["group"] == "information":
            assert bare(figure["value"], figure["unit"]) in page.text("information")
    assert "6.0 points" in page.text("comparisons")
    for name, beta in MODELS.items():
        assert f"{name} (\u03b2 {beta:g})" in page.text("tradeoff")
    for measure, note in report["notes"].items():
        assert measure.replace("R2", "R\u00b2") in page.text("notes")
        assert note["how"] in page.text("notes") and note["fails_if"] in page.text("notes")
    assert "ABX error across" in page.text("notes")  # of which nothing is told
    for entry in report["missing"]:
        assert f"{entry['what']} : {entry['why']}" in page.text("missing")
    assert "0123abc" in page.text("footer") and "2.8.0" in page.text("footer")
    assert "Caution" in page.text("read") and "24" in page.text("read")


def test_every_picture_is_there_and_says_what_it_shows(page, report):
    shown = [image["alt"] for image in page.all("img") if image["alt"]]
    expected = [
        f"{factor}, {probe} probe: {label} over layers 0 to 2"
        for factor, label in (("phone", "balanced accuracy, %"), ("age", "R\u00b2"))
        for probe in ("linear", "mlp")
    ]
    for factor in ("phone", "speaker"):
        for representation in ("frame", "utterance"):
            expected += [f"{n}: 60 points of {representation}, by {factor}" for n in MODELS]
    names = ", ".join([*MODELS, *CONTROLS])
    told = names.replace("FBANK, ", "")
    expected += [
        f"{r}: detection error tradeoff of {names}" for r in ("frame, pooled", "utterance")
    ]
    expected += [f"InfoNCE and CLUB: {told}", f"likelihood gain: {told}"]
    expected += [f"Content (balanced accuracy) against speaker (balanced accuracy): {names}"]
    assert shown == expected
    assert len(page.all("figure")) == len(expected)
    texts = [text.text for image in page.images() for text in image.iter(f"{SVG}text")]
    for text in ("layer", "chance", "misses, %", "\u03b2 0.3", "joint", "balanced accuracy, %"):
        assert text in texts


def test_comparisons_say_whether_0_is_excluded(page):
    assert page.text("comparisons").count("yes") == 2
    assert "2 of 4 intervals exclude 0; were there no difference at all, about 0.2" in page.text(
        "comparisons"
    )
    rows = pages._compared([comparison("b", 0.06, None), comparison("b", -0.01, None)])["rows"]
    assert [row["apart"] for row in rows] == [True, False]
    assert [row["bar"] for row in rows] == [[59.2, 96.0, 77.6], [27.0, 63.8, 45.4]]


def test_nothing_is_loaded_and_nothing_runs(page):
    assert "http" not in page.html.replace("http-equiv", "")
    assert not {"script", "link", "iframe", "object", "use"} & {e for e, _ in page.elements}
    for tag, attributes in page.elements:
        assert tag == "img" or "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert all(re.match("data:image/(png|svg.xml);base64,", a["src"]) for a in page.all("img"))
    assert not re.search(r"url\(|@import", page.html)
    policy = page.all("meta")[2]["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for image in page.images():
        for element in image.iter():
            links = [v for name, v in element.attrib.items() if name.endswith("href")]
            assert all(link.startswith("#") for link in links)


def test_the_page_can_be_read_aloud(page):
    assert page.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("scope" in attributes for attributes in page.all("th"))
    # Only the pictures of keys, with their text beside them, need no text of their own.
    assert all(a["alt"] or a["class"] in ("swatch", "dot") for a in page.all("img"))


def replaced(part, suffix, key=None):
    """Return a part of a report with something after every text that is free."""
    if isinstance(part, dict):
        named = ("notes", "versions", "data")
        return {
            (name + suffix if key in named else name): replaced(value, suffix, name)
            for name, value in part.items()
        }
    if isinstance(part, list):
        return [replaced(value, suffix, key) for value in part]
    fixed = ("group", "kind", "unit", "better")
    return part + suffix if isinstance(part, str) and key not in fixed else part


def test_text_is_shown_and_never_run(report, tmp_path):
    page = Page(replaced(only(report, ("joint", "FBANK")), EVIL), tmp_path)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert all(a["src"].startswith("data:") for a in page.all("img"))
    for part in (*SECTIONS, "header", "footer"):
        assert EVIL in page.text(part)
    images = page.images()
    assert not any(e.tag == f"{SVG}script" for image in images for e in image.iter())
    assert f"FBANK{EVIL}" in [e.text for image in images for e in image.iter(f"{SVG}text")]


MISSING = {
    "verdict": ("header", "no verdict"),
    "read_on": ("read", "does not say what was read"),
    "models": ("read", "joint"),
    "figures": ("figures", "no figures"),
    "maps": ("maps", "no two-dimensional map"),
    "det": ("retrieval", "no detection error tradeoff curve"),
    "tradeoff": ("tradeoff", "no model whose content and speaker"),
    "comparisons": ("comparisons", "compares no two models"),
    "notes": ("notes", "does not say how it computed"),
    "missing": ("missing", "names nothing that was left out"),
}


@pytest.mark.parametrize("part", MISSING)
def test_what_is_missing_is_named(small, part, tmp_path):
    section, text = MISSING[part]
    left_out = {name: value for name, value in small.items() if name != part}
    lacks = (None, type(small[part])())
    found = {Page({**left_out, part: lack}, tmp_path).html for lack in lacks}
    page = Page(left_out, tmp_path)
    assert text in page.text(section) and found == {page.html}


@pytest.mark.parametrize("group", ("leakage", "retrieval", "information"))
def test_a_missing_group_of_figures_is_named(small, group, tmp_path):
    kept = [figure for figure in small["figures"] if figure["group"] != group]
    page = Page({**small, "figures": kept}, tmp_path)
    assert "The report has no" in page.text(group)


def test_an_empty_report_names_all_that_it_lacks(tmp_path):
    page = Page({}, tmp_path)
    for section in SECTIONS:
        assert "The report" in page.text(section)
    assert "no verdict" in page.text("header") and not page.all("img")


def test_a_report_of_one_model_has_every_picture_and_is_the_same_again(report, tmp_path):
    one = only(report, ("joint",))
    before = copy.deepcopy(one)
    page = Page(one, tmp_path)
    assert len(page.all("figure")) == 4 + 4 + 2 + 2 + 1
    assert one == before
    assert Page(json.loads(json.dumps(one)), tmp_path).html == page.html


@pytest.mark.parametrize("key", ("interval", "chance", "control", "layer", "better", "probe"))
@pytest.mark.parametrize("empty", ("left out", None, math.nan))
def test_a_figure_may_lack_anything_but_its_value(small, key, empty, tmp_path):
    figures = copy.deepcopy(small["figures"])
    for figure in figures:
        if empty == "left out":
            del figure[key]
        else:
            pair = key == "interval" and empty is not None
            figure[key] = [empty, empty] if pair else empty
    page = Page({**small, "figures": figures}, tmp_path)
    assert "nan" not in page.html and "None" not in page.html


def test_values_that_are_not_finite_are_not_drawn(small, tmp_path):
    figures = [{**figure, "value": math.nan} for figure in small["figures"]]
    page = Page({**small, "figures": figures}, tmp_path)
    assert "nan" not in page.html
    assert "no figure of several layers" in page.text("layers")


def test_maps_without_phones_say_so(report, tmp_path):
    maps = [{**entry, "phone": None} for entry in report["maps"]]
    text = Page({"maps": maps}, tmp_path).text("maps")
    assert "No map is coloured by phone" in text and "By speaker" in text


@pytest.mark.parametrize(
    "supports, mark", [(True, "\u2713"), (False, "\u2717"), (None, "no control to compare with")]
)
def test_the_verdict_is_marked(small, supports, mark, tmp_path):
    verdict = {**small["verdict"], "supports": supports}
    assert mark in Page({**small, "verdict": verdict}, tmp_path).text("header")


@pytest.mark.parametrize("count, opened", [(6, True), (7, False)])
def test_many_reasons_are_folded(small, count, opened, tmp_path):
    verdict = {**small["verdict"], "reasons": [f"Reason {n}." for n in range(count)]}
    page = Page({**small, "verdict": verdict}, tmp_path)
    assert ("open" in page.all("details")[0]) == opened
    assert "Reason 0." in page.text("header") and f"Reasons ({count})" in page.text("header")


def test_bounds_that_cross_are_pointed_out(report, page, tmp_path):
    assert "cross" not in page.text("information")
    figures = [f for f in report["figures"] if f["measure"] in ("InfoNCE", "CLUB")][:2]
    figures[0] = {**figures[0], "value": 50.0}
    text = Page({"figures": figures}, tmp_path).text("information")
    assert "The bounds cross for joint:" in text


@pytest.mark.long
def test_a_large_report_makes_a_small_page(tmp_path):
    report = make_report(points=1500)
    layers = [f for f in report["figures"] if f["layer"] == 0]
    report["figures"] += [
        {**figure, "layer": layer, "representation": f"frame, layer {layer}"}
        for layer in range(3, 13)
        for figure in layers
    ]
    report["maps"] += [{**m, "model": f"{m['model']} again"} for m in report["maps"]]
    assert len(Page(report, tmp_path).html.encode()) < 3e6


# The matrix


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


def cell_colour(tmp_path, **figure):
    figure = {
        **figure_of("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0.5),
        **figure,
    }
    page = Page({"figures": [figure]}, tmp_path)
    (style,) = [a["style"] for a in page.all("td") if "style" in a]
    return re.search(r"background:(#\w+)", style)[1]


@pytest.mark.parametrize("better, hue", [("high", True), ("low", False), (None, None)])
def test_chance_is_the_lightest_cell_and_all_is_the_darkest(better, hue, tmp_path):
    for value, share in ((0.25, 0), (0.0, 0), (1.0, 1), (0.625, 0.5)):
        colour = cell_colour(tmp_path, value=value, chance=0.25, better=better)
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
def test_bold_is_more_than_chance_by_the_whole_interval(measure, interval, bold, tmp_path):
    value = sum(interval) / 2
    figure = figure_of("a", "frame", "leakage", "phone", measure, "%", value, chance=0.5)
    html = Page({"figures": [{**figure, "interval": interval}]}, tmp_path).html
    assert f"<b>{100 * value:.1f}</b>" in html or not bold
    assert f"<span>{100 * value:.1f}</span>" in html or bold


def test_columns_of_a_factor_are_side_by_side():
    read = (("phone", "balanced accuracy"), ("speaker", "balanced accuracy"), ("phone", "R2"))
    figures = [figure_of("a", "frame", "leakage", *told, "", 0.5) for told in read]
    table = matrix([{"name": "a", "kind": "model"}], figures)
    assert table["above"] == [
        ("phone", "balanced accuracy", 1),
        ("phone", "R\u00b2", 1),
        ("speaker", "balanced accuracy", 1),
    ]


def test_errors_are_the_darker_the_lower_and_leak_where_high_is_better(tmp_path):
    for value, share in ((0.5, 0), (0.6, 0), (0.0, 1), (0.125, 0.75)):
        error = {"measure": "EER", "value": value, "chance": 0.5}
        leak, wanted = (cell_colour(tmp_path, **error, better=better) for better in ("high", "low"))
        assert (leak, wanted) == (heat(share, False)[0], heat(share, True)[0])
    assert cell_colour(tmp_path, value=0.7, chance=None) == "#ffffff"


def test_controls_are_below_the_models_and_apart(page):
    table = page.html.split('class="heat"')[1].split("</table>")[0]
    names = [*MODELS, "Controls: ", *CONTROLS]
    places = [table.index(f"<span>{name}") for name in names]
    assert places == sorted(places)


# The pictures


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


def test_single_layers_of_several_models_are_no_curve(tmp_path):
    figures = [
        {**figure_of(name, "frame", "retrieval", "phone", "ABX error", "%", 0.1), "layer": layer}
        for name, layer in (("FBANK", 0), ("joint", 2))
    ]
    text = Page({"figures": figures}, tmp_path).text("layers")
    assert "no figure of several layers" in text


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
    assert line.get_xdata().tolist() == rates[4:0:-1]


def test_better_is_up_and_to_the_right_of_the_trade_off():
    for content, speaker in (
        (("balanced accuracy", 0.6, 0.5), ("balanced accuracy", 0.1, 0.4)),
        (("ABX error across, cosine", 0.1, 0.2), ("EER", 0.4, 0.1)),
    ):
        entries = [
            {
                "model": name,
                "content": {"measure": content[0], "value": content[place]},
                "speaker": {"measure": speaker[0], "value": speaker[place]},
            }
            for place, name in ((1, "good"), (2, "bad"))
        ]
        axes = drawn(pictures.tradeoff, entries, {"good": LOOK, "bad": LOOK})
        good, bad = axes.transData.transform(marks_of(axes))
        assert good[0] > bad[0] and good[1] > bad[1]


def test_models_are_joined_in_the_order_of_beta():
    entries = [point(n, b, 0.5 + b, 0.3) for n, b in (("a", 0.1), ("b", 0.0), ("c", 0.3))]
    axes = drawn(pictures.tradeoff, entries, dict.fromkeys("abc", LOOK))
    [line] = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert line.get_ydata().tolist() == pytest.approx([50, 60, 80])
    assert [text.get_text() for text in axes.texts] == ["\u03b2 0.1", "\u03b2 0", "\u03b2 0.3"]


def test_bounds_are_drawn_between_independent_and_identical_pairs(report):
    figures = [f for f in report["figures"] if f["group"] == "information"][:2]
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


def test_eight_classes_have_each_a_look_and_maps_of_a_kind_are_together():
    entry = {"points": [[n, n] for n in range(9)], "speaker": [f"s{n}" for n in range(9)]}
    maps = [
        {**entry, "model": model, "representation": representation}
        for model in ("a", "b")
        for representation in ("frame", "utterance")
    ]
    found = pages._maps(maps)["speaker"]
    told = [(panel["caption"], panel["small"]) for panel in found["panels"]]
    assert told == [("a", "frame"), ("b", "frame"), ("a", "utterance"), ("b", "utterance")]
    assert len({image for image, _ in found["key"]}) == 9
    assert found["key"][-1][1] == "other speakers (1)"


def test_models_look_different_from_each_other():
    models = [{"name": n, "kind": "model" if n < 6 else "fbank"} for n in range(8)]
    looks = pages._looks(models).values()
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 8


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOOKER = """<!DOCTYPE html><html><body>
<iframe id="narrow" style="width:400px;height:900px;border:0" src="report.html"></iframe>
<iframe id="wide" style="width:1400px;height:900px;border:0" src="report.html"></iframe>
<pre id="seen"></pre><script>addEventListener("load", () => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    for (const part of page.querySelectorAll("details")) part.open = true;
    const drawings = [...page.querySelectorAll("img")].map((i) => i.getBoundingClientRect());
    const matrix = page.querySelector(".scroll:has(.heat)");
    seen[frame.id] = {
      width: page.documentElement.scrollWidth,
      smallest: Math.min(...drawings.map((box) => Math.min(box.width, box.height))),
      furthest: Math.max(...drawings.filter((box) => box.width > 160).map((box) => box.right)),
      scrolls: matrix.scrollWidth > matrix.clientWidth,
    };
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});</script></body></html>
"""


@pytest.mark.long
def test_a_browser_shows_the_page_on_a_phone_and_on_a_wide_screen(report, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"There is none of {', '.join(BROWSERS)}.")
    Page(report, tmp_path)
    (tmp_path / "looker.html").write_text(LOOKER, encoding="utf-8")
    options = "--headless --no-sandbox --disable-gpu --disable-background-networking --dump-dom"
    options += " --allow-file-access-from-files --enable-logging=stderr --virtual-time-budget=5000"
    run = subprocess.run(
        [
            browser,
            *options.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            (tmp_path / "looker.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "CONSOLE" not in run.stderr
    seen = json.loads(re.search(r'<pre id="seen">(.+?)</pre>', run.stdout)[1])
    assert seen["narrow"]["width"] <= 400 and seen["wide"]["width"] <= 1400
    assert seen["narrow"]["smallest"] > 5 and seen["wide"]["smallest"] > 5
    assert seen["narrow"]["furthest"] <= 400
    assert seen["narrow"]["scrolls"] and not seen["wide"]["scrolls"]
