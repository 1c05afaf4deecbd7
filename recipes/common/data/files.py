"""The files of a corpus and of a run: found, read as text, written whole, known again."""

import hashlib
import os
from functools import cache
from pathlib import Path

from pretrained import plain_files
from pretrained.plain_files import read_utf8, write_whole

REPOSITORY = Path(__file__).parents[3]


class CorpusError(ValueError):
    """What is wrong with a corpus: every problem, each with its file."""


def user_cache():
    """Return the folder of the user's cache that is this project's; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learn2diss"


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


def find_files(folder, pattern):
    """Return the files in a folder whose names match, sorted; what macOS leaves is none of them.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.wav", "._a.wav", "a.txt"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> [path.name for path in find_files(folder, "*.wav")]
    ['a.wav', 'b.wav']
    """
    return sorted(path for path in Path(folder).glob(pattern) if not plain_files.is_of_macos(path))


def list_files(folder):
    """Return the files in a folder as `pretrained.plain_files.list_files` does.

    Raises
    ------
    CorpusError
        Where a folder cannot be read.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.wav").write_bytes(b"")
    >>> [path.name for path in list_files(folder)]
    ['a.wav']
    """
    try:
        return plain_files.list_files(folder)
    except OSError as error:
        raise CorpusError(f"{error.filename} cannot be searched: {error.strerror}.") from error


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
