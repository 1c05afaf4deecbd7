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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

logger = get_logger(__name__)

SAMPLE_RATE = 16000
REQUIRED = ("ID", "duration", "wav", "spk_id")
OPTIONAL = ("wrd", "phn")
ROOT = "$data_root/"


class CorpusError(ValueError):
    """What is wrong with a corpus: every problem, each with its file."""


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

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> row = {"ID": "a", "duration": 1.5, "wav": "$data_root/a.wav", "spk_id": "1"}
    >>> write_manifest([row], path)
    >>> read_manifest(path)[0]["duration"]
    1.5
    """
    path = Path(path)
    columns = REQUIRED + tuple(name for name in OPTIONAL if any(name in row for row in rows))
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["ID"]))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_manifest(path):
    """Read and check a manifest.

    Arguments
    ---------
    path : str or Path
        The CSV file.

    Returns
    -------
    list of dict
        A row for each utterance; `duration` is a float.

    Raises
    ------
    CorpusError
        Where the file is missing or empty, lacks a column, holds an ID twice or a duration that is
        no positive number; names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path} is missing: run without --skip_prep to have it written.")
    with io.StringIO(read_text(path), newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or [])]
        if missing:
            raise CorpusError(f"{path}, line 1: no column {', '.join(missing)}.")
        rows, lines = [], {}
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise CorpusError(f"{where}: not as many values as the header has columns.")
            empty = [name for name in REQUIRED if not row[name]]
            if empty:
                raise CorpusError(f"{where}: no value for {', '.join(empty)}.")
            if row["ID"] in lines:
                raise CorpusError(f"{where}: ID {row['ID']} stands in line {lines[row['ID']]} too.")
            lines[row["ID"]] = reader.line_num
            rows.append({**row, "duration": _duration(row["duration"], where)})
    if not rows:
        raise CorpusError(f"{path} lists no utterance.")
    return rows


def read_text(path):
    """Return the text of a file; a CorpusError names one that is not UTF-8.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_text("HI")
    >>> read_text(path)
    'HI'
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not text in UTF-8: {error}.") from error


def _duration(text, where):
    try:
        duration = float(text)
    except (TypeError, ValueError):
        duration = 0.0
    if not 0 < duration < float("inf"):
        raise CorpusError(f"{where}: duration is {text!r}, expected seconds above 0.")
    return duration


def load_dataset(path, data_root):
    """Return a manifest as a dataset, the audio's paths complete.

    Arguments
    ---------
    path : str or Path
        The CSV file.
    data_root : str or Path
        The corpus's folder, in the place of `$data_root`.

    Returns
    -------
    DynamicItemDataset
    """
    return DynamicItemDataset.from_csv(str(path), replacements={"data_root": str(data_root)})


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
    rows = {name: read_manifest(path) for name, path in paths.items()}
    seen = {}
    for name, path in paths.items():
        for row in rows[name]:
            audio = Path(data_root) / row["wav"].removeprefix(ROOT)
            if not audio.is_file():
                raise CorpusError(f"{path}: {row['ID']}: {audio} is missing.")
            if seen.setdefault(row["ID"], name) != name:
                raise CorpusError(f"{path}: ID {row['ID']} is in {paths[seen[row['ID']]]} too.")
    groups = {}
    for group, names in disjoint_speakers.items():
        for name in names:
            for row in rows[name]:
                if groups.setdefault(row["spk_id"], group) != group:
                    raise CorpusError(
                        f"{paths[name]}: {row['ID']}: speaker {row['spk_id']} is in the split "
                        f"{groups[row['spk_id']]} too, and {group} must not share speakers with it."
                    )


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
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def check_audio(path):
    """Decode a file and say what is wrong with it.

    Arguments
    ---------
    path : str or Path
        An audio file.

    Returns
    -------
    duration : float
        Seconds; 0 where the file cannot be used.
    problem : str or None
        What is wrong: not audio, another rate than 16 kHz, more than one channel, cut short,
        empty, not finite, or silent.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            audio = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:  # a length past all memory
        return 0.0, f"cannot be decoded ({error})"
    if rate != SAMPLE_RATE or channels != 1:
        return 0.0, f"has {channels} channel(s) at {rate} Hz, expected 1 at {SAMPLE_RATE} Hz"
    if _riff_is_cut(path):
        return 0.0, "is cut short: its header announces more samples than it holds"
    if frames == 0:
        return 0.0, "is empty"
    if len(audio) != frames:
        return 0.0, f"is cut short: {len(audio)} of {frames} samples"
    if not np.isfinite(audio).all():
        return 0.0, "holds values that are not finite (NaN or infinity)"
    if audio.min() == audio.max():
        return 0.0, "is silent: all samples are equal"
    return frames / rate, None


