"""The page of a report holds every figure, names what is missing and loads nothing."""

import copy
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy.stats import norm

from recipes.common.report import drawings as drawings
from recipes.common.report.page import SECTIONS, write_page
from recipes.common.report.svg import SHAPES, Axis, Look, Panel, round_axis

MODELS = {"joint": (0.1, 1), "joint-strong": (0.3, 1), "separate": (0.0, 1), "light": (0.03, 2)}
CONTROLS = {"FBANK": "fbank", "random weights": "random"}
FACTORS = {"phone": 40, "speaker": 24, "gender": 2, "age": None, "noise": 4, "channel": 3}
LAYERS = 4
LOOK = Look("#0072B2", None, "circle")
EVIL = """<script>alert(1)</script>"'&<img src=x onerror=alert(2)>"""


def leakage_figures(rng, model, representation, layer, told):
    """Return a probe's figures of each factor; `told` is how much of each is there."""
    for factor, classes in FACTORS.items():
        chance = 1 / classes if classes else 0.0
        for probe in ("linear", "mlp"):
            share = min(1, told.get(factor, 0.1) * (1.1 if probe == "mlp" else 1))
            value = min(1.0, chance + (1 - chance) * share + rng.normal(0, 0.01))
            control = chance + rng.normal(0, 0.008)
            wanted = {"phone": "frame", "speaker": "utterance"}.get(factor)
            better = None
            if wanted:
                better = "high" if representation.startswith(wanted) else "low"
            yield {
                "model": model,
                "representation": representation,
                "layer": layer,
                "group": "leakage",
                "factor": factor,
                "measure": "balanced accuracy" if classes else "R2",
                "unit": "%" if classes else "",
                "probe": probe,
                "value": value,
                "interval": [value - 0.03, min(1.0, value + 0.035)],
                "chance": chance,
                "control": control,
                "selectivity": value - control,
                "seeds": [1, 2, 3],
                "values": [value - 0.01, value, value + 0.01],
                "speakers": 24,
                "better": better,
                "independent": None,
                "identical": None,
            }


def other_figure(model, representation, group, factor, measure, unit, value, **more):
    """Return a figure without a probe."""
    spread = 0.06 * abs(value) + 0.004
    return {
        "model": model,
        "representation": representation,
        "layer": None,
        "group": group,
        "factor": factor,
        "measure": measure,
        "unit": unit,
        "probe": None,
        "value": value,
        "interval": [value - spread, value + spread],
        "chance": None,
        "control": None,
        "selectivity": None,
        "seeds": [1, 2, 3],
        "values": [value] * 3,
        "speakers": 24,
        "better": None,
        "independent": None,
        "identical": None,
        **more,
    }


def figures_of(rng, model, strength):
    """Return a model's figures; `strength` is how well it takes its two representations apart."""
    kept, leak = 0.62 - 0.05 * strength, 0.45 - 0.35 * strength
    frame = {"phone": kept, "speaker": leak, "gender": 2 * leak * 0.8, "noise": leak}
    utterance = {"phone": 0.05, "speaker": 0.8, "gender": 0.96, "noise": 0.3, "channel": 0.4}
    if model != "FBANK":
        for layer in range(LAYERS):
            depth = layer / (LAYERS - 1)
            told = {**frame, "phone": kept * (0.6 + 0.4 * depth), "speaker": leak * (1.6 - depth)}
            yield from leakage_figures(rng, model, f"frame, layer {layer}", layer, told)
    for name in ("frame, weighted sum", "frame, pooled"):
        yield from leakage_figures(rng, model, name, None, frame)
    yield from leakage_figures(rng, model, "utterance", None, utterance)
    chance = {"chance": 0.5, "better": "low"}
    error = 0.42 - 0.25 * (1 - strength)
    yield other_figure(
        model, "frame, pooled", "retrieval", "speaker", "EER", "%", error, chance=0.5, better="high"
    )
    yield other_figure(model, "utterance", "retrieval", "speaker", "EER", "%", 0.09, **chance)
    for measure, value in (("within, cosine", 0.08), ("across, cosine", 0.12 + 0.05 * leak)):
        name = f"ABX error {measure}"
        yield other_figure(
            model, "frame, weighted sum", "retrieval", "phone", name, "%", value, **chance
        )
    if model == "FBANK":
        return
    gap = 1 - strength
    for measure, unit, value, ends in (
        ("InfoNCE", "nats", 0.04 + 0.9 * gap, (0.002, 3.9)),
        ("CLUB", "nats", 0.3 + 6 * gap, (0.05, 160.0)),
        ("likelihood gain", "bits per dimension", 0.004 + 0.07 * gap, (-0.002, 1.31)),
    ):
        scale = dict(zip(("independent", "identical"), ends, strict=True))
        yield other_figure(
            model, "z and u", "information", "utterance", measure, unit, value, **scale
        )


