"""The preparation of a corpus: its utterances listed, its audio checked, its manifests written.

A corpus is added by a function that lists its utterances; `prepare_splits` does the rest.
"""

import hashlib
import inspect
import json
import math
import os
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock
from speechbrain.utils.logger import get_logger

from pretrained.audio_files import piece_mark
from pretrained.plain_files import digest_file, is_new
from recipes.common.corpora.scanning import (
    FILES,
    PIECE_SECONDS,
    file_state,
    is_much,
    raw_state,
    scan_and_keep,
    scan_audio,
)
from recipes.common.data.files import CorpusError, digest_code, replace_text
from recipes.common.data.manifest import (
    columns_of,
    count_left_out,
    fingerprint,
    in_threads,
    unwritable,
    write_manifest,
)
from recipes.common.data.table import OPTIONAL, REQUIRED, ROOT, open_table
from recipes.common.data.utterances import complete_path

logger = get_logger(__name__)

SPLITS = ("train", "valid", "test")  # of a corpus whose recipe divides it so
MIN_HELD = 2  # utterances of a split that is held out: what a contrast needs
FOLDERS = 50  # that a thread looks through at a time


class BadAudioError(CorpusError):
    """Audio files that cannot be used."""


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


def check_splits(splits, known=SPLITS):
    """Raise CorpusError where a split is none of those that a corpus has.

    Example
    -------
    >>> check_splits(["train", "dev"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: No split dev. There are: train, valid, test.
    """
    for split in splits:
        if split not in known:
            raise CorpusError(f"No split {split}. There are: {', '.join(known)}.")


def utterance_id(place):
    """Return the ID of a file by its path in the folder; no two have the same.

    Example
    -------
    >>> utterance_id(Path("Ann/first take.flac"))
    'Ann+first%20take.flac'
    """
    return quote(place.as_posix(), safe="", errors="surrogateescape").replace("%2F", "+")


