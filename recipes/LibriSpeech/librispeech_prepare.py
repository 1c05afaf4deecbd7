"""Preparation of LibriSpeech (Panayotov et al., ICASSP 2015): a manifest for each split.

The layout is SPLIT/READER/CHAPTER/READER-CHAPTER-NUMBER.flac, with the transcripts of a chapter
in READER-CHAPTER.trans.txt.
"""

import os
from pathlib import Path

from pretrained.plain_files import is_of_macos
from recipes.common.data.files import CorpusError, read_lines
from recipes.common.data.manifest import prepare_splits


def prepare_librispeech(data_folder, save_folder, splits, **options):
    """Write `<save_folder>/<split>.csv` for any subset of LibriSpeech's splits.

    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder LibriSpeech.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Such as "train-clean-100" and "dev-clean".
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a split, audio or a transcript is missing or cannot be used. Nothing is written then.

    Example
    -------
    >>> prepare_librispeech("nowhere", "manifest", ["dev-clean"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty.
    """
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split):
    """Return a split's rows, with speaker and words, and its problems."""
    folder = Path(data_folder) / split
    if not folder.is_dir():
        raise CorpusError(f"{folder} is missing. {_what_is_there(Path(data_folder))}")
    audio, transcripts, problems = {}, [], []
    for path, name in _files(str(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() == ".flac" and audio.setdefault(stem, path) != path:
            problems.append(f"{path}: {audio[stem]} has the same name.")
        elif name.endswith(".trans.txt"):
            transcripts.append(path)
    if not audio:
        raise CorpusError(f"{folder} holds no audio: expected READER/CHAPTER/*.flac in it.")
    words = {}
    for path in transcripts:
        problems += _read_transcripts(Path(path), audio, words)
    problems += [
        f"{path}: no transcript in {os.path.dirname(path)}."
        for name, path in audio.items()
        if name not in words
    ]
    rows = [
        {"ID": name, "wav": path, "spk_id": path.split(os.sep)[-3], "wrd": words.get(name, "")}
        for name, path in audio.items()
    ]
    return rows, problems


def _files(folder, depth=3):
    """Yield the path and the name of each file so many levels below a folder, sorted."""
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        if depth == 1 and not is_of_macos(entry):
            yield entry.path, entry.name
        elif depth > 1 and entry.is_dir():
            yield from _files(entry.path, depth - 1)


def _read_transcripts(path, audio, words):
    """Add a chapter's transcripts to `words`; return what is wrong with them."""
    try:
        lines = read_lines(path)
    except CorpusError as error:
        return [str(error)]
    problems = []
    for number, line in lines:
        utterance, text = [*line.split(maxsplit=1), ""][:2]
        problem = None
        if not text:
            problem = f"{line!r} is not an utterance and its words."
        elif utterance in words:
            problem = f"{utterance} has a transcript already."
        elif utterance not in audio:
            there = sorted(p.name for p in path.parent.iterdir() if p.stem == utterance)
            there = f"; there is {', '.join(there)}" if there else ""
            problem = f"{utterance} has no audio, *.flac, beside it{there}."
        if problem is not None:
            problems.append(f"{path}, line {number}: {problem}")
        words[utterance] = text.strip()
    return problems


def _what_is_there(folder):
    splits = sorted({path.parts[-4] for path in folder.glob("*/*/*/*.trans.txt")})
    if splits:
        return f"Splits in {folder}: {', '.join(splits)}."
    if (folder / "LibriSpeech").is_dir():
        return f"Did you mean {folder / 'LibriSpeech'} as data_folder?"
    return f"{folder} holds none of LibriSpeech's splits."
