"""A manifest as columns in a file that is mapped into memory: all processes share its pages.

The CSV file is the source. Beside it lies its copy as an Arrow file, made on first use and anew
whenever the CSV file changes. What a fast reader may take otherwise than Python's does is left to
Python's, which names whatever is wrong.
"""

import csv
import hashlib
import io
import json
import os
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pretrained.audio_files import stamp
from recipes.common.data.files import CorpusError, digest_code, read_text, user_cache

REQUIRED = ("ID", "duration", "wav", "spk_id")
OPTIONAL = ("wrd", "phn", "label")
ROOT = "$data_root/"
MADE_OF = b"made_of"  # the key, in an Arrow file, of what it was made of
BLOCK = 2**24  # bytes that are read at once
LONGEST = csv.field_size_limit()  # characters of a value: Python's reader refuses more
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnusualError(Exception):
    """A manifest that the fast reader leaves to the slow one."""


def read_manifest(path):
    """Read and check a manifest, row by row; `open_table` is for manifests of any length.

    Arguments
    ---------
    path : str or Path
        The CSV file.

    Returns
    -------
    list of dict
        A row for each utterance; `duration` is a float.

    Raises
    ------
    CorpusError
        Where the file is missing or empty, lacks a column, holds an ID twice or a duration that is
        no positive number; names the file and the line.
    """
    path = _existing(path)
    with io.StringIO(read_text(path), newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or [])]
        if missing:
            raise CorpusError(f"{path}, line 1: no column {', '.join(missing)}.")
        rows, lines = [], {}
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise CorpusError(f"{where}: not as many values as the header has columns.")
            empty = [name for name in REQUIRED if not row[name]]
            if empty:
                raise CorpusError(f"{where}: no value for {', '.join(empty)}.")
            if row["ID"] in lines:
                raise CorpusError(f"{where}: ID {row['ID']} stands in line {lines[row['ID']]} too.")
            lines[row["ID"]] = reader.line_num
            rows.append({**row, "duration": _duration(row["duration"], where)})
    if not rows:
        raise CorpusError(f"{path} lists no utterance.")
    return rows


def _existing(path):
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path} is missing: run without --skip_prep to have it written.")
    return path


def _duration(text, where):
    try:
        duration = float(text)
    except (TypeError, ValueError):
        duration = 0.0
    if not 0 < duration < float("inf"):
        raise CorpusError(f"{where}: duration is {text!r}, expected seconds above 0.")
    return duration


def open_table(path):
    """Return a manifest's columns, mapped into memory.

    Arguments
    ---------
    path : str or Path
        The CSV file. The mapped file lies beside it or, where nothing can be written there, in the
        user's cache, and is made where it is missing or the CSV file has changed.

    Returns
    -------
    pyarrow.Table
        `duration` (s) of float64, all other columns of str; the rows are those of `read_manifest`.

    Raises
    ------
    CorpusError
        As `read_manifest` does.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> _ = path.write_text("ID,duration,wav,spk_id\\na,1.5,$data_root/a.wav,1\\n")
    >>> open_table(path)["duration"].to_pylist()
    [1.5]
    """
    path = _existing(path)
    made_of = json.dumps([*stamp(path), digest_code("recipes/common/data/table.py")]).encode()
    places = _places(path)
    for place in places:
        table = _mapped(place)
        if table is not None and (table.schema.metadata or {}).get(MADE_OF) == made_of:
            return table
    return _mapped(_make(path, places, made_of))


def _places(path):
    """Return where the mapped file of a manifest may lie, the best first."""
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    return [path.with_name(f"{path.name}.arrow"), user_cache() / f"{name}.arrow"]


def _mapped(place):
    """Return the table of a mapped file, or None where there is none."""
    try:
        return pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    except (OSError, pa.ArrowInvalid):
        return None


def _make(path, places, made_of):
    """Write the mapped file of a manifest whole, beside others that do so, and return its place."""
    place, partial = _writable(path, places)
    try:
        try:
            _write(_plain_batches(path), partial, made_of)
            if not _all_differ(_mapped(partial)["ID"]):
                raise UnusualError
        except (UnusualError, pa.ArrowInvalid):
            _write(_checked_batches(path), partial, made_of)
        os.replace(partial, place)
    finally:
        partial.unlink(missing_ok=True)
    return place


