"""Fluent Speech Commands: the official splits, intents, speakers, and which trees are refused."""

import csv

import pytest

from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.FluentSpeechCommands.fluent_prepare import (
    SLOTS,
    prepare_fluent,
)
from tests.recipes.corpora.trees import SPLITS, write_fluent, write_table


@pytest.fixture
def corpus(tmp_path):
    return write_fluent(tmp_path / "corpus")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifest"


def prepare(corpus, out, splits=SPLITS):
    prepare_fluent(corpus, out, splits, num_workers=1)
    return {split: read_manifest(out / f"{split}.csv") for split in splits}


def table_of(corpus, split="valid"):
    path = corpus / "data" / f"{split}_data.csv"
    with open(path, newline="") as file:
        return path, list(csv.reader(file))[1:]


def test_every_utterance_has_its_speaker_and_its_intent(corpus, out):
    for split, rows in prepare(corpus, out).items():
        _, listed = table_of(corpus, split)
        assert {row["wav"]: row["label"] for row in rows} == {
            f"$data_root/{path}": ", ".join(slots) for _, path, _, _, *slots in listed
        }
        assert len(rows) == len(listed) == 8
        assert {row["spk_id"] for row in rows} == {f"{SPLITS.index(split)}abc"}


@pytest.mark.parametrize("nameless", ["", "unknown"])
def test_an_unknown_speaker_counts_as_many(nameless, corpus, out):
    path, rows = table_of(corpus)
    write_table(path, [[number, wav, nameless, *rest] for number, wav, _, *rest in rows])
    found = prepare(corpus, out)["valid"]
    assert [row["spk_id"] for row in found] == [row["ID"] for row in found]
    assert len({row["spk_id"] for row in found}) == 8


def change(column, value):
    """Return a function that changes a column of the second utterance, which stands in line 3."""

    def changed(rows):
        place = 1 if column == "path" else 4 + SLOTS.index(column)
        rows[1][place] = rows[0][place] if value is None else value
        return rows

    return changed


@pytest.mark.parametrize(
    "changed, message",
    [
        (change("path", "wavs/speakers/gone.wav"), "line 3: .*gone.wav is missing"),
        (change("path", "../corpus/data/valid_data.csv"), "line 3: .*is missing"),
        (change("path", None), "line 3: .*stands in line 2 too"),
        (change("object", ""), "line 3: .*are no values of action, object, location"),
        (change("object", "a, b"), "line 3: .*are no values of action"),
        (lambda rows: [], "valid_data.csv lists no utterance"),
    ],
)
def test_tables_that_do_not_hold_are_refused(changed, message, corpus, out):
    path, rows = table_of(corpus)
    write_table(path, changed(rows))
    with pytest.raises(CorpusError, match=message):
        prepare(corpus, out)
    assert not out.exists()


def test_missing_tables_columns_and_splits_are_named(corpus, out):
    path, _ = table_of(corpus)
    path.write_text("path,speakerId,action,location\na.wav,1,b,c\n")
    with pytest.raises(CorpusError, match="valid_data.csv, line 1: no column object"):
        prepare(corpus, out)
    path.unlink()
    with pytest.raises(CorpusError, match="valid_data.csv is missing: expected Fluent"):
        prepare(corpus, out)
    with pytest.raises(CorpusError, match="No split dev. There are: train, valid, test"):
        prepare(corpus, out, ["dev"])
    assert not out.exists()
