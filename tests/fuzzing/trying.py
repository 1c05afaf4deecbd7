"""Break an input, read it, and tell what a user would not understand."""

import math
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzzing.breaking import broken, edits, is_understood
from tests.fuzzing.options import attempt_options, commands
from tests.fuzzing.readers import TARGETS

OPTIONS = "options"
NAMES = [*TARGETS, OPTIONS]


def inputs(name):
    """Return the strategy of what `attempt` takes after a name."""
    return commands() if name == OPTIONS else st.tuples(st.floats(0, 1, width=32), edits)


@cache
def valid(name):
    """Return the folder of a target's input that holds, its files to break, what it reads as."""
    target = TARGETS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"
    folder.mkdir()
    target.make(folder)
    files = sorted(path for pattern in target.files for path in folder.glob(pattern))
    stamps = set(folder.rglob("*"))
    expected = target.read(folder)
    remove_new(folder, stamps)
    return folder, files, expected


def attempt(name, place, changes):
    """Break one file of a target's input and read it; return what is wrong with that, or None.

    Arguments
    ---------
    name : str
    place : float or str
        Which file, from 0 to 1; of options, a hyperparameters file.
    changes : list
        As `broken` takes them; of options, the words of a command line.
    """
    if name == OPTIONS:
        return attempt_options(place, changes)
    folder, files, expected = valid(name)
    path = files[math.floor(place * (len(files) - 1e-6))]
    before, stamps = path.read_bytes(), set(folder.rglob("*"))
    changed = broken(before, changes)
    if changed == before:
        return None
    path.write_bytes(changed)
    try:
        found = TARGETS[name].read(folder)
    except Exception as error:
        if isinstance(error, AssertionError):
            return str(error)
        return is_understood(error, [path.name, path.stem, str(folder), *first_words(before)])
    finally:
        path.write_bytes(before)
        remove_new(folder, stamps)
    if TARGETS[name].sealed and found != expected:
        return "a change was not noticed"
    return None


def first_words(content):
    """Return the first word of each line, such as the ID of an utterance."""
    lines = content.decode(errors="replace").splitlines() if b"\0" not in content else []
    return [line.split()[0] for line in lines if len(line.split()) > 1]


def remove_new(folder, before):
    """Remove what reading has left."""
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
