"""Manifests as a dataset: as SpeechBrain's datasets, in little memory, in workers too."""

import multiprocessing
import pickle

import numpy as np
import pytest
from speechbrain.dataio.dataset import DynamicItemDataset

from recipes.common.data import utterances
from recipes.common.data.files import CorpusError
from recipes.common.data.utterances import Utterances, load_dataset
from tests.made_datasets import made_dataset

KEYS = ["id", "duration", "wav", "spk_id", "number"]


def number(name):
    return int(name[1:])


@pytest.fixture
def pair(tmp_path):
    """Return our dataset of made-up rows and SpeechBrain's."""
    rng = np.random.default_rng(0)
    rows = {
        f"u{n:03d}": {
            "wav": f"$data_root/{n}.wav",
            "duration": float(rng.integers(1, 9)),
            "spk_id": f"s{n % 3}",
        }
        for n in rng.permutation(50).tolist()
    }
    ours = made_dataset(tmp_path / "m.csv", rows)
    theirs = DynamicItemDataset.from_csv(str(tmp_path / "m.csv"), {"data_root": str(tmp_path)})
    for dataset in (ours, theirs):
        dataset.add_dynamic_item(number, takes=["id"], provides="number")
        dataset.set_output_keys(KEYS)
    return ours, theirs


FILTERS = [
    {},
    {"select_n": 7},
    {"key_min_value": {"duration": 4}},
    {"key_max_value": {"duration": 4}, "select_n": 3},
    {"key_test": {"spk_id": "s1".__eq__}, "sort_key": "duration"},
    {"key_min_value": {"number": 20}, "sort_key": "duration", "reverse": True},
    {"key_test": {"number": lambda value: value % 2}, "sort_key": "spk_id", "select_n": 9},
    {"key_min_value": {"duration": 99}},
]


@pytest.mark.parametrize("first", FILTERS)
@pytest.mark.parametrize("second", FILTERS)
def test_filters_are_those_of_speechbrain(first, second, pair):
    ours, theirs = (data.filtered_sorted(**first).filtered_sorted(**second) for data in pair)
    assert list(ours) == list(theirs) and len(ours) == len(theirs)
    assert list(ours.data_ids) == theirs.data_ids
    with ours.output_keys_as(["id"]):
        assert [row["id"] for row in ours] == theirs.data_ids
    assert list(ours) == list(theirs)


def test_columns_are_the_values_of_the_rows(pair, monkeypatch):
    monkeypatch.setattr(utterances, "BLOCK", 3)
    places = np.random.default_rng(1).permutation(50)[:20]
    taken = pair[0].take(places)
    expected = [pair[1][place] for place in places.tolist()]
    for key in KEYS[:-1]:
        assert list(taken.column(key)) == [row[key] for row in expected]
    paths = taken.column("wav")
    assert len(paths) == 20 and paths[-1] == expected[-1]["wav"] == list(paths)[-1]
    assert paths[4:9] == [row["wav"] for row in expected[4:9]]
    with pytest.raises(IndexError):
        paths[20]
    taken.set_output_keys(["id", "wav"])
    assert [row["id"] for row in taken] == [row["id"] for row in expected]


def test_an_item_added_to_some_rows_is_not_added_to_all(pair):
    kept = pair[0].filtered_sorted(select_n=2)
    kept.add_dynamic_item(len, takes="id", provides="length")
    kept.set_output_keys(["length", "number"])
    assert list(kept) == [{"length": 4, "number": 0}, {"length": 4, "number": 1}]
    assert "length" not in pair[0].pipeline.key_to_node


def test_paths_lead_into_the_corpus_unless_they_are_absolute(tmp_path):
    rows = {"a": "$data_root/a.wav", "b": "b.wav", "c": f"{tmp_path}/c.wav"}
    made_dataset(tmp_path / "m.csv", {n: {"wav": w, "duration": 1.0} for n, w in rows.items()})
    paths = load_dataset(tmp_path / "m.csv", "corpus").column("wav")
    assert list(paths) == ["corpus/a.wav", "corpus/b.wav", f"{tmp_path}/c.wav"]


def write(path, names, **more):
    rows = {name: {"wav": "a.wav", "duration": 1.0, **more} for name in names}
    made_dataset(path, rows)
    return path


def test_manifests_come_one_after_the_other_with_the_columns_of_all(tmp_path):
    paths = [write(tmp_path / "n.csv", "cd", wrd="HI"), write(tmp_path / "m.csv", "ab")]
    dataset = Utterances(paths, tmp_path)
    assert list(dataset.data_ids) == ["c", "d", "a", "b"]
    assert list(dataset.take(np.array([3, 0])).data_ids) == ["b", "c"]
    with pytest.raises(CorpusError, match="n.csv.*m.csv: no column wrd"):
        dataset.column("wrd")
    assert list(Utterances(paths[:1], tmp_path).column("wrd")) == ["HI", "HI"]


def test_a_column_named_id_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("ID,duration,wav,spk_id,id\na,1,a.wav,s,b\n")
    with pytest.raises(CorpusError, match="m.csv, line 1: .*named id"):
        load_dataset(tmp_path / "m.csv", tmp_path)


def test_what_is_pickled_names_the_file(tmp_path):
    path = write(tmp_path / "m.csv", [f"{n:05d}" for n in range(20_000)])
    dataset = load_dataset(path, tmp_path)
    dataset.set_output_keys(["id"])
    again = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 4000 and list(again) == list(dataset)
    few = dataset.take(np.arange(20_000)[::-3])
    assert list(pickle.loads(pickle.dumps(few)).data_ids) == list(few.data_ids)
    pickled = pickle.dumps(dataset)
    write(path, ["other"])
    with pytest.raises(CorpusError, match="m.csv: changed"):
        pickle.loads(pickled)


def first_id(dataset):
    return dataset[0]["id"]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_another_process_reads_it(method, pair):
    context = multiprocessing.get_context(method)
    few = pair[0].filtered_sorted(key_min_value={"duration": 4})
    few.set_output_keys(["id"])
    with context.Pool(1) as pool:
        assert pool.map(first_id, [few]) == [few.data_ids[0]]