def maps_of(rng, model, count):
    """Return a map of frames in islands of phones, and one of utterances in islands of speakers."""
    phone, speaker = rng.zipf(1.4, count) % 40, rng.integers(24, size=count)
    for representation, own in (("frame", phone), ("utterance", speaker)):
        angle = 2.4 * own
        centres = np.stack([np.cos(angle), np.sin(angle)], 1) * np.sqrt(own + 1)[:, None]
        points = centres + rng.normal(0, 0.3, (count, 2))
        yield {
            "model": model,
            "representation": representation,
            "method": "t-SNE",
            "points": points.tolist(),
            "phone": [f"P{n:02d}" for n in phone] if representation == "frame" else None,
            "speaker": [f"s{n:02d}" for n in speaker],
        }


def det_of(model, representation, eer, trials=400):
    """Return the curve of normal scores that are apart as the equal error rate says."""
    thresholds = np.linspace(-4, 6, trials)
    apart = -2 * norm.ppf(eer)
    return {
        "model": model,
        "representation": representation,
        "false_acceptance": norm.sf(thresholds).tolist(),
        "false_rejection": norm.cdf(thresholds - apart).tolist(),
        "eer": eer,
    }


def comparisons_of(rng):
    """Return the differences between the first model and each other."""
    for second in list(MODELS)[1:]:
        for representation, factor in (("frame, weighted sum", "speaker"), ("utterance", "phone")):
            for probe in ("linear", "mlp"):
                difference = float(rng.normal(0, 0.06))
                yield {
                    "first": "joint",
                    "second": second,
                    "representation": representation,
                    "factor": factor,
                    "measure": "balanced accuracy",
                    "probe": probe,
                    "difference": difference,
                    "interval": [difference - 0.04, difference + 0.04],
                    "relative": difference / 0.3,
                    "speakers": 24,
                    "seeds": [1, 2, 3],
                }


