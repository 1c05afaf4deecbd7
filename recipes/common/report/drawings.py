"""The drawings of a disentanglement report: heat maps, curves, maps and bounds, and its numbers."""

import math
from statistics import NormalDist

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from recipes.common.evaluation.drawing import COLOURS, PERCENT, RATES
from recipes.common.evaluation.verdict import UNITS
from recipes.common.report.svg import (
    BOTTOM,
    RULE,
    TOP,
    Axis,
    Look,
    Panel,
    captioned,
    dot,
    element,
    joined,
    listed,
    marks,
    round_axis,
    scrolling,
    swatch,
    under,
)

OTHER = Look("#d3d7dc", None, "circle")  # of classes that have no colour of their own in a map
MAP_SIZE, MAP_EDGE = 480, 14
# Colours and the darkest that is used: where a factor is wanted, unwanted, neither.
HUES = {True: ("Blues", 1.0), False: ("Oranges", 1.0), None: ("Greys", 0.8)}
SIGNS = {True: "\u25b2", False: "\u25bc", None: ""}
NONE = "\u2013"
NATS = (-10, -1, -0.1, 0, 0.1, 1, 10, 100, 1000)  # ticks
INFORMATION = {  # what a measure is, and how it is drawn
    "InfoNCE": ("at least", Look(COLOURS[0], None, "right")),
    "CLUB": ("at most", Look(COLOURS[1], None, "left")),
    "likelihood gain": ("how well the critic of CLUB fits", Look(COLOURS[0], None, "diamond")),
}
INDEPENDENT, IDENTICAL = Look("#4d545c", None, "ring"), Look("#4d545c", None, "square")
BETWEEN = Look("#d6e6f2", None, "")
THIN = Look(RULE, None, "")


def number(value, unit):
    """Return a value as text; shares, of which the unit is "%", in per cent.

    Example
    -------
    >>> number(0.1234, "%"), number(-0.7099, "nats"), number(0.417, ""), number(None, "%")
    ('12.3\\xa0%', '\u22120.71\\xa0nats', '0.42', '\u2013')
    """
    if value is None:
        return NONE
    scale, decimals = (100, 1) if unit == "%" else (1, 2)
    if unit not in ("%", ""):
        decimals = sum(abs(value) < limit for limit in (99.5, 9.95, 0.0995))
    text = f"{round(scale * value, decimals) + 0.0:.{decimals}f}".replace("-", "\u2212")
    return f"{text}\u00a0{unit}" if unit else text


def bare(value, unit):
    """Return a value as `number` does, without the unit.

    Example
    -------
    >>> bare(0.1234, "%")
    '12.3'
    """
    return number(value, unit).removesuffix(unit).rstrip("\u00a0")


def span(interval, unit):
    """Return an interval as text, without the unit.

    Example
    -------
    >>> span([0.1, 0.25], "%"), span(None, "%")
    ('10.0\\xa0to\\xa025.0', '\u2013')
    """
    return "\u00a0to\u00a0".join(bare(end, unit) for end in interval) if interval else NONE


def unit_of(measure):
    """Return the unit of a measure of which only the name is told.

    Example
    -------
    >>> unit_of("EER"), unit_of("CLUB")
    ('%', 'nats')
    """
    return UNITS.get(measure, "%")


def named(measure, unit=""):
    """Return the name of a measure, and its unit if there is one.

    Example
    -------
    >>> named("EER", "%"), named("R2")
    ('EER, %', 'R\u00b2')
    """
    name = "R\u00b2" if measure == "R2" else measure
    return f"{name}, {unit}" if unit else name


def _is_error(measure):
    """Return whether a measure is the lower, the more is told."""
    return "EER" in measure or "error" in measure


def strength(figure):
    """Return how much of what could be told above chance a figure tells.

    Arguments
    ---------
    figure : dict
        With `measure`, `value` and `chance`.

    Returns
    -------
    float or None
        In [0, 1]: 0 at chance or worse. Of an error, 1 is where it is 0. None where chance is not
        known.

    Example
    -------
    >>> strength({"measure": "balanced accuracy", "value": 0.625, "chance": 0.25})
    0.5
    >>> strength({"measure": "EER", "value": 0.125, "chance": 0.5})
    0.75
    """
    value, chance = figure["value"], figure["chance"]
    best = 0.0 if _is_error(figure["measure"]) else 1.0
    if value is None or chance is None or chance == best:
        return None
    return min(max((value - chance) / (best - chance), 0.0), 1.0)


