"""The preparation of a corpus: what is listed, checked, reported and made anew, and when."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from recipes.common.corpora import preparation, scanning
from recipes.common.corpora.preparation import (
    BadAudioError,
    draw_splits,
    prepare_splits,
)
from recipes.common.corpora.scanning import scan_audio
from recipes.common.data.files import CorpusError
from recipes.common.data.manifest import validate_manifests
from recipes.common.data.table import read_manifest
from recipes.common.data.utterances import Utterances

OPTIONS = {"skip_prep": False, "skip_bad": False, "num_workers": 1}


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


def test_a_check_of_many_files_goes_on_where_it_was_cut_short(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(scanning, "MANY", 3)
    (corpus / "one" / "b1.wav").write_text("text")
    read, check = [], scanning.check_pieces

    def checks(path, **how):
        read.append(Path(path).stem)
        if len(read) == 4:
            raise KeyboardInterrupt
        return check(path, **how)

    monkeypatch.setattr(scanning, "check_pieces", checks)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus)
    begun = len(read)
    [kept] = (tmp_path / "cache" / "learn2diss").iterdir()
    kept.write_text(kept.read_text()[:-10])  # by a full disk, say
    with pytest.raises(BadAudioError, match="b1.wav cannot be decoded"):
        prepare(corpus)
    assert sorted(read[begun:]) == ["a2", "b1", "b2", "c1", "c2"]

    def durations():
        rows = read_manifest(prepare(corpus, skip_bad=True) / "one.csv")
        return [row["duration"] for row in rows]

    before = durations()
    assert read[begun + 5 :] == ["b1"] and len(before) == 2  # it may have been mended
    noise = np.random.default_rng(0).normal(size=16000)
    soundfile.write(corpus / "one" / "a1.wav", 0.1 * noise, 16000)
    assert durations() == [1.0, before[1]] and sorted(read[begun + 6 :]) == ["a1", "b1"]
    kept.write_text("7\n[1]\n" + kept.read_text())
    kept.chmod(0o444)
    shutil.rmtree(corpus.parent / "out")
    assert durations() == [1.0, before[1]]


def test_a_preparation_waits_while_another_writes_to_its_folder(corpus):
    out = corpus.parent / "out"
    out.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(out / ".lock"):
            begun = pool.submit(prepare, corpus)
            time.sleep(0.5)
            assert not begun.done() and not list(out.glob("*.csv"))
        begun.result()
    assert len(list(out.glob("*.csv"))) == 2


def test_of_two_preparations_of_one_folder_the_second_writes_nothing_anew(corpus, monkeypatch):
    written, write = [], preparation.write_manifest

    def note(rows, path):
        written.append(path.name)
        write(rows, path)

    monkeypatch.setattr(preparation, "write_manifest", note)
    checked = preparation._checked

    def check_beside(*given, **how):
        monkeypatch.setattr(preparation, "_checked", checked)
        prepare(corpus)
        return checked(*given, **how)

    monkeypatch.setattr(preparation, "_checked", check_beside)
    out = prepare(corpus)
    assert sorted(written) == ["one.csv", "two.csv"]
    assert len(read_manifest(out / "one.csv")) == 3 and left_out(out) == [0, 0]


def test_what_another_run_wrote_with_other_settings_is_not_told_as_ones_own(corpus, monkeypatch):
    prepare(corpus)
    (corpus / "two" / "d2.wav").write_bytes((corpus / "two" / "a2.wav").read_bytes())
    checked = preparation._checked

    def check_beside(*given, **how):
        monkeypatch.setattr(preparation, "_checked", checked)
        prepare(corpus, skip_bad=True)
        return checked(*given, **how)

    monkeypatch.setattr(preparation, "_checked", check_beside)
    with pytest.raises(CorpusError, match="one.csv was written meanwhile by another run"):
        prepare(corpus)


def test_a_column_of_an_item_s_name_is_refused(corpus):
    def list_texts(folder, split):
        rows, problems = list_wavs(folder, split)
        return [{**row, "text": "raw!"} for row in rows], problems

    out = corpus.parent / "out"
    prepare_splits(list_texts, corpus, out, ["one"], **OPTIONS)
    dataset = Utterances([out / "one.csv"], corpus)
    with pytest.raises(CorpusError, match="one.csv: the column text has the name of an item"):
        dataset.add_dynamic_item(len, takes=["wav"], provides="text")

    def list_ids(folder, split):
        return [{**row, "id": 1} for row in list_wavs(folder, split)[0]], []

    with pytest.raises(CorpusError, match="The rows have a column id"):
        prepare_splits(list_ids, corpus, out / "ids", ["one"], **OPTIONS)


def test_what_else_a_corpus_tells_of_utterances_is_kept(corpus):
    def list_ages(folder, split):
        rows, problems = list_wavs(folder, split)
        told = json.loads((folder / "ages.json").read_text())
        return [{**row, **told.get(row["ID"], {}), "wrd": "A"} for row in rows], problems

    def prepare_ages(ages):
        (corpus / "ages.json").write_text(json.dumps(ages))
        prepare_splits(list_ages, corpus, corpus.parent / "out", ["one"], **OPTIONS)
        rows = read_manifest(corpus.parent / "out" / "one.csv")
        assert list(rows[0]) == ["ID", "duration", "wav", "spk_id", "wrd", "age"]
        return [row["age"] for row in rows]

    ages = {"a1": {"age": 37}, "c1": {"age": 5.5}}
    assert prepare_ages(ages) == ["37", "", "5.5"]
    assert prepare_ages({**ages, "b1": {"age": 8}}) == ["37", "8", "5.5"]
    with pytest.raises(CorpusError, match=r"a1: age is '\$5': a manifest cannot hold"):
        prepare_ages({**ages, "a1": {"age": "$5"}})


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


def test_a_manifest_that_was_edited_is_not_overwritten(corpus):
    path = prepare(corpus) / "one.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    edited = "".join(lines[:-1])
    path.write_text(edited, encoding="utf-8")
    with pytest.raises(CorpusError, match="one.csv was changed since .* --skip_prep True"):
        prepare(corpus)
    os.utime(corpus / "one" / "a1.wav", ns=(0, 0))
    for how in ({}, {"skip_bad": True}):  # whatever else has changed
        with pytest.raises(CorpusError, match="one.csv was changed since"):
            prepare(corpus, **how)
    assert path.read_text(encoding="utf-8") == edited
    prepare(corpus, skip_prep=True)
    path.unlink()
    prepare(corpus)
    assert path.read_text(encoding="utf-8") == "".join(lines)


def state(folder):
    """Return the content and the time of each of a folder's files."""
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())}


