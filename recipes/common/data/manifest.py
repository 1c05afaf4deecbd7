"""The manifest: one schema for every corpus, checked before anything is written.

A manifest is a CSV file, as SpeechBrain reads it, with the columns `ID`, `duration` (s), `wav` (a
path that begins with `$data_root`), `spk_id` and, where known, `wrd` (words) and `phn` (phones).
A corpus is added by a function that lists its utterances; `prepare_splits` does the rest.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from pretrained.audio import check_audio
from pretrained.audio_files import why_absent
from recipes.common.data.files import CorpusError, digest_code, replace_text
from recipes.common.data.table import OPTIONAL, REQUIRED, ROOT, open_table
from recipes.common.data.utterances import complete_path, load_dataset

logger = get_logger(__name__)

ASKING, ASKED = 8, 5000  # threads that look at files, and how many one takes at a time
LISTED = 5  # files that a folder is to have, for it to be listed
MIN_HELD = 2  # utterances of a split that is held out: what a contrast needs
# What a manifest cannot hold: SpeechBrain takes "$5" for a variable; characters that are none.
UNWRITABLE = re.compile(r"\$[\w.]|[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class BadAudioError(CorpusError):
    """Audio files that cannot be used."""


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
    problems = _unwritable(rows)
    if problems:
        raise CorpusError(f"{path}: " + "\n".join(problems))
    columns = REQUIRED + tuple(name for name in OPTIONAL if any(name in row for row in rows))
    replace_text(path, csv_text(sorted(rows, key=lambda row: row["ID"]), columns))


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


def _unwritable(rows):
    """Return what is wrong with values of rows that a manifest cannot hold."""
    names, problems = REQUIRED + OPTIONAL, []
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
    parts = [os.path.split(path) for path in paths]
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


def in_threads(ask, paths):
    """Yield what a function says of paths, in order: a file system answers many questions at once.

    Example
    -------
    >>> list(in_threads(os.path.isfile, ["nowhere/a.wav", "nowhere/b.wav"]))
    [False, False]
    """

    def ask_some(start):
        return [ask(path) for path in paths[start : start + ASKED]]

    with ThreadPoolExecutor(ASKING) as pool:
        for answers in pool.map(ask_some, range(0, len(paths), ASKED)):
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


def draw_splits(speakers, held):
    """Draw the split of each speaker by a hash of the name: the same on every machine.

    Arguments
    ---------
    speakers : list of str
        The speaker of each utterance.
    held : dict
        For each split that is held out, the share of the speakers that it gets; as many more as it
        takes to have two utterances. All others are in "train".

    Returns
    -------
    dict
        The split of each speaker.

    Raises
    ------
    CorpusError
        Where a split would have fewer than two utterances.

    Example
    -------
    >>> splits = draw_splits([f"speaker {i}" for i in range(100)], {"valid": 0.05, "test": 0.1})
    >>> [list(splits.values()).count(name) for name in ("train", "valid", "test")]
    [85, 5, 10]
    """
    counts = Counter(speakers)
    names = sorted(counts, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    drawn = {}
    for split, share in held.items():
        quota, taken, utterances = round(share * len(counts)), 0, 0
        while names and (taken < quota or utterances < MIN_HELD):
            name = names.pop()
            drawn[name] = split
            taken, utterances = taken + 1, utterances + counts[name]
    if sum(counts[name] for name in names) < MIN_HELD:
        raise CorpusError(
            f"{len(speakers)} utterance(s) of {len(counts)} speaker(s) are too few: train, "
            f"{' and '.join(held)} need {MIN_HELD} utterances each, and no speaker may be in two."
        )
    return {**drawn, **dict.fromkeys(names, "train")}


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


def prepare_splits(
    list_utterances,
    data_folder,
    save_folder,
    splits,
    skip_prep=False,
    skip_bad=False,
    num_workers=None,
    any_rate=False,
):
    """Write the manifest of each split of a corpus, unless it is there and still holds.

    All splits are listed and checked before the first is written.

    Arguments
    ---------
    list_utterances : callable
        Takes the data folder and a split; returns rows without `duration`, whose `wav` is a path,
        and a list of what is wrong with the split. Raises CorpusError where there is no split.
    data_folder : str or Path
        The corpus.
    save_folder : str or Path
        Receives `<split>.csv` and, beside it, `<split>.json`, which tells what it was made from
        and, as `left_out`, how many audio files `skip_bad` left out of it.
    splits : str or iterable of str
        Which manifests to write.
    skip_prep : bool
        The manifests are there already.
    skip_bad : bool
        Leave out audio that cannot be used, instead of stopping.
    num_workers : int, optional
        Threads that check the audio; as many as cores if None.
    any_rate : bool
        The corpus may have audio other than 16 kHz mono.

    Raises
    ------
    CorpusError
        With all problems of all splits. Nothing has been written then.
    """
    data_folder, save_folder = Path(data_folder), Path(save_folder)
    splits = list(dict.fromkeys([splits] if isinstance(splits, str) else splits))
    if not splits:
        raise CorpusError(f"No split of {data_folder} was asked for.")
    if skip_prep:
        for split in splits:
            open_table(save_folder / f"{split}.csv")
        return
    if not data_folder.is_dir() or not any(data_folder.iterdir()):
        raise CorpusError(f"data_folder {data_folder} is missing or empty.")
    listed, problems = _listed(list_utterances, data_folder, splits)
    how = {"skip_bad": skip_bad, "any_rate": any_rate}
    made_by = {"code": digest_code("pretrained/audio.py"), **how}
    origins = {
        split: {"files": _state(rows, data_folder), **made_by} for split, rows in listed.items()
    }
    stale = [split for split in splits if not _holds(save_folder, split, origins[split])]
    for split in stale:
        if (save_folder / f"{split}.csv").is_file():
            logger.info(f"{split}: data, settings or code changed: the manifest is made anew")
    checked = _checked(stale, listed, problems, data_folder, num_workers, **how)
    save_folder.mkdir(parents=True, exist_ok=True)
    for split in stale:
        write_manifest(checked[split], save_folder / f"{split}.csv")
        marker = {
            **origins[split],
            "manifest": fingerprint([save_folder / f"{split}.csv"]),
            "left_out": len(listed[split]) - len(checked[split]),
        }
        replace_text(save_folder / f"{split}.json", json.dumps(marker))
        logger.info(f"{split}: {len(checked[split])} utterances")
    for split in splits:
        open_table(save_folder / f"{split}.csv")


def _listed(list_utterances, data_folder, splits):
    """Return the rows of each split as a manifest has them, and what is wrong with all of them."""
    listed, problems, absent = {}, [], []
    for split in splits:
        try:
            listed[split], wrong = list_utterances(data_folder, split)
        except CorpusError as error:
            absent.append(str(error))
        else:
            listed[split] = _placed(listed[split], data_folder)
            problems += wrong + _unwritable(listed[split])
    if absent:
        raise CorpusError("\n".join(absent + problems))
    return listed, problems


def _placed(rows, data_folder):
    """Return rows with the audio's path as a manifest has it."""
    start, placed = f"{data_folder}{os.sep}", []
    for row in rows:
        path = os.fspath(row["wav"])
        if not path.startswith(start):  # a data folder "." begins no path
            path = start + str(Path(path).relative_to(data_folder))
        placed.append({**row, "wav": ROOT + path[len(start) :].replace(os.sep, "/")})
    return placed


