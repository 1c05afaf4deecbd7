"""The history of a training: its figures by epoch, as lines and as curves."""

import json

from matplotlib.figure import Figure


def record_epoch(path, epoch, train, valid):
    """Append an epoch to a history of JSON lines, in the place of what came from there on.

    Returns
    -------
    list of dict
        The whole history: `epoch`, `train` and `valid` of each.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["epoch"] < epoch]
    rows.append({"epoch": epoch, "train": train, "valid": valid})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def draw_curves(rows, path):
    """Draw every figure of a history over the epochs, a panel each, as a PNG."""
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
