"""The history of a training: its figures by epoch, as lines and as curves."""

import json

from recipes.common.data.files import read_text, replace_text


def read_history(path):
    """Return the epochs of a history.

    Arguments
    ---------
    path : Path
        Of JSON lines, one an epoch; there may be none yet.

    Returns
    -------
    list of dict
        `epoch`, `train` and `valid` of each.

    Raises
    ------
    ValueError
        Where a line is no epoch.

    Example
    -------
    >>> path = getfixture("tmp_path") / "history.jsonl"
    >>> _ = record_epoch(path, 1, {"loss": 2.0}, {"loss": 3.0})
    >>> read_history(path)
    [{'epoch': 1, 'train': {'loss': 2.0}, 'valid': {'loss': 3.0}}]
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines() if path.exists() else [], 1):
        try:
            row = json.loads(line)
            rows.append({key: row[key] for key in ("epoch", "train", "valid")})
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: no epoch of a training. Remove the file, and the run goes "
                "on without the curves of its earlier epochs."
            ) from None
    return rows


def record_epoch(path, epoch, train, valid):
    """Append an epoch to a history of JSON lines, in the place of what came from there on.

    Returns
    -------
    list of dict
        The whole history, as `read_history` returns it.
    """
    rows = [row for row in read_history(path) if row["epoch"] < epoch]
    rows.append({"epoch": epoch, "train": train, "valid": valid})
    replace_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def draw_curves(rows, path):
    """Draw every figure of a history over the epochs, a panel each, as a PNG."""
    from matplotlib.figure import Figure  # half a second, which a start does without

    names = sorted({name for row in rows for part in ("train", "valid") for name in row[part]})
    columns = 3
    height = -(-len(names) // columns)
    figure = Figure(figsize=(12, 2.6 * height))
    axes = figure.subplots(height, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        for part in ("train", "valid"):
            points = [(row["epoch"], row[part][name]) for row in rows if name in row[part]]
            if points:
                axis.plot(*zip(*points, strict=True), label=part, marker=".")
        axis.set_title(name.replace("_", " "), fontsize=9)
        if name == "loss":
            axis.legend(fontsize=7)
    figure.subplots_adjust(0.05, 0.05, 0.98, 0.97, hspace=0.4)
    figure.savefig(path, dpi=70)
