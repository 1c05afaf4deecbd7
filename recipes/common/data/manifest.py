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
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from pretrained.audio import check_audio
from recipes.common.data.files import CorpusError, digest_code, replace_text
from recipes.common.data.table import OPTIONAL, REQUIRED, ROOT, open_table
from recipes.common.data.utterances import load_dataset

logger = get_logger(__name__)

LOOKED_FOR = 5000  # paths that a thread looks for at once
LOOKING = 16  # threads: a file system answers many questions at once
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
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["ID"]))
    replace_text(path, text.getvalue())


def _unwritable(rows):
    """Return what is wrong with values of rows that a manifest cannot hold."""
    return [
        f"{row['ID']}: {name} is {row[name]!r}: a manifest cannot hold "
        f"{found[0]!r}, which SpeechBrain would not read as it is."
        for row in rows
        for name in REQUIRED + OPTIONAL
        if (found := UNWRITABLE.search(str(row.get(name, "")).removeprefix(ROOT)))
    ]


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
    datasets = {name: load_dataset(path, data_root) for name, path in paths.items()}
    tables = {name: open_table(path) for name, path in paths.items()}
    for name, dataset in datasets.items():
        missing = first_missing(dataset.column("wav"))
        if missing is not None:
            utterance, audio = (dataset.column(key)[missing] for key in ("id", "wav"))
            raise CorpusError(f"{paths[name]}: {utterance}: {audio} is missing.")
    for first, second in combinations(paths, 2):
        common = _first_common(tables[first]["ID"], tables[second]["ID"])
        if common is not None:
            raise CorpusError(f"{paths[second]}: ID {common} is in {paths[first]} too.")
    groups = {
        group: pa.chunked_array([c for name in names for c in tables[name]["spk_id"].chunks])
        for group, names in disjoint_speakers.items()
    }
    for first, second in combinations(groups, 2):
        common = _first_common(groups[first], groups[second])
        if common is not None:
            names = disjoint_speakers[second]
            places = {name: pc.index(tables[name]["spk_id"], common).as_py() for name in names}
            name = next(name for name in names if places[name] >= 0)
            raise CorpusError(
                f"{paths[name]}: {datasets[name].data_ids[places[name]]}: speaker {common} is in "
                f"the split {first} too, and {second} must not share speakers with it."
            )


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
        They are looked for by threads side by side.

    Returns
    -------
    int or None
    """

    def look(start):
        block = paths[start : start + LOOKED_FOR]
        return next((start + n for n, path in enumerate(block) if not has_audio(path)), None)

    with ThreadPoolExecutor(LOOKING) as pool:
        found = pool.map(look, range(0, len(paths), LOOKED_FOR))
        return next((place for place in found if place is not None), None)


def has_audio(path):
    """Return whether a row's audio is there.

    Example
    -------
    >>> has_audio("nowhere/a.wav")
    False
    """
    return os.path.isfile(path)


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
        Takes the data folder and a split; returns rows without `duration`, whose `wav` is a Path,
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


def _listed(list_utterances, data_folder, splits):
    """Return the rows of each split, and what is wrong with all of them."""
    listed, problems, absent = {}, [], []
    for split in splits:
        try:
            listed[split], wrong = list_utterances(data_folder, split)
        except CorpusError as error:
            absent.append(str(error))
        else:
            problems += wrong + _unwritable([_placed(row, data_folder) for row in listed[split]])
    if absent:
        raise CorpusError("\n".join(absent + problems))
    return listed, problems


def _placed(row, data_folder):
    """Return a row with its audio's path as a manifest has it."""
    return {**row, "wav": ROOT + row["wav"].relative_to(data_folder).as_posix()}


def _state(rows, data_folder):
    """Return a cheap digest of what a manifest is made from: a changed file changes it."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row["ID"]):
        # A link that leads nowhere has no state of its own; `check_audio` reports it.
        state = row["wav"].stat() if row["wav"].exists() else row["wav"].lstat()
        name = row["wav"].relative_to(data_folder).as_posix()
        others = [row.get(key) for key in ("ID", "spk_id", *OPTIONAL)]
        digest.update(repr((name, state.st_size, state.st_mtime_ns, others)).encode())
    return digest.hexdigest()


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
    paths = [row["wav"] for split in splits for row in listed[split]]
    scanned = scan_audio(paths, num_workers, any_rate)
    results = dict(zip(paths, scanned, strict=True))
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
        checked[split] = [
            {**_placed(row, data_folder), "duration": results[row["wav"]][0]}
            for row in listed[split]
            if results[row["wav"]][1] is None
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
