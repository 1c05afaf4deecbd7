"""A manifest as mapped columns: the rows of the slow reader, made once, made again, shared."""

import csv
import multiprocessing
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from recipes.common.data import table
from recipes.common.data.files import CorpusError
from recipes.common.data.table import open_table, read_manifest

HEADER = "ID,duration,wav,spk_id,wrd"
PLAIN = "a,1.5,$data_root/a.wav,s,HI"


def rows_of(path):
    return open_table(path).to_pylist()


def outcome(read, path):
    """Return what a reader returns, or its error's text."""
    try:
        return read(path)
    except (CorpusError, csv.Error) as error:
        return str(error)


def fast_rows(path):
    """Return the rows of the fast reader, None where it leaves a manifest to the slow one."""
    try:
        batches = list(table._plain_batches(path))
    except (table.UnusualError, pa.ArrowInvalid):
        return None
    return [row for batch in batches for row in batch.to_pylist()]


def agree(path):
    """Compare the readers; return whether the fast one took the file."""
    expected, fast = outcome(read_manifest, path), fast_rows(path)
    assert outcome(rows_of, path) == expected
    twice = isinstance(expected, str) and "stands in line" in expected
    assert not fast or twice or fast == expected
    return bool(fast)


UNUSUAL = {
    "line ends of three kinds": f"{HEADER}\r\n{PLAIN}\rb{PLAIN}\n",
    "line ends of old": f"{HEADER}\r{PLAIN}\r",
    "a line end in quotes": f'{HEADER}\na,1,a.wav,s,"HI\nHO"\n',
    "a carriage return in quotes": f'{HEADER}\r\na,1,a.wav,s,"HI\r\nHO"\r\n',
    "a quote within a value": f'{HEADER}\na,1,a.wav,s,HI "HO"\n',
    "text after a quote": f'{HEADER}\na,1,a.wav,s,"HI" HO\n',
    "a quote without end": f'{HEADER}\na,1,a.wav,s,"HI\n',
    "a quoted header": f'ID,duration,wav,spk_id,"w,d"\n{PLAIN}\n',
    "a blank first line": f"\n{HEADER}\n{PLAIN}\n",
    "a column twice": f"{HEADER},wrd\n{PLAIN},HO\n",
    "an underscore in a number": f"{HEADER}\na,1_0.5,a.wav,s,HI\n",
    "a space before a number": f"{HEADER}\na, 1.5,a.wav,s,HI\n",
    "digits of another script": f"{HEADER}\na,\u0661,a.wav,s,HI\n",
    "a long value": f"{HEADER}\n{PLAIN}{'O' * 131072}\n",
    "a zero byte": f"{HEADER}\n{PLAIN}\0\n",
    "no number": f"{HEADER}\na,nan,a.wav,s,HI\n",
    "a number too large": f"{HEADER}\na,1e999,a.wav,s,HI\n",
    "a number too small": f"{HEADER}\na,1e-999,a.wav,s,HI\n",
    "a value too many": f"{HEADER}\n{PLAIN}\nb{PLAIN},\n",
    "no ID": f"{HEADER}\n,1,a.wav,s,HI\n",
    "no speaker": f"{HEADER}\na,1,a.wav,,HI\n",
    "a line of spaces": f"{HEADER}\n{PLAIN}\n  \n",
    "no text": b"ID,duration,wav,spk_id\na,1,\xff.wav,s\n",
    "half of a character": b"ID,duration,wav,spk_id\na,1,\xed\xa0\x80.wav,s\n",
    "no rows": f"{HEADER}\n\n\n",
}
USUAL = {
    "plain": f"{HEADER}\n{PLAIN}\nb{PLAIN}\n",
    "no last line end": f"{HEADER}\n{PLAIN}\nb{PLAIN}",
    "as Python writes it by default": f"{HEADER}\r\n{PLAIN}\r\n\r\nb{PLAIN}\r\n",
    "with a mark of byte order": f"\ufeff{HEADER}\n{PLAIN}\n",
    "quotes": f'{HEADER}\na,1e-05,"$data_root/a, ""b"".wav",s,""\n"b","2","b.wav","s",""""\n',
    "odd spaces": f"{HEADER}\n a,1,\u2028 a.wav\x0b,s\x85\x0c, HI \n",
    "blank lines": f"{HEADER}\n\n{PLAIN}\n\n\n",
    "another column": f"{HEADER},\n{PLAIN},x\n",
    "not sorted": f"{HEADER}\nb{PLAIN}\n{PLAIN}\n",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_left_to_the_slow_reader(name, tmp_path):
    text = UNUSUAL[name]
    path = tmp_path / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert not agree(path)
    assert path.with_name("m.csv.arrow").exists() == isinstance(outcome(rows_of, path), list)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", USUAL)
def test_what_is_usual_is_read_fast(name, tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(USUAL[name].encode())
    assert agree(path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("block", [10, 100, 2**24])
def test_an_id_that_stands_twice_is_named_with_both_lines(order, block, tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BLOCK", block)
    lines = [f"{name}{PLAIN}" for name in ("a", "b", "c")]
    lines = [lines[place] for place in order]
    path = tmp_path / "m.csv"
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    assert [row["ID"] for row in rows_of(path)] == [line[:2] for line in lines]
    path.write_text("\n".join([HEADER, *lines, lines[1]]), encoding="utf-8")
    with pytest.raises(CorpusError, match="m.csv, line 5: ID ba stands in line 3 too"):
        open_table(path)


def test_a_mark_of_byte_order_within_is_a_character(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BLOCK", 10)
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\n{PLAIN}\n\ufeff{PLAIN}\n", encoding="utf-8")
    assert not agree(path) and rows_of(path)[1]["ID"] == "\ufeffa"


def test_an_id_twice_is_found_where_one_block_ends_and_another_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BLOCK", 40)
    path = tmp_path / "m.csv"
    lines = [f"{name}{PLAIN}" for name in "abbc"]
    path.write_text("\n".join([HEADER, *lines]), encoding="utf-8")
    assert [len(batch) for batch in table._plain_batches(path)] == [2, 2]
    with pytest.raises(CorpusError, match="m.csv, line 4: ID ba stands in line 3 too"):
        open_table(path)


def test_numbers_are_those_of_python():
    rng = np.random.default_rng(0)
    texts = [
        "".join(rng.choice(list("0123456789..ee+-_ xnaif"), rng.integers(1, 9)))
        for _ in range(3000)
    ]
    texts += [repr(value) for value in rng.lognormal(0, 9, 1000).tolist()]
    for text in texts:
        try:
            found = pa.compute.cast(pa.array([text]), pa.float64())[0].as_py()
        except pa.ArrowInvalid:
            continue
        assert found == float(text) or not np.isfinite(found)


PIECES = ["a", "b", "1", "1.5", "", ",", ",,", '"', '""', "\n", "\r\n", "\r", " ", "é", "\ufeff"]
ROWS = [
    "a,1,a.wav,s,x\n",
    "b,2.5,b.wav,t,\n",
    '"c",3,"c.wav",u,"x, y"\n',
    "d,1e3,d,d,d\r\n",
    'e,1,"e""",e,e\n',
]
ROWS += ["\n", "f,2,f,f,\r\n", 'g,007,g,g,"\'"\n']
PIECES += ROWS


def test_the_readers_agree_on_any_text(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    rng, fast = np.random.default_rng(0), 0
    for case in range(400):
        pieces = rng.choice(PIECES, rng.integers(1, 9)) if case % 2 else rng.permutation(ROWS)[:3]
        path = tmp_path / f"{case}.csv"
        path.write_bytes("".join([HEADER, "\n", *pieces]).encode())
        monkeypatch.setattr(table, "BLOCK", int(rng.integers(1, 60)))
        fast += agree(path)
    assert fast > 70


def test_a_table_is_made_once_and_again_when_its_manifest_changed(tmp_path, monkeypatch):
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\n{PLAIN}\n", encoding="utf-8")
    first = open_table(path)
    made = os.stat(tmp_path / "m.csv.arrow")
    assert open_table(path).equals(first)
    assert os.stat(tmp_path / "m.csv.arrow") == made
    path.write_text(f"{HEADER}\nb{PLAIN}\n", encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert rows_of(path)[0]["ID"] == "ba" and first["ID"].to_pylist() == ["a"]
    made = os.stat(tmp_path / "m.csv.arrow")
    monkeypatch.setattr(table, "digest_code", lambda *places: "other code")
    open_table(path)
    assert os.stat(tmp_path / "m.csv.arrow") != made


@pytest.mark.parametrize("content", [b"", b"text", b"other", None])
def test_a_table_that_is_cut_or_none_is_made_again(content, tmp_path):
    path, made = tmp_path / "m.csv", tmp_path / "m.csv.arrow"
    path.write_text(f"{HEADER}\n{PLAIN}\n", encoding="utf-8")
    whole = open_table(path).to_pylist()
    if content == b"other":
        other = pa.table({"ID": ["b"]})
        with pa.ipc.new_file(str(made), other.schema) as writer:
            writer.write_table(other)
        content = made.read_bytes()
    made.write_bytes(made.read_bytes()[:-20] if content is None else content)
    assert open_table(path).to_pylist() == whole


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "m.csv"
    path.write_text(f"{HEADER}\n{PLAIN}\n", encoding="utf-8")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        open_table(path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


def test_where_nothing_can_be_written_beside_it_the_cache_has_the_table(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / ("m" * 246 + ".csv")  # no name may be longer than 255 bytes
    path.write_text(f"{HEADER}\n{PLAIN}\n", encoding="utf-8")
    assert rows_of(path) == read_manifest(path)
    [made] = (tmp_path / "cache" / "learn2diss").iterdir()
    before = os.stat(made)
    open_table(path)
    assert os.stat(made) == before
    made.unlink()
    (tmp_path / "cache" / "learn2diss").rmdir()
    (tmp_path / "cache" / "learn2diss").touch()
    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path}/cache/learn2diss")):
        open_table(path)


def test_processes_that_make_a_table_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("\n".join([HEADER, *(f"{n:05d}{PLAIN}" for n in range(20_000))]))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.map(rows_of, [path] * 8, chunksize=1)
    assert all(rows == found[0] for rows in found) and len(found[0]) == 20_000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.csv", "m.csv.arrow"]
