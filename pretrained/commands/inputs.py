"""Which audio files a command is given, by files, folders and lists, and where results go."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pretrained.audio_files import SUFFIXES, recording_of, split_member
from pretrained.plain_files import list_files

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
FILES_HELP = (
    "an audio file of any rate and length; a folder, which is searched with its subfolders for "
    f"files named *{' *'.join(SUFFIXES)}, hidden ones left out; @LIST, a text file with a path on "
    "each line; or -, such lines from standard input. FILE#t=START,STOP is a part of a file, in "
    "seconds"
)
PLACES_HELP = (
    "Each file's path below DIR is its path below the folder that is given or, of several files or "
    "folders, below the one that they have in common"
)


def add_model(command, what):
    """Add the options --model and --device to a command's parser; `what` tells of which kind."""
    command.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help=f"{what}: a folder, or a model of the Hub, ORGANISATION/NAME[@REVISION]",
    )
    command.add_argument(
        "--device", default="cpu", help="where to compute, such as cuda or mps (default: cpu)"
    )


class Inputs(NamedTuple):
    """What a command is to read.

    Attributes
    ----------
    files : list of str
        Each once, in the order in which they were given, those of a folder sorted.
    folder : str
        The folder given, or the one that all files and folders given have in common.
    """

    files: list
    folder: str


def find_audio(words):
    """Return the audio files that the words of a command line name.

    Arguments
    ---------
    words : list of str
        Files, folders, `@LIST` and `-`. Paths in a list are relative to the current folder, as
        those of the command line are. A file need not be there: who reads it tells.

    Returns
    -------
    Inputs

    Raises
    ------
    OSError
        Where a list or a folder cannot be read.
    ValueError
        Where a folder holds no audio, or there is no file at all.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("b.wav", "a.flac", "a.txt", ".c.wav"):
    ...     _ = (folder / name).write_bytes(b"")
    >>> inputs = find_audio([str(folder)])
    >>> [os.path.basename(file) for file in inputs.files], inputs.folder == str(folder)
    (['a.flac', 'b.wav'], True)
    """
    files, folders = {}, set()
    for path in _expand_lists(words):
        if os.path.isdir(path):
            folders.add(os.path.abspath(path))
            files.update((os.path.abspath(file), file) for file in _search(path))
        else:
            folders.add(os.path.dirname(os.path.abspath(path)))
            files[os.path.abspath(path)] = path
    if not files:
        raise ValueError(f"{' '.join(words)}: no audio file is named there.")
    return Inputs(list(files.values()), _common(folders))


def place_results(inputs, out):
    """Return where the results of each file go, without a suffix.

    Arguments
    ---------
    inputs : Inputs
    out : str or Path
        The folder of all results.

    Returns
    -------
    dict
        A Path below `out` for each file.

    Raises
    ------
    ValueError
        Where two files would have the same.

    Example
    -------
    >>> folder = os.path.abspath("speech")
    >>> files = [os.path.join(folder, "a", "1.wav"), os.path.join(folder, "b", "1.wav")]
    >>> [path.as_posix() for path in place_results(Inputs(files, folder), "out").values()]
    ['out/a/1', 'out/b/1']
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise ValueError(f"--out {out} is a file: name a folder.")
    places = {file: _place(file, inputs.folder, out) for file in inputs.files}
    place, times = Counter(places.values()).most_common(1)[0]
    if times > 1:
        names = [file for file, found in places.items() if found == place]
        raise ValueError(
            f"{times} files would be written to {place}, as {names[0]} and {names[1]}: "
            "give them in two commands, each with a folder of its own."
        )
    return places


def result_name(file):
    """Return the name of a file without folder and suffix; of a piece, with its times.

    Example
    -------
    >>> result_name("speech/a.wav"), result_name("speech/a.wav#t=2.5,4")
    ('a', 'a#t=2.5,4')
    """
    recording = recording_of(file)
    return Path(recording).stem + file[len(recording) :]


def _place(file, folder, out):
    recording = recording_of(file)
    mark = file[len(recording) :]
    member = split_member(recording)
    if member is not None:  # of a tar shard: named by its offset
        recording = os.path.join(member[0].removesuffix(".tar"), str(member[1]))
    relative = os.path.relpath(os.path.abspath(recording), folder)
    return Path(out) / (os.path.splitext(relative)[0] + mark)


def check_out_file(out, inputs):
    """Raise a ValueError unless a file can be written at `out` without loss of an input.

    Example
    -------
    >>> check_out_file("a.wav", ["b.wav", "a.wav"])
    Traceback (most recent call last):
        ...
    ValueError: --out a.wav is what is read, and would be lost: name another file.
    """
    if os.path.isdir(out):
        raise ValueError(f"--out {out} is a folder: name a file.")
    recordings = [recording_of(os.fspath(path)) for path in inputs]
    files = [(split_member(path) or (path,))[0] for path in recordings]
    if os.path.realpath(out) in map(os.path.realpath, files):
        raise ValueError(f"--out {out} is what is read, and would be lost: name another file.")


def _expand_lists(words):
    """Yield paths: those given, and those of lists in the place of the lists."""
    for word in words:
        if word == "-":
            yield from _lines(sys.stdin.buffer.read())
        elif word.startswith("@"):
            yield from _lines(_read_list(word[1:]))
        else:
            yield word


def _read_list(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"@{path}: {path} is not a file: expected a list of audio files.")
    content = Path(path).read_bytes()
    if b"\0" in content:
        raise ValueError(f"@{path}: {path} is no list: expected text, a path on each line.")
    return content


def _lines(content):
    """Return the paths of a list. A name need not be text: the system's bytes are taken as such."""
    lines = content.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    return [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]


def _search(folder):
    """Return the audio files of a folder and the folders below it, sorted, hidden ones left out."""
    found = [path for path in list_files(folder) if path.suffix.lower() in SUFFIXES]
    shown = [str(path) for path in found if not _is_hidden(path.relative_to(folder))]
    if not shown:
        raise ValueError(f"{folder} holds no audio: expected files named *{' *'.join(SUFFIXES)}.")
    return shown


def _is_hidden(place):
    return any(part.startswith(".") for part in place.parts)


def _common(folders):
    try:
        return os.path.commonpath(folders)
    except ValueError as error:
        raise ValueError(f"The files have no folder in common: {error}.") from error
