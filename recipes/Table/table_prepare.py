"""Preparation of utterances that a CSV file lists with a label each: a manifest for each split.

The columns are `wav` and `label` and, where known, `ID`, `spk_id` and `split`; others are left
alone. Audio may be of any rate, number of channels and container that soundfile reads.
"""

import csv
import io
import os
from collections import Counter, defaultdict
from pathlib import Path

from speechbrain.utils.logger import get_logger

from pretrained.audio_files import why_absent
from pretrained.facts import is_line
from pretrained.plain_files import first_few
from recipes.common.corpora.preparation import SPLITS, draw_splits, prepare_splits, utterance_id
from recipes.common.data.files import CorpusError, read_text

logger = get_logger(__name__)
REQUIRED = ("wav", "label")
LISTED = 10  # problems that an error spells out
HELD = {"valid": 0.1, "test": 0.2}  # where splits are drawn: the rest is "train"
HOW = {
    "split": "its column split",
    "speakers": "speakers, drawn by a hash of their names",
    "utterances": "utterances, drawn by a hash of their IDs: a speaker may be in several splits",
}


def prepare_table(data_folder, save_folder, splits, table, disjoint_speakers=False, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test" of a table.

    Without a column `split`, a tenth of the speakers is "valid" and a fifth is "test"; where no
    speakers are known either, of the utterances. Safe to repeat: what is there and still holds is
    kept.

    Arguments
    ---------
    data_folder : str or Path
        Paths in the table are relative to it, and all audio lies in it.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
    table : str or Path
        The CSV file.
    disjoint_speakers : bool
        Whether no speaker may be in two splits.
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        With what is wrong with the table, each with its line. No manifest is written then.

    Example
    -------
    >>> prepare_table(".", "manifest", ["train"], "nowhere.csv")
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: table nowhere.csv is missing: expected a CSV file.
    """
    rows = {}
    if not options.get("skip_prep"):
        rows = read_table(table, data_folder, disjoint_speakers)
        logger.info(f"{table}: the splits are made by {HOW[split_by(table)]}")
    options |= {"listing": {"rows": rows}, "any_rate": True}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split, rows):
    """Return the rows of a split, as `read_table` found them, and no problems."""
    if split not in rows:
        raise CorpusError(f"A table has no split {split}: expected {', '.join(SPLITS)}.")
    return rows[split], []


def folder_of(table):
    """Return the folder that a table lies in.

    Example
    -------
    >>> folder_of("speech/my.csv"), folder_of("my.csv")
    ('speech', '.')
    """
    return os.path.dirname(table) or "."


def split_by(table):
    """Return what makes the splits of a table: "split", its column, "speakers" or "utterances".

    Example
    -------
    >>> path = getfixture("tmp_path") / "my.csv"
    >>> _ = path.write_text("wav,label,spk_id\\na.wav,yes,Ann\\n")
    >>> split_by(path)
    'speakers'
    """
    lines = _read_lines(table)
    if "split" in lines[0][1]:
        return "split"
    return "speakers" if any(row.get("spk_id") for _, row in lines) else "utterances"


def read_table(table, data_folder, disjoint_speakers=False):
    """Return the rows of each split of a table.

    Arguments
    ---------
    table : str or Path
        The CSV file.
    data_folder, disjoint_speakers
        As `prepare_table` takes them.

    Returns
    -------
    dict
        By split: a list of dict with `ID`, `wav` (a Path), `spk_id` and `label`.

    Raises
    ------
    CorpusError
        With what is wrong, each with its line, and how much more there is.
    """
    lines, rows, problems = _read_lines(table), [], []
    by, first = split_by(table), {}
    for number, row in lines:
        found, problem = _read_row(row, Path(data_folder), by)
        if problem is None and first.setdefault(found["ID"], number) != number:
            problem = f"ID {found['ID']} stands in line {first[found['ID']]} too."
        if problem is None:
            rows.append((number, found))
        else:
            problems.append(f"{table}, line {number}: {problem}")
    if not problems:
        _add_splits([row for _, row in rows], by, table)
        problems = _shared_speakers(rows) if disjoint_speakers else []
        problems = [f"{table}{problem}" for problem in _what_splits_lack(rows) + problems]
    if problems:
        raise CorpusError("\n".join(first_few(problems, LISTED)))
    warn_of_likes([row["label"] for _, row in rows], table)
    splits = {split: [] for split in SPLITS}
    for _, row in rows:
        splits[row.pop("split")].append(row)
    return splits


def warn_of_likes(labels, table):
    """Warn of labels that differ in case or in blanks alone, each of which is a class of its own.

    Arguments
    ---------
    labels : list of str
        The label of each utterance.
    table : str or Path
        Where they stand, for the message.

    Example
    -------
    >>> warn_of_likes(["yes", "no", "yes"], "my.csv")
    """
    counts, alike = Counter(labels), defaultdict(list)
    for label in sorted(counts):
        alike["".join(label.split()).casefold()].append(label)
    for own in alike.values():
        if len(own) > 1:
            told = " and ".join(f"{label!r} ({counts[label]} times)" for label in own)
            logger.warning(
                f"{table}: the labels {told} count as {len(own)} classes, although they differ in "
                "case or in blanks alone: write them alike if they are one."
            )


def _read_lines(table):
    """Return the number and the values of each row of a table."""
    if not Path(table).is_file():
        what = "a folder" if Path(table).is_dir() else "missing"
        raise CorpusError(f"table {table} is {what}: expected a CSV file.")
    reader = csv.DictReader(io.StringIO(read_text(table), newline=""), strict=True)
    try:
        names = reader.fieldnames or []
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise CorpusError(f"{table}, line 1: the column {twice[0]} is there twice.")
        for name in REQUIRED:
            if name not in names:
                raise CorpusError(
                    f"{table}, line 1: no column {name}: expected {' and '.join(REQUIRED)}, "
                    f"separated by commas; found {', '.join(names) or 'nothing'}."
                )
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CorpusError(f"{table}, line {reader.line_num}: {error}.") from error
    if not lines:
        raise CorpusError(f"{table} lists no utterance.")
    return lines


def _read_row(row, data_folder, by):
    """Return a row as `read_table` has it, with its `split`, and what is wrong with it or None."""
    if None in row or None in row.values():
        return None, "not as many values as the header has columns."
    path, label, split = row["wav"], row["label"], row.get("split")
    if not path or not is_line(label):
        return None, f"wav is {path!r} and label {label!r}: expected a path and a line of text."
    place = os.path.relpath(os.path.join(data_folder, path), data_folder)
    if place.split(os.sep)[0] == os.pardir:
        return None, (
            f"{path} lies outside of data_folder {data_folder}, which is the table's folder where "
            "none is given: give --data_folder a folder that holds all."
        )
    wav = data_folder / place
    if (absent := why_absent(wav)) is not None:
        hint = " Expected / between folders, not \\." if "\\" in place else ""
        return None, f"{wav} {absent} Paths are relative to data_folder {data_folder}.{hint}"
    if by == "split" and split not in SPLITS:
        return None, f"split is {split!r}: expected {', '.join(SPLITS)}."
    name = row.get("ID") or utterance_id(Path(place))
    speaker = row.get("spk_id", "")
    if not speaker:
        if by == "speakers":
            return None, "no value for spk_id, which other lines have."
        speaker = name
    return {"ID": name, "wav": wav, "spk_id": speaker, "label": label, "split": split}, None


def _add_splits(rows, by, table):
    """Draw the split of each row, unless the table says it."""
    if by == "split":
        return
    try:
        drawn = draw_splits([row["spk_id"] for row in rows], HELD)
    except CorpusError as error:
        raise CorpusError(f"{table}: {error}") from error
    for row in rows:
        row["split"] = drawn[row["spk_id"]]


def _what_splits_lack(rows):
    """Return what is wrong with the splits and the classes of rows, which follows on the table."""
    problems = [
        f": no utterance is of the split {split}: it needs {', '.join(SPLITS)}."
        for split in SPLITS
        if all(row["split"] != split for _, row in rows)
    ]
    trained_on = {row["label"] for _, row in rows if row["split"] == "train"}
    if len({row["label"] for _, row in rows}) < 2:
        problems.append(
            f": all labels are {rows[0][1]['label']}: a classifier needs two or more classes."
        )
        return problems
    told = set()
    for number, row in rows:
        label = row["label"]
        if label not in trained_on and label not in told:
            told.add(label)
            problems.append(
                f", line {number}: label {label} has no utterance in the split train, so that "
                "nothing can tell it: add some, or say the splits in a column split."
            )
    return problems


def _shared_speakers(rows):
    """Return what is wrong with speakers that are in two splits, which follows on the table."""
    first, problems = {}, {}
    for number, row in rows:
        speaker, split = row["spk_id"], row["split"]
        line, other = first.setdefault(speaker, (number, split))
        if other != split:
            told = (
                f", line {number}: speaker {speaker} is in {split}, and in {other} in line {line}: "
            )
            told += "expected each speaker in one split, or --disjoint_speakers False."
            problems.setdefault(speaker, told)
    return list(problems.values())