def test_a_second_preparation_decodes_and_writes_nothing(corpus, monkeypatch):
    before = state(prepare(corpus))
    monkeypatch.setattr(
        "recipes.common.corpora.scanning.check_pieces",
        lambda path, **_: pytest.fail(f"decoded {path}"),
    )
    assert state(prepare(corpus)) == before


LISTED = []  # the splits that were listed, and with what else


def list_and_note(folder, split, **given):
    LISTED.append((split, given))
    return list_wavs(folder, split)


def listed_again(corpus, **options):
    """Prepare a corpus anew and return which splits were listed for it."""
    LISTED.clear()
    options = {**OPTIONS, "listing": {"minimum": 1}, **options}
    prepare_splits(list_and_note, corpus, corpus.parent / "out", ["one", "two"], **options)
    return [split for split, _ in LISTED]


@pytest.mark.parametrize("place", [".", "two"])
def test_a_corpus_is_listed_again_when_something_in_it_changed(corpus, place):
    """`place` is where the manifests lie: beside the corpus, or in a folder of it."""
    out = corpus.parent / "out"
    if place != ".":
        out = corpus / place / "manifests"
        (corpus.parent / "out").symlink_to(out)
        out.mkdir()
    assert listed_again(corpus) == ["one", "two"]
    assert LISTED[0] == ("one", {"minimum": 1})
    content = (out / "one.csv").read_bytes()

    def add_folder():
        (corpus.parent / "elsewhere").mkdir()
        (corpus / "linked").symlink_to(corpus.parent / "elsewhere")

    changes = {
        "a new file": lambda: (corpus / "text.txt").write_text("HI"),
        "a new time": lambda: os.utime(corpus / "text.txt", ns=(0, 0)),
        "a file gone": lambda: (corpus / "text.txt").unlink(),
        "a linked folder": add_folder,
        "a file in it": lambda: (corpus.parent / "elsewhere" / "a").touch(),
        "a link in a circle": lambda: (corpus / "linked" / "loop").symlink_to(corpus),
        "a manifest changed": lambda: (out / "two.csv").write_text("ID"),
    }
    for name, change in changes.items():
        change()
        assert listed_again(corpus) == ["one", "two"], name
        assert listed_again(corpus) == [], name
    assert listed_again(corpus, listing={"minimum": 2}) == ["one", "two"]
    assert listed_again(corpus, skip_bad=True) == ["one", "two"]
    assert (out / "one.csv").read_bytes() == content


