"""The manifest: reading, writing, checks across splits, preparation of a corpus."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataio import load_data_csv
from speechbrain.dataio.dataset import DynamicItemDataset

from recipes.common.data.files import CorpusError, list_files, read_lines
from recipes.common.data.manifest import (
    BadAudioError,
    draw_splits,
    fingerprint,
    prepare_splits,
    scan_audio,
    validate_manifests,
    write_manifest,
)
from recipes.common.data.table import open_table, read_manifest
from recipes.common.data.utterances import load_dataset

OPTIONS = {"skip_prep": False, "skip_bad": False, "num_workers": 1}


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


# Preparation of any corpus


def list_wavs(folder, split):
    return [
        {"ID": path.stem, "wav": path, "spk_id": path.stem[0]}
        for path in sorted((folder / split).glob("*.wav"))
    ], []


@pytest.fixture
def corpus(tmp_path, make_voice):
    """A corpus of two splits of three files each."""
    for split, seed in (("one", 1), ("two", 2)):
        (tmp_path / "corpus" / split).mkdir(parents=True)
        for speaker in "abc":
            audio = make_voice(ord(speaker), seed)
            soundfile.write(tmp_path / "corpus" / split / f"{speaker}{seed}.wav", audio, 16000)
    return tmp_path / "corpus"


def prepare(corpus, **options):
    save_folder = corpus.parent / "out"
    prepare_splits(list_wavs, corpus, save_folder, ["one", "two"], **{**OPTIONS, **options})
    return save_folder


def test_a_corpus_needs_only_a_listing(corpus):
    out = prepare(corpus)
    assert [r["ID"] for r in read_manifest(out / "one.csv")] == ["a1", "b1", "c1"]
    assert read_manifest(out / "two.csv")[0]["wav"] == "$data_root/two/a2.wav"
    validate_manifests({s: out / f"{s}.csv" for s in ("one", "two")}, corpus, {})


def test_every_bad_file_of_every_split_is_in_one_report(corpus):
    (corpus / "one" / "b1.wav").write_text("text")
    soundfile.write(corpus / "two" / "c2.wav", np.zeros(1600), 16000)
    with pytest.raises(BadAudioError, match="skip_bad True") as error:
        prepare(corpus)
    assert f"{corpus / 'one' / 'b1.wav'} cannot be decoded" in str(error.value)
    assert f"{corpus / 'two' / 'c2.wav'} is silent" in str(error.value)
    assert "a1" not in str(error.value)
    assert not (corpus.parent / "out").exists()


def test_bad_files_are_left_out_and_counted_where_asked(corpus, caplog):
    (corpus / "one" / "b1.wav").write_text("text")
    out = prepare(corpus, skip_bad=True)
    assert [r["ID"] for r in read_manifest(out / "one.csv")] == ["a1", "c1"]
    assert "1 audio file(s) are left out" in caplog.text and "b1.wav" in caplog.text
    with pytest.raises(BadAudioError, match="b1.wav"):
        prepare(corpus)


def test_a_split_with_nothing_but_bad_files_is_refused(corpus):
    for path in (corpus / "two").iterdir():
        path.write_text("text")
    with pytest.raises(CorpusError, match="split two"):
        prepare(corpus, skip_bad=True)
    assert not (corpus.parent / "out").exists()


def left_out(out):
    return [json.loads((out / f"{split}.json").read_text())["left_out"] for split in ("one", "two")]


def test_how_many_were_left_out_stands_beside_each_manifest(corpus):
    assert left_out(prepare(corpus)) == [0, 0]
    (corpus / "one" / "b1.wav").write_text("text")
    (corpus / "one" / "c1.wav").write_text("text")
    assert left_out(prepare(corpus, skip_bad=True)) == [2, 0]
    assert left_out(prepare(corpus, skip_bad=True)) == [2, 0]


def test_a_file_whose_name_a_manifest_cannot_hold_is_listed_with_the_rest(corpus):
    audio = corpus / "one" / "a1.wav"
    for name in ("a$5.wav", "a\rb.wav", "a\udce9.wav"):
        shutil.copy(audio, audio.with_name(name))
    (corpus / "two" / "b2.wav").write_text("text")
    with pytest.raises(BadAudioError, match="b2.wav cannot be decoded") as error:
        prepare(corpus)
    assert all(name in str(error.value) for name in (r"'$5'", r"'\r'", r"'\udce9'"))
    assert not (corpus.parent / "out").exists()


def test_audio_of_any_rate_where_the_corpus_may_have_it(corpus, make_voice):
    audio = np.stack([make_voice(1, 1)] * 2, axis=1)
    soundfile.write(corpus / "one" / "a1.wav", audio[:8001], 8000)
    with pytest.raises(BadAudioError, match="a1.wav has 2 channel"):
        prepare(corpus)
    out = prepare(corpus, any_rate=True)
    assert read_manifest(out / "one.csv")[0]["duration"] == 16002 / 16000
    with pytest.raises(BadAudioError, match="a1.wav has 2 channel"):
        prepare(corpus)


def test_a_link_to_nothing_is_bad_audio(corpus):
    path = corpus / "one" / "b1.wav"
    path.unlink()
    path.symlink_to(corpus / "gone.wav")
    with pytest.raises(BadAudioError, match="b1.wav cannot be decoded"):
        prepare(corpus)
    assert not (corpus.parent / "out").exists()
    out = prepare(corpus, skip_bad=True)
    assert [r["ID"] for r in read_manifest(out / "one.csv")] == ["a1", "c1"]


def test_splits_are_drawn_by_speaker_and_name_alone():
    held = {"valid": 0.2, "test": 0.1}
    speakers = [f"s{i % 20}" for i in range(100)]
    splits = draw_splits(speakers, held)
    assert draw_splits(speakers[::-1], held) == splits
    names = [sorted(s for s in splits if splits[s] == name) for name in ("valid", "test", "train")]
    assert [len(found) for found in names] == [4, 2, 14]
    assert names[0] == ["s0", "s1", "s12", "s9"]  # on any machine
    without_test = draw_splits(speakers, {"valid": 0.2})
    assert sorted(s for s in without_test if without_test[s] == "valid") == names[0]


def test_each_split_has_two_utterances_or_none_is_drawn():
    held = {"valid": 0.05, "test": 0.05}
    splits = list(draw_splits(list("abcdef"), held).values())
    assert [splits.count(name) for name in ("train", "valid", "test")] == [2, 2, 2]
    splits = list(draw_splits(list("aabbcc"), held).values())
    assert sorted(splits) == ["test", "train", "valid"]
    for speakers in ("abcde", "aabbc", "aaaabbbb", ""):
        with pytest.raises(CorpusError, match="too few"):
            draw_splits(list(speakers), held)


def test_one_split_may_be_a_string_but_none_is_refused(corpus):
    out = corpus.parent / "out"
    with pytest.raises(CorpusError, match="No split"):
        prepare_splits(list_wavs, corpus, out, [], **OPTIONS)
    assert not out.exists()
    prepare_splits(list_wavs, corpus, out, "one", **OPTIONS)
    assert [path.name for path in out.glob("*.csv")] == ["one.csv"]


def test_a_manifest_cut_short_is_made_again(corpus):
    path = prepare(corpus) / "one.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    prepare(corpus)
    assert path.read_bytes() == whole


def state(folder):
    """Return the content and the time of each of a folder's files."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def test_a_second_preparation_decodes_and_writes_nothing(corpus, monkeypatch):
    before = state(prepare(corpus))
    monkeypatch.setattr(
        "recipes.common.data.manifest.check_audio", lambda path, **_: pytest.fail(f"decoded {path}")
    )
    assert state(prepare(corpus)) == before


