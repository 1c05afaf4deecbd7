"""The leakage matrix: figures as a table whose colours say how much is told, and of what."""

from collections import Counter
from operator import itemgetter

from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from recipes.common.evaluation.grouping import group_by
from recipes.common.report.wording import NONE, bare, is_error, named, span

# Colours and the darkest that is used: where a factor is wanted, unwanted, neither.
HUES = {True: ("Blues", 1.0), False: ("Oranges", 1.0), None: ("Greys", 0.8)}
SIGNS = {True: "\u25b2", False: "\u25bc", None: ""}
MEANINGS = {
    True: "what this representation is for",
    False: "what it should not tell",
    None: "neither, or it depends",
}


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
    best = 0.0 if is_error(figure["measure"]) else 1.0
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


def heat_key():
    """Return what each of the colours means, as dicts of `steps`, colours, and `text`.

    Example
    -------
    >>> [entry["text"] for entry in heat_key()][2]
    'neither, or it depends'
    """
    return [
        {
            "steps": [heat(step / 5, wanted)[0] for step in range(6)],
            "text": f"{SIGNS[wanted]} {text}".strip(),
        }
        for wanted, text in MEANINGS.items()
    ]


def matrix(models, figures):
    """Return a table: a row for each model and representation, a column for factor and probe.

    Arguments
    ---------
    models : list of dict
        In the order of the rows, controls last; with `name` and `kind`.
    figures : list of dict
        What is in the cells.

    Returns
    -------
    dict
        `above`: (factor, measure, how many columns); `below`: (probe, chance) of each column;
        `models`: dicts of `name`, `kind` and `rows`, (representation, cells), where a cell is None
        or a dict of texts.

    Example
    -------
    >>> figure = dict.fromkeys(("interval", "better", "chance", "layer", "probe"), None)
    >>> figure |= {"model": "joint", "representation": "frame", "factor": "phone", "value": 0.4}
    >>> figure |= {"measure": "balanced accuracy", "unit": "%"}
    >>> table = matrix([{"name": "joint", "kind": "model"}], [figure])
    >>> table["above"], table["models"][0]["rows"][0][1][0]["value"]
    ([('phone', 'balanced accuracy, %', 1)], '40.0')
    """
    columns = group_by(figures, itemgetter("factor", "measure", "probe"))
    # The columns of a factor, and of its measures, are side by side.
    factors, measures = ([column[:length] for column in columns] for length in (1, 2))
    order = sorted(columns, key=lambda c: (factors.index(c[:1]), measures.index(c[:2])))
    columns = {column: columns[column] for column in order}
    above = Counter((c[0], named(c[1], own[0]["unit"])) for c, own in columns.items())
    cells = {
        (figure["model"], figure["representation"], column): _cell(figure)
        for column, own in columns.items()
        for figure in own
    }
    rows = {}
    for model, representation in dict.fromkeys(map(itemgetter("model", "representation"), figures)):
        own = [cells.get((model, representation, column)) for column in columns]
        rows.setdefault(model, []).append((representation, own))
    return {
        "above": [(*head, count) for head, count in above.items()],
        "below": [(column[2] or "", _chance(own)) for column, own in columns.items()],
        "models": [
            {**model, "rows": rows[model["name"]]} for model in models if model["name"] in rows
        ],
    }


def _chance(figures):
    """Return the chance of a column, or the least and the greatest."""
    chances = [f["chance"] for f in figures if f["chance"] is not None]
    ends = [bare(end(chances), figures[0]["unit"]) for end in (min, max) if chances]
    return " to ".join(dict.fromkeys(ends)) or NONE


def _cell(figure):
    """Return the texts and colours of a cell; `bold` where it is above chance beyond doubt."""
    interval, chance, unit = figure["interval"], figure["chance"], figure["unit"]
    share, wanted = strength(figure), None
    if figure["better"] is not None:
        wanted = (figure["better"] == "high") != is_error(figure["measure"])
    background, ink = ("#ffffff", "#000000") if share is None else heat(share, wanted)
    return {
        "sign": SIGNS[wanted],
        "bold": bool(interval and share and not interval[0] <= chance <= interval[1]),
        "value": bare(figure["value"], unit),
        "interval": span(interval, unit),
        "style": f"background:{background};color:{ink}",
    }
