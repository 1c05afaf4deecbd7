"""Files: found in folders, written whole or not at all, and text that is told from what is none.

Also how a message lists many of them.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path):
    """Open a file to be written beside its place; at the end, once on the disk, it is put there.

    Arguments
    ---------
    path : str or Path
        A file that is there is replaced; where writing fails it stays, and nothing is left.

    Yields
    ------
    io.BufferedWriter

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> with whole_file(path) as file:
    ...     _ = file.write(b"one ") + file.write(b"text")
    >>> path.read_text()
    'one text'
    """
    partial = Path(f"{path}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path, content):
    """Write a file as `whole_file` does.

    Arguments
    ---------
    path : str or Path
    content : bytes
        All of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_whole(path, b"text")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('text', 1)
    """
    with whole_file(path) as file:
        file.write(content)


def new_folder(folder):
    """Make a folder where it is missing, and return its path.

    Arguments
    ---------
    folder : str or Path

    Returns
    -------
    Path

    Raises
    ------
    FileExistsError
        Where it holds anything.

    Example
    -------
    >>> new_folder(getfixture("tmp_path") / "out").name
    'out'
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: name a new folder to export to.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder to export to.")
    return folder


def write_new(path, content):
    """Write a file as `write_whole` does, and the folders that it lies in; never over another.

    Arguments
    ---------
    path : str or Path
    content : bytes

    Raises
    ------
    FileExistsError
        Where there is such a file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "new" / "a.txt"
    >>> write_new(path, b"text")
    >>> path.read_text()
    'text'
    """
    refuse_existing(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def refuse_existing(path):
    """Raise a FileExistsError where there is a file."""
    if os.path.exists(path):
        raise FileExistsError(f"{path} is there already: remove it, or name another --out.")


def read_utf8(path):
    """Return the text of a file; a ValueError names the line that is not UTF-8.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"one\\n\\xff")
    >>> read_utf8(path)
    Traceback (most recent call last):
        ...
    ValueError: ...a.txt, line 2: not text in UTF-8: byte 0xff.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        raise ValueError(f"{path}, line {line}: not text in UTF-8: {byte}.") from None


def read_json(path):
    """Return the content of a JSON file; a ValueError names the line that is no JSON.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> _ = path.write_text('{"a": 1}')
    >>> read_json(path)
    {'a': 1}
    """
    text = read_utf8(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = getattr(error, "msg", "it nests too deeply, or a number has too many digits")
        raise ValueError(f"{path}{line}: cannot be read as JSON: {what}.") from None


def first_few(lines, most):
    """Return the first lines of many, and how many more there are.

    Arguments
    ---------
    lines : list of str
        What a message is to list.
    most : int
        How many of them it shows.

    Returns
    -------
    list of str

    Example
    -------
    >>> first_few(["a is missing.", "b is missing.", "c is missing."], 1)
    ['a is missing.', 'and 2 more']
    """
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def digest_file(path):
    """Return the SHA-256 of a file, in hexadecimal digits.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a"
    >>> path.touch()
    >>> digest_file(path)[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


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
    OSError
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
    raise error


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
