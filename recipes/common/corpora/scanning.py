"""The check of a corpus's audio: many files side by side, and what was found of them before."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import soundfile
from tqdm import tqdm

from pretrained.audio import check_pieces
from pretrained.audio_files import recording_of
from recipes.common.data.files import digest_code, user_cache
from recipes.common.data.manifest import in_threads

FILES = 200  # that a thread looks at, at a time
MANY = 2000  # files: of so many, what is found is kept for the next time
LARGE = 2**30  # bytes: of so many, too
PIECE_SECONDS = 15  # of a long recording, where a corpus wants it cut


def scan_audio(paths, num_workers=None, any_rate=False):
    """Check many files in parallel.

    Arguments
    ---------
    paths : list of Path
        Audio files.
    num_workers : int, optional
        Threads, which decode side by side; as many as cores if None.
    any_rate : bool
        As for `pretrained.audio.check_pieces`.

    Returns
    -------
    list of tuple
        What `check_pieces` returns of pieces of `PIECE_SECONDS`, in order.
    """
    return list(_scan(paths, num_workers, any_rate))


def _scan(paths, num_workers, any_rate):
    """Yield what `check_pieces` returns of each file, with a progress bar."""
    workers = os.cpu_count() if num_workers is None else num_workers
    check = partial(check_pieces, piece_seconds=PIECE_SECONDS, any_rate=any_rate)
    bar = tqdm(total=len(paths), desc="Checking audio", dynamic_ncols=True, disable=not paths)
    with bar, ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(paths), MANY):
            for found in pool.map(check, paths[start : start + MANY]):
                bar.update()
                yield found


def scan_and_keep(paths, data_folder, num_workers=None, any_rate=False):
    """Check many files as `scan_audio` does, but for those that were good before and are the same.

    Those go line by line to a file in the user's cache, one for each `data_folder`, so that a check
    that is cut short goes on, and the next stage or task on the same corpus need not decode them
    again. Other arguments and what is returned are those of `scan_audio`.
    """
    paths = [os.path.abspath(path) for path in paths]
    states = list(in_threads(file_state, paths, FILES))
    code = digest_code("pretrained/audio.py", "pretrained/audio_files.py")
    made_by = [code, soundfile.__libsndfile_version__, os.path.abspath(data_folder), any_rate]
    made_by.append(PIECE_SECONDS)
    name = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    place = user_cache() / f"checked-{name}.jsonl"
    known = _read_checks(place)
    results = [known.get((path, *state)) for path, state in zip(paths, states, strict=True)]
    left = [n for n, found in enumerate(results) if found is None]
    with _keeping(place) as keep:
        scan = _scan([paths[n] for n in left], num_workers, any_rate)
        for n, (duration, problem, silent) in zip(left, scan, strict=True):
            results[n] = duration, problem, silent
            if problem is None:
                keep([paths[n], *states[n], duration, silent])
    return results


def is_much(paths):
    """Return whether files are so many, or so large, that what is found of them is worth keeping.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"RIFF")
    >>> is_much([path]), is_much([path] * 2000)
    (False, True)
    """
    return len(paths) >= MANY or sum(file_state(path)[0] for path in paths) >= LARGE


def file_state(path):
    """Return the size and the time of a file; of a piece, those of the recording.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> _ = path.write_bytes(b"RIFF")
    >>> file_state(path)[0], file_state(f"{path}#t=15") == file_state(path)
    (4, True)
    """
    return raw_state(recording_of(path))


def raw_state(path):
    """Return the size and the time of what lies at a path, whatever its name.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav#t=15"
    >>> _ = path.write_bytes(b"RIFF")
    >>> raw_state(path)[0]
    4
    """
    try:
        state = os.stat(path)
    except OSError:  # a link that leads nowhere has its own; `check_pieces` reports it
        state = os.lstat(path)
    return state.st_size, state.st_mtime_ns


def _read_checks(place):
    """Return what was found of good files before, by path, size and time."""
    known = {}
    try:
        with open(place, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, TypeError):  # of a line that was cut short
                    path, size, time, duration, silent = json.loads(line)
                    known[path, size, time] = duration, None, silent
    except OSError:  # none is there, or another user's
        return {}
    return known


@contextmanager
def _keeping(place):
    """Yield a function that appends values to a file as a line, as long as the disk takes them."""
    with ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(place, "ab", buffering=0))
        except OSError:
            file = None

        def keep(values):
            nonlocal file
            if file is not None:
                try:  # a line feed before, as the last line there may be cut short
                    file.write(f"\n{json.dumps(values)}".encode())
                except OSError:
                    file = None

        yield keep
