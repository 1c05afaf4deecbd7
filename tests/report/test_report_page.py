"""The page of a report holds every figure and picture, names what is missing and loads nothing."""

import base64
import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from recipes.common.report import page as pages
from recipes.common.report.page import write_page
from recipes.common.report.wording import bare, number, span
from tests.report.made_report import CONTROLS, MODELS, OPTIONAL, comparison, figure_of, make_report

pytestmark = pytest.mark.long

SECTIONS = ("read", "leakage", "layers", "maps", "retrieval", "information", "tradeoff")
SECTIONS += ("comparisons", "figures", "notes", "missing")
SVG = "{http://www.w3.org/2000/svg}"
EVIL = """<script>alert(1)</script>"'&$x^{$<img src=x onerror=alert(2)>"""


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


def test_rivals_stand_between_models_and_controls_and_in_no_curve(small, tmp_path):
    name, figures = "joint: nothing of it", [f for f in small["figures"] if f["model"] == "joint"]
    unknown = {"folder": None, "beta": None, "train_seed": None, "frame_norm": None}
    rival = {"name": name, "kind": "rival", **unknown}
    joint, *controls = small["models"]
    layers = [
        {**figures[0], "layer": layer, "representation": f"frame, layer {layer}"}
        for layer in (0, 1)
    ]
    report = {
        **small,
        "models": [joint, rival, *controls],
        "figures": [
            *small["figures"],
            *layers,
            *({**f, "model": name} for f in [*figures, layers[1]]),
        ],
    }
    page = Page(report, tmp_path)
    text = page.text("leakage")
    heads = ["joint", "Rivals: the last layer of a model", name, "Controls: what features", "FBANK"]
    places = [text.index(head, text.index("chance")) for head in heads]
    assert places == sorted(places)
    assert text.count("Rivals: the last layer") == text.count("Controls: what") == 2  # two tables
    assert "rival in closed form" in page.text("read") and name not in page.text("layers")


def test_every_figure_is_in_the_table_with_all_that_is_known_of_it(page, report):
    part = page.html.split('id="figures"')[1].split("</section>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    assert len(rows) == 1 + len(report["figures"])
    for row, figure in zip(rows[1:], report["figures"], strict=True):
        shown = [number(figure["value"], figure["unit"]), span(figure["interval"], figure["unit"])]
        shown += [bare(figure[n], figure["unit"]) for n in ("chance", "control", "selectivity")]
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        assert cells[1:6] == shown and cells[6] == "24"
        for name in ("model", "representation", "factor"):
            assert figure[name] in row
        assert figure["measure"].replace("R2", "R\u00b2") in row and (figure["probe"] or "") in row
        assert ", ".join(bare(x, figure["unit"]) for x in figure["values"]) in cells[7]


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
    rows = [
        {**comparison("b", 0.06, None), "interval": ends} for ends in ([0.02, 0.1], [-1, 1], None)
    ]
    assert [pages._judged(row)["apart"] for row in rows] == [True, False, None]


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
    fixed = ("group", "kind", "unit", "better", "measure")
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
    "maps": ("maps", "no two-dimensional map"),
    "tradeoff": ("tradeoff", "no model whose content and speaker"),
    "comparisons": ("comparisons", "compares no two models"),
    "missing": ("missing", "names nothing that was left out"),
}


@pytest.mark.parametrize("part", MISSING)
def test_what_is_missing_is_named(small, part, tmp_path):
    section, text = MISSING[part]
    assert text in Page({**small, part: []}, tmp_path).text(section)


@pytest.mark.parametrize("group", ("leakage", "retrieval", "information"))
def test_a_missing_group_of_figures_is_named(small, group, tmp_path):
    kept = [figure for figure in small["figures"] if figure["group"] != group]
    page = Page({**small, "figures": kept}, tmp_path)
    assert "The report has no" in page.text(group)


def test_a_report_of_one_model_has_every_picture_and_is_the_same_again(report, tmp_path):
    one = only(report, ("joint",))
    before = copy.deepcopy(one)
    page = Page(one, tmp_path)
    assert len(page.all("figure")) == 4 + 4 + 2 + 2 + 1
    assert one == before
    assert Page(json.loads(json.dumps(one)), tmp_path).html == page.html


@pytest.mark.parametrize("key", OPTIONAL)
def test_a_figure_may_lack_what_not_every_measure_has(small, key, tmp_path):
    figures = [{**figure, key: None} for figure in small["figures"]]
    page = Page({**small, "figures": figures}, tmp_path)
    assert "nan" not in page.html and "None" not in page.html


def test_maps_without_phones_say_so(report, small, tmp_path):
    maps = [{**entry, "phone": None} for entry in report["maps"]]
    text = Page({**small, "models": report["models"], "maps": maps}, tmp_path).text("maps")
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


def test_bounds_that_cross_are_pointed_out(report, small, page, tmp_path):
    assert "cross" not in page.text("information")
    figures = [f for f in report["figures"] if f["group"] == "information"][:3]
    figures[0] = {**figures[0], "value": 50.0}
    text = Page({**small, "figures": figures}, tmp_path).text("information")
    assert "The bounds cross for joint:" in text


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


def test_controls_are_below_the_models_and_apart(page):
    table = page.html.split('class="heat"')[1].split("</table>")[0]
    names = [*MODELS, "Controls: ", *CONTROLS]
    places = [table.index(f"<span>{name}") for name in names]
    assert places == sorted(places)


def test_single_layers_of_several_models_are_no_curve(small, tmp_path):
    figures = [
        {**figure_of(name, "frame", "retrieval", "phone", "ABX error", "%", 0.1), "layer": layer}
        for name, layer in (("FBANK", 0), ("joint", 2))
    ]
    text = Page({**small, "figures": figures}, tmp_path).text("layers")
    assert "no figure of several layers" in text


def test_eight_classes_have_each_a_look_and_maps_of_a_kind_are_together():
    entry = {"points": [[n, n] for n in range(9)], "speaker": [f"s{n}" for n in range(9)]}
    entry["phone"] = None
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
