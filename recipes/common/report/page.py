"""The page of a disentanglement report: one HTML file that opens from disk and loads nothing.

What is shown where, and all fixed text, is in page.html.j2, its style in page.css. Images are part
of the page, and a policy in it forbids scripts and all that is elsewhere. Whatever is missing in a
report is named in the place where it would be shown.
"""

import functools
import itertools
import json
import math
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from recipes.common.evaluation.drawing import COLOURS, MARKERS, STYLES
from recipes.common.report import pictures
from recipes.common.report.matrix import heat_key, matrix
from recipes.common.report.wording import NONE, bare, named, number, signed, span, unit_of

CONTROL_LOOKS = (
    {"color": "#4d545c", "linestyle": ":", "marker": "x", "mew": 1.5},
    {"color": "#7b838d", "linestyle": "--", "marker": "+", "mew": 1.5},
)
CLASS_COLOURS, CLASS_MARKERS = (*COLOURS, "#882255"), "osD^vPXp"
EMPTY = {
    **dict.fromkeys(("date", "commit", "seconds", "versions", "data")),
    **{"title": "Disentanglement report", "corpus": "", "verdict": {}, "read_on": {}, "notes": {}},
    **{name: [] for name in ("models", "figures", "maps", "det", "comparisons", "tradeoff")},
    **{"missing": [], "seeds": []},
}
MODEL = {"kind": "model", **dict.fromkeys(("folder", "beta", "train_seed"))}
FIGURE = {
    **dict.fromkeys(("layer", "probe", "interval", "chance", "control", "selectivity", "better")),
    **dict.fromkeys(("value", "speakers", "independent", "identical")),
    **{"representation": "", "group": "", "factor": "", "measure": "", "unit": ""},
    **{"seeds": [], "values": []},
}
COMPARISON = {
    **dict.fromkeys(("difference", "interval", "relative", "probe", "speakers")),
    **{"representation": "", "factor": "", "measure": "", "seeds": []},
}


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
    looks = _looks(report["models"])
    html = _template().render(
        **report,
        swatches={name: pictures.swatch(look) for name, look in looks.items()},
        heat_key=heat_key(),
        matrices={group: _matrices(report, group) for group in ("leakage", "retrieval")},
        layers=_layers(report["figures"], looks),
        maps_by=_maps(report["maps"]),
        curves=_det(report["det"], looks),
        information=_information(report["figures"], looks),
        tradeoffs=_tradeoffs(report["tradeoff"], looks),
        compared=_compared(report["comparisons"]),
        origin=_origin(report),
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
    environment.filters |= {"number": number, "bare": bare, "signed": signed, "span": span}
    environment.filters |= {"named": named, "unit_of": unit_of}
    return environment.get_template("page.html.j2")


def _complete(report):
    """Return a report with all parts, and with models that only figures name."""
    report = {
        name: empty if report.get(name) is None else _finite(report[name])
        for name, empty in EMPTY.items()
    }
    report["figures"] = [{**FIGURE, **figure} for figure in report["figures"]]
    report["comparisons"] = [{**COMPARISON, **entry} for entry in report["comparisons"]]
    models = {model["name"]: model for model in report["models"]}
    for part in ("figures", "maps", "det", "tradeoff"):
        for entry in report[part]:
            models.setdefault(entry["model"], {"name": entry["model"]})
    models = [{**MODEL, **model} for model in models.values()]
    report["models"] = sorted(models, key=lambda model: model["kind"] != "model")
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


def _looks(models):
    """Return how each model looks in every picture: properties of a matplotlib line."""
    parts = (itertools.cycle(part) for part in (COLOURS[:-1], STYLES, MARKERS))
    ours = (
        {"color": colour, "linestyle": style, "marker": marker}
        for colour, style, marker in zip(*parts, strict=True)
    )
    controls = itertools.cycle(CONTROL_LOOKS)
    return {model["name"]: next(ours if model["kind"] == "model" else controls) for model in models}


def _grouped(entries, *keys):
    """Return lists of entries by the values that they have under keys."""
    groups = {}
    for entry in entries:
        groups.setdefault(tuple(entry[key] for key in keys), []).append(entry)
    return groups


def _shown(looks, entries):
    """Return the names of the models of entries, in the order of looks."""
    names = {entry["model"] for entry in entries}
    return [name for name in looks if name in names]


def _panel(caption, alt, image, small=None, **more):
    """Return what the template needs to show a picture."""
    return {"caption": caption, "alt": alt, "image": image, "small": small, **more}


def _matrices(report, group):
    """Return the matrix of a group's figures with the last layers, and one of all layers.

    None stands for a matrix that would show no more, or nothing.
    """
    figures = [figure for figure in report["figures"] if figure["group"] == group]
    layers = [figure for figure in figures if figure["layer"] is not None]
    last = {
        model: max(f["layer"] for f in own) for (model,), own in _grouped(layers, "model").items()
    }
    short = [f for f in figures if f["layer"] in (None, last.get(f["model"]))]
    if not figures:
        return None
    every = matrix(report["models"], layers) if len(short) < len(figures) else None
    return {"short": matrix(report["models"], short), "layers": every}


def _layers(figures, looks):
    """Return the models and the panels of curves over layers: of factor, measure and probe."""
    figures = [f for f in figures if f["layer"] is not None and f["value"] is not None]
    groups = {
        key: own
        for key, own in _grouped(figures, "factor", "measure", "probe").items()
        if max(Counter(f["model"] for f in own).values()) > 1
    }
    panels = []
    for (factor, measure, probe), own in groups.items():
        name = f"{factor}, {probe} probe" if probe else factor
        first, last = (end(f["layer"] for f in own) for end in (min, max))
        alt = f"{name}: {named(measure, own[0]['unit'])} over layers {first} to {last}"
        panels.append(_panel(name, alt, pictures.layers(own, looks)))
    return {"models": _shown(looks, itertools.chain(*groups.values())), "panels": panels}


def _maps(maps):
    """Return, by factor, the key and the panels of the maps that are coloured by it."""
    entries = [entry for entry in maps if entry.get("points")]
    entries = [e for own in _grouped(entries, "representation").values() for e in own]
    found = {}
    for factor in ("phone", "speaker"):
        told = [entry for entry in entries if entry.get(factor)]
        counts = Counter(label for entry in told for label in entry[factor])
        frequent = sorted(counts, key=lambda label: (-counts[label], str(label)))
        looks = {
            label: {"color": colour, "marker": marker, "linestyle": "none"}
            for label, colour, marker in zip(frequent, CLASS_COLOURS, CLASS_MARKERS, strict=False)
        }
        key = [(pictures.swatch(look), label) for label, look in looks.items()]
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
    return found if entries else None


def _det(curves, looks):
    """Return a panel of detection error tradeoff curves for each representation."""
    panels = []
    curves = [curve for curve in curves if curve.get("false_acceptance")]
    for (representation,), own in _grouped(curves, "representation").items():
        names = ", ".join(curve["model"] for curve in own)
        alt = f"{representation}: detection error tradeoff of {names}"
        rates = [(c["model"], f"{c['model']}: EER {number(c.get('eer'), '%')}") for c in own]
        panels.append(_panel(representation, alt, pictures.det(own, looks), rates=rates))
    return panels


def _information(figures, looks):
    """Return figures and panels of mutual information, and where its bounds cross; or None."""
    figures = [f for f in figures if f["group"] == "information" and f["value"] is not None]
    figures.sort(key=lambda figure: list(looks).index(figure["model"]))
    if not figures:
        return None
    rows = {
        name: {figure["measure"]: figure for figure in own}
        for name, own in _grouped(figures, "model", "representation", "factor").items()
    }
    alike = len({name[1:] for name in rows}) == 1
    texts = [name[0] if alike else ", ".join(filter(None, name)) for name in rows]
    panels = []
    for measures in (("InfoNCE", "CLUB"), ("likelihood gain",)):
        own = [(t, r) for t, r in zip(texts, rows.values(), strict=True) if {*measures} & {*r}]
        if own:
            caption = " and ".join(measures)
            alt = f"{caption}: {', '.join(text for text, _ in own)}"
            panels.append(_panel(caption, alt, pictures.information(own, measures)))
    crossed = [
        model
        for (model, *_), row in rows.items()
        if {"InfoNCE", "CLUB"} <= row.keys() and row["InfoNCE"]["value"] > row["CLUB"]["value"]
    ]
    looks = {f"{name}: {role}": look for name, (role, look) in pictures.INFORMATION.items()}
    looks |= {"independent pairs": pictures.INDEPENDENT, "identical pairs": pictures.IDENTICAL}
    return {
        "figures": [{**figure, "share": _share(figure)} for figure in figures],
        "key": [(pictures.swatch(look), text) for text, look in looks.items()],
        "panels": panels,
        "crossed": list(dict.fromkeys(crossed)),
    }


def _share(figure):
    """Return where a figure is between independent and identical pairs, or None."""
    low, high = figure["independent"], figure["identical"]
    if None in (low, high) or low == high:
        return None
    return (figure["value"] - low) / (high - low)


def _tradeoffs(entries, looks):
    """Return models and panels of content against speaker: one for each pair of measures."""
    groups = {}
    for entry in entries:
        parts = [entry.get(part) or {} for part in ("content", "speaker")]
        if all(part.get("value") is not None for part in parts):
            groups.setdefault(tuple(part["measure"] for part in parts), []).append(entry)
    panels = []
    for (content, speaker), own in groups.items():
        caption = f"Content ({content}) against speaker ({speaker})"
        alt = f"{caption}: {', '.join(entry['model'] for entry in own)}"
        panels.append(_panel(caption, alt, pictures.tradeoff(own, looks)))
    shown = list(itertools.chain(*groups.values()))
    betas = {entry["model"]: entry.get("beta") for entry in shown}
    return {"models": {name: betas[name] for name in _shown(looks, shown)}, "panels": panels}


def _compared(entries):
    """Return the differences by pair of models, with the ends of their drawings in per cent."""
    entries = [entry for entry in entries if entry["difference"] is not None]
    reach = {}
    for entry in entries:
        ends, unit = (entry["difference"], *(entry["interval"] or ())), unit_of(entry["measure"])
        reach[unit] = max(reach.get(unit, 1e-9), *map(abs, ends))
    rows = []
    for entry in entries:
        bar, apart, interval = None, None, entry["interval"]
        if interval:
            apart = not interval[0] <= 0 <= interval[1]
            furthest = reach[unit_of(entry["measure"])]
            ends = (*interval, entry["difference"])
            bar = [round(50 + 46 * end / furthest, 1) for end in ends]
        rows.append({**entry, "apart": apart, "bar": bar})
    return {"rows": rows, "pairs": _grouped(rows, "first", "second")}


def _origin(report):
    """Return where a report comes from: names and texts."""
    facts = [(n.title(), report[n]) for n in ("date", "commit") if report[n]]
    if report["seconds"] is not None:
        facts.append(("Took", f"{report['seconds'] / 60:.1f}\u00a0min"))
    for name in ("versions", "data"):
        for key, value in (report[name] or {}).items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            facts.append((f"{name.title()}: {key.replace('_', ' ')}", text))
    return facts or [("Origin", "The report does not say where it comes from.")]
