"""Where audio lies: in a file of its own, in an open file, or in a tar shard at a byte offset.

A member of a shard is named `SHARD.tar:OFFSET:SIZE`: where its data begin, and how many bytes they
are. A piece of a recording is named `PATH#t=START,STOP` in seconds, or `PATH#t=START` up to the
end, as in W3C's Media Fragments URI 1.0, section 4.2.1. Nothing else knows these forms.
"""

import io
import os
import re
from functools import lru_cache

SUFFIXES = (
    *(".aif", ".aifc", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus"),
    *(".caf", ".rf64", ".sph", ".w64", ".wav"),  # codespell:ignore caf
)
MEMBER = re.compile(r"(.+\.tar):(\d+):(\d+)", re.DOTALL)
TIME = r"(\d{1,9}(?:\.\d{1,9})?)"
PIECE = re.compile(rf"(.+)#t={TIME}(?:,{TIME})?", re.DOTALL)
HEADER = 512  # bytes of a tar header; padded data follow
OPEN_SHARDS = 256  # of a process; many systems allow 1024 open files
AGAIN = "Pack the corpus again, or take the manifest that was written with this shard."


class AudioError(ValueError):
    """An audio file that cannot be used.

    Arguments
    ---------
    path : str or Path
    problem : str
        What is wrong with it and what was expected, as a predicate of the path.

    Example
    -------
    >>> print(AudioError("a.wav", "is silent"))
    a.wav is silent
    """

    def __str__(self):
        return " ".join(map(str, self.args))

    @property
    def problem(self):
        """What is wrong with the file, without its path."""
        return self.args[-1]


def member_path(shard, offset, size):
    """Return the name of a member of a tar shard; `split_member` takes it apart.

    Example
    -------
    >>> member_path("train-000000.tar", 512, 32044)
    'train-000000.tar:512:32044'
    """
    return f"{shard}:{offset}:{size}"


def split_member(path):
    """Return the shard, the offset and the size (bytes) of a member, or None of another path.

    Example
    -------
    >>> split_member("O/train-000000.tar:512:32044")
    ('O/train-000000.tar', 512, 32044)
    >>> split_member("O/a.wav") is None
    True
    """
    found = MEMBER.fullmatch(str(path))
    return found and (found[1], int(found[2]), int(found[3]))


def piece_mark(start, stop=None):
    """Return what names a piece of a recording, behind the path of it; `split_piece` takes it off.

    Arguments
    ---------
    start : int or float
        Where the piece begins, s.
    stop : int or float, optional
        Where it ends, s; with the recording if None.

    Example
    -------
    >>> piece_mark(15, 30), piece_mark(7.25)
    ('#t=15,30', '#t=7.25')
    """
    return f"#t={start}" if stop is None else f"#t={start},{stop}"


def split_piece(path):
    """Return a piece's recording, its start and its stop (s, or None); None of another path.

    Example
    -------
    >>> split_piece("O/talk.mp3#t=15,30.5"), split_piece("O/talk.mp3#t=15")
    (('O/talk.mp3', 15.0, 30.5), ('O/talk.mp3', 15.0, None))
    >>> split_piece("O/talk.mp3") is None
    True
    """
    found = PIECE.fullmatch(str(path))
    return found and (found[1], float(found[2]), found[3] and float(found[3]))


def recording_of(path):
    """Return the path of the recording that a piece is of, and any other path as it is.

    Example
    -------
    >>> recording_of("O/talk.mp3#t=15,30"), recording_of("O/a.wav")
    ('O/talk.mp3', 'O/a.wav')
    """
    piece = split_piece(path)
    return piece[0] if piece else path


def why_absent(path):
    """Return why there is no audio at a path, as its predicate; None where there may be some.

    Of a member, the shard must be there and reach as far; its header is not read. Of a piece the
    recording must be there.

    Example
    -------
    >>> why_absent("gone.wav")
    'is missing.'
    """
    path = recording_of(path)
    shard, offset, size = split_member(path) or (path, 0, 0)
    try:
        held = os.stat(shard).st_size if os.path.isfile(shard) else None
    except OSError:
        held = None
    if held is None:
        return "is missing." if shard is path else f"is missing: there is no shard {shard}."
    if held < offset + size:
        return f"is cut short: the shard holds {held} bytes, expected {offset + size} or more."
    return None


def stamp(path):
    """Return the size and the time of a file, by which audio that was replaced is known.

    Of a member of a tar shard it is the member's size and the shard's time; of a piece, those of
    the recording.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"RIFF")
    >>> stamp(path)[0]
    4
    """
    path = recording_of(path)
    shard, _, size = split_member(path) or (path, 0, None)
    state = os.stat(shard)
    return [state.st_size if size is None else size, state.st_mtime_ns]


def open_audio(path):
    """Return what soundfile reads at a path: a member's bytes, otherwise the file that it names.

    Arguments
    ---------
    path : str, Path or a file opened in binary mode

    Returns
    -------
    str, Path, bytes or a file opened in binary mode
        Of a piece the whole recording. Bytes of a path that is not text, which soundfile could not
        encode.

    Raises
    ------
    AudioError
        Where a path names a member, and the shard is missing, cut short or has no file of this size
        at this offset.

    Example
    -------
    >>> open_audio("a.wav")
    'a.wav'
    """
    if hasattr(path, "read"):
        return path
    path = recording_of(path)
    member = split_member(path)
    if member is not None:
        return io.BytesIO(_read_member(path, *member))
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _read_member(path, shard, offset, size):
    """Return a member's bytes; an AudioError unless its header, which lies before them, agrees."""
    if offset < HEADER:
        raise AudioError(path, f"has offset {offset}: expected {HEADER} or more. {AGAIN}")
    try:
        content = _read_at(shard, HEADER + size, offset - HEADER)
    except (OSError, OverflowError, MemoryError) as error:
        reason = getattr(error, "strerror", "the offset or the size is too large")
        raise AudioError(path, f"cannot be read: {shard}: {reason}. {AGAIN}") from error
    if len(content) < HEADER:
        raise AudioError(path, f"is cut short: the shard ends before byte {offset}. {AGAIN}")
    header = _file_header(content[:HEADER])
    if header is None:
        found = f"no tar header of a file lies before byte {offset} of the shard"
        raise AudioError(path, f"cannot be read: {found}. {AGAIN}")
    name, held = header
    if held != size:
        found = f"{name} of {held} bytes lies there"
        raise AudioError(path, f"cannot be read: {found}, expected {size}. {AGAIN}")
    if len(content) < HEADER + size:
        found = f"{len(content) - HEADER} of the {size} bytes of {name}"
        raise AudioError(path, f"is cut short: the shard has {found}. {AGAIN}")
    return content[HEADER:]


def _read_at(shard, count, start):
    """Return up to so many bytes of a shard."""
    if not hasattr(os, "pread"):  # Windows
        with open(shard, "rb") as file:
            file.seek(start)
            return file.read(count)
    file = _opened_shard(shard)  # held until it is read: other threads may drop it meanwhile
    return os.pread(file.fileno(), count, start)


def _file_header(block):
    """Return the name and the size of a file by its tar header, None where a block is no such.

    `tarfile` says the same, in five times the time.
    """
    try:
        size, checksum = (int(block[a:b].rstrip(b" \0"), 8) for a, b in ((124, 136), (148, 156)))
    except ValueError:
        return None
    # The checksum counts as eight spaces in itself.
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != checksum or block[156:157] != b"0":
        return None
    return block[:100].rstrip(b"\0").decode("utf-8", "replace"), size


@lru_cache(OPEN_SHARDS)
def _opened_shard(path):
    """Return a shard, opened once: threads and forked workers read it without moving its place."""
    return open(path, "rb", buffering=0)