def make_report(seed=0, points=1500):
    """Return a report of four models and two controls, as the contract has it."""
    rng = np.random.default_rng(seed)
    apart = {"joint": 0.7, "joint-strong": 0.95, "separate": 0.1, "light": 0.4}
    apart |= {"FBANK": 0.0, "random weights": 0.05}
    notes = ("balanced accuracy", "R2", "EER", "InfoNCE", "CLUB", "likelihood gain")
    return {
        "title": "Disentanglement of joint, joint-strong, separate and light",
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
        "models": [
            {"name": name, "kind": "model", "folder": name, "beta": beta, "train_seed": seed}
            for name, (beta, seed) in MODELS.items()
        ]
        + [
            {"name": name, "kind": kind, "folder": None, "beta": None, "train_seed": None}
            for name, kind in CONTROLS.items()
        ],
        "figures": [f for name in apart for f in figures_of(rng, name, apart[name])],
        "maps": [m for name in MODELS for m in maps_of(rng, name, points)],
        "det": [
            det_of(name, representation, eer)
            for name, level in apart.items()
            for representation, eer in (
                ("frame, pooled", 0.42 - 0.25 * (1 - level)),
                ("utterance", 0.05 + 0.1 * (1 - level)),
            )
        ],
        "comparisons": list(comparisons_of(rng)),
        "tradeoff": [
            {
                "model": name,
                "beta": MODELS.get(name, (None,))[0],
                "content": {
                    "measure": "balanced accuracy",
                    "value": 0.62 - 0.05 * level,
                    "interval": [0.60 - 0.05 * level, 0.64 - 0.05 * level],
                },
                "speaker": {
                    "measure": "balanced accuracy",
                    "value": 0.45 - 0.35 * level,
                    "interval": [0.42 - 0.35 * level, 0.48 - 0.35 * level],
                },
            }
            for name, level in apart.items()
        ],
        "verdict": {
            "supports": False,
            "sentences": [
                "Joint training does not take the speaker out of the frame representation: a probe "
                "still names 18 of 100 speakers' frames, where guessing names 4.",
                "It keeps as much of the content as training apart does, and the utterance "
                "representation tells hardly any phone.",
            ],
            "reasons": [
                "Speaker from frames, linear probe: 17.9 % against 20.4 %; the interval of the "
                "difference, −5.1 to 0.2 points, holds 0.",
                "Phone from frames: 58.4 % against 60.1 %, within 3 points.",
            ],
        },
        "notes": {
            name: {
                "how": f"How {name} was computed, in a few words, by four folds over speakers.",
                "fails_if": f"{name} of shuffled labels above chance.",
            }
            for name in notes
        },
        "missing": [
            {"what": "session", "why": "the corpus has one session of each speaker"},
            {"what": "same sentence nearer", "why": "no sentence is read by two speakers"},
        ],
    }


@pytest.fixture(scope="module")
def report():
    """A report; do not change it."""
    return make_report(points=150)


@pytest.fixture(scope="module")
def small(report):
    """A report of few figures of two models; do not change it."""
    names = ("joint", "FBANK")
    lists = ("figures", "maps", "det", "tradeoff")
    lists = {part: [e for e in report[part] if e["model"] in names] for part in lists}
    return {**report, **lists, "comparisons": report["comparisons"][:2]}


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
        if tag != "meta":
            self.open.append(tag)
        if tag in ("section", "footer"):
            self.section = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        kept = [] if "style" in self.open else [data.replace("\xa0", " ")]
        self.texts[self.section] = self.texts.get(self.section, []) + kept

    def text(self, section):
        return "\n".join(self.texts.get(section, []))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_every_section_is_there_in_order(page):
    headings = [heading for _, heading, _ in SECTIONS]
    places = [page.html.index(f"<h2>{heading}</h2>") for heading in headings]
    assert places == sorted(places)
    assert [a["id"] for a in page.all("section")] == [name for name, _, _ in SECTIONS]
    assert [a["href"] for a in page.all("a")] == [f"#{name}" for name, _, _ in SECTIONS]


def test_the_verdict_comes_before_everything_else(page, report):
    verdict = report["verdict"]
    texts = [report["title"], *verdict["sentences"], *verdict["reasons"]]
    header = "".join(page.texts["header"])
    places = [header.index(text) for text in texts]
    assert places == sorted(places) and "\u2717" in header


def test_every_figure_is_in_the_table_with_all_that_is_known_of_it(page, report):
    rows = re.findall(r"<tr>(.*?)</tr>", page.html.split('id="figures"')[1].split("</section>")[0])
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
            assert drawings.bare(figure["value"], figure["unit"]) in page.text("information")
    for entry in report["comparisons"]:
        assert f"{100 * abs(entry['difference']):.1f} points" in page.text("comparisons")
    for beta, _ in MODELS.values():
        assert f"\u03b2 {beta:g}" in page.text("tradeoff")
    for measure, note in report["notes"].items():
        assert measure.replace("R2", "R\u00b2") in page.text("notes")
        assert note["how"] in page.text("notes") and note["fails_if"] in page.text("notes")
    assert "ABX error within, cosine" in page.text("notes")  # of which nothing is told
    for entry in report["missing"]:
        assert entry["what"] in page.text("missing") and entry["why"] in page.text("missing")
    assert "0123abc" in page.text("footer") and "2.8.0" in page.text("footer")
    assert "Caution" in page.text("read") and "session" in page.text("read")