def test_a_changed_file_has_its_split_prepared_again(corpus, make_voice):
    before = state(prepare(corpus))
    soundfile.write(corpus / "one" / "a1.wav", np.tile(make_voice(3, 3), 2), 16000)
    after = state(prepare(corpus))
    assert after["two.csv"] == before["two.csv"]
    assert after["one.csv"][0] != before["one.csv"][0]


def test_a_check_that_has_changed_is_made_again_and_told(corpus, monkeypatch, caplog):
    before = state(prepare(corpus))
    monkeypatch.setattr("recipes.common.data.manifest.digest_code", lambda *places: "other code")
    caplog.set_level("INFO")
    after = state(prepare(corpus))
    assert after["one.csv"][0] == before["one.csv"][0] and after["one.csv"] != before["one.csv"]
    assert "one: data, settings or code changed: the manifest is made anew" in caplog.text


def test_a_new_time_alone_has_the_file_checked_again(corpus):
    prepare(corpus)
    path = corpus / "two" / "a2.wav"
    content = bytearray(path.read_bytes())
    content[44:] = bytes(len(content) - 44)  # silence of the same size
    write_bytes(path, content)
    os.utime(path, ns=(0, 0))
    with pytest.raises(BadAudioError, match="a2.wav is silent"):
        prepare(corpus)


def test_a_lost_or_half_made_manifest_is_made_again(corpus):
    out = prepare(corpus)
    before = state(out)
    (out / "one.csv").unlink()
    (out / "two.json").write_text("{")
    after = state(prepare(corpus))
    for name in ("one.csv", "one.json", "two.csv", "two.json"):
        assert after[name][0] == before[name][0]


def test_two_preparations_give_the_same_bytes(corpus):
    first = {p.name: p.read_bytes() for p in prepare(corpus).glob("*.csv")}
    for path in (corpus.parent / "out").iterdir():
        path.unlink()
    assert {p.name: p.read_bytes() for p in prepare(corpus, num_workers=2).glob("*.csv")} == first


def test_parallel_and_serial_scans_agree(librispeech, tmp_path):
    bad = write_bytes(tmp_path / "bad.flac", b"no audio")
    paths = sorted(librispeech.rglob("*.flac")) * 2 + [bad]
    assert len(paths) > 100  # fewer are not worth processes
    found = scan_audio(paths, num_workers=2)
    assert found == scan_audio(paths, num_workers=1)
    assert [problem is None for _, problem in found] == [True] * (len(paths) - 1) + [False]


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
