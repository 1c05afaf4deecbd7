"""Pack the audio of a corpus into tar shards of about 1 GB, which are read by byte offset.

    python -m recipes.common.corpora.shards --data_folder D --manifest_folder M --out_folder SHARDS

Millions of small files are slow to open on the file systems of most clusters. Recipes then take
`--data_folder SHARDS --manifest_folder SHARDS/manifest --skip_prep True`.

A shard holds the files of one manifest in its order, and its bytes depend on nothing else. Its name
has a digest of all that was packed, so that a manifest never fits the shards of another packing.
"""

import argparse
import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from pretrained.audio_files import member_path, recording_of, split_member, why_absent
from pretrained.plain_files import whole_file
from recipes.common.data.files import CorpusError, replace_text
from recipes.common.data.manifest import count_left_out, csv_text
from recipes.common.data.table import ROOT, read_manifest
from recipes.common.training.run import claim

SHARD_BYTES = 10**9
END = bytes(2 * tarfile.BLOCKSIZE)


class Member(NamedTuple):
    """A file in a shard: its path in the corpus, its size and where its data begin, in bytes."""

    name: str
    size: int
    offset: int


class Shard(NamedTuple):
    """A shard's file name and its members, in order."""

    name: str
    members: list

    def size(self):
        """Return how many bytes the whole shard has."""
        last = self.members[-1]
        return last.offset + last.size + len(_padding(last.size)) + len(END)


def main(arguments=None):
    """Pack what the command line says; what is wrong with it is printed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_folder", type=Path, required=True, help="the corpus")
    parser.add_argument("--manifest_folder", type=Path, required=True, help="holds its SPLIT.csv")
    parser.add_argument("--out_folder", type=Path, required=True, help="receives the shards")
    try:
        pack(**vars(parser.parse_args(arguments)))
    except ValueError as error:
        sys.exit(str(error))


def pack(data_folder, manifest_folder, out_folder):
    """Pack the audio of all manifests of a folder, and write manifests of the shards.

    Where packing was interrupted, it goes on after the last shard that is whole.

    Arguments
    ---------
    data_folder : str or Path
        The corpus.
    manifest_folder : str or Path
        Holds `<split>.csv`, as a recipe wrote them.
    out_folder : str or Path
        Receives the shards of each split and, once all are there, `manifest/<split>.csv`.

    Raises
    ------
    CorpusError
        Where a manifest or a file is missing, or the folder holds other things: nothing has been
        written then. Or where a file changes meanwhile.
    """
    data_folder, out_folder = Path(data_folder), Path(out_folder)
    paths = sorted(Path(manifest_folder).glob("*.csv"))
    if not paths:
        raise CorpusError(f"{manifest_folder} holds no manifest: expected SPLIT.csv of a recipe.")
    rows = {path.stem: read_manifest(path) for path in paths}
    _check_files([(split, row) for split in rows for row in rows[split]], data_folder)
    shards = {split: plan_shards(split, rows[split], data_folder) for split in rows}
    _check_empty(out_folder, shards)
    claim(out_folder)
    total = sum(shard.size() for own in shards.values() for shard in own)
    with tqdm(total=total, unit="B", unit_scale=True, desc="Packing", dynamic_ncols=True) as bar:
        for shard in (shard for own in shards.values() for shard in own):
            _write_shard(out_folder / shard.name, shard.members, data_folder, bar)
    (out_folder / "manifest").mkdir(exist_ok=True)
    for path in paths:
        place = out_folder / "manifest" / path.name
        marker = {"left_out": count_left_out([path])}
        replace_text(place.with_suffix(".json"), json.dumps(marker))
        replace_text(place, _new_manifest(rows[path.stem], shards[path.stem]))


def _check_files(rows, data_folder):
    """Raise CorpusError, with all that is wrong, unless every row's file lies in the corpus."""
    problems = []
    for split, row in rows:
        name = _file_of(row)
        inside = row["wav"].startswith(ROOT) and not {"/", ".."} & set(Path(name).parts)
        if not inside or split_member(name):
            expected = f"expected {ROOT} and the path of a file in the corpus"
            problems.append(f"{split}: {row['ID']}: wav is {row['wav']!r}, {expected}.")
        elif (problem := why_absent(data_folder / name)) is not None:
            problems.append(f"{split}: {row['ID']}: {data_folder / name} {problem}")
    if problems:
        raise CorpusError("\n".join(problems))