def heat(share, wanted):
    """Return the colours of a cell and of the text on it.

    Arguments
    ---------
    share : float
        In [0, 1], as `strength` returns it.
    wanted : bool or None
        Whether the representation is to tell the factor; None where that depends.

    Returns
    -------
    background, text : str

    Example
    -------
    >>> heat(0.0, wanted=True), heat(1.0, wanted=True)
    (('#f7fbff', '#000000'), ('#08306b', '#ffffff'))
    """
    hue, darkest = HUES[wanted]
    background = to_hex(colormaps[hue](darkest * share))
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)
    ]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    # Where the contrasts with black and with white are alike.
    return background, "#000000" if luminance > 0.179 else "#ffffff"


def _wanted(figure):
    """Return whether a representation is to tell a factor, or None."""
    if figure["better"] is None:
        return None
    return (figure["better"] == "high") != _is_error(figure["measure"])


def _cell(figure):
    """Return a cell of the heat map."""
    if figure is None:
        return element("td", NONE, class_="none")
    share, wanted, unit = strength(figure), _wanted(figure), figure["unit"]
    background, ink = ("#ffffff", "#000000") if share is None else heat(share, wanted)
    interval, chance = figure["interval"], figure["chance"]
    above = interval and share and not interval[0] <= chance <= interval[1]
    return element(
        "td",
        *([element("i", SIGNS[wanted])] if SIGNS[wanted] else []),
        element("b" if above else "span", bare(figure["value"], unit)),
        element("small", span(interval, unit)),
        style=f"background:{background};color:{ink}",
    )


def heat_map(models, figures, label):
    """Return a heat map: a row for each model and representation, a column for factor and probe.

    Arguments
    ---------
    models : list of dict
        In the order of the rows, controls last; with `name` and `kind`.
    figures : list of dict
        What is in the cells.
    label : str
        What the map is called.

    Returns
    -------
    Markup

    Example
    -------
    >>> figure = dict.fromkeys(("interval", "better", "chance", "layer", "probe"), None)
    >>> figure |= {"model": "joint", "representation": "frame", "factor": "phone", "value": 0.4}
    >>> figure |= {"measure": "balanced accuracy", "unit": "%"}
    >>> models = [{"name": "joint", "kind": "model"}]
    >>> "<span>40.0</span>" in heat_map(models, [figure], "Figures")
    True
    """
    columns = list(dict.fromkeys((f["factor"], f["measure"], f["probe"]) for f in figures))
    order = [column[:length] for column in columns for length in (1, 2)]
    columns.sort(key=lambda column: (order.index(column[:1]), order.index(column[:2])))
    body, in_controls = [], False
    for model in models:
        own = [figure for figure in figures if figure["model"] == model["name"]]
        if own and model["kind"] != "model" and not in_controls:
            in_controls = True
            text = "Controls: what features, or an encoder that was never trained, tell"
            row = element("tr", _row_group(text, columns))
            body.append(element("tbody", row, class_="controls"))
        if own:
            body.append(_model_rows(model["name"], own, columns))
    head = _matrix_head(figures, columns)
    return scrolling(element("table", head, *body, class_="heat"), label)


def _row_group(text, columns):
    """Return the head of several rows, over the whole width of the heat map."""
    return element("th", element("span", text), scope="rowgroup", colspan=len(columns) + 1)


def _model_rows(name, figures, columns):
    """Return a model's rows of the heat map."""
    rows = [element("tr", _row_group(name, columns))]
    for representation in dict.fromkeys(figure["representation"] for figure in figures):
        cells = {
            (figure["factor"], figure["measure"], figure["probe"]): figure
            for figure in figures
            if figure["representation"] == representation
        }
        title = element("th", representation, scope="row")
        rows.append(element("tr", title, *(_cell(cells.get(column)) for column in columns)))
    return element("tbody", *rows)


