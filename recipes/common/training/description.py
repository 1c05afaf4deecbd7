"""What a model card tells of a run: its corpus, how much speech of how many people, settings."""

import os
from pathlib import Path

import pyarrow.compute as pc

from recipes.common.data.table import open_table
from recipes.common.training.command_line import PATHS
from recipes.common.training.hparams import read_source

PLAIN = (bool, int, float, str, type(None))
A_PATH = "(a path)"


def describe_run(hparams, manifests):
    """Return what a model card tells of a run, without the places of the machine that it ran on.

    Arguments
    ---------
    hparams : dict
        As `load_hparams` builds them, with `prepare` of the recipe of a corpus.
    manifests : list of Path
        Of the data.

    Returns
    -------
    dict
        As `pretrained.sharing.card.write_card` takes it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "valid.csv").write_text(
    ...     "ID,duration,wav,spk_id\\na,9.0,$data_root/a.wav,1\\nb,9.0,$data_root/b.wav,1\\n"
    ... )
    >>> hparams = {"prepare": describe_split, "output_folder": str(folder), "lr": 0.1}
    >>> described = describe_run(hparams, [folder / "valid.csv"])
    >>> described["settings"]
    {'output_folder': '(a path)', 'lr': 0.1}
    >>> described["splits"]
    [{'split': 'valid', 'hours': 0.005, 'utterances': 2, 'speakers': 1}]
    """
    prepare = hparams["prepare"]
    return {
        "corpus": getattr(prepare, "func", prepare).__module__.split(".")[1],
        "file": read_source(hparams["output_folder"]),
        "splits": [describe_split(path) for path in manifests],
        "settings": {
            name: A_PATH if _is_place(name, value) else value
            for name, value in hparams.items()
            if name[:2] != "__" and all(isinstance(each, PLAIN) for each in _listed(value))
        },
    }


def describe_split(path):
    """Return the name of a manifest, hours, utterances and speakers.

    Where each utterance has a speaker of its own, the corpus does not tell who speaks: None.
    """
    table = open_table(path)
    utterances, speakers = len(table), pc.count_distinct(table["spk_id"]).as_py()
    return {
        "split": Path(path).stem,
        "hours": pc.sum(table["duration"]).as_py() / 3600,
        "utterances": utterances,
        "speakers": None if speakers == utterances else speakers,
    }


def _listed(value):
    return value if isinstance(value, list) else [value]


def _is_place(name, value):
    """Return whether a setting tells where something lies on the machine."""
    texts = [each for each in _listed(value) if isinstance(each, str)]
    named = PATHS.search(name) and not name.endswith("_splits")
    return bool(texts) and bool(named or any(map(os.path.isabs, texts)))
