"""The page of a disentanglement report: one HTML file that opens from disk and loads nothing.

What is shown where, and all fixed text, is in page.html.j2, its style in page.css. Images are part
of the page, and a policy in it forbids scripts and all that is elsewhere. A section that
has nothing to show says so.
"""

import functools
import itertools
import json
from collections import Counter
from operator import itemgetter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recipes.common.evaluation.drawing import COLOURS, MARKERS, STYLES
from recipes.common.evaluation.grouping import group_by
from recipes.common.report import pictures
from recipes.common.report.matrix import heat_key, matrix
from recipes.common.report.wording import NONE, bare, named, number, signed, span, unit_of

CONTROL_LOOKS = (
    {"color": "#4d545c", "linestyle": ":", "marker": "x", "mew": 1.5},
    {"color": "#7b838d", "linestyle": "--", "marker": "+", "mew": 1.5},
)
CLASS_COLOURS, CLASS_MARKERS = (*COLOURS, "#882255"), "osD^vPXp"


def write_page(report, path):
    """Write the page of a report: a single HTML file, which is the same for the same report.

    Arguments
    ---------
    report : dict
        As report.json holds it; see `recipes.common.report.report.write_report`.
    path : str or Path
        The HTML file.
    """
    looks = _looks(report["models"])
    shown = {
        **report,
        "comparisons": [_judged(entry) for entry in report["comparisons"]],
        "origin": _origin(report),
    }
    html = _template().render(
        **shown,
        swatches={name: pictures.swatch(look) for name, look in looks.items()},
        heat_key=heat_key(),
        matrices={group: _matrices(report, group) for group in ("leakage", "retrieval")},
        layers=_layers(_without_rivals(report), looks),
        maps_by=_maps(report["maps"]),
        curves=_det(report["det"], looks),
        information=_information(report["figures"], looks),
        tradeoffs=_tradeoffs(report["tradeoff"], looks),
        compared=group_by(shown["comparisons"], itemgetter("first", "second")),
    )
    Path(path).write_text(html, encoding="utf-8")


