"""The README.md of an exported folder: what it is, how to load it, what was measured."""

import json
import os
from pathlib import Path

TEMPLATE = """# {title}

Exported by a recipe of Learn2Diss for SpeechBrain (arXiv 2407.02543): encoders of 16 kHz speech,
trained without labels.

{encoders}

## Load

With that project installed:

    from pretrained import Learn2Diss
    model = Learn2Diss.from_pretrained("<this folder>")
    encoding = model.encode_file("speech.flac")

`encoding.frames` is (1, frames, d_model) at 50 Hz, `encoding.utterance` (1, E); the output of an
encoder that is not in the folder is None. The folder is complete and holds no code:
`model.safetensors` are the weights, `config.json` the architecture and the checksums.

## Figures

{figures}

These are figures of one run with one seed, on the data below. They say how its training went by
its own measures. They do not tell how good the representations are for another task or on other
recordings, and figures of runs on other data cannot be compared with them. None is taken from the
method's paper, whose authors withdrew theirs.

## Made from

{origin}
"""


def write_card(folder, metrics):
    """Write the model card of an exported folder.

    Arguments
    ---------
    folder : str or Path
        As `pretrained.exported.save_model` leaves it.
    metrics : dict
        The content of the run's metrics.json.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path") / "model"
    >>> save_model(folder, {"utterance_encoder": UtteranceEncoder("tdnn", channels=8)})
    >>> write_card(folder, {"figures": {"test": {"loss": 1.5}}, "seed": 7})
    >>> "| test.loss | 1.5 |" in (folder / "README.md").read_text()
    True
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoders = {name: config[name] for name in config if name.endswith("_encoder")}
    origin = {key: value for key, value in metrics.items() if key != "figures"}
    text = TEMPLATE.format(
        title=" and ".join(name.replace("_", " ") for name in encoders).capitalize(),
        encoders=_table("argument", encoders),
        figures=_table("figure", metrics["figures"]),
        origin=_table("what", origin),
    )
    partial = folder / "README.md.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / "README.md")


def _table(heading, values):
    rows = [f"| {name} | {value} |" for name, value in _flat(values)]
    return "\n".join([f"| {heading} | value |", "|---|---|", *rows])


def _flat(values, prefix=""):
    """Yield the dotted name and the text of each plain value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            yield f"{prefix}{key}", text.replace("|", "\\|").replace("\n", " ")
