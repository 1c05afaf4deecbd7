"""Files of corpora from where they are published: resumed, checked by their sums, unpacked.

What is on its way lies in the folder `.download` below the corpus's folder, and a download that was
interrupted goes on from there. Nothing stands in its place before all of it is there.
"""

import errno
import hashlib
import os
import shutil
import tarfile
import time
import zlib
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from recipes.common.data.files import CorpusError

logger = get_logger(__name__)
UNFINISHED = ".download"
BLOCK = 2**20  # bytes
ANSWER_SECONDS = 60  # that a server may be silent
FULL = (errno.ENOSPC, errno.EDQUOT)
ATTEMPTS = 5  # in a row without a byte
PAUSE_SECONDS = 2
SPARE = 2**28  # bytes that are to be left on the disk


class Download(NamedTuple):
    """A file that is published.

    Attributes
    ----------
    address : str
        Its URL, which ends with its name.
    size : int or None
        Bytes; None where they are not published: as the server says.
    digest : str or None
        Its SHA-256 or its MD5, in hexadecimal digits, as published. None where no sum is: what
        comes is taken as it is, and the log says so.
    """

    address: str
    size: int | None
    digest: str | None

    @property
    def name(self):
        """The file's name."""
        return self.address.rpartition("/")[2]


def fetch_file(download, path):
    """Have a file in its place, unless it is there.

    Arguments
    ---------
    download : Download
    path : str or Path
        Its place.

    Raises
    ------
    CorpusError
        Where the server has no such file or cannot be reached, what it sends has another sum, or
        the disk has not the space. What came is kept for the next time, unless its sum is wrong.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> path.touch()
    >>> fetch_file(Download("https://example.org/trials.txt", 4, "0" * 32), path)
    """
    path = Path(path)
    if path.exists():
        return
    with _unfinished(path.parent) as place:
        if not path.exists():  # as it may be where another process had the folder until now
            download = _sized(download)
            _check_space(place, [download])
            os.replace(_receive(download, place), path)


def fetch_archives(downloads, folder, root):
    """Have folders of a corpus in their places, each from an archive, unless they are there.

    Arguments
    ---------
    downloads : dict
        By the name of the folder: the Download of a tar archive that holds it, below `root`.
    folder : str or Path
        The corpus's folder. What else lies below `root`, such as a licence, is put beside.
    root : str
        The archives' first folder.

    Raises
    ------
    CorpusError
        As of `fetch_file`; also where an archive holds no such folder, or a path out of it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "dev").mkdir()
    >>> fetch_archives({"dev": Download("https://example.org/dev.tar", 4, "0" * 32)}, folder, "C")
    """
    folder = Path(folder)
    if all((folder / name).exists() for name in downloads):
        return
    with _unfinished(folder) as place:
        missing = {n: _sized(own) for n, own in downloads.items() if not (folder / n).exists()}
        largest = max((own.size for own in missing.values()), default=0)
        _check_space(place, missing.values(), packed=largest)
        for name, download in missing.items():
            archive = _receive(download, place)
            _unpack(archive, place / "unpacked", root, folder, name)
            archive.unlink()


def _check_space(place, downloads, packed=0):
    """Raise a CorpusError unless the disk has the space for what is still to come.

    An archive of compressed sound takes as many bytes when it is unpacked, and the largest one,
    `packed`, is there packed and unpacked at once.
    """
    here = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
    needed = sum(own.size for own in downloads) + packed - here + SPARE
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CorpusError(
            f"{place.parent}: a download needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
            "free on its disk."
        )


@contextmanager
def _unfinished(folder):
    """Yield the folder of what is on its way, which one process has at a time."""
    place = folder / UNFINISHED
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / "lock")
        lock.acquire()
    except OSError as error:
        raise CorpusError(f"{place} cannot be written: {error.strerror}.") from error
    try:
        yield place
    finally:
        lock.release()


def _sized(download):
    """Return a download with its size, which the server is asked for where it is not known."""
    if download.size is not None:
        return download
    return download._replace(size=_published_size(download))


def _receive(download, place):
    """Return the path of a file that has come as a whole, in the folder of what is on its way."""
    path, partial = place / download.name, place / f"{download.name}.partial"
    if path.exists():
        return path
    _receive_bytes(download, partial)
    if download.digest is None:
        logger.warning(f"{download.address}: no sum of it is published, and none was checked")
    elif (found := _digest(partial, len(download.digest))) != download.digest:
        partial.unlink()
        raise CorpusError(
            f"{download.address} has another sum than published, {found} in the place of "
            f"{download.digest}. What came was removed: try again later."
        )
    os.replace(partial, path)
    return path


def _published_size(download):
    """Return what a server says of the size of a file."""
    try:
        with urlopen(Request(download.address, method="HEAD"), timeout=ANSWER_SECONDS) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, HTTPException, TypeError, ValueError) as error:
        raise CorpusError(f"{download.address} cannot be fetched: {error}.") from error


def _receive_bytes(download, partial):
    """Add to a file what is missing of a download, in as many requests as it takes."""
    named = {"total": download.size, "unit": "B", "unit_scale": True, "desc": download.name}
    # Without a buffer, which would be written once more, and fail, where the disk is full
    with open(partial, "ab", buffering=0) as file, tqdm(**named, initial=file.tell()) as bar:
        failures = 0
        while file.tell() < download.size:
            start, problem = file.tell(), "it broke off"
            try:
                for block in _blocks(download, start):
                    written = file.write(block)
                    while written < len(block):
                        written += file.write(block[written:])
                    bar.update(len(block))
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in FULL or 400 <= _status(error) < 500:
                    raise CorpusError(f"{download.address} cannot be fetched: {error}.") from error
                problem = error
            failures = 0 if file.tell() > start else failures + 1
            if failures == ATTEMPTS:
                raise CorpusError(
                    f"{download.address} came up to byte {start} of {download.size}, then: "
                    f"{problem}. The next time goes on from there."
                )
            if file.tell() < download.size:
                time.sleep(PAUSE_SECONDS)


def _status(error):
    return error.code if isinstance(error, HTTPError) else 0


def _blocks(download, start):
    """Yield the bytes of a download from one of them on, as far as they come, and no more."""
    request = Request(download.address, headers={"Range": f"bytes={start}-"} if start else {})
    with urlopen(request, timeout=ANSWER_SECONDS) as answer:
        place = (
            start if answer.status == HTTPStatus.PARTIAL_CONTENT else 0
        )  # where it does not resume
        while place < download.size and (block := answer.read(min(BLOCK, download.size - place))):
            yield block[max(start - place, 0) :]
            place += len(block)


def _digest(path, digits):
    """Return the SHA-256 of a file, or its MD5 where that has so many digits."""
    digest = hashlib.sha256() if digits == 64 else hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _unpack(archive, place, root, folder, name):
    """Put the folder that an archive holds into its place, as a whole, after what else there is."""
    if not hasattr(tarfile, "data_filter"):
        raise CorpusError(
            f"This Python cannot unpack {archive} safely: use 3.10.12, 3.11.4 or newer."
        )
    shutil.rmtree(place, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(place, filter="data")
        if not (place / root / name).is_dir():
            raise CorpusError(f"{archive} holds no folder {root}/{name}.")
        found = sorted((place / root).iterdir(), key=lambda path: path.name == name)
        for path in found:
            if not (folder / path.name).exists():
                os.replace(path, folder / path.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise CorpusError(f"{archive} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
