"""Preparation of LibriSpeech (Panayotov et al., ICASSP 2015): a manifest for each split.

The layout is SPLIT/READER/CHAPTER/READER-CHAPTER-NUMBER.flac, with the transcripts of a chapter
in READER-CHAPTER.trans.txt. The corpus is published at https://www.openslr.org/12 under CC BY 4.0.
"""

import os
from pathlib import Path

from pretrained.plain_files import is_of_macos
from recipes.common.corpora.downloads import Download, fetch_archives
from recipes.common.corpora.preparation import prepare_splits
from recipes.common.data.files import CorpusError, read_lines

ADDRESS = "https://www.openslr.org/resources/12"
# Bytes and SHA-256 as TensorFlow Datasets (url_checksums/librispeech.txt) and torchaudio have them.
PUBLISHED = {
    "dev-clean": (337926286, "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"),
    "dev-other": (314305928, "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365"),
    "test-clean": (346663984, "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23"),
    "test-other": (328757843, "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29"),
    "train-clean-100": (
        6387309499,
        "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    ),
    "train-clean-360": (
        23049477885,
        "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    ),
    "train-other-500": (
        30593501606,
        "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    ),
}


def prepare_librispeech(
    data_folder, save_folder, splits, download=False, skip_prep=False, **options
):
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
    download : bool
        Whether to fetch the splits that data_folder lacks; what was interrupted goes on.
    skip_prep : bool
        The manifests are there already: nothing is fetched or written.
    **options
        `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a split, audio or a transcript is missing or cannot be used. No manifest is written
        then.

    Example
    -------
    >>> prepare_librispeech("nowhere", "manifest", ["dev-clean"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    splits = [splits] if isinstance(splits, str) else list(splits)
    if download and not skip_prep:
        fetch_splits(data_folder, splits)
    options["skip_prep"] = skip_prep
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def fetch_splits(data_folder, splits):
    """Fetch the splits that are not there, whole; what else the archives hold is put beside them.

    Arguments
    ---------
    data_folder : str or Path
        The folder LibriSpeech; made where it is missing.
    splits : iterable of str

    Raises
    ------
    CorpusError
        As `fetch_archives` tells; also where there is no such split.

    Example
    -------
    >>> fetch_splits("nowhere", ["dev-dirty"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: LibriSpeech has no split dev-dirty to download. ...
    """
    unknown = [split for split in splits if split not in PUBLISHED]
    if unknown:
        raise CorpusError(
            f"LibriSpeech has no split {unknown[0]} to download. There are: {', '.join(PUBLISHED)}."
        )
    archives = {s: Download(f"{ADDRESS}/{s}.tar.gz", *PUBLISHED[s]) for s in splits}
    fetch_archives(archives, data_folder, "LibriSpeech")


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
    if folder.name in PUBLISHED:
        return f"Did you mean {folder.parent} as data_folder? {folder.name} is a split."
    return f"{folder} holds none of LibriSpeech's splits."
