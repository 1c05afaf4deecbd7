"""Preparation of Fluent Speech Commands (Lugosch et al., Interspeech 2019): a manifest a split.

The layout is data/train_data.csv, valid_data.csv and test_data.csv, whose columns `path` and
`speakerId` name the audio and its speaker, and `action`, `object` and `location` what is asked for.
"""

import csv
import io
from pathlib import Path, PurePosixPath

from recipes.common.corpora.preparation import check_splits, prepare_splits
from recipes.common.data.files import CorpusError, read_text

SLOTS = ("action", "object", "location")
BETWEEN = ", "  # the values of an intent's slots, in a label
NAMELESS = ("", "unknown")  # what stands for a speaker who is not known


def prepare_fluent(data_folder, save_folder, splits, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test", as published.

    `label` holds the values of the three slots, joined by a comma and a space, such as "activate,
    lights, kitchen". An utterance whose speaker is not known counts as a speaker of its own. Safe
    to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder fluent_speech_commands_dataset.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a table, a column, a value or audio is missing or cannot be used. Nothing is written
        then.

    Example
    -------
    >>> prepare_fluent("nowhere", "manifest", ["train"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    check_splits(splits)
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split):
    """Return a split's rows, with speaker and label, and its problems; `wav` is a Path."""
    table = Path(data_folder) / "data" / f"{split}_data.csv"
    rows, problems, lines = [], [], {}
    for line, values in read_table(table):
        where, wav = f"{table}, line {line}", PurePosixPath(values["path"])
        intent, name = [values[slot] for slot in SLOTS], "-".join(wav.with_suffix("").parts[-2:])
        if not all(intent) or any(BETWEEN in value for value in intent):
            problems.append(f"{where}: {intent} are no values of {', '.join(SLOTS)}.")
        elif name in lines:
            problems.append(f"{where}: {wav} stands in line {lines[name]} too.")
        elif wav.is_absolute() or ".." in wav.parts or not (Path(data_folder) / wav).is_file():
            problems.append(f"{where}: {Path(data_folder) / wav} is missing.")
        else:
            speaker = values["speakerId"]
            rows.append(
                {
                    "ID": name,
                    "wav": Path(data_folder) / wav,
                    "spk_id": name if speaker in NAMELESS else speaker,
                    "label": BETWEEN.join(intent),
                }
            )
        lines.setdefault(name, line)
    return rows, problems


def read_table(path):
    """Return the number of each line of a table, and its values by column.

    Arguments
    ---------
    path : Path

    Returns
    -------
    list of tuple
        (line, dict). `speakerId` is "" where the table has no such column.

    Raises
    ------
    CorpusError
        Where the table, or a column or a value of it, is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "test_data.csv"
    >>> _ = path.write_text("path,action,object,location\\na.wav,increase,volume,none\\n")
    >>> read_table(path)[0][1]["object"]
    'volume'
    """
    if not path.is_file():
        raise CorpusError(
            f"{path} is missing: expected Fluent Speech Commands as its authors lay it out."
        )
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = [name for name in ("path", *SLOTS) if name not in (reader.fieldnames or [])]
    if missing:
        raise CorpusError(f"{path}, line 1: no column {', '.join(missing)}.")
    names, found = ("path", "speakerId", *SLOTS), []
    for row in reader:
        values = {name: (row.get(name) or "").strip() for name in names}
        found.append((reader.line_num, values))
    if not found:
        raise CorpusError(f"{path} lists no utterance.")
    return found
