"""The units of a corpus on the disk: written once, checked when opened, read by utterance.

All units lie in one int16 array, `units.npy`. `units.index.npy` tells where each utterance's begin,
how many there are, and the size and the time of its file; `units.json` tells what made them, at
which rate, and the digests of both arrays. The arrays are memory-mapped: a process that opens them
takes hardly any memory, however large the corpus.
"""

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lobes.distributed import rank
from lobes.signal import FRAME_RATE, SAMPLE_RATE, num_frames
from pretrained.audio_files import stamp
from pretrained.plain_files import digest_file, read_json
from recipes.common.data.files import replace_text
from recipes.common.data.seeding import derive_rng, derive_seed

# Rows of the index, which has a column for each utterance, in the order of the hashes of the IDs
HASH, START, FRAMES, SIZE, TIME = range(5)
ARRAYS = ("units.npy", "units.index.npy")
STAMP_THREADS = 16
STAMP_CHUNK = 1000
TIME_TOLERANCE = 2 * 10**9  # ns: archives and some file systems keep whole seconds, or even ones


class Columns(NamedTuple):
    """What units are made from, in columns.

    Attributes
    ----------
    ids, wavs : sequence of str
        The ID and the audio of each utterance.
    durations : numpy.ndarray
        Seconds, float64.
    """

    ids: Sequence
    wavs: Sequence
    durations: np.ndarray

    def num_frames(self):
        """Return the number of frames of each: (utterances,) int64."""
        return num_frames(np.rint(self.durations * SAMPLE_RATE).astype(np.int64))


class Joined(Sequence):
    """Sequences one after the other, of which none is copied.

    Example
    -------
    >>> joined = Joined(["ab", "cde"])
    >>> len(joined), joined[3], joined[1:4], "".join(joined)
    (5, 'd', ['b', 'c', 'd'], 'abcde')
    """

    def __init__(self, parts):
        self.parts = parts
        self.stops = np.cumsum([len(part) for part in parts])

    def __len__(self):
        return int(self.stops[-1])

    def __getitem__(self, place):
        if isinstance(place, slice):
            first, last, _ = place.indices(len(self))
            begins = [stop - len(part) for part, stop in zip(self.parts, self.stops, strict=True)]
            return [
                value
                for part, begin in zip(self.parts, begins, strict=True)
                for value in part[max(first - begin, 0) : max(last - begin, 0)]
            ]
        number = int(np.searchsorted(self.stops, place, side="right"))
        return self.parts[number][int(place) - int(self.stops[number]) + len(self.parts[number])]

    def __iter__(self):
        return chain.from_iterable(self.parts)


def columns(*datasets):
    """Return the `Columns` of datasets, those of one after those of the other."""
    ids, wavs, durations = (
        [d.column(name) for d in datasets] for name in ("id", "wav", "duration")
    )
    return Columns(Joined(ids), Joined(wavs), np.concatenate(durations))


class UnitArray:
    """The units of a corpus, by utterance.

    The main rank checks them; the others trust it.

    Arguments
    ---------
    folder : str or Path
        Holds `units.npy`, `units.index.npy` and `units.json`.
    utterances : Columns
        Those that need units.
    num_units : int
        How many units the model tells apart.
    shuffle_seed : int, optional
        A control: deal the units of the corpus out at random, so that nothing predicts them.

    Raises
    ------
    ValueError
        Where the units are of another rate, corpus, number or length, or an array is cut short.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.wav").write_bytes(b"")
    >>> utterances = Columns(["a"], [folder / "a.wav"], np.array([1.0]))
    >>> index = index_utterances(utterances)
    >>> write_units(folder, index, [([0], np.arange(49))], {"num_units": 50})
    >>> UnitArray(folder, utterances, num_units=50)["a"].shape
    (49,)
    """

    def __init__(self, folder, utterances, num_units, shuffle_seed=None):
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        if rank() == 0:
            self._check_files()
        self._open()
        if rank() == 0:
            self._check_units(num_units)
            self._check_utterances(utterances)
        self.shuffled = shuffle_seed is not None
        if self.shuffled:
            self.units = derive_rng(shuffle_seed, "shuffled units").permutation(self.units)

    def __getitem__(self, utterance):
        """Return an utterance's units: int16, shape (frames,)."""
        key = derive_seed(utterance)
        place = self._places(key)
        if self.index[HASH, place] != key:
            raise KeyError(utterance)
        start = self.index[START, place]
        return self.units[start : start + self.index[FRAMES, place]]

    def __getstate__(self):
        """Leave the arrays on the disk: a worker that is spawned maps them anew."""
        return {**vars(self), "units": self.units if self.shuffled else None, "index": None}

    def __setstate__(self, state):
        vars(self).update(state)
        self._open()
        if self.shuffled:
            self.units = state["units"]

    def _open(self):
        self.units, self.index = (np.load(self.folder / name, mmap_mode="r") for name in ARRAYS)

    def _places(self, hashes):
        """Return where each hash is in the index, if it is there."""
        places = np.searchsorted(self.index[HASH], hashes)
        return np.minimum(places, self.index.shape[1] - 1)

    def _check_files(self):
        for name in ARRAYS:
            path = self.folder / name
            expected = self.description.get("sha256")
            known = expected.get(name) if isinstance(expected, dict) else None
            if not path.is_file() or digest_file(path) != known:
                raise ValueError(f"{path} is missing or was changed. {again(self.folder)}")

    def _check_units(self, num_units):
        if self.description["rate"] != FRAME_RATE:
            raise ValueError(
                f"{self.folder}: units at {self.description['rate']} Hz; the frame encoder gives "
                f"{FRAME_RATE} Hz. {again(self.folder)}"
            )
        largest = int(self.units.max()) if len(self.units) else 0
        if largest >= num_units or self.description["num_units"] != num_units:
            raise ValueError(
                f"{self.folder} holds {self.description['num_units']} units, up to number "
                f"{largest}; num_targets is {num_units}. {again(self.folder)}"
            )

    def _check_utterances(self, utterances):
        hashes = hash_ids(utterances.ids)
        places = self._places(hashes)
        for n in np.flatnonzero(self.index[HASH][places] != hashes)[:1]:
            raise ValueError(
                f"{self.folder} has no units for {utterances.ids[n]} ({utterances.wavs[n]}): they "
                f"are of another corpus or split. {again(self.folder)}"
            )
        expected, found = utterances.num_frames(), self.index[FRAMES][places]
        for n in np.flatnonzero(expected != found)[:1]:
            raise ValueError(
                f"{self.folder}: {utterances.wavs[n]} is {utterances.durations[n]} s long, "
                f"{expected[n]} frames at {FRAME_RATE} Hz, but has {found[n]} units at "
                f"{self.description['rate']} Hz. {again(self.folder)}"
            )
        sizes, times = stamp_all(utterances.wavs)
        moved = np.abs(times - self.index[TIME][places]) >= TIME_TOLERANCE
        for n in np.flatnonzero(moved | (sizes != self.index[SIZE][places]))[:1]:
            raise ValueError(
                f"{self.folder}: {utterances.wavs[n]} was changed after its units were made, or "
                f"copied without its time. {again(self.folder)}"
            )


