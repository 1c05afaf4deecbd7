"""The manifest: reading, writing, checks across splits; the files of a corpus."""

import os

import pytest
from speechbrain.dataio.dataio import load_data_csv
from speechbrain.dataio.dataset import DynamicItemDataset

from recipes.common.data.files import CorpusError, list_files, read_lines
from recipes.common.data.manifest import fingerprint, validate_manifests, write_manifest
from recipes.common.data.table import open_table, read_manifest
from recipes.common.data.utterances import load_dataset


def row(name, speaker="s", duration=1.0):
    return {"ID": name, "duration": duration, "wav": f"$data_root/{name}.wav", "spk_id": speaker}


def write_bytes(path, content):
    path.write_bytes(content)
    return path


# Reading and writing


def test_rows_come_back_sorted_by_id(tmp_path):
    rows = [{**row("b", duration=1 / 3), "wrd": 'A, "B"'}, {**row("a"), "wrd": "ÇA"}]
    write_manifest(rows, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == rows[::-1]


def test_the_order_of_rows_does_not_change_the_file(tmp_path):
    rows = [row(name) for name in "abc"]
    write_manifest(rows, tmp_path / "m.csv")
    write_manifest(rows[::-1], tmp_path / "n.csv")
    assert (tmp_path / "m.csv").read_bytes() == (tmp_path / "n.csv").read_bytes()


def test_a_write_that_fails_leaves_the_old_manifest(tmp_path, monkeypatch):
    write_manifest([row("a")], tmp_path / "m.csv")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_manifest([row("b")], tmp_path / "m.csv")
    assert [r["ID"] for r in read_manifest(tmp_path / "m.csv")] == ["a"]


def test_speechbrain_reads_it_with_the_corpus_in_place(tmp_path):
    write_manifest([{**row("a", duration=2.5), "wrd": "HI"}], tmp_path / "m.csv")
    replacements = {"data_root": str(tmp_path / "corpus")}
    theirs = DynamicItemDataset.from_csv(str(tmp_path / "m.csv"), replacements)
    ours = load_dataset(tmp_path / "m.csv", tmp_path / "corpus")
    for dataset in (theirs, ours):
        dataset.set_output_keys(["id", "duration", "wav", "spk_id", "wrd"])
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("column", ["wrd", "spk_id", "wav", "ID"])
def test_what_speechbrain_would_take_for_a_variable_is_refused(column, tmp_path):
    bad = {**row("a"), "wrd": "A $ B"}
    write_manifest([bad], tmp_path / "m.csv")
    assert load_data_csv(tmp_path / "m.csv", {"data_root": ""})["a"]["wrd"] == "A $ B"
    bad[column] = f"{bad[column]}$5"
    with pytest.raises(CorpusError, match=rf"n.csv: a.*{column} is .*'\$5'"):
        write_manifest([row("b"), bad], tmp_path / "n.csv")
    assert not (tmp_path / "n.csv").exists()


HEADER = "ID,duration,wav,spk_id\n"
BAD_MANIFESTS = {
    "no column": ("ID,duration,wav\na,1,$data_root/a.wav\n", "line 1: .*spk_id"),
    "word as duration": (HEADER + "a,long,$data_root/a.wav,s\n", "line 2: .*'long'"),
    "no duration": (HEADER + "a,,$data_root/a.wav,s\n", "line 2: .*duration"),
    "NaN as duration": (HEADER + "a,nan,$data_root/a.wav,s\n", "line 2: .*duration"),
    "negative duration": (HEADER + "a,-1,$data_root/a.wav,s\n", "line 2: .*duration"),
    "ID twice": (HEADER + "a,1,$data_root/a.wav,s\n" * 2, "line 3: ID a .* line 2"),
    "a value too few": (HEADER + "a,1,$data_root/a.wav\n", "line 2: .*values"),
    "a value too many": (HEADER + "a,1,$data_root/a.wav,s,t\n", "line 2: .*values"),
    "no ID": (HEADER + ",1,$data_root/a.wav,s\n", "line 2: .*ID"),
    "no speaker": (HEADER + "a,1,$data_root/a.wav,\n", "line 2: .*spk_id"),
    "header alone": (HEADER, "no utterance"),
    "empty file": ("", "line 1: .*ID, duration, wav, spk_id"),
}


@pytest.mark.parametrize("text, message", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_bad_manifest_is_refused_by_file_and_line(text, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    for read in (read_manifest, open_table):
        with pytest.raises(CorpusError, match=f"bad.csv.*{message}"):
            read(path)


def test_a_manifest_that_is_not_text_is_named(tmp_path):
    path = write_bytes(tmp_path / "bad.csv", HEADER.encode() + b"a,1,\xe9.wav,s\n")
    with pytest.raises(CorpusError, match="bad.csv.*UTF-8"):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(CorpusError, match="gone.csv is missing"):
        read_manifest(tmp_path / "gone.csv")


def test_fingerprint_follows_the_content_alone(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_manifest([row("a")], tmp_path / folder / "m.csv")
        write_manifest([row("b")], tmp_path / folder / "n.csv")
    x, y = ([tmp_path / folder / name for name in ("m.csv", "n.csv")] for folder in "xy")
    assert fingerprint(x) == fingerprint(y[::-1])
    write_manifest([row("b", duration=1.25)], y[1])
    assert fingerprint(x) != fingerprint(y)


# Checks across manifests


def write_splits(folder, **splits):
    """Write a manifest, and audio that exists, for each split; return the paths by name."""
    for name, rows in splits.items():
        write_manifest(rows, folder / f"{name}.csv")
        for one in rows:
            (folder / f"{one['ID']}.wav").touch()
    return {name: folder / f"{name}.csv" for name in splits}


def test_splits_that_share_nothing_pass(tmp_path):
    paths = write_splits(
        tmp_path, train=[row("a", "s")], more=[row("b", "s")], test=[row("c", "t")]
    )
    groups = {"train": ["train", "more"], "test": ["test"]}
    validate_manifests(paths, tmp_path, disjoint_speakers=groups)


def test_a_speaker_in_two_groups_is_named(tmp_path):
    paths = write_splits(tmp_path, train=[row("a", "alice")], test=[row("b", "alice")])
    with pytest.raises(CorpusError, match="test.csv.*b: speaker alice.*train"):
        validate_manifests(paths, tmp_path, {"train": ["train"], "test": ["test"]})


def test_an_utterance_in_two_splits_is_named(tmp_path):
    paths = write_splits(tmp_path, train=[row("a")], more=[row("a")])
    with pytest.raises(CorpusError, match="more.csv.*ID a .*train.csv"):
        validate_manifests(paths, tmp_path, {"train": ["train", "more"]})


def test_a_missing_file_is_named(tmp_path):
    paths = write_splits(tmp_path, train=[row("a"), row("b")])
    (tmp_path / "b.wav").unlink()
    with pytest.raises(CorpusError, match="train.csv.*b.wav is missing"):
        validate_manifests(paths, tmp_path, {"train": ["train"]})


def test_an_empty_split_is_named(tmp_path):
    paths = write_splits(tmp_path, train=[row("a")])
    (tmp_path / "test.csv").write_text(HEADER, encoding="utf-8")
    with pytest.raises(CorpusError, match="test.csv"):
        validate_manifests({**paths, "test": tmp_path / "test.csv"}, tmp_path, {})


def test_linked_folders_are_searched_once(tmp_path):
    for name in ("disk1/a.wav", "disk2/deep/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "disk1" / "more").symlink_to(tmp_path / "disk2")
    (tmp_path / "disk1" / "again").symlink_to(tmp_path / "disk2" / "deep")
    (tmp_path / "disk2" / "loop").symlink_to(tmp_path / "disk1")
    (tmp_path / "disk1" / "gone.wav").symlink_to(tmp_path / "nowhere")
    found = [
        path.relative_to(tmp_path / "disk1").as_posix() for path in list_files(tmp_path / "disk1")
    ]
    assert found == ["a.wav", "again/b.wav", "gone.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(CorpusError, match="closed cannot be searched"):
        list_files(tmp_path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_with_a_line_feed_alone(mark, end, tmp_path):
    text = ["a\x0cb\x85c\u2028d\ve", "", " \t", "f"]
    (tmp_path / "a.txt").write_bytes((mark + end.join(text) + 2 * end).encode())
    assert read_lines(tmp_path / "a.txt") == [(1, text[0]), (4, "f")]
