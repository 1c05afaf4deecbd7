"""The page of a disentanglement report: one HTML file that opens from disk and loads nothing.

Figures are inline SVG, without a script, and a policy in the page forbids all others. Whatever is
missing in a report is named in the place where it would be shown.
"""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

from recipes.common.evaluation.drawing import COLOURS
from recipes.common.report.drawings import (
    NONE,
    OTHER,
    bare,
    det_panel,
    excludes_zero,
    forest,
    heat_key,
    heat_map,
    layer_panel,
    map_panel,
    named,
    number,
    sandwich,
    sandwich_key,
    span,
    tradeoff_panel,
    unit_of,
)
from recipes.common.report.svg import (
    Look,
    Markup,
    dot,
    element,
    joined,
    listed,
    scrolling,
    swatch,
    under,
)

DASHES = (None, "7 3", "2 3", "9 3 2 3")
MODEL_SHAPES = ("circle", "square", "triangle", "diamond", "down")
CONTROL_LOOKS = (Look("#4d545c", "1 3", "cross"), Look("#7b838d", "4 4", "plus"))
CLASS_COLOURS = (*COLOURS, "#882255")
CLASS_SHAPES = ("circle", "square", "triangle", "diamond", "down", "plus", "cross", "ring")
FEW_REASONS = 6  # more are in a part that is closed at first
FACTORS_OF_MAPS = {"phone": "phones", "speaker": "speakers"}
FIGURE = {
    **dict.fromkeys(("layer", "probe", "interval", "chance", "control", "selectivity", "better")),
    **dict.fromkeys(("value", "speakers", "independent", "identical")),
    **{"representation": "", "group": "", "factor": "", "measure": "", "unit": ""},
}
COMPARISON = {
    **dict.fromkeys(("difference", "interval", "relative", "probe")),
    **{"representation": "", "factor": "", "measure": "", "speakers": NONE, "seeds": []},
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { --ink: #1b1f24; --soft: #59616b; --line: #dfe3e8; --wash: #f6f8fa; --accent: #0b5394; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.55;
  font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere; }
.page { max-width: 74rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.25; margin: 0; text-wrap: balance; }
h1 { font-size: 1.05rem; font-weight: 600; color: var(--soft); }
h2 { font-size: 1.5rem; font-weight: 650; letter-spacing: -0.01em; }
h3 { font-size: 1rem; font-weight: 650; margin: 2rem 0 0.5rem; }
p, ul, dl { margin: 0.6rem 0; }
p, li, dd { max-width: 46rem; }
section { margin-top: 3.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.corpus, .note, .missing, small, footer { color: var(--soft); }
.corpus { margin: 0.1rem 0 0; }
.verdict { margin-top: 2rem; padding: 0 0 0 1.25rem; border: 0;
  border-left: 5px solid var(--accent); }
.verdict .mark { font-size: 0.95rem; font-weight: 600; color: var(--accent); margin: 0 0 0.5rem; }
.verdict .first { font-size: clamp(1.25rem, 1rem + 1.4vw, 1.8rem); line-height: 1.25;
  font-weight: 650; letter-spacing: -0.015em; margin: 0 0 0.8rem; max-width: 50rem; }
.verdict .second { font-size: clamp(1.05rem, 1rem + 0.3vw, 1.2rem); line-height: 1.45; }
.verdict .first span { display: block; font-size: 0.75em; font-weight: 500; letter-spacing: 0;
  line-height: 1.35; margin-top: 0.5rem; }
.verdict li { font-size: 0.95rem; }
ul { padding-left: 1.15rem; }
li { margin: 0.3rem 0; }
nav { margin-top: 2.5rem; font-size: 0.92rem; }
nav ol { display: flex; flex-wrap: wrap; gap: 0.15rem 1.3rem; list-style: none; margin: 0;
  padding: 0; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
.missing { padding: 0.8rem 1rem; background: var(--wash); border-radius: 6px; }
.caution { padding: 0.8rem 1rem; border-left: 4px solid #d55e00; background: #fff6ee; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 1rem 1.5rem; margin: 1.2rem 0; }
.facts dt { color: var(--soft); font-size: 0.88rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; line-height: 1.35; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: 0.86rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th { text-align: left; font-weight: 600; }
th small, td small { display: block; font-weight: 400; font-size: 0.75rem; }
.list th, .list td { padding: 0.38rem 0.9rem 0.38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.list thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
.list .number { text-align: right; }
.list td:nth-child(2) { min-width: 6.5rem; }
.list tbody th { font-weight: 400; min-width: 5.5rem; }
.list .seeds { white-space: nowrap; }
.heat { border-collapse: separate; border-spacing: 2px; }
.heat th { padding: 0.2rem 0.6rem 0.2rem 0; vertical-align: bottom; background: #fff; }
.heat thead th { text-align: center; padding: 0.2rem 0.3rem; }
.heat thead tr + tr th { white-space: nowrap; }
.heat tbody th[scope=row] { position: sticky; left: 0; font-weight: 400; vertical-align: middle;
  white-space: nowrap; }
.heat tbody th[scope=rowgroup] { padding-top: 0.9rem; }
.heat tbody th span { position: sticky; left: 0; display: inline-block;
  max-width: calc(100vw - 2.5rem); }
.heat td { min-width: 4.4rem; padding: 0.32rem 0.3rem; text-align: center; border-radius: 3px;
  white-space: nowrap; box-shadow: inset 0 0 0 1px rgba(27, 31, 36, 0.08);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.heat td small { color: inherit; }
.heat td i { font-style: normal; font-size: 0.6rem; margin-right: 0.25em; }
.heat .none { box-shadow: none; color: var(--soft); }
.heat tbody.controls th { padding-top: 1.5rem; color: var(--accent); }
.heat .controls span { border-top: 2px solid; padding-top: 0.5rem; }
.heat .controls + tbody th[scope=rowgroup] { padding-top: 0.2rem; }
.key { display: flex; flex-wrap: wrap; gap: 0.35rem 1.3rem; list-style: none; padding: 0;
  margin: 0.9rem 0; font-size: 0.86rem; }
.key li { display: flex; align-items: center; gap: 0.45rem; margin: 0; }
svg.swatch { width: 32px; height: 14px; flex: none; }
svg.dot { width: 14px; height: 14px; flex: none; }
.list th:has(.swatch) { white-space: nowrap; }
.list .swatch { display: inline-block; margin-right: 0.5rem; vertical-align: -0.15em; }
.ramp { display: inline-flex; }
.ramp span { width: 1.1rem; height: 0.9rem; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr));
  gap: 1.6rem 1.4rem; margin: 1.2rem 0; }
.panels.large { grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.panels.small { grid-template-columns: repeat(auto-fill, minmax(min(14rem, 46%), 1fr));
  gap: 1rem; }
figure { margin: 0; break-inside: avoid; min-width: 0; }
figcaption { font-size: 0.9rem; font-weight: 600; margin-bottom: 0.35rem; }
figcaption small { display: block; font-weight: 400; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: #434b55; font-variant-numeric: tabular-nums; }
svg text.label { fill: #1b1f24; }
svg text.name { font-size: 12px; font-weight: 600; fill: #1b1f24; stroke: #fff;
  stroke-width: 3px; stroke-linejoin: round; paint-order: stroke; }
svg.map { border: 1px solid var(--line); border-radius: 4px; }
svg.forest { width: 9rem; height: 1.1rem; }
summary { cursor: pointer; color: var(--accent); margin: 1rem 0; }
code { font-size: 0.85em; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: 0.85rem; }
.facts.small dd { font-size: 0.9rem; font-weight: 400; }
@media (max-width: 30rem) {
  .page { padding: 1.5rem 1rem 3rem; }
  .verdict { padding-left: 0.9rem; }
  .heat tbody th[scope=row] { white-space: normal; font-size: 0.8rem; }
  .list th, .list td { padding-right: 0.55rem; }
}
@media print {
  @page { size: A4; margin: 13mm 12mm; }
  body { font-size: 9.5pt; }
  .page { max-width: none; padding: 0; }
  nav { display: none; }
  section { margin-top: 1.6rem; padding-top: 0.9rem; }
  h2, h3, .note, .key, .heat .controls { break-after: avoid; }
  tr, .heat tbody, .key, li, p { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 6.8pt; }
  th small, td small { font-size: 5.6pt; }
  .heat td { min-width: 0; padding: 0.15rem; }
  .heat tbody th[scope=row] { position: static; }
  .heat td i { font-size: 5pt; margin-right: 0.1em; }
  .list th, .list td { padding: 0.15rem 0.5rem 0.15rem 0; }
  .panels { grid-template-columns: repeat(3, 1fr); gap: 0.8rem; }
  .panels.large { grid-template-columns: repeat(2, 1fr); }
  .panels.small { grid-template-columns: repeat(4, 1fr); }
  details::details-content { content-visibility: visible; height: auto; }
  summary { color: var(--ink); list-style: none; break-after: avoid; }
}
"""


def write_page(report, path):
    """Write the page of a report: a single HTML file, which is the same for the same report.

    Arguments
    ---------
    report : dict
        As report.json holds it: `title`, `corpus`, `verdict`, `read_on`, `models`, `figures`,
        `maps`, `det`, `comparisons`, `tradeoff`, `notes`, `missing`, `seeds`, `date`, `commit`,
        `versions`, `seconds`, `data`. Any of them may be missing, and then the page says so.
    path : str or Path
        The HTML file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "report.html"
    >>> write_page({"title": "A <script> reads as one"}, path)
    >>> "<h1>A &lt;script&gt; reads as one</h1>" in path.read_text(encoding="utf-8")
    True
    """
    report = _complete(report)
    sections = [
        element("section", element("h2", heading), part(report), id=name)
        for name, heading, part in SECTIONS
    ]
    links = [element("li", element("a", h, href=f"#{name}")) for name, h, _ in SECTIONS]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", report["title"]),
        element("style", Markup(STYLE)),
    )
    main = element("main", *sections)
    nav = element("nav", element("ol", *links), aria_label="Contents")
    page = element("div", _header(report), nav, main, _footer(report), class_="page")
    html = element("html", head, element("body", page), lang="en")
    Path(path).write_text(f"<!DOCTYPE html>\n{html}\n", encoding="utf-8")


def _complete(report):
    """Return a report with all parts, models that only figures name, and each model's look."""
    empty = {"title": "Disentanglement report", "verdict": {}, "read_on": {}, "notes": {}}
    lists = ("models", "figures", "maps", "det", "comparisons", "tradeoff", "missing", "seeds")
    parts = {**empty, **{name: [] for name in lists}}
    given = {name: part for name, part in report.items() if part is not None}
    report = {**parts, **given}
    for part in ("figures", "comparisons", "tradeoff"):
        report[part] = _finite(report[part])
    report["figures"] = [{**FIGURE, **figure} for figure in report["figures"]]
    report["comparisons"] = [{**COMPARISON, **entry} for entry in report["comparisons"]]
    listed = {model["name"]: model for model in report["models"]}
    for part in ("figures", "maps", "det", "tradeoff"):
        for entry in report[part]:
            listed.setdefault(entry["model"], {"name": entry["model"]})
    models = [{"kind": "model", **model} for model in listed.values()]
    report["models"] = sorted(models, key=lambda model: model["kind"] != "model")
    cycles = (itertools.cycle(part) for part in (COLOURS[:-1], DASHES, MODEL_SHAPES))
    ours, controls = map(Look, *cycles), itertools.cycle(CONTROL_LOOKS)
    report["looks"] = {
        model["name"]: next(ours if model["kind"] == "model" else controls)
        for model in report["models"]
    }
    return report


def _finite(part):
    """Return a part of a report with None for what is not finite, and for intervals with such."""
    if isinstance(part, dict):
        part = {name: _finite(value) for name, value in part.items()}
        if None in (part.get("interval") or ()):
            part["interval"] = None
        return part
    if isinstance(part, (list, tuple)):
        return [_finite(value) for value in part]
    return None if isinstance(part, float) and not math.isfinite(part) else part


def _missing(text):
    return element("p", text, class_="missing")


def _probed(measure, probe):
    return f"{named(measure)}, {probe}" if probe else named(measure)


def _facts(pairs, class_="facts"):
    """Return terms and what is known of each."""
    rows = [element("div", element("dt", term), element("dd", fact)) for term, fact in pairs]
    return element("dl", *rows, class_=class_)


def _table(label, heads, rows, numbers=()):
    """Return a table: its first column is of row heads, those at `numbers` are set to the right."""

    classes = ["number" if place in numbers else None for place in range(len(heads))]
    head = [
        element("th", text, scope="col", class_=class_)
        for text, class_ in zip(heads, classes, strict=True)
    ]
    body = []
    for row in rows:
        cells = zip(row[1:], classes[1:], strict=True)
        cells = [element("td", value, class_=class_) for value, class_ in cells]
        body.append(element("tr", element("th", row[0], scope="row"), *cells))
    head = element("thead", element("tr", *head))
    return scrolling(element("table", head, element("tbody", *body), class_="list"), label)


def _model_key(report, names):
    """Return the key of the models that a figure shows."""
    shown = {name: look for name, look in report["looks"].items() if name in names}
    return listed([joined(swatch(look), name) for name, look in shown.items()], class_="key")


def _header(report):
    """Return the title, the verdict and its reasons."""
    verdict = report["verdict"]
    title = element("h1", report["title"]), element("p", report.get("corpus", ""), class_="corpus")
    sentences = verdict.get("sentences") or []
    if not sentences:
        return element("header", *title, _missing("The report has no verdict."))
    mark = {
        True: "\u2713 The figures support disentanglement",
        False: "\u2717 The figures do not support disentanglement",
        None: "? The figures do not decide: there is no control to compare with",
    }[verdict.get("supports")]
    short, colon, rest = sentences[0].partition(": ")
    first = element("p", short, colon, element("span", rest), class_="first")
    parts = [element("p", mark, class_="mark"), first]
    parts += [element("p", sentence, class_="second") for sentence in sentences[1:]]
    reasons = verdict.get("reasons") or []
    if reasons:
        few = "" if len(reasons) <= FEW_REASONS else None
        summary = element("summary", f"Reasons ({len(reasons)})")
        parts.append(element("details", summary, listed(reasons), open=few))
    else:
        parts.append(_missing("The report gives no reasons."))
    return element("header", *title, element("div", *parts, class_="verdict"))


def _read(report):
    """Return what was read, and the models."""
    read = report["read_on"]
    facts = [("Splits", ", ".join(read["splits"]))] if read.get("splits") else []
    facts += [(n.title(), f"{read[n]:,}") for n in ("speakers", "utterances") if n in read]
    if read.get("seconds") is not None:
        facts.append(("Speech", f"{read['seconds'] / 60:.1f}\u00a0min"))
    parts = [] if facts else [_missing("The report does not say what was read.")]
    if report["seeds"]:
        facts.append(("Seeds", ", ".join(map(str, report["seeds"]))))
    parts.append(_facts(facts))
    if read.get("sessions_told_apart") is False:
        caution = (
            "All recordings of a speaker count as one session here. What reads as the speaker may "
            "be the room, the microphone or the day of the recording: no figure of this page tells "
            "them apart."
        )
        parts.append(element("p", element("strong", "Caution. "), caution, class_="caution"))
    if not report["models"]:
        return joined(*parts, _missing("The report names no models."))
    kinds = {"model": "model", "fbank": "control: FBANK", "random": "control: random weights"}
    rows = [
        (
            joined(swatch(report["looks"][model["name"]]), model["name"]),
            kinds.get(model["kind"], model["kind"]),
            NONE if model.get("beta") is None else f"{model['beta']:g}",
            NONE if model.get("train_seed") is None else model["train_seed"],
            model.get("folder") or NONE,
        )
        for model in report["models"]
    ]
    heads = ("Model", "Kind", "\u03b2", "Training seed", "Folder")
    return joined(*parts, _table("Models", heads, rows, numbers=(2, 3)))


def _leakage(report):
    """Return the leakage matrix; layers are in a part of their own that opens."""
    figures = [figure for figure in report["figures"] if figure["group"] == "leakage"]
    if not figures:
        return _missing("The report has no figure of a probe.")
    note = (
        "How well a linear probe and a small network (mlp) read each factor, on speakers that they "
        "were not fitted on (on further utterances where the factor is the speaker), with the "
        "95\u00a0% interval below. Where the "
        "two representations are apart, frame rows are dark blue under phone and pale under "
        "speaker, and utterance rows the other way round. Orange is leakage. The colour goes from "
        "chance, palest, to all that can be told, darkest; white is without a chance that is "
        "known. Bold is more than chance by its whole interval."
    )
    return joined(element("p", note, class_="note"), heat_key(), *_matrices(report, figures))


def _matrices(report, figures):
    """Yield a heat map with the last layers, and one of all layers in a part that opens."""
    group, layers, last = figures[0]["group"], [], {}
    for figure in figures:
        if figure["layer"] is not None:
            layers.append(figure)
            last[figure["model"]] = max(last.get(figure["model"], 0), figure["layer"])
    short = [f for f in figures if f["layer"] in (None, last.get(f["model"]))]
    yield heat_map(report["models"], short, f"Figures of {group}")
    if len(short) < len(figures):
        summary = element("summary", "All layers (above is the last of each model)")
        matrix = heat_map(report["models"], layers, f"Figures of {group} for each layer")
        yield element("details", summary, matrix)


def _layers(report):
    """Return curves over layers: a panel for each factor, measure and probe."""
    groups = {}
    for figure in report["figures"]:
        if figure["layer"] is not None and figure["value"] is not None:
            key = figure["factor"], figure["measure"], figure["probe"]
            groups.setdefault(key, []).append(figure)
    most = [max(Counter(f["model"] for f in own).values()) for own in groups.values()]
    groups = [own for own, layers in zip(groups.values(), most, strict=True) if layers > 1]
    if not groups:
        return _missing("The report has no figure of several layers.")
    note = (
        "From the first layer to the last, each model a line, with its 95\u00a0% interval as a "
        "band; the thin grey line is chance. A frame encoder that sheds the speaker falls towards "
        "chance under speaker while phone stays up. A control of one layer is a single mark."
    )
    panels = [layer_panel(own, report["looks"]) for own in groups]
    key = _model_key(report, [figure["model"] for own in groups for figure in own])
    panels = element("div", *panels, class_="panels")
    return joined(element("p", note, class_="note"), key, panels)


def _maps(report):
    """Return the maps: each coloured by phone and by speaker."""
    entries = [entry for entry in report["maps"] if entry.get("points")]
    if not entries:
        return _missing("The report has no two-dimensional map.")
    order = [entry["representation"] for entry in entries]
    entries.sort(key=lambda entry: order.index(entry["representation"]))
    methods = " and ".join(dict.fromkeys(e["method"] for e in entries if e.get("method")))
    note = (
        "Each point is a frame, or an utterance, laid out in a plane"
        + (f" ({methods})" if methods else "")
        + ". A frame representation without the speaker has islands of one phone, in which all "
        "speakers' colours mix; an utterance representation has islands of one speaker. What a map "
        "shows is no proof: distances between islands mean little."
    )
    parts = [element("p", note, class_="note")]
    for factor, plural in FACTORS_OF_MAPS.items():
        told = [entry for entry in entries if entry.get(factor)]
        if not told:
            parts.append(_missing(f"No map is coloured by {factor}: its {plural} are not known."))
            continue
        counts = Counter(label for entry in told for label in entry[factor])
        frequent = sorted(counts, key=lambda label: (-counts[label], str(label)))
        looks = {
            label: Look(colour, None, shape)
            for label, colour, shape in zip(frequent, CLASS_COLOURS, CLASS_SHAPES, strict=False)
        }
        rest = len(counts) - len(looks)
        parts += [element("h3", f"By {factor}"), _map_key(looks, plural, rest)]
        panels = [map_panel(entry, factor, looks) for entry in told]
        parts.append(element("div", *panels, class_="panels small"))
    return joined(*parts)


def _map_key(looks, plural, rest):
    """Return the key of the classes that have a colour in the maps."""
    entries = [joined(dot(look), label) for label, look in looks.items()]
    if rest:
        entries.append(joined(dot(OTHER), f"other {plural} ({rest})"))
    return listed(entries, class_="key")


def _retrieval(report):
    """Return what is read without a probe: a heat map, and DET curves of each representation."""
    figures = [figure for figure in report["figures"] if figure["group"] == "retrieval"]
    parts = []
    if figures:
        note = (
            "Distances alone, without a probe: whether two recordings of a speaker are nearer "
            "than those of two speakers (EER), whether a sentence is nearer to itself by another "
            "speaker than to another by the same speaker, and whether phones are told apart in "
            "triplets (ABX). Colours are those of the leakage matrix: of an error, the lower, the "
            "darker."
        )
        parts += [element("p", note, class_="note"), *_matrices(report, figures)]
    else:
        parts.append(_missing("The report has no figure of retrieval."))
    parts.append(element("h3", "Detection error tradeoff"))
    curves = {}
    for curve in report["det"]:
        if curve.get("false_acceptance"):
            curves.setdefault(curve["representation"], []).append(curve)
    if not curves:
        return joined(*parts, _missing("The report has no detection error tradeoff curve."))
    note = (
        "Trials of same against different speakers, on normal-deviate axes; a mark is at the equal "
        "error rate. Curves near the lower left tell speakers apart: wanted of the utterance "
        "representation, leakage in the frame representation, where 50\u00a0% is chance."
    )
    panels = [det_panel(own, report["looks"]) for own in curves.values()]
    panels = element("div", *panels, class_="panels")
    return joined(*parts, element("p", note, class_="note"), panels)


def _information(report):
    """Return the bounds on the mutual information, the likelihood gain and their scales."""
    figures = [f for f in report["figures"] if f["group"] == "information"]
    figures = [f for f in figures if f["value"] is not None]
    if not figures:
        return _missing("The report has no estimate of mutual information.")
    figures.sort(key=lambda figure: list(report["looks"]).index(figure["model"]))
    rows = {}
    for figure in figures:
        name = figure["model"], figure["representation"], figure["factor"]
        rows.setdefault(name, {})[figure["measure"]] = figure
    note = (
        "How much the two representations tell of each other, on speakers that no encoder saw. "
        "InfoNCE is a lower bound; CLUB is an upper one as far as its critic fits, which the "
        "likelihood gain shows. Each has its own scale: the ring is what it reads of independent "
        "pairs (utterances shuffled), the square what it reads of identical ones. Disentangled "
        "representations are near the ring."
    )
    panels = [
        sandwich(rows, measures)
        for measures in (("InfoNCE", "CLUB"), ("likelihood gain",))
        if any(measure in row for row in rows.values() for measure in measures)
    ]
    return joined(
        element("p", note, class_="note"),
        *_crossed(rows),
        sandwich_key(),
        element("div", *panels, class_="panels large"),
        _information_table(figures),
    )


def _crossed(rows):
    """Yield a caution where an upper bound is below the lower one."""
    both = {name: row for name, row in rows.items() if {"InfoNCE", "CLUB"} <= row.keys()}
    names = [n[0] for n, row in both.items() if row["InfoNCE"]["value"] > row["CLUB"]["value"]]
    if names:
        text = (
            f"The bounds cross for {', '.join(dict.fromkeys(names))}: CLUB reads less than "
            "InfoNCE, so its critic is underfit there and bounds nothing."
        )
        yield element("p", element("strong", "Caution. "), text, class_="caution")


def _information_table(figures):
    """Return the figures of mutual information beside those of independent and identical pairs."""
    rows = []
    for figure in figures:
        unit, ends = figure["unit"], (figure["independent"], figure["identical"])
        share = None
        if None not in ends and ends[0] != ends[1]:
            share = (figure["value"] - ends[0]) / (ends[1] - ends[0])
        rows.append(
            (
                under(figure["model"], figure["representation"]),
                under(figure["measure"], unit),
                bare(figure["value"], unit),
                span(figure["interval"], unit),
                *(bare(end, unit) for end in ends),
                number(share, "%"),
            )
        )
    heads = ("Model", "Measure", "Value", "95\u00a0% interval", "Independent", "Identical")
    heads += ("Place between",)
    return _table("Mutual information", heads, rows, numbers=range(2, 7))


def _tradeoff(report):
    """Return content kept against speaker removed: a panel for each pair of measures."""
    groups = {}
    for entry in report["tradeoff"]:
        told = [(entry.get(part) or {}).get("value") for part in ("content", "speaker")]
        if None not in told:
            key = entry["content"]["measure"], entry["speaker"]["measure"]
            groups.setdefault(key, []).append(entry)
    if not groups:
        return _missing("The report has no model whose content and speaker figures can be drawn.")
    note = (
        "Each model is a point with its 95\u00a0% intervals: the higher, the more content is kept; "
        "the further right, the more of the speaker is removed. Disentanglement moves up or right "
        "without loss of the other; moving down and right is a trade. A line joins models in the "
        "order of their \u03b2."
    )
    panels = [tradeoff_panel(own, report["looks"]) for own in groups.values()]
    key = _model_key(report, [e["model"] for entries in groups.values() for e in entries])
    panels = element("div", *panels, class_="panels large")
    return joined(element("p", note, class_="note"), key, panels)


def _comparisons(report):
    """Return the differences between models, and whether their intervals hold 0."""
    entries = [entry for entry in report["comparisons"] if entry["difference"] is not None]
    if not entries:
        return _missing("The report compares no two models.")
    sure = [entry["interval"] for entry in entries if entry["interval"]]
    note = (
        f"The first less the second, on the same speakers. {sum(map(excludes_zero, sure))} of "
        f"{len(sure)} intervals exclude 0; were there no difference at all, about "
        f"{0.05 * len(sure):.1f} would. Drawings go as far as the widest interval of the unit."
    )
    pairs, reach = {}, {}
    for entry in entries:
        pairs.setdefault((entry["first"], entry["second"]), []).append(entry)
        unit = unit_of(entry["measure"])
        ends = (entry["difference"], *(entry["interval"] or ()))
        reach[unit] = max(reach.get(unit, 1e-9), *map(abs, ends))
    parts = [
        _pair(*pair, own, reach, open_=not place) for place, (pair, own) in enumerate(pairs.items())
    ]
    return joined(element("p", note, class_="note"), *parts)


def _pair(first, second, entries, reach, open_):
    """Return the differences between two models, in a part that opens."""
    apart = sum(excludes_zero(entry["interval"]) for entry in entries if entry["interval"])
    name = f"{first} less {second}"
    summary = element("summary", element("b", name), f": {apart} of {len(entries)} exclude 0")
    heads = ("Representation", "Factor", "Difference", "95\u00a0% interval", "About 0")
    heads += ("Excludes 0", "Relative", "Speakers", "Seeds")
    rows = [_comparison_row(entry, reach[unit_of(entry["measure"])]) for entry in entries]
    table = _table(name, heads, rows, numbers=(2, 3, 6, 7))
    return element("details", summary, table, open="" if open_ else None)


def _signed(value, unit):
    """Return a difference as text."""
    sign = "+" if value is not None and value > 0 else ""
    return sign + number(value, unit)


def _comparison_row(entry, reach):
    """Return the cells of a comparison; `reach` is the furthest end of an interval drawn."""
    unit, interval = unit_of(entry["measure"]), entry["interval"]
    drawing, apart = NONE, NONE
    if interval:
        drawing = forest(entry["difference"], interval, reach)
        apart = element("b", "yes") if excludes_zero(interval) else "no"
    return (
        entry["representation"],
        under(entry["factor"], _probed(entry["measure"], entry["probe"])),
        _signed(entry["difference"], unit).replace("%", "points"),
        span(interval, unit),
        drawing,
        apart,
        _signed(entry["relative"], "%"),
        entry["speakers"],
        ", ".join(map(str, entry["seeds"])) or NONE,
    )


def _table_of_figures(report):
    """Return every figure."""
    if not report["figures"]:
        return _missing("The report has no figures.")
    note = (
        "Every figure of the report. The control is the same probe on shuffled labels, selectivity "
        "how much better the value is; below the seeds are the values of each, in the same order."
    )
    heads = ("Model", "Factor", "Value", "95\u00a0% interval", "Chance", "Shuffled control")
    heads += ("Selectivity", "Speakers", "Seeds")
    rows = [_figure_row(figure) for figure in report["figures"]]
    table = _table("Every figure", heads, rows, numbers=range(2, 8))
    return joined(element("p", note, class_="note"), table)


def _figure_row(figure):
    unit, seeds = figure["unit"], ", ".join(map(str, figure.get("seeds") or [NONE]))
    values = ", ".join(bare(value, unit) for value in figure.get("values") or [])
    return (
        under(figure["model"], figure["representation"]),
        under(figure["factor"], _probed(figure["measure"], figure["probe"])),
        number(figure["value"], unit),
        span(figure["interval"], unit),
        *(bare(figure[key], unit) for key in ("chance", "control", "selectivity")),
        NONE if figure["speakers"] is None else figure["speakers"],
        element("span", under(seeds, values), class_="seeds"),
    )


def _notes(report):
    """Return how each measure was computed and what would have made it fail."""
    used = dict.fromkeys(figure["measure"] for figure in report["figures"])
    parts = []
    for measure, note in report["notes"].items():
        parts.append(element("h3", named(measure)))
        parts.append(element("p", note.get("how") or "How it was computed is not told."))
        fails = note.get("fails_if") or "not told"
        parts.append(element("p", element("strong", "What would have made it fail: "), fails))
    unknown = [named(measure) for measure in used if measure not in report["notes"]]
    if unknown:
        parts.append(_missing(f"The report does not say how it computed {', '.join(unknown)}."))
    return joined(*parts) if parts else _missing("The report has no notes on its measures.")


def _not_measured(report):
    """Return what could not be measured, and why."""
    entries = [
        joined(element("strong", entry["what"]), ": ", entry["why"]) for entry in report["missing"]
    ]
    return listed(entries) if entries else _missing("The report names nothing that was left out.")


def _footer(report):
    """Return where the report comes from."""
    facts = [(n.title(), report[n]) for n in ("date", "commit") if report.get(n)]
    if report.get("seconds") is not None:
        facts.append(("Took", f"{report['seconds'] / 60:.1f}\u00a0min"))
    for name in ("versions", "data"):
        for key, value in (report.get(name) or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            facts.append((f"{name.title()}: {key.replace('_', ' ')}", text))
    if not facts:
        facts = [("Origin", "The report does not say where it comes from.")]
    return element("footer", _facts(facts, class_="facts small"))


SECTIONS = (
    ("read", "What was read", _read),
    ("leakage", "The leakage matrix", _leakage),
    ("layers", "Layer by layer", _layers),
    ("maps", "Maps of both representations", _maps),
    ("retrieval", "Retrieval and DET curves", _retrieval),
    ("information", "Mutual information", _information),
    ("tradeoff", "The trade-off", _tradeoff),
    ("comparisons", "Comparisons", _comparisons),
    ("figures", "Every figure", _table_of_figures),
    ("notes", "How it was computed, and what would have made it fail", _notes),
    ("missing", "What could not be measured", _not_measured),
)
