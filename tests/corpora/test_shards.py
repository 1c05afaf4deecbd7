"""Audio in tar shards: packed as tar has it, read as the files are, and never other samples."""

import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from pretrained import audio_files
from pretrained.audio import AudioError, check_audio, read_blocks, read_speech
from pretrained.audio_files import member_path, open_audio, recording_of, split_member, stamp
from recipes.common.corpora import shards
from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import count_left_out, validate_manifests, write_manifest
from recipes.common.data.table import read_manifest

SUFFIXES = ("wav", "flac", "ogg", "mp3", "aiff", "sph")
LONG = "a folder whose name is long enough for tar to write more than one header/" + 60 * "é"


class Corpus:
    """A corpus of a folder, its manifests, and the shards that are made of both."""

    def __init__(self, root):
        self.root, self.manifests, self.out = root / "corpus", root / "manifest", root / "shards"

    def write(self, split, names, make_voice):
        rows = []
        for number, name in enumerate(names):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            kind = {"format": "NIST"} if name.endswith("sph") else {}
            soundfile.write(self.root / name, make_voice(number, 1), 16000, **kind)
            row = {"ID": f"{split}-{number:02d}", "duration": 1.5, "wav": f"$data_root/{name}"}
            rows.append({**row, "spk_id": f"{split}-{number % 2}", "wrd": 'A "WORD", AND'})
        self.manifests.mkdir(exist_ok=True)
        write_manifest(rows, self.manifests / f"{split}.csv")

    def pack(self):
        shards.pack(self.root, self.manifests, self.out)

    def rows(self, split, folder=None):
        return read_manifest((folder or self.out / "manifest") / f"{split}.csv")

    def paths(self, split):
        """Return pairs: a file, and the member that was made of it."""
        wavs = [row["wav"].removeprefix("$data_root/") for row in self.rows(split)]
        files = [row["wav"].removeprefix("$data_root/") for row in self.rows(split, self.manifests)]
        return [(self.root / a, f"{self.out}/{b}") for a, b in zip(files, wavs, strict=True)]

    def content(self):
        return {path.name: path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_voice):
    """The folder of two splits, one of files of all kinds; do not change it."""
    corpus = Corpus(tmp_path_factory.mktemp("made"))
    names = [f"{n % 3}/{n}.{suffix}" for n, suffix in enumerate(2 * SUFFIXES)]
    corpus.write("train", [*names, f"{LONG}/a.wav"], make_voice)
    corpus.write("test", ["t/0.flac", "t/1.flac"], make_voice)
    return corpus.root.parent


