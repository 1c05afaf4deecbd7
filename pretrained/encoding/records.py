"""The record of a folder of encoded files: by it a command that was stopped goes on.

`encoded.jsonl` lies in the folder. Its first line holds what all files were made with, each other
line what was made of one audio file. A line is written when its files are on the disk.
"""

import hashlib
import json
import os

from pretrained.audio_files import stamp
from pretrained.plain_files import read_utf8, whole_file

NAME = "encoded.jsonl"
FORMAT = "learn2diss-encoded-1"


class Record:
    """What of a folder is made, and of what.

    Arguments
    ---------
    out : Path
        The folder; made where it is missing.
    settings : dict
        Plain values, all that results depend on, by the words that a message has for them.

    Raises
    ------
    ValueError
        Where the folder was made with other settings, or its record is damaged before its end.
        Nothing is changed then.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ("a.wav", "a.npz"):
    ...     _ = (folder / name).write_bytes(b"1234")
    >>> with Record(folder, {"model": "1"}) as record:
    ...     record.add(folder / "a.wav", folder / "a", [".npz"])
    >>> Record(folder, {"model": "1"}).holds(folder / "a.wav", folder / "a")
    True
    >>> Record(folder, {"model": "2"})
    Traceback (most recent call last):
        ...
    ValueError: ...encoded.jsonl: the files beside it were made with another model: ...
    """

    def __init__(self, out, settings):
        self.out, self.path = out, out / NAME
        self.header = {"format": FORMAT, **settings}
        self.entries = self._read() if self.path.is_file() else {}
        self.file, self.is_new = None, not out.exists()

    def __enter__(self):
        """Write the record anew, without a line that a killed command left unfinished; open it."""
        self.out.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as file:
            for line in [self.header, *self.entries.values()]:
                file.write(_line(line))
        self.file = open(self.path, "ab", buffering=0)
        return self

    def __exit__(self, *error):
        """Close the record; where nothing was made, leave none."""
        self.file.close()
        if not self.entries:
            self.path.unlink()
            if self.is_new and not any(self.out.iterdir()):
                self.out.rmdir()

    def holds(self, source, place):
        """Return whether the results of a file are there as they were made, and the file is too.

        Arguments
        ---------
        source : str or Path
            An audio file. One that was moved or changed since counts as another.
        place : Path
            Where its results are, without their suffixes.
        """
        entry = self.entries.get(self._name(place))
        if entry is None or entry["source"] != os.path.abspath(source):
            return False
        try:
            sizes = _sizes(place, entry["bytes"])
            return sizes == entry["bytes"] and stamp(source) == entry["stamp"]
        except OSError:
            return False

    def add(self, source, place, suffixes):
        """Note what was made of an audio file: the files of a place with these suffixes."""
        entry = {
            "place": self._name(place),
            "source": os.path.abspath(source),
            "stamp": stamp(source),
            "bytes": _sizes(place, suffixes),
        }
        self.file.write(_line(entry))
        self.entries[entry["place"]] = entry

    def _name(self, place):
        return place.relative_to(self.out).as_posix()

    def _read(self):
        """Return the entries by place; what follows the last line feed was never finished."""
        lines = read_utf8(self.path).split("\n")[:-1]
        found = [self._parse(number, line) for number, line in enumerate(lines, 1)]
        header, entries = (found or [self.header])[0], found[1:]
        if header.get("format") != FORMAT:
            raise ValueError(f"{self.path} is not a record of encoded files: {self._remedy()}")
        other = [name for name, value in self.header.items() if header.get(name) != value]
        if other and entries:
            raise ValueError(
                f"{self.path}: the files beside it were made with another {' and '.join(other)}: "
                f"{self._remedy()}"
            )
        return {entry["place"]: entry for entry in entries}

    def _parse(self, number, line):
        try:
            value = json.loads(line)
            keys = ("place", "source", "stamp", "bytes") if number > 1 else ("format",)
            return {**value, **{key: value[key] for key in keys}}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}, line {number}: not a line of a record: {self._remedy()}"
            ) from error

    def _remedy(self):
        return f"give another --out, or delete {self.path} to have them made anew."


def digest_modules(modules):
    """Return the SHA-256 of modules, of their arguments and their tensors.

    Arguments
    ---------
    modules : dict
        By name, each with `config`.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoders = [UtteranceEncoder("tdnn", channels=8, embedding_dim=4) for _ in range(2)]
    >>> one, other = (digest_modules({"utterance_encoder": encoder}) for encoder in encoders)
    >>> len(one), one == other
    (64, False)
    """
    digest = hashlib.sha256()
    for name, module in sorted(modules.items()):
        digest.update(json.dumps([name, module.config], sort_keys=True).encode())
        for key, tensor in sorted(module.state_dict().items()):
            digest.update(key.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sizes(place, suffixes):
    return {suffix: os.stat(f"{place}{suffix}").st_size for suffix in suffixes}


def _line(value):
    return (json.dumps(value) + "\n").encode()