def test_comparisons_say_whether_0_is_excluded(page, report):
    apart = sum(not c["interval"][0] <= 0 <= c["interval"][1] for c in report["comparisons"])
    assert 0 < apart < len(report["comparisons"])
    text = page.text("comparisons")
    assert text.split("\n").count("yes") == apart
    assert f"{apart} of {len(report['comparisons'])} intervals exclude 0" in text


def test_nothing_is_loaded_and_nothing_runs(page):
    assert "http" not in page.html.replace("http-equiv", "")
    assert not {"script", "link", "img", "iframe", "object", "use"} & {e for e, _ in page.elements}
    for _, attributes in page.elements:
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"url\(|@import", page.html)
    assert page.all("meta")[2]["content"].startswith("default-src 'none'")


def test_the_page_can_be_read_aloud(page):
    assert page.all("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all("scope" in attributes for attributes in page.all("th"))
    drawings = page.all("svg")
    assert len(drawings) > 40
    assert all(d.get("aria-hidden") == "true" or d["role"] == "img" for d in drawings)
    named = sum(d.get("role") == "img" for d in drawings)
    assert len(page.all("title")) == named + 1


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
    page = Page(replaced(report, EVIL), tmp_path)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    for section, _, _ in SECTIONS:
        assert EVIL in page.text(section)
    for part in ("header", "footer"):
        assert EVIL in page.text(part)


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
    pages = {Page({**left_out, part: lack}, tmp_path).html for lack in (None, type(small[part])())}
    page = Page(left_out, tmp_path)
    assert text in page.text(section) and pages == {page.html}


@pytest.mark.parametrize("group", ("leakage", "retrieval", "information"))
def test_a_missing_group_of_figures_is_named(small, group, tmp_path):
    kept = [figure for figure in small["figures"] if figure["group"] != group]
    page = Page({**small, "figures": kept}, tmp_path)
    assert "The report has no" in page.text(group)


def test_an_empty_report_names_all_that_it_lacks(tmp_path):
    page = Page({}, tmp_path)
    for section, _, _ in SECTIONS:
        assert "The report" in page.text(section)
    assert "no verdict" in page.text("header") and not page.all("svg")


@pytest.mark.parametrize("key", ("interval", "chance", "control", "layer", "better", "probe"))
@pytest.mark.parametrize("empty", ("left out", None, math.nan))
def test_a_figure_may_lack_anything_but_its_value(small, key, empty, tmp_path):
    figures = copy.deepcopy(small["figures"][-120:])
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


def test_maps_without_phones_say_so(small, tmp_path):
    maps = [{**entry, "phone": None} for entry in small["maps"]]
    page = Page({**small, "maps": maps}, tmp_path)
    assert "No map is coloured by phone" in page.text("maps") and "By speaker" in page.text("maps")


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


def test_bounds_that_cross_are_pointed_out(small, page, tmp_path):
    assert "cross" not in page.text("information")
    figures = copy.deepcopy(small["figures"])
    for figure in figures:
        if figure["measure"] == "InfoNCE" and figure["model"] == "joint":
            figure["value"] = 50.0
    text = Page({**small, "figures": figures}, tmp_path).text("information")
    assert "The bounds cross for joint:" in text


def test_the_page_is_the_same_for_the_same_report_which_it_leaves_alone(report, tmp_path):
    before = copy.deepcopy(report)
    first = Page(report, tmp_path).html
    assert report == before
    read = json.loads(json.dumps(report))
    assert Page(read, tmp_path).html == first


@pytest.mark.long
def test_a_large_report_makes_a_small_page(tmp_path):
    report = make_report(points=1500)
    layers = [f for f in report["figures"] if f["layer"] == 0]
    more = [
        {**figure, "layer": layer, "representation": f"frame, layer {layer}"}
        for layer in range(LAYERS, 13)
        for figure in layers
    ]
    report["figures"] += more
    report["maps"] += [{**m, "model": f"{m['model']} again"} for m in report["maps"][:4]]
    assert len(Page(report, tmp_path).html.encode()) < 2e6


# Geometry and colour


def contrast(first, second):
    """Return the contrast of two colours as the WCAG defines it."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    light = sorted(luminance(to_rgb(colour)) + 0.05 for colour in (first, second))
    return light[1] / light[0]


@pytest.mark.parametrize("wanted", (True, False, None))
def test_more_is_darker_and_the_text_is_always_readable(wanted):
    cells = [drawings.heat(share, wanted) for share in np.linspace(0, 1, 101)]
    lightness = [contrast(background, "#000000") for background, _ in cells]
    assert all(b <= a for a, b in zip(lightness, lightness[1:], strict=False))
    assert lightness[0] > 18 and lightness[-1] < 3
    assert min(contrast(*cell) for cell in cells) >= 4.5


def cell_colour(tmp_path, **figure):
    figure = {
        **other_figure("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0.5),
        **figure,
    }
    page = Page({"figures": [figure]}, tmp_path)
    (style,) = [a["style"] for a in page.all("td") if "style" in a]
    return re.search(r"background:(#\w+)", style)[1]


@pytest.mark.parametrize("better, hue", [("high", True), ("low", False), (None, None)])
def test_chance_is_the_lightest_cell_and_all_is_the_darkest(better, hue, tmp_path):
    for value, share in ((0.25, 0), (0.0, 0), (1.0, 1), (0.625, 0.5)):
        colour = cell_colour(tmp_path, value=value, chance=0.25, better=better)
        assert colour == drawings.heat(share, hue)[0]


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
    figure = other_figure("a", "frame", "leakage", "phone", measure, "%", value, chance=0.5)
    html = Page({"figures": [{**figure, "interval": interval}]}, tmp_path).html
    assert f"<b>{100 * value:.1f}</b>" in html or not bold
    assert f"<span>{100 * value:.1f}</span>" in html or bold


def test_columns_of_a_factor_are_side_by_side(tmp_path):
    read = (("phone", "balanced accuracy"), ("speaker", "balanced accuracy"), ("phone", "R2"))
    figures = [other_figure("a", "frame", "leakage", *told, "", 0.5) for told in read]
    html = Page({"figures": figures}, tmp_path).html
    heads = re.findall(r'scope="colgroup" colspan="1">(\w+)<small>([^<]+)<', html)
    assert heads == [
        ("phone", "balanced accuracy"),
        ("phone", "R\u00b2"),
        ("speaker", "balanced accuracy"),
    ]


def test_errors_are_the_darker_the_lower_and_leak_where_high_is_better(tmp_path):
    for value, share in ((0.5, 0), (0.6, 0), (0.0, 1), (0.125, 0.75)):
        error = {"measure": "EER", "value": value, "chance": 0.5}
        leak, wanted = (cell_colour(tmp_path, **error, better=better) for better in ("high", "low"))
        assert (leak, wanted) == (drawings.heat(share, False)[0], drawings.heat(share, True)[0])
    assert cell_colour(tmp_path, value=0.7, chance=None) == "#ffffff"


def test_controls_are_below_the_models_and_apart(page):
    matrix = page.html.split('class="heat"')[1].split("</table>")[0]
    names = [*MODELS, "Controls: ", *CONTROLS]
    places = [matrix.index(f"<span>{name}") for name in names]
    assert places == sorted(places)


def marks_of(drawing, way):
    """Return the centres of all marks of a shape."""
    found = re.findall(rf"M([\d.]+) ([\d.]+){re.escape(way)}", drawing)
    return [(float(x), float(y)) for x, y in found]


def test_axes_are_linear_and_hold_every_value():
    axis = round_axis("error, %", [0.031, 0.384], scale=100)
    panel = Panel("", axis, round_axis("nats", [-0.5, 2.0]))
    (left, bottom), (right, top) = (
        panel.at(axis.low, panel.y.low),
        panel.at(axis.high, panel.y.high),
    )
    assert 0 < left < right < panel.width and 0 < top < bottom < panel.height
    assert axis.low <= 0.031 < 0.384 <= axis.high
    assert panel.at(0.1, 0.25) == pytest.approx(
        (
            left + (0.1 - axis.low) / (axis.high - axis.low) * (right - left),
            bottom + (0.25 - panel.y.low) / (panel.y.high - panel.y.low) * (top - bottom),
        )
    )
    same = round_axis("x", [0.5, 0.5])
    assert same.low < 0.5 < same.high


def test_det_axes_are_normal_deviates():
    rates = [0.001, 0.02, 0.3, 0.9]
    curve = {"model": "a", "representation": "u", "eer": 0.2}
    curve |= {"false_acceptance": rates[::-1], "false_rejection": rates}
    drawing = drawings.det_panel([curve], {"a": LOOK})
    (x, y), _ = marks_of(drawing, "h0")  # the other is in the key
    way = [part for part in re.findall(r'd="M([^"]+)"', drawing) if part.count("L") == 3][0]
    points = [tuple(map(float, point.split())) for point in way.split("L")]
    (right, bottom), (left, top) = points[0], points[-1]
    deviates = norm.ppf([*rates, 0.2])
    shares = (deviates - deviates[0]) / (deviates[3] - deviates[0])
    assert [p[0] for p in points] == pytest.approx(left + shares[3::-1] * (right - left), abs=0.1)
    assert [p[1] for p in points] == pytest.approx(bottom + shares[:4] * (top - bottom), abs=0.1)
    expected = left + shares[4] * (right - left), bottom + shares[4] * (top - bottom)
    assert (x, y) == pytest.approx(expected, abs=0.1)
    assert right - left == pytest.approx(bottom - top)


def test_a_curve_over_layers_is_at_its_values():
    base = other_figure("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0)
    values = [0.0, 0.25, 0.5]
    figures = [{**base, "layer": n, "value": v, "interval": None} for n, v in enumerate(values)]
    first, second, third = marks_of(drawings.layer_panel(figures[::-1], {"a": LOOK}), "h0")
    assert first[0] < second[0] < third[0] and first[1] > second[1] > third[1]
    assert second == pytest.approx(np.mean([first, third], axis=0), abs=0.1)


def test_the_name_of_chance_is_where_curves_are_not():
    base = other_figure("a", "frame", "leakage", "phone", "balanced accuracy", "%", 0, chance=0.1)
    for values, anchor in (([0.9, 0.12], "start"), ([0.12, 0.9], "end")):
        figures = [{**base, "layer": n, "value": v} for n, v in enumerate(values)]
        drawing = drawings.layer_panel(figures, {"a": LOOK})
        assert f'text-anchor="{anchor}">chance<' in drawing


def test_single_layers_of_several_models_are_no_curve(tmp_path):
    figures = [
        {**other_figure(name, "frame", "retrieval", "phone", "ABX error", "%", 0.1), "layer": layer}
        for name, layer in (("FBANK", 0), ("joint", 2))
    ]
    text = Page({"figures": figures}, tmp_path).text("layers")
    assert "no figure of several layers" in text


def test_better_is_up_and_to_the_right_of_the_trade_off():
    for content, speaker in (
        (("balanced accuracy", 0.6, 0.5), ("balanced accuracy", 0.1, 0.4)),
        (("ABX error across, cosine", 0.1, 0.2), ("EER", 0.4, 0.1)),
    ):
        entries = [
            {
                "model": name,
                "beta": None,
                "content": {"measure": content[0], "value": content[place]},
                "speaker": {"measure": speaker[0], "value": speaker[place]},
            }
            for place, name in ((1, "good"), (2, "bad"))
        ]
        good, bad = marks_of(drawings.tradeoff_panel(entries, {"good": LOOK, "bad": LOOK}), "h0")
        assert good[0] > bad[0] and good[1] < bad[1]


def test_bounds_are_drawn_between_independent_and_identical_pairs(report):
    figures = [f for f in report["figures"] if f["group"] == "information"][:3]
    row = {figure["measure"]: figure for figure in figures}
    drawing = drawings.sandwich({("joint", "", ""): row}, ("InfoNCE", "CLUB"))
    (lower,), (upper,) = (marks_of(drawing, f"m{way}z") for way in ("-3-5l8 5-8 5", "3-5l-8 5 8 5"))
    square = re.search(r"M([\d.]+) ([\d.]+)m-3.5-3.5h", drawing)
    ring = re.search(r"M([\d.]+) ([\d.]+)m-3.5 0a", drawing)
    assert float(ring[1]) < lower[0] < float(square[1]) and lower[0] < upper[0]
    assert float(ring[2]) == float(square[2]) == lower[1] < upper[1]


def test_nats_take_as_much_room_for_each_tenfold():
    axis = drawings._information_axis("nats", [-0.02, 150.0])
    places = [axis.place(value) for value in (0.5, 5, 50)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], rel=0.01)
    assert set(axis.ticks.values()) == {"0", "0.1", "1", "10", "100"}


def test_a_map_keeps_shape_and_order():
    entry = {"model": "a", "representation": "frame", "points": [[0, 0], [4, 1], [2, 3]]}
    looks = {"x": LOOK, "y": Look("#D55E00", None, "square")}
    drawing = drawings.map_panel({**entry, "phone": ["x", "y", "z"]}, "phone", looks)
    first, highest, last = sorted(marks_of(drawing, "h0") + marks_of(drawing, "m-3.5-3.5h7v7h-7z"))
    assert last[0] - first[0] == pytest.approx(2 * (highest[0] - first[0]), abs=1)
    assert first[1] - highest[1] == pytest.approx(3 * (first[1] - last[1]), abs=3)
    assert drawing.count("<path") == 3


def test_eight_classes_have_each_a_look_and_maps_of_a_kind_are_together(tmp_path):
    entry = {"points": [[n, n] for n in range(8)], "speaker": [f"s{n}" for n in range(8)]}
    maps = [
        {**entry, "model": model, "representation": representation}
        for model in ("a", "b")
        for representation in ("frame", "utterance")
    ]
    page = Page({"maps": maps}, tmp_path)
    captions = re.findall(r"<figcaption>(\w)<small>(\w+)", page.html)
    assert captions == [("a", "frame"), ("b", "frame"), ("a", "utterance"), ("b", "utterance")]
    looks = set(re.findall(r'fill="(none|#\w+)" stroke="(#\w+)"', page.html.split('id="maps"')[1]))
    assert len(looks) == 8 and "other speakers" not in page.text("maps")


def test_every_mark_is_printed():
    """A line of no length has no square end in PDF."""
    dots = [ends for way, _, ends in SHAPES.values() if way == "h0"]
    assert set(dots) == {"round"} and "square" not in {ends for _, _, ends in SHAPES.values()}


def test_labels_of_points_do_not_overlap():
    panel = Panel("", Axis("x", 0, 1), Axis("y", 0, 1, {0: "0"}))
    bars = [[(0.5, 0.4), (0.5, 0.6)], [(0.5, 0.53), (0.7, 0.53)]]
    drawings._label_points(panel, [((0.5, 0.5 + 0.01 * n), f"model {n}") for n in range(4)], bars)
    places = [re.search(r'x="([\d.]+)" y="([\d.]+)"', part).groups() for part in panel.parts]
    boxes = [(float(x), float(y) - 9, float(x) + 40, float(y)) for x, y in places]
    for (left, low), (right, high) in ([panel.at(*end) for end in ends] for ends in bars):
        boxes.append((left, min(low, high), right, max(low, high)))
    texts = enumerate(boxes[:4])
    assert not any(drawings._overlap(a, b) for n, a in texts for b in boxes[n + 1 :])


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LOOKER = """<!DOCTYPE html><html><body>
<iframe id="narrow" style="width:400px;height:900px;border:0" src="report.html"></iframe>
<iframe id="wide" style="width:1400px;height:900px;border:0" src="report.html"></iframe>
<pre id="seen"></pre><script>addEventListener("load", () => {
  const seen = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument;
    for (const part of page.querySelectorAll("details")) part.open = true;
    const drawings = [...page.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect());
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