def _state(rows, data_folder):
    """Return a cheap digest of what a manifest is made from: a changed file changes it."""
    digest, root = hashlib.sha256(), str(data_folder)
    rows = sorted(rows, key=lambda row: row["ID"])
    states = in_threads(_file_state, [complete_path(row["wav"], root) for row in rows])
    for row, state in zip(rows, states, strict=True):
        others = [row.get(key) for key in ("ID", "spk_id", *OPTIONAL)]
        digest.update(repr((row["wav"].removeprefix(ROOT), *state, others)).encode())
    return digest.hexdigest()


def _file_state(path):
    """Return the size and the time of a file."""
    try:
        state = os.stat(path)
    except OSError:  # a link that leads nowhere has its own; `check_audio` reports it
        state = os.lstat(path)
    return state.st_size, state.st_mtime_ns


def _holds(save_folder, split, origin):
    try:
        found = json.loads((save_folder / f"{split}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    path = save_folder / f"{split}.csv"
    if not isinstance(found, dict) or "left_out" not in found or not path.is_file():
        return False
    expected = {**origin, "manifest": fingerprint([path]), "left_out": found["left_out"]}
    return found == expected


def _checked(splits, listed, problems, data_folder, num_workers, skip_bad, any_rate):
    """Return the rows of each split with their durations, without bad audio.

    Bad audio is reported together with the problems that the listing found.
    """
    rows = [row for split in splits for row in listed[split]]
    paths = [complete_path(row["wav"], data_folder) for row in rows]
    results = dict(zip(paths, scan_audio(paths, num_workers, any_rate), strict=True))
    bad = [f"{path} {problem}" for path, (_, problem) in results.items() if problem]
    if bad and not skip_bad:
        raise BadAudioError(
            "".join(f"{problem}\n" for problem in problems)
            + f"{len(bad)} audio file(s) cannot be used:\n  "
            + "\n  ".join(bad)
            + "\nMend them, or leave them out with --skip_bad True."
        )
    if problems:
        raise CorpusError("\n".join(problems))
    if bad:
        logger.warning(f"{len(bad)} audio file(s) are left out:\n  " + "\n  ".join(bad))
    checked = {}
    for split in splits:
        found = [results[complete_path(row["wav"], data_folder)] for row in listed[split]]
        checked[split] = [
            {**row, "duration": duration}
            for row, (duration, problem) in zip(listed[split], found, strict=True)
            if problem is None
        ]
        if not checked[split]:
            raise CorpusError(f"{data_folder}: the split {split} has no audio that can be used.")
    return checked


def scan_audio(paths, num_workers=None, any_rate=False):
    """Check many files in parallel.

    Arguments
    ---------
    paths : list of Path
        Audio files.
    num_workers : int, optional
        Threads, which decode side by side; as many as cores if None.
    any_rate : bool
        As for `pretrained.audio.check_audio`.

    Returns
    -------
    list of tuple
        What `check_audio` returns, in order.
    """
    workers = os.cpu_count() if num_workers is None else num_workers
    check = partial(check_audio, any_rate=any_rate)
    bar = {"total": len(paths), "desc": "Checking audio", "dynamic_ncols": True}
    if workers <= 1 or len(paths) < 100:
        return list(tqdm(map(check, paths), **bar))
    with ThreadPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(check, paths), **bar))
