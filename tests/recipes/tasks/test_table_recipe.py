"""A table of one's own: its splits, given or drawn, and tables that are refused."""

import json

import numpy as np
import pytest
import soundfile

from pretrained.audio import read_speech
from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.common.downstream.classification import main as classify_main
from recipes.Table.table_prepare import prepare_table, split_by
from recipes.Table.train import TableBrain
from tests.downstream.tasks import RECIPES

SPLITS = ("train", "valid", "test")


@pytest.fixture
def audio(tmp_path):
    """60 recordings of twelve speakers: tones of two heights, in noise."""
    rng, time = np.random.default_rng(0), np.arange(9600) / 16000
    (tmp_path / "wavs").mkdir()
    for number in range(60):
        tone = np.sin(2 * np.pi * (400 if number % 2 else 1600) * time)
        samples = 0.1 * tone + rng.normal(0, 0.05, len(time))
        soundfile.write(tmp_path / "wavs" / f"{number:02d}.wav", samples, 16000)
    return tmp_path


def rows_of(**changes):
    """Return the rows of a table of all recordings: five a speaker, both labels."""
    rows = []
    for number in range(60):
        split = "train" if number < 40 else "valid" if number < 50 else "test"
        row = {"wav": f"wavs/{number:02d}.wav", "label": ("high", "low")[number % 2]}
        rows.append(row | {"spk_id": f"s{number // 5}", "split": split} | changes)
    return rows


def written(path, rows, columns=("wav", "label", "spk_id", "split")):
    lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(table, out, folder=None):
    """Return the IDs of each split, and all rows by ID."""
    prepare_table(table.parent if folder is None else folder, out, SPLITS, table)
    rows = {split: read_manifest(out / f"{split}.csv") for split in SPLITS}
    ids = {split: {row["ID"] for row in own} for split, own in rows.items()}
    return ids, {row["ID"]: row for own in rows.values() for row in own}


def test_the_column_split_says_the_splits(audio, tmp_path):
    table = written(audio / "my.csv", rows_of())
    ids, rows = prepared(table, tmp_path / "out")
    assert [len(ids[split]) for split in SPLITS] == [40, 10, 10]
    assert rows["wavs+07.wav"]["label"] == "low" and rows["wavs+07.wav"]["spk_id"] == "s1"
    assert rows["wavs+07.wav"]["wav"] == "$data_root/wavs/07.wav" and split_by(table) == "split"


