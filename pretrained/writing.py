"""Files that are there whole or not at all."""

import os
from pathlib import Path


def write_whole(path, content):
    """Write a file beside its place and put it there once it lies on the disk.

    Arguments
    ---------
    path : str or Path
        A file that is there is replaced; where writing fails it stays, and nothing is left.
    content : bytes
        All of the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> write_whole(path, b"text")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('text', 1)
    """
    partial = Path(f"{path}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
