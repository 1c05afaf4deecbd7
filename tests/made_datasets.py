"""Datasets of made-up rows."""

from recipes.common.data.manifest import write_manifest
from recipes.common.data.utterances import load_dataset


def made_dataset(path, rows):
    """Write rows, by ID, to a manifest and return its dataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest([{"ID": name, "spk_id": "1", **row} for name, row in rows.items()], path)
    return load_dataset(path, path.parent)
