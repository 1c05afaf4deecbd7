"""The manifest: one schema for every corpus, checked before anything is written.

A manifest is a CSV file, as SpeechBrain reads it, with the columns `ID`, `duration` (s), `wav` (a
path that begins with `$data_root`), `spk_id` and, where known, `wrd` (words), `phn` (phones) and
`label` (the class of the utterance). Whatever else a corpus's rows have follows as it is.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pretrained.audio_files import recording_of, why_absent
from recipes.common.data.files import CorpusError, replace_text
from recipes.common.data.table import OPTIONAL, REQUIRED, ROOT, open_table
from recipes.common.data.utterances import load_dataset

ASKING, ASKED = 8, 5000  # threads that look at files, and how many one takes at a time
LISTED = 5  # files that a folder is to have, for it to be listed
# What a manifest cannot hold: SpeechBrain takes "$5" for a variable; characters that are none.
UNWRITABLE = re.compile(r"\$[\w.]|[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def write_manifest(rows, path):
    """Write a manifest, sorted by ID; the file is complete or as it was.

    Arguments
    ---------
    rows : list of dict
        With the keys of the schema.
    path : str or Path
        The CSV file.

    Raises
    ------
    CorpusError
        Where SpeechBrain would not read a value as it is: one with a variable, such as "$5".

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> row = {"ID": "a", "duration": 1.5, "wav": "$data_root/a.wav", "spk_id": "1"}
    >>> write_manifest([row], path)
    >>> path.read_text()
    'ID,duration,wav,spk_id\\na,1.5,$data_root/a.wav,1\\n'
    """
    problems = unwritable(rows)
    if problems:
        raise CorpusError(f"{path}: " + "\n".join(problems))
    replace_text(path, csv_text(sorted(rows, key=lambda row: row["ID"]), columns_of(rows)))


def columns_of(rows):
    """Return the columns of a manifest of rows: those of the schema first.

    Example
    -------
    >>> columns_of([{"ID": "a", "age": 3, "label": "x"}, {"ID": "b", "sex": "f"}])
    ['ID', 'duration', 'wav', 'spk_id', 'label', 'age', 'sex']
    """
    there = dict.fromkeys(name for row in rows for name in row)
    known = [name for name in OPTIONAL if name in there]
    return [*REQUIRED, *known, *(name for name in there if name not in (*REQUIRED, *known))]


def csv_text(rows, columns):
    """Return the text of a manifest, its rows as they are ordered.

    Example
    -------
    >>> csv_text([{"ID": "b", "duration": 1.5}, {"ID": "a", "duration": 2.0}], ["ID", "duration"])
    'ID,duration\\nb,1.5\\na,2.0\\n'
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def unwritable(rows):
    """Return what is wrong with values of rows that a manifest cannot hold.

    Example
    -------
    >>> unwritable([{"ID": "a", "wrd": "PAY $5"}])
    ["a: wrd is 'PAY $5': a manifest cannot hold '$5', which SpeechBrain would not read as it is."]
    """
    names, problems = columns_of(rows), []
    if "id" in names:
        problems.append("The rows have a column id: SpeechBrain calls ID so. Rename it.")
    for row in rows:
        values = [str(row.get(name, "")).removeprefix(ROOT) for name in names]
        if not UNWRITABLE.search("\t".join(values)):  # no value has a match with a tab in it
            continue
        problems += [
            f"{row['ID']}: {name} is {row[name]!r}: a manifest cannot hold "
            f"{found[0]!r}, which SpeechBrain would not read as it is."
            for name, value in zip(names, values, strict=True)
            if (found := UNWRITABLE.search(value))
        ]
    return problems