def _writable(path, places):
    """Return the first place beside which a file can be written, and that file."""
    for place in places:
        partial = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
        except OSError as error:
            refused = error
        else:
            return place, partial
    raise CorpusError(
        f"{path}: its columns, {places[0].name}, can be written neither beside it nor to "
        f"{places[-1].parent}: {refused.strerror}. Make one of these folders writable."
    )


def _write(batches, partial, made_of):
    """Write batches of rows to an Arrow file, and to the disk."""
    with open(partial, "wb") as file:
        writer = None
        for batch in batches:
            batch = batch.replace_schema_metadata({MADE_OF: made_of})
            writer = writer or pa.ipc.new_file(file, batch.schema)
            writer.write_table(batch)
        if writer is None:
            raise UnusualError
        writer.close()
        file.flush()
        os.fsync(file.fileno())


def _checked_batches(path):
    """Yield the rows of a manifest as one table, by the slow reader."""
    rows = read_manifest(path)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    types = {name: pa.float64() if name == "duration" else pa.string() for name in columns}
    yield pa.table(columns, pa.schema(types.items()))


def _plain_batches(path):
    """Yield the rows of a manifest as tables; UnusualError where a row is not as plain as can be.

    What is yielded is as the slow reader reads it, but for an ID that stands twice.
    """
    with open(path, "rb") as file:
        names = _plain_header(file.readline())
        while block := file.read(BLOCK) + file.readline():
            if not _is_plain(block):
                raise UnusualError
            if block.strip(b"\r\n"):
                yield _read_block(block, names)


def _plain_header(line):
    """Return the names of the columns."""
    line = line.removeprefix(BYTE_ORDER_MARK).removesuffix(b"\n").removesuffix(b"\r")
    try:
        names = line.decode().split(",")
    except UnicodeDecodeError as error:
        raise UnusualError from error
    odd = any(mark in line for mark in (b'"', b"\r", b"\0"))
    if odd or len(set(names)) < len(names) or not set(REQUIRED) <= set(names):
        raise UnusualError
    return names


def _is_plain(block):
    """Return whether lines end alike and quotes enclose whole values that lie in one line.

    Example
    -------
    >>> _is_plain(b'a,"b, c",d\\n'), _is_plain(b'a,b"c",d\\n'), _is_plain(b'a,"b\\nc",d\\n')
    (True, False, False)
    """
    if b"\0" in block or block.startswith(BYTE_ORDER_MARK):
        return False
    if block.count(b"\r") != block.count(b"\r\n"):
        return False
    if b'"' not in block:
        return True
    text = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    # Two quotes for one, within a value, count as the end of one part and the start of another.
    starts_well = np.isin(text[quotes[::2] - 1], list(b'\n,"')).all()
    ends_well = np.isin(text[quotes[1::2] + 1], list(b'\r\n,"')).all()
    inside = np.searchsorted(quotes, np.flatnonzero(text == ord("\n"))) % 2
    return bool(starts_well and ends_well and not inside.any())


def _read_block(block, names):
    """Return the rows of a block of plain lines as a table in one piece."""
    table = arrow_csv.read_csv(
        pa.BufferReader(block),
        arrow_csv.ReadOptions(column_names=names),
        convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    lengths = {name: pc.min_max(pc.binary_length(table[name])).as_py() for name in names}
    if any(not lengths[name]["min"] for name in REQUIRED):
        raise UnusualError
    if any(length["max"] > LONGEST for length in lengths.values()):
        raise UnusualError
    duration = pc.cast(table["duration"], pa.float64())
    if not (pc.min(duration).as_py() > 0 and pc.all(pc.is_finite(duration)).as_py()):
        raise UnusualError
    return table.set_column(names.index("duration"), "duration", duration).combine_chunks()


def _all_differ(values):
    """Return whether no two values are equal; no memory is needed where they are sorted."""
    last = None
    for chunk in values.chunks:
        ends_after = last is None or last < chunk[0].as_py()
        if not ends_after or not pc.all(pc.less(chunk[:-1], chunk[1:]), min_count=0).as_py():
            return pc.count_distinct(values).as_py() == len(values)
        last = chunk[-1].as_py()
    return True
