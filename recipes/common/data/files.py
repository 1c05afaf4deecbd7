"""The files of a corpus and of a run: found, read as text, written whole, known again."""

import hashlib
import os
from functools import cache
from pathlib import Path

from pretrained.audio_files import split_member
from pretrained.plain_files import read_utf8, write_whole

REPOSITORY = Path(__file__).parents[3]


class CorpusError(ValueError):
    """What is wrong with a corpus: every problem, each with its file."""


def replace_text(path, text):
    """Write a text file so that it holds all of the text or what it held before.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> replace_text(path, "HI")
    >>> path.read_text()
    'HI'
    """
    write_whole(path, text.encode())


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
        return read_utf8(path)
    except ValueError as error:
        raise CorpusError(str(error)) from None


def read_lines(path):
    """Return the number and the text of each line of a file that is not blank; see `read_text`.

    Lines end with a line feed alone: a form feed or U+2028 in a text ends none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_text("HI\\n\\nHO\\n")
    >>> read_lines(path)
    [(1, 'HI'), (3, 'HO')]
    """
    lines = enumerate(read_text(path).split("\n"), 1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def list_files(folder):
    """Return the files in a folder and the folders below it, sorted by path.

    Links are followed, and no folder is searched twice. What macOS leaves beside the files of a
    corpus, "._NAME" and ".DS_Store", is no part of it.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    list of Path

    Raises
    ------
    CorpusError
        Where a folder cannot be read.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a.wav", "._a.wav", ".DS_Store"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [path.name for path in list_files(folder)]
    ['a.wav']
    """
    files, seen = [], {os.path.realpath(folder)}
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(name for name in folders if is_new(Path(root, name), seen))
        files += [Path(root, name) for name in names]
    return sorted(path for path in files if not is_of_macos(path))


def _refuse(error):
    raise CorpusError(f"{error.filename} cannot be searched: {error.strerror}.") from error


def is_new(folder, seen):
    """Return whether a folder, whatever links lead to it, is not in a set, and add it there.

    Example
    -------
    >>> folder, seen = getfixture("tmp_path"), set()
    >>> is_new(folder, seen), is_new(folder / ".", seen)
    (True, False)
    """
    place = os.path.realpath(folder)
    first = place not in seen
    seen.add(place)
    return first


def is_of_macos(path):
    """Return whether a file, a Path or what `os.scandir` gives, is one that macOS leaves.

    Example
    -------
    >>> is_of_macos(Path("84-121123-0000.flac")), is_of_macos(Path("._84-121123-0000.flac"))
    (False, True)
    """
    return path.name.startswith("._") or path.name == ".DS_Store"


def stamp(path):
    """Return the size and the time of a file, by which audio that was replaced is known.

    Of a member of a tar shard it is the member's size and the shard's time.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"RIFF")
    >>> stamp(path)[0]
    4
    """
    shard, _, size = split_member(path) or (path, 0, None)
    state = Path(shard).stat()
    return [state.st_size if size is None else size, state.st_mtime_ns]


@cache
def digest_code(*places):
    """Return a digest of code, by which results that other code computed are known.

    Arguments
    ---------
    *places : str
        Files and folders, relative to the repository.

    Returns
    -------
    str

    Example
    -------
    >>> digest_code("lobes") == digest_code("lobes/losses.py")
    False
    """
    digest = hashlib.sha256()
    for place in places:
        path = REPOSITORY / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(REPOSITORY).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