@functools.cache
def _template():
    """Return the template of the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: NONE if value is None else value,
    )
    filters = (number, bare, signed, span, named, unit_of)
    environment.filters |= {function.__name__: function for function in filters}
    return environment.get_template("page.html.j2")


def _looks(models):
    """Return how each model looks in every picture: properties of a matplotlib line."""
    parts = (itertools.cycle(part) for part in (COLOURS[:-1], STYLES, MARKERS))
    ours = (
        {"color": colour, "linestyle": style, "marker": marker}
        for colour, style, marker in zip(*parts, strict=True)
    )
    controls = itertools.cycle(CONTROL_LOOKS)
    own = ("model", "rival")
    return {model["name"]: next(ours if model["kind"] in own else controls) for model in models}


def _key(looks, texts):
    """Return the key of what has a text: images of the looks, and the texts."""
    return [(pictures.swatch(look), texts[name]) for name, look in looks.items() if name in texts]


def _panel(caption, alt, image, small="", key=()):
    """Return what the template needs to show a picture."""
    return {"caption": caption, "alt": alt, "image": image, "small": small, "key": key}


def _matrices(report, group):
    """Return the matrix of a group's figures with the last layers, and one of all layers.

    None stands for a matrix that would show no more, or nothing.
    """
    figures = [figure for figure in report["figures"] if figure["group"] == group]
    layers = [figure for figure in figures if figure["layer"] is not None]
    of_models = group_by(layers, itemgetter("model"))
    last = {model: max(f["layer"] for f in own) for model, own in of_models.items()}
    short = [f for f in figures if f["layer"] in (None, last.get(f["model"]))]
    if not figures:
        return None
    every = matrix(report["models"], layers) if len(short) < len(figures) else None
    return {"short": matrix(report["models"], short), "layers": every}


def _without_rivals(report):
    """Return the figures of models and controls: rivals differ from their model in one layer."""
    rivals = {model["name"] for model in report["models"] if model["kind"] == "rival"}
    return [figure for figure in report["figures"] if figure["model"] not in rivals]


def _layers(figures, looks):
    """Return the key and the panels of curves over layers: of factor, measure and probe."""
    figures = [figure for figure in figures if figure["layer"] is not None]
    groups = {
        key: own
        for key, own in group_by(figures, itemgetter("factor", "measure", "probe")).items()
        if max(Counter(f["model"] for f in own).values()) > 1
    }
    panels = []
    for (factor, measure, probe), own in groups.items():
        name = f"{factor}, {probe} probe" if probe else factor
        first, last = (end(f["layer"] for f in own) for end in (min, max))
        alt = f"{name}: {named(measure, own[0]['unit'])} over layers {first} to {last}"
        panels.append(_panel(name, alt, pictures.layers(own, looks)))
    names = {f["model"]: f["model"] for own in groups.values() for f in own}
    return {"key": _key(looks, names), "panels": panels}


def _maps(maps):
    """Return, by factor, the key and the panels of the maps that are coloured by it."""
    of_representations = group_by(maps, itemgetter("representation")).values()
    maps = list(itertools.chain.from_iterable(of_representations))
    found = {}
    for factor in ("phone", "speaker"):
        told = [entry for entry in maps if entry[factor]]
        counts = Counter(label for entry in told for label in entry[factor])
        frequent = sorted(counts, key=lambda label: (-counts[label], str(label)))
        looks = {
            label: {"color": colour, "marker": marker, "linestyle": "none"}
            for label, colour, marker in zip(frequent, CLASS_COLOURS, CLASS_MARKERS, strict=False)
        }
        key = _key(looks, {label: label for label in looks})
        if len(counts) > len(looks):
            text = f"other {factor}s ({len(counts) - len(looks)})"
            key.append((pictures.swatch(pictures.OTHER), text))
        panels = []
        for entry in told:
            model, representation = entry["model"], entry["representation"]
            alt = f"{model}: {len(entry['points'])} points of {representation}, by {factor}"
            image = pictures.map_of(entry["points"], entry[factor], looks)
            panels.append(_panel(model, alt, image, representation))
        found[factor] = {"key": key, "panels": panels}
    return found if maps else None


def _det(curves, looks):
    """Return a panel of detection error tradeoff curves for each representation."""
    panels = []
    for representation, own in group_by(curves, itemgetter("representation")).items():
        names = ", ".join(curve["model"] for curve in own)
        alt = f"{representation}: detection error tradeoff of {names}"
        rates = {c["model"]: f"{c['model']}: EER {number(c['eer'], '%')}" for c in own}
        image = pictures.det(own, looks)
        panels.append(_panel(representation, alt, image, key=_key(looks, rates)))
    return panels


def _information(figures, looks):
    """Return figures and panels of mutual information, and where its bounds cross; or None."""
    figures = [f for f in figures if f["group"] == "information"]
    if not figures:
        return None
    rows = {
        name: {figure["measure"]: figure for figure in own}
        for name, own in group_by(figures, itemgetter("model")).items()
    }
    panels = []
    for measures in (("InfoNCE", "CLUB"), ("likelihood gain",)):
        caption = " and ".join(measures)
        image = pictures.information(list(rows.items()), measures)
        panels.append(_panel(caption, f"{caption}: {', '.join(rows)}", image))
    looks = {f"{name}: {role}": look for name, (role, look) in pictures.INFORMATION.items()}
    looks |= {"independent pairs": pictures.INDEPENDENT, "identical pairs": pictures.IDENTICAL}
    return {
        "figures": [{**figure, "share": _share(figure)} for figure in figures],
        "key": _key(looks, {text: text for text in looks}),
        "panels": panels,
        "crossed": [
            name for name, row in rows.items() if row["InfoNCE"]["value"] > row["CLUB"]["value"]
        ],
    }


def _share(figure):
    """Return where a figure is between independent and identical pairs, or None."""
    low, high = figure["independent"], figure["identical"]
    if low == high:
        return None
    return (figure["value"] - low) / (high - low)


def _tradeoffs(entries, looks):
    """Return models and panels of content against speaker: one for each pair of measures."""
    groups = group_by(entries, lambda e: (e["content"]["measure"], e["speaker"]["measure"]))
    panels = []
    for (content, speaker), own in groups.items():
        caption = f"Content ({content}) against speaker ({speaker})"
        alt = f"{caption}: {', '.join(entry['model'] for entry in own)}"
        panels.append(_panel(caption, alt, pictures.tradeoff(own, looks)))
    texts = {
        e["model"]: e["model"] if e["beta"] is None else f"{e['model']} (\u03b2 {e['beta']:g})"
        for e in entries
    }
    return {"key": _key(looks, texts), "panels": panels}


def _judged(entry):
    """Return a difference that tells whether its interval excludes 0; None without an interval."""
    interval = entry["interval"]
    return {**entry, "apart": interval and not interval[0] <= 0 <= interval[1]}


def _origin(report):
    """Return where a report comes from: names and texts."""
    facts = [("Date", report["date"]), ("Commit", report["commit"])]
    facts.append(("Took", f"{report['seconds'] / 60:.1f}\u00a0min"))
    for name in ("versions", "data"):
        for key, value in report[name].items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            facts.append((f"{name.title()}: {key.replace('_', ' ')}", text))
    return facts