def test_parts_of_recordings_are_rows_of_their_own(audio, tmp_path):
    """Of two recordings, each with all rows' tones: 60 parts of 0.6 s."""
    parts, rows = {}, rows_of()
    for number, row in enumerate(rows):
        parts.setdefault(number % 2, []).append(soundfile.read(audio / row["wav"])[0])
        start = round(0.6 * (number // 2), 1)
        row["wav"] = f'"{number % 2}.flac#t={start},{round(start + 0.6, 1)}"'
    for name, own in parts.items():
        soundfile.write(audio / f"{name}.flac", np.concatenate(own), 16000)
    ids, found = prepared(written(audio / "my.csv", rows), tmp_path / "out")
    assert [len(ids[split]) for split in SPLITS] == [40, 10, 10]
    assert {round(row["duration"], 4) for row in found.values()} == {0.6}
    paths = {row["wav"].replace("$data_root", str(audio)) for row in found.values()}
    assert len(paths) == 60
    expected = soundfile.read(audio / "wavs" / "07.wav", dtype="float32")[0]
    np.testing.assert_array_equal(read_speech(f"{audio}/1.flac#t=1.8,2.4"), expected)


def test_speakers_are_drawn_where_the_table_has_no_splits(audio, tmp_path):
    table = written(audio / "my.csv", rows_of(), ("label", "wav", "spk_id"))
    ids, rows = prepared(table, tmp_path / "out")
    speakers = {split: {rows[name]["spk_id"] for name in own} for split, own in ids.items()}
    assert {split: len(own) for split, own in speakers.items()} == {
        "train": 9,
        "valid": 1,
        "test": 2,
    }
    assert len(set().union(*speakers.values())) == 12 and split_by(table) == "speakers"


def test_utterances_are_drawn_where_no_speakers_are_known(audio, tmp_path):
    table = written(audio / "my.csv", rows_of(), ("wav", "label"))
    ids, rows = prepared(table, tmp_path / "out")
    assert [len(ids[split]) for split in SPLITS] == [42, 6, 12]
    assert all(row["spk_id"] == row["ID"] for row in rows.values())
    assert split_by(table) == "utterances"
    reordered = written(audio / "other.csv", rows_of()[::-1], ("wav", "label"))
    assert prepared(reordered, tmp_path / "reordered")[0] == ids


def test_the_audio_may_lie_elsewhere_and_the_table_may_change(audio, tmp_path):
    (tmp_path / "tables").mkdir()
    rows = [{**row, "wav": row["wav"].removeprefix("wavs/")} for row in rows_of()]
    table = written(tmp_path / "tables" / "my.csv", rows)
    ids, _ = prepared(table, tmp_path / "out", audio / "wavs")
    assert "07.wav" in ids["train"]
    rows[7]["label"] = "high"
    written(table, rows)
    assert prepared(table, tmp_path / "out", audio / "wavs")[1]["07.wav"]["label"] == "high"
    absolute = [{**row, "wav": audio / "wavs" / row["wav"]} for row in rows]
    assert prepared(written(table, absolute), tmp_path / "out", audio / "wavs")[0] == ids


def test_a_speaker_in_two_splits_is_told_by_its_lines_before_anything_is_written(audio, tmp_path):
    rows = rows_of()
    rows[49]["spk_id"] = rows[48]["spk_id"] = "s1"
    table = written(audio / "my.csv", rows)
    with pytest.raises(CorpusError) as caught:
        prepare_table(audio, tmp_path / "out", SPLITS, table, disjoint_speakers=True)
    assert str(caught.value).splitlines() == [
        f"{table}, line 50: speaker s1 is in valid, and in train in line 7: expected each speaker "
        "in one split, or --disjoint_speakers False."
    ]
    assert not (tmp_path / "out").exists()
    prepare_table(audio, tmp_path / "out", SPLITS, table, disjoint_speakers=False)


def changed(place, **values):
    def change(rows):
        rows[place] |= values

    return change


def with_labels(label):
    def change(rows):
        for row in rows:
            row["label"] = label(row)

    return change


ALL = ("wav", "label", "spk_id", "split")


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        (None, ("wav", "spk_id"), "line 1: no column label: .*; found wav, spk_id"),
        (None, ("wav", "label", "label"), "line 1: the column label is there twice"),
        (changed(3, wav="wavs/x.wav"), ALL, "line 5: .*wavs/x.wav is missing"),
        (changed(3, wav="../other/x.wav"), ALL, "line 5: ../other/x.wav lies outside of data_f"),
        (changed(3, wav="."), ALL, "line 5: .* is missing"),
        (changed(3, wav=""), ALL, "line 5: wav is '' and label 'low': expected a path and a line"),
        (changed(3, label=""), ALL, "line 5: .* label '': expected a path and a line"),
        (changed(3, label="a,b"), ALL, "line 5: not as many values as the header has columns"),
        (changed(3, label='"a'), ALL, "line .*: unexpected end of data"),
        (changed(3, wav="wavs/02.wav"), ALL, "line 5: ID wavs.02.wav stands in line 4 too"),
        (changed(3, split="dev"), ALL, "line 5: split is 'dev': expected train, valid, test"),
        (changed(3, spk_id=""), ALL[:3], "line 5: no value for spk_id, which other lines have"),
        (with_labels(lambda row: "yes"), ALL, "all labels are yes: .* needs two or more classes"),
        (changed(55, label="odd"), ALL, "line 57: label odd has no utterance in the split train"),
        (lambda rows: rows.clear(), ALL, "lists no utterance"),
        (lambda rows: rows.__delitem__(slice(40, 50)), ALL, "no utterance is of the split valid"),
        (lambda rows: rows.__delitem__(slice(4, None)), ALL[:2], "are too few: train, valid and t"),
    ],
)
def test_tables_that_are_refused(change, columns, message, audio, tmp_path):
    rows = rows_of()
    if change is not None:
        change(rows)
    table = written(audio / "my.csv", rows, columns)
    with pytest.raises(CorpusError, match=f"my.csv.*{message}"):
        prepared(table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_told_at_once(audio, tmp_path):
    rows = rows_of()
    rows[3]["wav"], rows[9]["split"] = "x.wav", "dev"
    with pytest.raises(
        CorpusError, match="(?s)line 5: .*x.wav is missing.*line 11: split is 'dev'"
    ):
        prepared(written(audio / "my.csv", rows), tmp_path / "out")


def test_many_missing_files_are_told_by_the_first_and_their_number(audio, tmp_path):
    rows = [row | {"wav": "C:\\speech\\" + row["wav"]} for row in rows_of()]
    with pytest.raises(CorpusError) as caught:
        prepared(written(audio / "my.csv", rows), tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11 and lines[-1] == "and 50 more"
    assert f"my.csv, line 11: {audio}/C:" in lines[9]
    why = f"is missing. Paths are relative to data_folder {audio}. Expected / between folders, not"
    assert all(why in line for line in lines[:-1])


@pytest.mark.parametrize("other", ["LOW", " low "])
def test_labels_that_are_nearly_alike_are_told_of(other, audio, tmp_path, caplog):
    rows = rows_of()
    with caplog.at_level("WARNING"):
        prepared(written(audio / "my.csv", rows), tmp_path / "out")
        assert "classes" not in caplog.text
        for row in rows[1:60:20]:
            row["label"] = other
        prepared(written(audio / "my.csv", rows), tmp_path / "out")
    [said] = [record.getMessage() for record in caplog.records]
    assert f"{other!r} (3 times)" in said and "'low' (27 times)" in said and "2 classes" in said


@pytest.mark.long
def test_the_command_learns_the_labels_of_a_table(audio, tmp_path):
    table, out = written(audio / "my.csv", rows_of(), ALL[:2]), tmp_path / "out"
    words = ["--table", table, "--output_folder", out, "--features", "fbank", "--lrs", "[0.05]"]
    words += ["--number_of_epochs", 3, "--min_seconds", 0.1, "--max_batch_seconds", 4]
    yaml = RECIPES / "Table" / "hparams" / "linear_tiny.yaml"
    classify_main([str(yaml), *map(str, words), "--noprogressbar"], TableBrain)
    found = json.loads((out / "metrics.json").read_text())["figures"]["test"]
    assert found["accuracy"] == 1.0 and found["chance"] <= 0.75
    assert found["split_by"] == found["interval_over"] == "utterances"