def _riff_is_cut(path):
    """Tell whether a WAV file is shorter than its header says: libsndfile reads what there is."""
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return False
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                # A header that was written to a pipe says about 2 or 4 GiB, for "unknown".
                return size < 0x7FFFF000 and os.path.getsize(path) < file.tell() + size
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def scan_audio(paths, num_workers=None):
    """Check many files in parallel.

    Arguments
    ---------
    paths : list of Path
        Audio files.
    num_workers : int, optional
        Threads, which decode side by side; as many as cores if None.

    Returns
    -------
    list of tuple
        What `check_audio` returns, in order.
    """
    workers = os.cpu_count() if num_workers is None else num_workers
    bar = {"total": len(paths), "desc": "Checking audio", "dynamic_ncols": True}
    if workers <= 1 or len(paths) < 100:
        return list(tqdm(map(check_audio, paths), **bar))
    with ThreadPoolExecutor(workers) as pool:
        return list(tqdm(pool.map(check_audio, paths), **bar))


def prepare_splits(list_utterances, data_folder, save_folder, splits, options):
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
        Receives `<split>.csv` and, beside it, `<split>.json`, which tells what it was made from.
    splits : str or iterable of str
        Which manifests to write.
    options : dict
        `skip_prep`: the manifests are there already; `skip_bad`: leave out audio that cannot be
        used, instead of stopping; `num_workers`.

    Raises
    ------
    CorpusError
        With all problems of all splits. Nothing has been written then.
    """
    data_folder, save_folder = Path(data_folder), Path(save_folder)
    splits = list(dict.fromkeys([splits] if isinstance(splits, str) else splits))
    if not splits:
        raise CorpusError(f"No split of {data_folder} was asked for.")
    if options["skip_prep"]:
        for split in splits:
            read_manifest(save_folder / f"{split}.csv")
        return
    if not data_folder.is_dir() or not any(data_folder.iterdir()):
        raise CorpusError(f"data_folder {data_folder} is missing or empty.")
    listed, problems = _listed(list_utterances, data_folder, splits)
    origins = {split: _origin(rows, data_folder, options) for split, rows in listed.items()}
    stale = [split for split in splits if not _holds(save_folder, split, origins[split])]
    checked = _checked(stale, listed, problems, data_folder, options)
    save_folder.mkdir(parents=True, exist_ok=True)
    for split in stale:
        write_manifest(checked[split], save_folder / f"{split}.csv")
        marker = {**origins[split], "manifest": fingerprint([save_folder / f"{split}.csv"])}
        partial = save_folder / f"{split}.json.partial"
        partial.write_text(json.dumps(marker), encoding="utf-8")
        os.replace(partial, save_folder / f"{split}.json")
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
            problems += wrong
    if absent:
        raise CorpusError("\n".join(absent + problems))
    return listed, problems


def _origin(rows, data_folder, options):
    """Describe cheaply what a manifest is made from: a changed file changes it."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row["ID"]):
        # A link that leads nowhere has no state of its own; `check_audio` reports it.
        state = row["wav"].stat() if row["wav"].exists() else row["wav"].lstat()
        name = row["wav"].relative_to(data_folder).as_posix()
        others = [row.get(key) for key in ("ID", "spk_id", *OPTIONAL)]
        digest.update(repr((name, state.st_size, state.st_mtime_ns, others)).encode())
    return {"files": digest.hexdigest(), "skip_bad": options["skip_bad"]}


def _holds(save_folder, split, origin):
    try:
        found = json.loads((save_folder / f"{split}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    path = save_folder / f"{split}.csv"
    return path.is_file() and found == {**origin, "manifest": fingerprint([path])}


def _checked(splits, listed, problems, data_folder, options):
    """Return the rows of each split with their durations, without bad audio.

    Bad audio is reported together with the problems that the listing found.
    """
    paths = [row["wav"] for split in splits for row in listed[split]]
    results = dict(zip(paths, scan_audio(paths, options["num_workers"]), strict=True))
    bad = [f"{path} {problem}" for path, (_, problem) in results.items() if problem]
    if bad and not options["skip_bad"]:
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
            {
                **row,
                "wav": ROOT + row["wav"].relative_to(data_folder).as_posix(),
                "duration": results[row["wav"]][0],
            }
            for row in listed[split]
            if results[row["wav"]][1] is None
        ]
        if not checked[split]:
            raise CorpusError(f"{data_folder}: the split {split} has no audio that can be used.")
    return checked