def _matrix_head(figures, columns):
    """Return the head of the heat map: factors and measures, then probes and chance."""
    above, below = [element("td", "", rowspan=2, class_="none")], []
    for factor, measure in dict.fromkeys(column[:2] for column in columns):
        own = [column for column in columns if column[:2] == (factor, measure)]
        unit = next(f["unit"] for f in figures if f["measure"] == measure)
        cell = factor, element("small", named(measure, unit))
        above.append(element("th", *cell, scope="colgroup", colspan=len(own)))
        for column in own:
            cells = [f for f in figures if (f["factor"], f["measure"], f["probe"]) == column]
            chances = [f["chance"] for f in cells if f["chance"] is not None]
            ends = dict.fromkeys(bare(end(chances), unit) for end in (min, max) if chances)
            text = " to ".join(ends) or NONE
            chance = element("small", "chance ", text)
            below.append(element("th", column[2] or "", chance, scope="col"))
    return element("thead", element("tr", *above), element("tr", *below))


def heat_key():
    """Return the key of a heat map's colours.

    Example
    -------
    >>> "what it should not tell" in heat_key()
    True
    """
    texts = {
        True: "what this representation is for",
        False: "what it should not tell",
        None: "neither, or it depends",
    }
    entries = []
    for wanted, text in texts.items():
        steps = [
            element("span", "", style=f"background:{heat(step / 5, wanted)[0]}")
            for step in range(6)
        ]
        ramp = element("span", *steps, class_="ramp")
        entries.append(joined(ramp, f"{SIGNS[wanted]} {text}".strip()))
    return listed(entries, class_="key")


