"""Preparation of LibriSpeech (Panayotov et al., ICASSP 2015): a manifest for each split.

The layout is SPLIT/READER/CHAPTER/READER-CHAPTER-NUMBER.flac, with the transcripts of a chapter
in READER-CHAPTER.trans.txt.
"""

from pathlib import Path

from recipes.common.data.files import CorpusError, is_of_macos, read_lines
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
    """Return a split's rows, with speaker and words, and its problems; `wav` is a Path."""
    folder = Path(data_folder) / split
    if not folder.is_dir():
        raise CorpusError(f"{folder} is missing. {_what_is_there(Path(data_folder))}")
    files = sorted(path for path in folder.glob("*/*/*") if not is_of_macos(path))
    paths = [path for path in files if path.suffix.lower() == ".flac"]
    if not paths:
        raise CorpusError(f"{folder} holds no audio: expected READER/CHAPTER/*.flac in it.")
    audio, words, problems = {}, {}, []
    for path in paths:
        if audio.setdefault(path.stem, path) != path:
            problems.append(f"{path}: {audio[path.stem]} has the same name.")
    for path in files:
        if path.name.endswith(".trans.txt"):
            problems += _read_transcripts(path, audio, words)
    problems += [
        f"{path}: no transcript in {path.parent}."
        for name, path in audio.items()
        if name not in words
    ]
    rows = [
        {"ID": name, "wav": path, "spk_id": path.parent.parent.name, "wrd": words.get(name, "")}
        for name, path in audio.items()
    ]
    return rows, problems


def _read_transcripts(path, audio, words):
    """Add a chapter's transcripts to `words`; return what is wrong with them."""
    try:
        lines = read_lines(path)
    except CorpusError as error:
        return [str(error)]
    problems = []
    for number, line in lines:
        utterance, text = [*line.split(maxsplit=1), ""][:2]
        where = f"{path}, line {number}"
        if not text:
            problems.append(f"{where}: {line!r} is not an utterance and its words.")
        elif utterance in words:
            problems.append(f"{where}: {utterance} has a transcript already.")
        elif utterance not in audio:
            there = sorted(p.name for p in path.parent.iterdir() if p.stem == utterance)
            there = f"; there is {', '.join(there)}" if there else ""
            problems.append(f"{where}: {utterance} has no audio, *.flac, beside it{there}.")
        words[utterance] = text.strip()
    return problems


def _what_is_there(folder):
    splits = sorted({path.parts[-4] for path in folder.glob("*/*/*/*.trans.txt")})
    if splits:
        return f"Splits in {folder}: {', '.join(splits)}."
    if (folder / "LibriSpeech").is_dir():
        return f"Did you mean {folder / 'LibriSpeech'} as data_folder?"
    return f"{folder} holds none of LibriSpeech's splits."