def plan_shards(split, rows, data_folder):
    """Return the shards of a split: which files are in each, and where.

    Arguments
    ---------
    split : str
    rows : list of dict
        Of its manifest.
    data_folder : Path
        The corpus.

    Returns
    -------
    list of Shard
        Each of `SHARD_BYTES` at most, or of one file that is larger.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.wav").write_bytes(b"RIFF")
    >>> [shard] = plan_shards("train", [{"wav": "$data_root/a.wav"}], folder)
    >>> shard.members, shard.size()
    ([Member(name='a.wav', size=4, offset=512)], 2048)
    """
    names = list(dict.fromkeys(_file_of(row) for row in rows))
    sizes = [(data_folder / name).stat().st_size for name in names]
    shards, end = [[]], 0
    for name, size in zip(names, sizes, strict=True):
        header, data = len(_header(name, size)), size + len(_padding(size))
        if shards[-1] and end + header + data + len(END) > SHARD_BYTES:
            shards.append([])
            end = 0
        shards[-1].append(Member(name, size, end + header))
        end += header + data
    packed = hashlib.sha256(repr((SHARD_BYTES, names, sizes)).encode()).hexdigest()[:8]
    return [Shard(f"{split}-{packed}-{n:06d}.tar", own) for n, own in enumerate(shards)]


def _header(name, size):
    """Return the header of a file in a tar archive; it is the same on every machine."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size):
    """Return the zeros that follow so many bytes of data in a tar archive."""
    return bytes(-size % tarfile.BLOCKSIZE)


def _check_empty(folder, shards):
    """Raise CorpusError where a folder holds what packing these shards does not write."""
    own = {shard.name for shards_of in shards.values() for shard in shards_of}
    own |= {f"{name}.partial" for name in own} | {"manifest", "run.lock"}
    tables = {f"{split}.{kind}" for split in shards for kind in ("csv", "json")}
    tables |= {f"{name}.partial" for name in tables}
    read = tuple(f"{split}.csv.arrow" for split in shards)  # what a recipe makes of a manifest
    others = [path for path in folder.glob("*") if path.name not in own]
    others += [
        path
        for path in folder.glob("manifest/*")
        if path.name not in tables and not path.name.startswith(read)
    ]
    if others:
        raise CorpusError(
            f"{min(others)} is not of this packing: use another out_folder, or remove it. Where "
            "the corpus or a manifest was changed since, the shards have other names."
        )


def _write_shard(path, members, data_folder, bar):
    """Write a shard unless it is there, whole and newer than its files."""
    files = [data_folder / member.name for member in members]
    size = Shard(path.name, members).size()
    newest = max(file.stat().st_mtime_ns for file in files)
    if path.is_file() and (size, True) == (path.stat().st_size, path.stat().st_mtime_ns >= newest):
        bar.update(size)
        return
    with whole_file(path) as shard:
        for member, file in zip(members, files, strict=True):
            content = file.read_bytes()
            if len(content) != member.size:
                found = f"has {len(content)} bytes, expected {member.size}"
                raise CorpusError(f"{file} {found}: it was changed meanwhile. Start again.")
            content = _header(member.name, member.size) + content + _padding(member.size)
            bar.update(shard.write(content))
        bar.update(shard.write(END))


def _new_manifest(rows, shards):
    """Return the text of a manifest whose audio lies in shards."""
    places = {
        member.name: ROOT + member_path(shard.name, member.offset, member.size)
        for shard in shards
        for member in shard.members
    }
    moved = [
        {**row, "wav": places[_file_of(row)] + row["wav"][len(recording_of(row["wav"])) :]}
        for row in rows
    ]
    return csv_text(moved, list(rows[0]))


def _file_of(row):
    """Return the path, in the corpus, of the file that a row is of or that it is a piece of."""
    return recording_of(row["wav"]).removeprefix(ROOT)


if __name__ == "__main__":
    main()