def again(folder):
    """Return what to do about units that are of no use."""
    return f"Remove {folder} to have the units made anew, or name another folder."


def hash_ids(ids):
    """Return a hash of each ID: int64, shape (utterances,)."""
    return np.fromiter(map(derive_seed, ids), np.int64, len(ids))


def stamp_all(paths):
    """Return the size and the time of each file, see `stamp`: int64, shape (2, files)."""
    chunks = (paths[start : start + STAMP_CHUNK] for start in range(0, len(paths), STAMP_CHUNK))
    with ThreadPoolExecutor(STAMP_THREADS) as threads:
        stamps = list(threads.map(lambda chunk: np.array(list(map(stamp, chunk))), chunks))
    return np.concatenate(stamps).T


def index_utterances(utterances):
    """Return the index of the units of utterances, in these' order: int64, shape (5, utterances).

    Raises
    ------
    ValueError
        Where two IDs are the same, or their hashes are.
    """
    hashes, frames = hash_ids(utterances.ids), utterances.num_frames()
    order = np.argsort(hashes, kind="stable")
    for n in np.flatnonzero(np.diff(hashes[order]) == 0)[:1]:
        first, second = (utterances.ids[place] for place in order[n : n + 2])
        raise ValueError(
            f"The IDs {first} and {second} cannot be told apart: they have the same hash. Give one "
            "of the utterances another ID in its manifest."
        )
    starts = np.cumsum(frames) - frames
    return np.stack([hashes, starts, frames, *stamp_all(utterances.wavs)])


def digest_index(index, description):
    """Return a digest of utterances, of their files and of what is made of them."""
    digest = hashlib.sha256(json.dumps(description).encode())
    for row in (HASH, FRAMES, SIZE, TIME):
        digest.update(np.ascontiguousarray(index[row]))
    return digest.hexdigest()


def _digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_description(folder):
    """Return what units.json says; a ValueError tells where it is missing or was changed."""
    path = folder / "units.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: no units were made in {folder}, or not to the end.")
    description = read_json(path)
    digest = description.pop("digest", None) if isinstance(description, dict) else None
    if digest is None or digest != _digest(description):
        raise ValueError(f"{path} is no description of units, or was changed. {again(folder)}")
    return description


def write_units(folder, index, parts, description):
    """Write the units of a corpus.

    Arguments
    ---------
    folder : Path
        Receives `units.npy`, `units.index.npy` and, when all is done, `units.json`.
    index : numpy.ndarray
        As `index_utterances` returns it.
    parts : iterable of tuple
        Numbers of utterances, and the units of these, one after the other.
    description : dict
        Plain values that tell what made the units.

    Raises
    ------
    ValueError
        Where a part has more or fewer units than its utterances have frames.
    """

    def fill(units):
        for places, found in parts:
            starts, frames = index[START][places], index[FRAMES][places]
            if len(found) != frames.sum():
                raise ValueError(
                    f"{folder}: {len(found)} units for {len(places)} utterances of {frames.sum()} "
                    "frames. Remove the folder and start again."
                )
            for start, length, stop in zip(starts, frames, np.cumsum(frames), strict=True):
                units[start : start + length] = found[stop - length : stop]

    def fill_index(sorted_index):
        sorted_index[:] = index[:, np.argsort(index[HASH])]

    _write_array(folder / "units.npy", np.int16, (int(index[FRAMES].sum()),), fill)
    _write_array(folder / "units.index.npy", np.int64, index.shape, fill_index)
    told = {"rate": FRAME_RATE, **description}
    told["sha256"] = {name: digest_file(folder / name) for name in ARRAYS}
    replace_text(folder / "units.json", json.dumps({**told, "digest": _digest(told)}))


def _reserve(path):
    """Take the space of a mapped file: on a full disk, writing to it would kill the process."""
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, path.stat().st_size))
        except AttributeError:
            pass  # of macOS and Windows
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(error.errno, error.strerror, str(path)) from error


def _write_array(path, dtype, shape, fill):
    """Have an array filled: a file that gets its name once all of it lies on the disk."""
    partial = path.with_suffix(".partial.npy")
    array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
    _reserve(partial)
    fill(array)
    array.flush()
    del array  # Windows renames no file that is mapped
    os.replace(partial, path)