@pytest.fixture
def corpus(made, tmp_path, monkeypatch):
    """A corpus of one's own, which takes several shards."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 150_000)
    return Corpus(Path(shutil.copytree(made, tmp_path / "made")))


@pytest.fixture
def packed(corpus):
    corpus.pack()
    return corpus


@pytest.mark.parametrize("windows", [False, True])
def test_members_are_read_as_files_are_to_the_bit(packed, windows, monkeypatch):
    if windows:
        monkeypatch.delattr(audio_files.os, "pread")
    pairs = packed.paths("train") + packed.paths("test")
    assert len({split_member(member)[0] for _, member in pairs}) > 3
    for file, member in pairs:
        assert torch.equal(read_speech(member), read_speech(file))
        assert check_audio(member) == check_audio(file)
        assert check_audio(member)[1] is None
        blocks = zip(read_blocks(member), read_blocks(file), strict=True)
        assert all(np.array_equal(*pair) for pair in blocks)


def test_shards_are_archives_in_the_order_of_the_manifest(packed):
    for split in ("train", "test"):
        expected = [(file, file.read_bytes()) for file, _ in packed.paths(split)]
        found = []
        for path in sorted(packed.out.glob(f"{split}-*.tar")):
            with tarfile.open(path) as archive:
                for info in archive:
                    found.append((packed.root / info.name, archive.extractfile(info).read()))
            assert path.stat().st_size <= shards.SHARD_BYTES
        assert found == expected


def test_only_the_audio_of_the_rows_changes(packed):
    for split in ("train", "test"):
        before, after = packed.rows(split, packed.manifests), packed.rows(split)
        assert [{**row, "wav": ""} for row in after] == [{**row, "wav": ""} for row in before]
    named = {split: packed.out / "manifest" / f"{split}.csv" for split in ("train", "test")}
    validate_manifests(named, packed.out, {split: [split] for split in named})


def test_the_order_of_a_manifest_and_its_own_columns_are_kept(corpus):
    path = corpus.manifests / "test.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{header},age", *(f"{line},7" for line in lines[::-1])]))
    path.with_suffix(".json").write_text('{"left_out": 3}')
    corpus.pack()
    assert [(row["ID"], row["age"]) for row in corpus.rows("test")] == [
        ("test-01", "7"),
        ("test-00", "7"),
    ]
    assert count_left_out([corpus.out / "manifest" / "test.csv"]) == 3


def test_packing_gives_the_same_bytes_wherever_and_whenever(packed, tmp_path):
    before = packed.content()
    for file, _ in packed.paths("train"):
        file.touch()
    packed.out = tmp_path / "other"
    packed.pack()
    assert packed.content() == before


def test_names_differ_where_anything_packed_does(packed, make_voice, tmp_path):
    packed.write("test", ["t/0.flac", "u/1.flac"], make_voice)
    before, packed.out = packed.out, tmp_path / "other"
    packed.pack()
    own = {path.name for path in packed.out.glob("test-*.tar")}
    assert own and not own & {path.name for path in before.glob("test-*.tar")}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_and_threads_read_at_once(packed, method):
    pairs = packed.paths("train") * 20
    members, expected = [member for _, member in pairs], [file.read_bytes() for file, _ in pairs]
    with ThreadPoolExecutor(4) as pool:  # the shards are open before the fork
        assert [found.getvalue() for found in pool.map(open_audio, members)] == expected
    with get_context(method).Pool(2) as pool:
        found = pool.map(open_audio, members, chunksize=1)
    assert [own.getvalue() for own in found] == expected


def test_threads_read_more_shards_than_stay_open(packed, monkeypatch):
    one = lru_cache(1)(audio_files._opened_shard.__wrapped__)
    monkeypatch.setattr(audio_files, "_opened_shard", one)
    pairs = (packed.paths("train") + packed.paths("test")) * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda pair: open_audio(pair[1]).getvalue(), pairs))
    assert found == [file.read_bytes() for file, _ in pairs]


def refused(path, message):
    """Check that all that reads a path refuses it, and names it."""
    with pytest.raises(AudioError, match=message) as caught:
        read_speech(path)
    assert str(caught.value).startswith(f"{path} ")
    with pytest.raises(AudioError, match=message):
        list(read_blocks(path))
    assert check_audio(path) == (0.0, caught.value.problem)


def test_a_missing_shard_is_named(packed):
    refused(f"{packed.out}/train-000009.tar:512:3000", "train-000009.tar: No such file")


def test_another_size_or_offset_is_refused_and_names_the_member(packed):
    file, member = packed.paths("test")[1]
    shard, offset, size = split_member(member)
    held = rf"t/1.flac of {size} bytes lies there, expected"
    refused(member_path(shard, offset, size - 1), f"{held} {size - 1}")
    refused(member_path(shard, offset, size + 512), f"{held} {size + 512}")
    refused(member_path(shard, offset + 512, size), "no tar header")
    refused(member_path(shard, offset - 1, size), "no tar header")
    refused(member_path(shard, 0, size), "offset 0: expected 512 or more")
    refused(member_path(shard, 10**9, size), "ends before byte 1000000000")
    for large in ((10**30, size), (offset, 10**30), (offset, 10**15)):
        refused(member_path(shard, *large), "cannot be read")


def test_whatever_the_offset_a_member_is_read_or_refused(packed):
    members = {split_member(member)[:2]: member for _, member in packed.paths("train")}
    rng = np.random.default_rng(0)
    for shard in {shard for shard, _ in members}:
        sizes = [split_member(member)[2] for own, member in members.items() if own[0] == shard]
        blocks = 512 * np.arange(150_000 // 512)
        for offset in [*blocks, *rng.integers(0, 150_000, 300)]:
            for size in sizes:
                path = member_path(shard, offset, size)
                if members.get((shard, offset)) != path:
                    with pytest.raises(AudioError):
                        read_speech(path)


def test_a_cut_shard_is_found_by_the_validator_and_by_the_reader(packed):
    _, member = packed.paths("test")[1]
    shard, offset, size = split_member(member)
    for kept in (offset + size - 1, offset, offset - 1, 0):
        with open(shard, "r+b") as file:
            file.truncate(kept)
        refused(member, "cut short")
        with pytest.raises(CorpusError, match=f"test-0.: .*the shard holds {kept} bytes"):
            validate_manifests({"test": packed.out / "manifest" / "test.csv"}, packed.out, {})


def test_the_validator_names_a_missing_shard(packed):
    shard = next(packed.out.glob("test-*.tar"))
    shard.unlink()
    with pytest.raises(CorpusError, match=f"test-00: .* is missing: there is no shard .*{shard}"):
        validate_manifests({"test": packed.out / "manifest" / "test.csv"}, packed.out, {})


def test_a_damaged_header_is_refused(packed):
    _, member = packed.paths("test")[0]
    shard, offset, _ = split_member(member)
    for place in range(offset - 512, offset):
        with open(shard, "r+b") as file:
            file.seek(place)
            before = file.read(1)
            file.seek(place)
            file.write(bytes([before[0] ^ 1]))
            file.flush()
            with pytest.raises(AudioError):
                read_speech(member)
            file.seek(place)
            file.write(before)
    read_speech(member)


def test_a_stamp_is_of_the_member_and_its_shard(packed):
    file, member = packed.paths("test")[0]
    shard = split_member(member)[0]
    assert stamp(member) == [file.stat().st_size, stamp(shard)[1]]
    assert stamp(packed.paths("test")[1][1]) != stamp(member)


# Packing that is refused, and packing that is interrupted


def test_nothing_is_written_where_files_are_missing(corpus):
    for name in ("0/0.wav", "t/1.flac"):
        (corpus.root / name).unlink()
    with pytest.raises(CorpusError) as caught:
        corpus.pack()
    assert "train: train-00: " in str(caught.value) and "0.wav is missing" in str(caught.value)
    assert "test: test-01: " in str(caught.value) and not corpus.out.exists()


@pytest.mark.parametrize("wav", ["/a.wav", "$data_root/../a.wav", "$data_root//a.wav", "a.wav"])
def test_audio_outside_of_the_corpus_is_refused(corpus, wav):
    text = (corpus.manifests / "test.csv").read_text()
    (corpus.manifests / "test.csv").write_text(text.replace("$data_root/t/1.flac", wav))
    with pytest.raises(CorpusError, match="test: test-01: wav is .* expected .data_root/"):
        corpus.pack()
    assert not corpus.out.exists()


def test_shards_are_not_packed_again(packed, tmp_path):
    with pytest.raises(CorpusError, match="test: test-00: wav is .* path of a file"):
        shards.pack(packed.out, packed.out / "manifest", tmp_path / "again")


def test_a_folder_without_manifests_is_refused(corpus):
    with pytest.raises(CorpusError, match="holds no manifest"):
        shards.pack(corpus.root, corpus.root, corpus.out)


@pytest.mark.parametrize("other", ["notes.txt", "manifest/dev.csv", "train-00000000-000000.tar"])
def test_a_folder_that_holds_other_things_is_refused(corpus, other):
    (corpus.out / other).parent.mkdir(parents=True)
    (corpus.out / other).write_text("")
    with pytest.raises(CorpusError, match=f"{other} is not of this packing"):
        corpus.pack()
    assert list(corpus.content()) == [other.split("/")[-1]]


def test_packing_goes_on_where_a_recipe_has_read_the_shards(packed):
    manifest = packed.out / "manifest"
    for path in sorted(manifest.glob("*.csv")):
        (manifest / f"{path.name}.arrow").write_bytes(b"")
        (manifest / f"{path.name}.arrow.0a1b2c3d.partial").write_bytes(b"")
    packed.pack()


def test_what_interrupts_leaves_whole_shards_and_packing_goes_on(corpus, monkeypatch):
    corpus.pack()
    whole, corpus.out = corpus.content(), corpus.out.with_name("resumed")
    header, calls = shards._header, iter(range(10**6))

    def interrupt(name, size):
        if name.startswith("1/10") and next(calls) > 0:  # planned first, then written
            raise KeyboardInterrupt
        return header(name, size)

    monkeypatch.setattr(shards, "_header", interrupt)
    with pytest.raises(KeyboardInterrupt):
        corpus.pack()
    monkeypatch.setattr(shards, "_header", header)
    left = {name: content for name, content in corpus.content().items() if name != "run.lock"}
    assert 0 < len(left) < len(whole) - 1 and left.items() <= whole.items()
    assert not list(corpus.out.rglob("*.csv"))
    stamps = {name: stamp(corpus.out / name) for name in left}
    half = corpus.out / f"{max(name for name in whole if name.endswith('tar'))}.partial"
    half.write_bytes(b"of a killed run")
    corpus.pack()
    assert corpus.content() == whole
    assert {name: stamp(corpus.out / name) for name in left} == stamps


def test_a_shard_is_written_anew_where_its_files_changed(packed, make_voice):
    file, member = packed.paths("test")[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    packed.pack()
    shard, offset, size = split_member(member)
    with open(shard, "rb") as opened:
        opened.seek(offset)
        assert opened.read(size) == content


def test_a_file_that_changes_meanwhile_is_named(corpus, monkeypatch):
    def check(folder, plans):
        (corpus.root / "t/1.flac").write_bytes(b"shorter")

    monkeypatch.setattr(shards, "_check_empty", check)
    with pytest.raises(CorpusError, match="1.flac has 7 bytes, expected .* Start again"):
        corpus.pack()
    assert not list(corpus.out.glob("*.partial"))


def test_the_command_packs_and_prints_what_is_wrong(corpus, capsys):
    words = ["--data_folder", corpus.root, "--manifest_folder", corpus.manifests]
    shards.main([*map(str, words), "--out_folder", str(corpus.out)])
    assert len(corpus.rows("train")) == 13 and "Packing" in capsys.readouterr().err
    (corpus.out / "more").mkdir()
    with pytest.raises(SystemExit, match="more is not of this packing"):
        shards.main([*map(str, words), "--out_folder", str(corpus.out)])


def test_a_recording_is_packed_once_for_all_its_pieces(corpus):
    rows = read_manifest(corpus.manifests / "test.csv")
    marks = {"$data_root/t/0.flac": ("#t=0,0.5", "#t=0.5"), "$data_root/t/1.flac": ("",)}
    cut = [
        {**row, "ID": f"{row['ID']}{mark}", "wav": f"{row['wav']}{mark}"}
        for row in rows
        for mark in marks[row["wav"]]
    ]
    write_manifest(cut, corpus.manifests / "test.csv")
    corpus.pack()
    pairs = corpus.paths("test")
    assert len(pairs) == 3 and len({recording_of(member) for _, member in pairs}) == 2
    packed = [n for path in corpus.out.glob("test-*.tar") for n in tarfile.open(path).getnames()]
    assert sorted(packed) == ["t/0.flac", "t/1.flac"]
    for file, member in pairs:
        torch.testing.assert_close(read_speech(member), read_speech(file), rtol=0, atol=0)
        assert check_audio(member) == check_audio(file)
