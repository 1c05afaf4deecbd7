"""What programs write into READMEs: figures with their spread, tables, and where these go."""

from pathlib import Path

import numpy as np

from recipes.common.data.files import read_text, replace_text

RULES = {"l": "---|", "r": "--:|"}


def markdown_table(heads, align, rows):
    """Return a table as Markdown.

    Arguments
    ---------
    heads : list of str
        A title for each column.
    align : str
        "l" or "r" for each column.
    rows : list of list of str
        A text for each column.

    Returns
    -------
    str

    Example
    -------
    >>> print(markdown_table(["run", "accuracy"], "lr", [["frame", "10.2"], ["joint", ""]]))
    | run | accuracy |
    |---|--:|
    | frame | 10.2 |
    | joint | |
    """
    lines = ["|" + "".join(f" {text} |" if text else " |" for text in row) for row in rows]
    rule = "|" + "".join(RULES[side] for side in align)
    head = "|" + "".join(f" {text} |" if text else " |" for text in heads)
    return "\n".join([head, rule, *lines])


def percent_and_range(values):
    """Return the mean of shares in per cent and, where there are several, their range.

    Arguments
    ---------
    values : list of float
        Shares, such as an error rate with each seed.

    Returns
    -------
    str

    Example
    -------
    >>> percent_and_range([0.5, 0.6]), percent_and_range([0.5])
    ('55.0 [50.0, 60.0]', '50.0')
    """
    mean = f"{100 * np.mean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{100 * min(values):.1f}, {100 * max(values):.1f}]"


def change_and_interval(change, interval):
    """Return a difference of shares in per cent with its interval.

    Example
    -------
    >>> change_and_interval(-0.1, (-0.2, 0.05))
    '-10.0 [-20.0, +5.0]'
    """
    low, high = interval
    return f"{100 * change:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def write_between(path, name, text):
    """Replace what stands between the lines `<!-- name -->` and `<!-- /name -->` of a file.

    Arguments
    ---------
    path : str or Path
        Text in UTF-8. It holds all of the new text, or what it held before.
    name : str
        Of the markers, which stay.
    text : str
        Lines, without the last one's end.

    Raises
    ------
    ValueError
        Where a marker is missing; names file and marker.

    Example
    -------
    >>> path = getfixture("tmp_path") / "README.md"
    >>> _ = path.write_text("<!-- table -->\\nold\\n<!-- /table -->\\n")
    >>> write_between(path, "table", "new")
    >>> path.read_text().splitlines()
    ['<!-- table -->', 'new', '<!-- /table -->']
    """
    path = Path(path)
    lines = read_text(path).splitlines(keepends=True)
    opening = _find_line(path, lines, f"<!-- {name} -->", 0)
    closing = _find_line(path, lines, f"<!-- /{name} -->", opening)
    replace_text(path, "".join([*lines[: opening + 1], f"{text}\n", *lines[closing:]]))


def _find_line(path, lines, marker, start):
    """Return the place of the first line from `start` on that is the marker."""
    for place in range(start, len(lines)):
        if lines[place].strip() == marker:
            return place
    raise ValueError(
        f"{path} lacks the line {marker}: add it, as text goes between two such lines."
    )