def test_a_changed_file_has_its_split_prepared_again(corpus, make_voice):
    before = state(prepare(corpus))
    soundfile.write(corpus / "one" / "a1.wav", np.tile(make_voice(3, 3), 2), 16000)
    after = state(prepare(corpus))
    assert after["two.csv"] == before["two.csv"]
    assert after["one.csv"][0] != before["one.csv"][0]


def test_a_check_that_has_changed_is_made_again_and_told(corpus, monkeypatch, caplog):
    before = state(prepare(corpus))
    monkeypatch.setattr(preparation, "digest_code", lambda *places: "other code")
    caplog.set_level("INFO")
    after = state(prepare(corpus))
    assert after["one.csv"][0] == before["one.csv"][0] and after["one.csv"] != before["one.csv"]
    assert "one: data, settings or code changed: the manifest is made anew" in caplog.text


def test_a_new_time_alone_has_the_file_checked_again(corpus):
    prepare(corpus)
    path = corpus / "two" / "a2.wav"
    content = bytearray(path.read_bytes())
    content[44:] = bytes(len(content) - 44)  # silence of the same size
    path.write_bytes(content)
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


def test_manifests_are_made_anew_where_pieces_are_asked_for(corpus, make_voice):
    audio = np.resize(make_voice(0, 0), 31 * 16000)
    soundfile.write(corpus / "one" / "a1.wav", audio, 16000)
    assert len(read_manifest(prepare(corpus) / "one.csv")) == 3
    assert len(read_manifest(prepare(corpus, in_pieces=True) / "one.csv")) == 4
    assert len(read_manifest(prepare(corpus) / "one.csv")) == 3


def test_two_preparations_give_the_same_bytes(corpus):
    first = {p.name: p.read_bytes() for p in prepare(corpus).glob("*.csv")}
    for path in (corpus.parent / "out").iterdir():
        path.unlink()
    assert {p.name: p.read_bytes() for p in prepare(corpus, num_workers=2).glob("*.csv")} == first


def test_parallel_and_serial_scans_agree(librispeech, tmp_path):
    bad = tmp_path / "bad.flac"
    bad.write_bytes(b"no audio")
    paths = sorted(librispeech.rglob("*.flac")) * 2 + [bad]
    assert len(paths) > 100  # fewer are not worth processes
    found = scan_audio(paths, num_workers=2)
    assert found == scan_audio(paths, num_workers=1)
    assert [problem is None for _, problem, _ in found] == [True] * (len(paths) - 1) + [False]


def test_files_in_the_place_of_folders_are_named(corpus, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CorpusError, match="data_folder .*file is a file"):
        prepare_splits(list_wavs, file, tmp_path / "manifest", ["one"], **OPTIONS)
    with pytest.raises(CorpusError, match="file is a file: manifests cannot go to"):
        prepare_splits(list_wavs, corpus, file / "run" / "manifest", ["one"], **OPTIONS)
