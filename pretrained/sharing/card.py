"""The README.md of an exported folder: what it is for, how to load it, what it was made from.

Its first lines are what the Hugging Face Hub shows and searches models by.
"""

import json
from pathlib import Path

from pretrained.facts import kind_of
from pretrained.plain_files import write_whole
from pretrained.sharing.card_texts import ENCODER_USES, FEATURES_TEXT, NOT_FOR, PRIVACY, TEXTS

TEMPLATE = """---
library_name: learn2diss
pipeline_tag: {task}
license: unknown
tags:
- speech
- {tag}
---

# {title}

Exported by a recipe of Learn2Diss for SpeechBrain (arXiv 2407.02543): {what}

## Load

With that project installed:

{load}

On the Hugging Face Hub, `organisation/name` stands for the folder. It is complete and holds no
code: `model.safetensors` are the weights, `config.json` the architecture and the checksums. The
licence of the weights, which those who trained them choose, stands in the first lines of this file.

## What it is for

{uses}

## What it is not for

{not_for}

## Voices and privacy

{privacy}

## Data

{data}

## Training

{training}

## Figures

{figures}

These are figures of one run with one seed, on the data above. {caveat}
None is taken from the method's paper, whose authors withdrew theirs.

## Limits

{limits}

## Architecture

{modules}

## Settings

{settings}
"""
DATA_TEXT = """Speech as the recipe of {corpus} lists it:

{table}

`data` under Training is the fingerprint of these lists: runs with the same one had the same
utterances. A licence of the data may bind the use of the weights.

*To be filled in by whoever publishes this folder: languages, ages and accents of the speakers, how
they were recorded, what they agreed to, and the licence of the recordings.*"""
TRAINING_TEXT = """{by}. The settings are at the end of this page.
`commit` and `versions` tell the code: a commit that ends with + had changes.

{table}"""
SHOWN_LABELS = 50


def write_card(folder, metrics, run):
    """Write the model card of an exported folder.

    Arguments
    ---------
    folder : str or Path
        As `pretrained.exported.save_model` leaves it.
    metrics : dict
        The content of the run's metrics.json.
    run : dict
        `corpus`, whose recipe read the data; `splits`, a list of dicts with `split`, `hours`,
        `utterances` and `speakers` (None where they are not known); `file`, the hyperparameters
        file, or None; `settings`, plain values by name.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path") / "model"
    >>> save_model(folder, {"utterance_encoder": UtteranceEncoder("tdnn", channels=8)})
    >>> run = {"corpus": "LibriSpeech", "splits": [], "file": None, "settings": {"lr": 0.1}}
    >>> write_card(folder, {"figures": {"test": {"loss": 1.5}}, "seed": 7}, run)
    >>> text = (folder / "README.md").read_text()
    >>> "| test.loss | 1.5 |" in text and "| lr | 0.1 |" in text
    True
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    modules = {name: config[name] for name in config if name.endswith(("_encoder", "_head"))}
    facts = config.get("facts")
    values = _encoder_texts(modules) if facts is None else _facts_texts(facts)
    text = TEMPLATE.format(
        not_for=NOT_FOR,
        privacy=PRIVACY,
        data=DATA_TEXT.format(corpus=run["corpus"], table=_splits_table(run["splits"])),
        training=_training_text(run["file"], metrics),
        figures=_table("figure", metrics["figures"]),
        modules=_table("argument", modules),
        settings=_table("key", run["settings"]),
        **{key: text.format(**values) for key, text in TEXTS[kind_of(facts)].items()},
    )
    write_whole(folder / "README.md", text.encode())


def _encoder_texts(modules):
    """Return the words for a folder of encoders."""
    return {
        "encoders": " and ".join(modules).replace("_", " ").capitalize(),
        "encoder_uses": "\n".join(ENCODER_USES[name] for name in modules if name in ENCODER_USES),
    }


def _facts_texts(facts):
    """Return the words for a folder with a head: its facts, the first of many labels."""
    labels = facts.get("labels", [])
    shown = ", ".join(labels[:SHOWN_LABELS]) + (", ..." if len(labels) > SHOWN_LABELS else "")
    features = FEATURES_TEXT[facts["features"]]
    return {**facts, "features": features, "number_of_labels": len(labels), "labels": shown}


def _training_text(file, metrics):
    """Return what is told of the training: the hyperparameters file and what the run kept."""
    by = "By a recipe of the project" if file is None else f"By `{file}` of the project"
    kept = {key: value for key, value in metrics.items() if key not in ("figures", "code")}
    return TRAINING_TEXT.format(by=by, table=_table("what", kept))


def _splits_table(splits):
    """Return the table of how much speech there is, and of how many people."""
    rows = ["| split | hours | utterances | speakers |", "|---|--:|--:|--:|"]
    for split in splits:
        speakers = "not known" if split["speakers"] is None else split["speakers"]
        numbers = f"{split['hours']:.2f} | {split['utterances']} | {speakers}"
        rows.append(f"| {_cell(split['split'])} | {numbers} |")
    return "\n".join(rows)


def _table(heading, values):
    rows = [f"| {name} | {value} |" for name, value in _flat(values)]
    return "\n".join([f"| {heading} | value |", "|---|---|", *rows])


def _flat(values, prefix=""):
    """Yield the dotted name and the text of each plain value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _cell(f"{value:.6g}" if isinstance(value, float) else value)


def _cell(value):
    """Return the text of a value as a cell of a table holds it."""
    return str(value).replace("|", "\\|").replace("\n", " ")