def prepare_splits(
    list_utterances,
    data_folder,
    save_folder,
    splits,
    listing=None,
    skip_prep=False,
    skip_bad=False,
    num_workers=None,
    any_rate=False,
    in_pieces=False,
):
    """Write the manifest of each split of a corpus, unless it is there and still holds.

    All splits are listed and checked before the first is written.

    Arguments
    ---------
    list_utterances : callable
        A function that takes the data folder, a split and `listing`; returns rows without
        `duration`, whose `wav` is a path, and a list of what is wrong with the split. Raises
        CorpusError where there is no split. It reads nothing outside the data folder: while no file
        there changes, what it returned before holds.
    data_folder : str or Path
        The corpus.
    save_folder : str or Path
        Receives `<split>.csv` and, beside it, `<split>.json`, which tells what it was made from
        and, as `left_out`, how many audio files `skip_bad` left out of it.
    splits : str or iterable of str
        Which manifests to write.
    listing : dict, optional
        What else `list_utterances` takes, by name.
    skip_prep : bool
        The manifests are there already.
    skip_bad : bool
        Leave out audio that cannot be used, instead of stopping.
    num_workers : int, optional
        Threads that check the audio; as many as cores if None.
    any_rate : bool
        The corpus may have audio other than 16 kHz mono.
    in_pieces : bool
        A recording of 30 s or more becomes an utterance for each 15 s, but for silent ones; the
        last has up to 30 s. For a corpus without transcripts and labels.

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
    if blocked := [path for path in (save_folder, *save_folder.parents) if path.is_file()]:
        raise CorpusError(f"{blocked[0]} is a file: manifests cannot go to {save_folder}.")
    if data_folder.is_file():
        raise CorpusError(f"data_folder {data_folder} is a file: expected the corpus's folder.")
    if not data_folder.is_dir() or not any(data_folder.iterdir()):
        at = "" if data_folder.is_absolute() else f": there is no {data_folder.resolve()}"
        raise CorpusError(f"data_folder {data_folder} is missing or empty{at}.")
    list_utterances = partial(list_utterances, **(listing or {}))
    how = {"skip_bad": skip_bad, "any_rate": any_rate}
    how["piece_seconds"] = PIECE_SECONDS if in_pieces else None
    glance = _glance(data_folder, save_folder, list_utterances, how)
    hold = (_holds(save_folder, split, {"glance": glance}) for split in splits)
    if glance is None or not all(hold):
        listed, problems = _listed(list_utterances, data_folder, splits)
        _write_stale(listed, problems, data_folder, save_folder, num_workers, how, glance)
    for split in splits:
        open_table(save_folder / f"{split}.csv")


def _write_stale(listed, problems, data_folder, save_folder, num_workers, how, glance):
    """Write the manifests that do not hold, and beside each what it was made from."""
    made_by = {"code": digest_code("pretrained/audio.py"), **how}
    origins = {
        split: {"files": _state(rows, data_folder), **made_by} for split, rows in listed.items()
    }
    stale = [split for split in listed if not _holds(save_folder, split, origins[split])]
    for split in stale:
        _refuse_edited(save_folder / f"{split}.csv")
        if (save_folder / f"{split}.csv").is_file():
            logger.info(f"{split}: data, settings or code changed: the manifest is made anew")
    checked = _checked(stale, listed, problems, data_folder, num_workers, **how)
    save_folder.mkdir(parents=True, exist_ok=True)
    with FileLock(save_folder / ".lock"):  # another run may prepare the same folder
        for split, origin in origins.items():
            path = save_folder / f"{split}.csv"
            held = _holds(save_folder, split, origin)
            if split in stale and not held:
                path.with_suffix(".json").unlink(missing_ok=True)  # it told of the one before
                rows, left_out = checked[split]
                write_manifest(rows, path)
                logger.info(f"{split}: {len(rows)} utterances")
            elif not held:
                raise CorpusError(
                    f"{path} was written meanwhile by another run, with other settings: give each "
                    "its own --manifest_folder."
                )
            else:
                left_out = count_left_out([path])
            marker = {**origin, "glance": glance, "manifest": fingerprint([path])}
            marker["left_out"] = left_out
            replace_text(path.with_suffix(".json"), json.dumps(marker))


def _glance(data_folder, save_folder, list_utterances, how):
    """Return a digest of what the listing of a corpus depends on, or None where none can be had.

    That is the size and the time of each file, the code, and the settings. A look at the files
    takes a fraction of the time that listing them takes.
    """
    settings, seen = [list_utterances.keywords, how], {os.path.realpath(data_folder)}
    code = ("pretrained", "recipes/common/corpora", "recipes/common/data")
    digest = hashlib.sha256(digest_code(*code).encode())
    digest.update(repr(settings).encode())
    folders = [os.path.abspath(data_folder)]
    own = {os.path.abspath(save_folder), os.path.realpath(save_folder)}
    try:
        digest.update(digest_file(inspect.getsourcefile(list_utterances.func)).encode())
        while folders:
            below, files = [], []
            for found, listed in in_threads(_look, folders, FOLDERS):
                files += listed
                below += [entry for entry in found if entry.path not in own]
            for path, state in zip(files, in_threads(raw_state, files, FILES), strict=True):
                digest.update(os.fsencode(f"{path}\0{state}\0"))
            digest.update(os.fsencode("\0".join(entry.path for entry in below)))
            folders = [
                entry.path for entry in below if not entry.is_symlink() or is_new(entry.path, seen)
            ]
    except (OSError, TypeError):
        return None
    return digest.hexdigest()


def _look(folder):
    """Return the folders in a folder, and the paths of its files, sorted."""
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    below = [entry for entry in entries if entry.is_dir()]
    return below, [entry.path for entry in entries if not entry.is_dir()]


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
            problems += wrong + unwritable(listed[split])
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
    own = [name for name in columns_of(rows) if name not in (*REQUIRED, *OPTIONAL)]
    states = in_threads(file_state, [complete_path(row["wav"], root) for row in rows])
    for row, state in zip(rows, states, strict=True):
        others = [row.get(key) for key in ("ID", "spk_id", *OPTIONAL)]
        others += [(key, row.get(key)) for key in own]
        digest.update(repr((row["wav"].removeprefix(ROOT), *state, others)).encode())
    return digest.hexdigest()


def _holds(save_folder, split, origin):
    """Return whether a split's manifest is there as it was written, and was made by `origin`."""
    path = save_folder / f"{split}.csv"
    found = _read_marker(path)
    if "left_out" not in found or not path.is_file():
        return False
    expected = {**origin, "manifest": fingerprint([path])}
    return expected == {key: found.get(key) for key in expected}