def layer_panel(figures, looks):
    """Return curves over layers: how one kind of probe reads one factor, or one other measure.

    Arguments
    ---------
    figures : list of dict
        Of the same factor, measure and probe, with a layer and a value.
    looks : dict
        The `Look` of each model.

    Returns
    -------
    Markup

    Example
    -------
    >>> figure = dict.fromkeys(("interval", "better", "chance", "layer", "probe"), None)
    >>> figure |= {"model": "joint", "representation": "frame", "factor": "phone", "value": 0.4}
    >>> figure |= {"measure": "balanced accuracy", "unit": "%"}
    >>> looks = {"joint": Look("#0072B2", None, "circle")}
    >>> panel = layer_panel([figure | {"layer": 2}], looks)
    >>> "phone: balanced accuracy, % over layers 2 to 2" in panel
    True
    """
    factor, measure, probe, unit = (figures[0][k] for k in ("factor", "measure", "probe", "unit"))
    layers = range(min(f["layer"] for f in figures), max(f["layer"] for f in figures) + 1)
    ticks = {layer: str(layer) for layer in layers[:: -(-len(layers) // 9)]}
    chances = [figure["chance"] for figure in figures if figure["chance"] is not None]
    shown = [figure["value"] for figure in figures] + chances
    shown += [end for figure in figures for end in figure["interval"] or ()]
    label = named(measure, unit)
    name = f"{factor}, {probe} probe" if probe else factor
    panel = Panel(
        f"{name}: {label} over layers {layers[0]} to {layers[-1]}",
        Axis("layer", layers[0] - 0.3, layers[-1] + 0.3, ticks),
        round_axis(label, shown, scale=100 if unit == "%" else 1),
    )
    for chance in sorted(set(chances)):
        _chance_line(panel, figures, chance, layers[0], layers[-1])
    for model, look in looks.items():
        own = sorted((f for f in figures if f["model"] == model), key=lambda f: f["layer"])
        if own:
            _curve(panel, own, look)
    return captioned(name, panel.draw())


def _chance_line(panel, figures, chance, first, last):
    """Add the line of chance to a panel; its name is at the end from which curves are further."""
    panel.line([(panel.x.low, chance), (panel.x.high, chance)], THIN, width=1)
    room = {
        layer: min(abs(f["value"] - chance) for f in figures if f["layer"] == layer)
        for layer in (first, last)
    }
    left = room[first] > room[last]
    x, y = panel.at(panel.x.low if left else panel.x.high, chance)
    panel.text(x + 4 * left, y - 4, "chance", text_anchor="start" if left else "end")


def _curve(panel, figures, look):
    """Add a model's figures of rising layers to a panel, and their intervals."""
    points = [(figure["layer"], figure["value"]) for figure in figures]
    sure = [figure for figure in figures if figure["interval"]]
    if len(points) > 1 and sure:
        panel.band([f["layer"] for f in sure], [f["interval"] for f in sure], look.colour)
    else:
        _bars(panel, points[0], None, figures[0]["interval"], look)
    panel.line(points, look)
    panel.mark(points, look)


def _bars(panel, point, x_interval, y_interval, look):
    """Add the intervals of a point to a panel; return the ends of what was drawn."""
    across = [(end, point[1]) for end in x_interval or ()]
    upright = [(point[0], end) for end in y_interval or ()]
    drawn = [ends for ends in (across, upright) if ends]
    for ends in drawn:
        panel.line(ends, Look(look.colour, None, ""), width=1.5)
    return drawn


def map_panel(entry, factor, looks):
    """Return a map: one path for each class that has a look, and one for all others.

    Arguments
    ---------
    entry : dict
        With `model`, `representation`, `points`, and under the factor's name each point's class.
    factor : str
        By what points are coloured.
    looks : dict
        The `Look` of some classes.

    Returns
    -------
    Markup

    Example
    -------
    >>> looks = {"AA": Look("#0072B2", None, "square")}
    >>> entry = {"model": "joint", "representation": "frame", "points": [[0, 0], [1, 1]]}
    >>> map_panel(entry | {"phone": ["AA", "S"]}, "phone", looks).count("<path")
    2
    """
    by_look = {OTHER: [], **{look: [] for look in looks.values()}}
    for place, label in zip(_places(entry["points"]), entry[factor], strict=True):
        by_look[looks.get(label, OTHER)].append(place)
    paths = [marks(places, look.shape, look.colour) for look, places in by_look.items() if places]
    count, model, representation = len(entry["points"]), entry["model"], entry["representation"]
    title = element("title", f"{model}: {count} points of {representation}, by {factor}")
    view = f"0 0 {MAP_SIZE} {MAP_SIZE}"
    drawing = element("svg", title, *paths, viewBox=view, role="img", class_="map")
    return captioned(under(model, representation), drawing)


def _places(points):
    """Return where points are in a map, whole pixels, with the same scale for both axes."""
    xs, ys = zip(*points, strict=True)
    scale = (MAP_SIZE - 2 * MAP_EDGE) / (max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0)
    middle = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    half = MAP_SIZE / 2
    return [
        (round(half + scale * (x - middle[0])), round(half - scale * (y - middle[1])))
        for x, y in points
    ]


def det_panel(curves, looks):
    """Return detection error tradeoff curves, and a key with equal error rates.

    Arguments
    ---------
    curves : list of dict
        With `model`, `representation`, which is the same for all, `false_acceptance` and
        `false_rejection`, rates in the order of thresholds, and `eer`.
    looks : dict
        The `Look` of each model.

    Returns
    -------
    Markup

    Example
    -------
    >>> curve = {"model": "joint", "representation": "utterance", "eer": 0.125}
    >>> curve |= {"false_acceptance": [0.5, 0.125, 0.0], "false_rejection": [0.0, 0.125, 0.5]}
    >>> "joint: EER 12.5" in det_panel([curve], {"joint": Look("#0072B2", None, "circle")})
    True
    """
    ticks = {percent / 100: f"{percent:g}" for percent in PERCENT}
    axes = [
        Axis(f"{name}, %", *RATES, ticks, NormalDist().inv_cdf)
        for name in ("false acceptances", "misses")
    ]
    representation = curves[0]["representation"]
    names = ", ".join(curve["model"] for curve in curves)
    title = f"{representation}: detection error tradeoff of {names}"
    panel = Panel(title, *axes, width=360, height=372)
    panel.line([(rate, rate) for rate in RATES], THIN, width=1)
    entries = []
    for curve in curves:
        look, rate = looks[curve["model"]], curve.get("eer")
        points = zip(curve["false_acceptance"], curve["false_rejection"], strict=True)
        points = _thin(panel, [point for point in points if max(point) <= RATES[1]])
        if points:
            panel.line(points, look)
        if rate is not None:
            panel.mark([(rate, rate)], look)
        entries.append(joined(swatch(look), f"{curve['model']}: EER {number(rate, '%')}"))
    return captioned(representation, panel.draw(), listed(entries, class_="key"))


def _thin(panel, points):
    """Return points without those that would be drawn less than a pixel from the one before."""
    kept = points[:1]
    for point in points[1:]:
        if math.dist(panel.at(*point), panel.at(*kept[-1])) >= 1:
            kept.append(point)
    return kept if kept == points else [*kept, points[-1]]


def sandwich(rows, measures):
    """Return estimates of mutual information, each on the scale of independent to identical pairs.

    Arguments
    ---------
    rows : dict
        By (model, representation, factor): figures by their measure.
    measures : tuple of str
        ("InfoNCE", "CLUB"), with what lies between them shaded, or ("likelihood gain",).

    Returns
    -------
    Markup

    Example
    -------
    >>> figure = {"model": "joint", "measure": "CLUB", "unit": "nats", "value": 2.0}
    >>> figure |= {"interval": None, "independent": 0.1, "identical": 90.0}
    >>> rows = {("joint", "z and u", ""): {"CLUB": figure}}
    >>> "CLUB: joint" in sandwich(rows, ("InfoNCE", "CLUB"))
    True
    """
    shown = [row[measure] for row in rows.values() for measure in measures if measure in row]
    values = [f[key] for f in shown for key in ("value", "independent", "identical")]
    values += [end for figure in shown for end in figure["interval"] or ()]
    step = 28 + 17 * len(measures)
    inner = step * len(rows)
    panel = Panel(
        f"{' and '.join(measures)}: {', '.join(dict.fromkeys(f['model'] for f in shown))}",
        _information_axis(shown[0]["unit"], [value for value in values if value is not None]),
        Axis("", 0, inner, reverse=True),
        height=inner + TOP[False] + BOTTOM,
    )
    alike = len({name[1:] for name in rows}) == 1
    for top, (name, row) in zip(range(0, inner, step), rows.items(), strict=True):
        text = name[0] if alike else ", ".join(part for part in name if part)
        panel.text(panel.left, panel.top + top + 14, text, class_="name")
        tracks = {m: top + 28 + 17 * place for place, m in enumerate(measures) if m in row}
        ends = [(row[measure]["value"], y) for measure, y in tracks.items()]
        if len(ends) == 2 and ends[0][0] <= ends[1][0]:
            panel.line(ends, BETWEEN, width=7)
        for measure, y in tracks.items():
            _track(panel, row[measure], y)
    return captioned(" and ".join(measures), panel.draw())


def sandwich_key():
    """Return the key of the marks of `sandwich`.

    Example
    -------
    >>> "CLUB: at most" in sandwich_key()
    True
    """
    looks = {f"{name}: {role}": look for name, (role, look) in INFORMATION.items()}
    looks |= {"independent pairs": INDEPENDENT, "identical pairs": IDENTICAL}
    return listed([joined(dot(look), text) for text, look in looks.items()], class_="key")


def _track(panel, figure, y):
    """Add a figure, its interval and its scale to a panel, at a height."""
    _, look = INFORMATION[figure["measure"]]
    scale = {"independent": INDEPENDENT, "identical": IDENTICAL}
    ends = [(figure[key], y) for key in scale if figure[key] is not None]
    if len(ends) == 2:
        panel.line(ends, THIN, width=1)
    for key, end_look in scale.items():
        if figure[key] is not None:
            panel.mark([(figure[key], y)], end_look)
    _bars(panel, (figure["value"], y), figure["interval"], None, look)
    panel.mark([(figure["value"], y)], look)


def _compressed(nats):
    return math.asinh(10 * nats)


def _information_axis(unit, values):
    """Return an axis for values; of nats, each tenfold above 0.1 takes as much room."""
    if unit != "nats":
        return round_axis(unit, [*values, 0])
    low, high = 1.1 * min(*values, 0), 1.1 * max(*values, 0.1)
    texts = {tick: f"{tick:g}".replace("-", "\u2212") for tick in NATS if low <= tick <= high}
    return Axis("nats; from 0.1 on each step is tenfold", low, high, texts, _compressed)


def tradeoff_panel(entries, looks):
    """Return models as points: content kept upwards, speaker removed to the right.

    Arguments
    ---------
    entries : list of dict
        With `model`, `beta`, and under `content` and `speaker` `measure`, which is the same for
        all, `value` and `interval`.
    looks : dict
        The `Look` of each model.

    Returns
    -------
    Markup

    Example
    -------
    >>> part = {"measure": "EER", "value": 0.25, "interval": [0.2, 0.3]}
    >>> entry = {"model": "joint", "beta": 0.3, "content": part, "speaker": part}
    >>> "\u03b2 0.3" in tradeoff_panel([entry], {"joint": Look("#0072B2", None, "circle")})
    True
    """
    content, speaker = (entries[0][part]["measure"] for part in ("content", "speaker"))
    x = _tradeoff_axis(entries, "speaker", "\u2192 speaker removed", not _is_error(speaker))
    y = _tradeoff_axis(entries, "content", "\u2191 content kept", _is_error(content))
    title = f"Content ({content}) against speaker ({speaker})"
    names = ", ".join(entry["model"] for entry in entries)
    panel = Panel(f"{title}: {names}", x, y, width=400, height=320)
    points = {e["model"]: (e["speaker"]["value"], e["content"]["value"]) for e in entries}
    betas = {e["model"]: e["beta"] for e in entries if e.get("beta") is not None}
    if len(betas) > 1:
        order = sorted(betas, key=betas.get)
        panel.line([points[name] for name in order], Look(OTHER.colour, None, ""), width=3)
    bars = []
    for entry in entries:
        look, point = looks[entry["model"]], points[entry["model"]]
        intervals = entry["speaker"].get("interval"), entry["content"].get("interval")
        bars += _bars(panel, point, *intervals, look)
        panel.mark([point], look)
    labels = [(points[n], f"\u03b2 {betas[n]:g}" if n in betas else n) for n in points]
    _label_points(panel, labels, bars)
    return captioned(title, panel.draw())


def _tradeoff_axis(entries, part, label, reverse):
    """Return the axis of content or speaker."""
    measure = entries[0][part]["measure"]
    unit = unit_of(measure)
    shown = [entry[part]["value"] for entry in entries]
    shown += [end for entry in entries for end in entry[part].get("interval") or ()]
    label = f"{label} ({named(measure, unit)})"
    return round_axis(label, shown, 100 if unit == "%" else 1, reverse)


def _label_points(panel, labels, bars):
    """Add a text beside each point, where it covers the fewest other points, texts and bars."""
    boxes = [(x - 6, y - 6, x + 6, y + 6) for x, y in (panel.at(*p) for p, _ in labels)]
    for ends in bars:
        xs, ys = zip(*(panel.at(*end) for end in ends), strict=True)
        boxes.append((min(xs) - 1, min(ys) - 1, max(xs) + 1, max(ys) + 1))
    for point, text in labels:
        x, y = panel.at(*point)
        width = 6.2 * len(text)
        places = [
            (x + side * 8 - (side < 0) * width, y + shift)
            for shift in (-7, 15, -20, 28, -33, 41)
            for side in (1, -1)
        ]
        around = [(left, base - 10, left + width, base + 2) for left, base in places]
        faults = [
            (box[0] < panel.left or box[2] > panel.width, sum(_overlap(box, b) for b in boxes))
            for box in around
        ]
        best = faults.index(min(faults))
        boxes.append(around[best])
        panel.text(*places[best], text, class_="name")


def _overlap(first, second):
    return all(first[n] < second[n + 2] and second[n] < first[n + 2] for n in (0, 1))


def forest(difference, interval, reach):
    """Return a small drawing of a difference and its interval about 0.

    Arguments
    ---------
    difference : float
        Where the mark is: full where the interval excludes 0.
    interval : tuple of float
        Where the line is.
    reach : float
        What is at either end of the drawing.

    Returns
    -------
    Markup

    Example
    -------
    >>> "M55.5 9H105" in forest(0.0, (-0.1, 0.2), reach=0.4)
    True
    """
    low, high, middle = (72 + 66 * value / reach for value in (*interval, difference))
    shape, colour = ("circle", COLOURS[0]) if excludes_zero(interval) else ("ring", RULE)
    return element(
        "svg",
        element("path", d="M72 0V18", stroke=RULE),
        element("path", d=f"M{low:.1f} 9H{high:.1f}", stroke=colour, stroke_width=2.5),
        marks([(middle, 9)], shape, colour),
        viewBox="0 0 144 18",
        aria_hidden="true",
        class_="forest",
    )


def excludes_zero(interval):
    """Return whether an interval lies on one side of 0.

    Example
    -------
    >>> excludes_zero((0.1, 0.2)), excludes_zero((-0.1, 0.2))
    (True, False)
    """
    return not interval[0] <= 0 <= interval[1]