def validate_manifests(paths, data_root, disjoint_speakers):
    """Check manifests against the audio and against each other.

    Arguments
    ---------
    paths : dict
        A manifest's path by its name.
    data_root : str or Path
        The corpus's folder.
    disjoint_speakers : dict
        Groups of names; no speaker may be in two groups, no utterance in two manifests.

    Raises
    ------
    CorpusError
        Where a manifest is empty or wrong, or a file is missing, or an ID or a speaker is where it
        must not be.
    """
    for path in paths.values():
        dataset = load_dataset(path, data_root)
        missing = first_missing(dataset.column("wav"))
        if missing is not None:
            utterance, audio = (dataset.column(key)[missing] for key in ("id", "wav"))
            raise CorpusError(f"{path}: {utterance}: {audio} {why_absent(audio)}")
    tables = {name: open_table(path) for name, path in paths.items()}
    for first, second in combinations(paths, 2):
        common = _first_common(tables[first]["ID"], tables[second]["ID"])
        if common is not None:
            raise CorpusError(f"{paths[second]}: ID {common} is in {paths[first]} too.")
    speakers = {
        group: pa.chunked_array([c for name in names for c in tables[name]["spk_id"].chunks])
        for group, names in disjoint_speakers.items()
    }
    for first, second in combinations(speakers, 2):
        common = _first_common(speakers[first], speakers[second])
        if common is not None:
            own = {name: tables[name] for name in disjoint_speakers[second]}
            name, utterance = _first_of_speaker(own, common)
            raise CorpusError(
                f"{paths[name]}: {utterance}: speaker {common} is in the split {first} too, and "
                f"{second} must not share speakers with it."
            )


def _first_of_speaker(tables, speaker):
    """Return the name of the first table that has a speaker, and the ID of the utterance."""
    places = {name: pc.index(table["spk_id"], speaker).as_py() for name, table in tables.items()}
    name = next(name for name, place in places.items() if place >= 0)
    return name, tables[name]["ID"][places[name]].as_py()


def _first_common(first, second):
    """Return a value that two columns share, or None."""
    few, many = sorted((first, second), key=len)
    shared = many.filter(pc.is_in(many, value_set=few.unique()))
    return shared[0].as_py() if len(shared) else None


def first_missing(paths):
    """Return the place of the first path that leads to no audio, or None.

    Arguments
    ---------
    paths : Texts
        Folders that hold several of them are listed, which asks of many files at once.

    Returns
    -------
    int or None
    """
    for start in range(0, len(paths), ASKING * ASKED):
        some = paths[start : start + ASKING * ASKED]
        unsure = unlisted(some)
        problems = in_threads(why_absent, [some[place] for place in unsure])
        for place, problem in zip(unsure, problems, strict=True):
            if problem:
                return start + place
    return None


def unlisted(paths):
    """Return the places of the paths that no listing of their folder shows to be files.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> paths = [str(folder / f"{name}.wav") for name in range(9)]
    >>> _ = [Path(path).write_bytes(b"") for path in paths[:8]]
    >>> unlisted(paths)
    [8]
    """
    parts = [os.path.split(recording_of(path)) for path in paths]
    often = Counter(folder for folder, _ in parts)
    files = {folder: _files_in(folder) for folder, times in often.items() if times >= LISTED}
    return [
        place for place, (folder, name) in enumerate(parts) if name not in files.get(folder, ())
    ]


def _files_in(folder):
    """Return the names of the files in a folder, as far as they are few enough to list."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in islice(entries, ASKING * ASKED) if entry.is_file()}
    except OSError:
        return set()


def in_threads(ask, paths, at_once=ASKED):
    """Yield what a function says of paths, in order: a file system answers many questions at once.

    `at_once` is how many paths a thread takes at a time.

    Example
    -------
    >>> list(in_threads(os.path.isfile, ["nowhere/a.wav", "nowhere/b.wav"]))
    [False, False]
    """

    def ask_some(start):
        return [ask(path) for path in paths[start : start + at_once]]

    with ThreadPoolExecutor(ASKING) as pool:
        for answers in pool.map(ask_some, range(0, len(paths), at_once)):
            yield from answers


def fingerprint(paths):
    """Return a short digest of manifests: the same utterances give the same.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> _ = path.write_text("ID")
    >>> len(fingerprint([path]))
    16
    """
    digest = hashlib.sha256()
    for path in sorted(map(Path, paths)):
        digest.update(path.name.encode() + b"\0")
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def count_left_out(manifests):
    """Return how many audio files `skip_bad` left out of manifests that `prepare_splits` wrote.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "train.json").write_text('{"left_out": 2}')
    >>> count_left_out([folder / "train.csv", folder / "other.csv"])
    2
    """
    markers = [Path(path).with_suffix(".json") for path in manifests]
    texts = [path.read_text(encoding="utf-8") for path in markers if path.is_file()]
    return sum(json.loads(text)["left_out"] for text in texts)