def _read_marker(path):
    """Return what a manifest was made from, as it is told beside it; nothing where it is not."""
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_edited(path):
    """Raise CorpusError where a manifest is another than was written.

    One that cannot be read was cut, and is made anew.
    """
    written = _read_marker(path).get("manifest")
    if not path.is_file() or written in (None, fingerprint([path])):
        return
    try:
        open_table(path)
    except CorpusError:
        return
    raise CorpusError(
        f"{path} was changed since it was written, and would be written anew: give --skip_prep "
        "True to take it as it is, or remove it."
    )


def _checked(splits, listed, problems, data_folder, num_workers, skip_bad, any_rate, piece_seconds):
    """Return the rows of each split with their durations, and how many files were left out.

    Bad audio is reported together with the problems that the listing found.
    """
    rows = [row for split in splits for row in listed[split]]
    paths = [complete_path(row["wav"], data_folder) for row in rows]
    scan = partial(scan_and_keep, data_folder=data_folder) if is_much(paths) else scan_audio
    found = scan(paths, num_workers=num_workers, any_rate=any_rate)
    results = dict(zip(paths, found, strict=True))
    bad = [f"{path} {problem}" for path, (_, problem, _) in results.items() if problem]
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
        rows, left_out = [], 0
        for row in listed[split]:
            duration, problem, silent = results[complete_path(row["wav"], data_folder)]
            if problem is not None:
                left_out += 1
            elif piece_seconds is None:
                rows.append({**row, "duration": duration})
            else:
                rows += _in_pieces({**row, "duration": duration}, set(silent), piece_seconds)
        if not rows:
            raise CorpusError(f"{data_folder}: the split {split} has no audio that can be used.")
        checked[split] = rows, left_out
    return checked


def _in_pieces(row, silent, seconds):
    """Return the rows of a recording's pieces that are not silent, or its own where it is short.

    All but the last have the same length, so that batches of utterances of like length mix the
    pieces of all recordings.

    Arguments
    ---------
    row : dict
    silent : set of int
        The numbers of its silent pieces.
    seconds : int
        Length of a piece.

    Example
    -------
    >>> row = {"ID": "a", "wav": "$data_root/a.mp3", "duration": 50.0}
    >>> [(piece["wav"], piece["duration"]) for piece in _in_pieces(row, {1}, 15)]
    [('$data_root/a.mp3#t=0,15', 15.0), ('$data_root/a.mp3#t=30', 20.0)]
    """
    duration, rows = row["duration"], []
    last, end = int(duration // seconds) - 1, math.ceil(duration / seconds)
    if last < 1:
        return [row]
    for number in range(last + 1):
        start, stop = number * seconds, (number + 1) * seconds
        mark = piece_mark(start, stop if number < last else None)
        own = {"ID": row["ID"] + mark, "wav": row["wav"] + mark}
        own["duration"] = float(seconds) if number < last else round(duration - start, 7)
        if not silent.issuperset(range(number, end) if number == last else [number]):
            rows.append({**row, **own})
    return rows
