"""Arrays of units: what is read is what was written, and which are refused."""

import errno
import json
import os
import pickle
from contextlib import nullcontext

import numpy as np
import pytest

from recipes.common.units import unit_array
from recipes.common.units.unit_array import (
    Columns,
    UnitArray,
    _digest,
    index_utterances,
    read_description,
    stamp_all,
    write_units,
)

TWO = Columns(["a", "b"], [__file__, __file__], np.array([1.0, 2.0]))


def write(folder, utterances=TWO):
    """Write units that count from 0 to 6 over and over, the last utterance first."""
    folder.mkdir(exist_ok=True)
    places = range(len(utterances.ids))[::-1]
    found = [np.arange(frames) % 7 for frames in utterances.num_frames()[::-1]]
    parts = [(places, np.concatenate(found))]
    write_units(folder, index_utterances(utterances), parts, {"num_units": 7})
    return folder


def change(folder, **values):
    path = folder / "units.json"
    told = {**json.loads(path.read_text()), **values}
    del told["digest"]
    path.write_text(json.dumps({**told, "digest": _digest(told)}))


def test_written_units_come_back(tmp_path):
    units = UnitArray(write(tmp_path), TWO, 7)
    assert units["b"].tolist() == (np.arange(99) % 7).tolist() and units["a"].dtype == np.int16
    assert units["a"].tolist() == (np.arange(49) % 7).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "units.index.npy",
        "units.json",
        "units.npy",
    ]


@pytest.mark.parametrize("name", ["aa", "c", "d"])
def test_an_utterance_that_has_no_units_is_no_other(name, tmp_path):
    units = UnitArray(write(tmp_path), TWO, 7)
    with pytest.raises(KeyError, match=name):
        units[name]


def test_each_of_many_utterances_has_its_own_units(tmp_path):
    rng = np.random.default_rng(0)
    durations = rng.uniform(0.5, 2.0, 3000)
    utterances = Columns([f"utterance {n}" for n in range(3000)], [__file__] * 3000, durations)
    frames = utterances.num_frames()
    expected = [rng.integers(50, size=count).astype(np.int16) for count in frames]
    shares = np.array_split(rng.permutation(3000), 8)
    parts = [(own, np.concatenate([expected[n] for n in own])) for own in shares]
    write_units(tmp_path, index_utterances(utterances), parts, {"num_units": 50})
    units = UnitArray(tmp_path, utterances, 50)
    for n in rng.permutation(3000):
        assert np.array_equal(units[f"utterance {n}"], expected[n])


def test_frames_and_stamps_are_those_of_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_array, "STAMP_CHUNK", 3)
    paths = []
    for n in range(10):
        paths.append(tmp_path / str(n))
        paths[-1].write_bytes(b"x" * n)
        os.utime(paths[-1], ns=(n, 10**18 + n))
    assert stamp_all(paths).tolist() == [list(range(10)), [10**18 + n for n in range(10)]]
    samples = [399, 400, 719, 720, 16000]
    frames = Columns([], [], np.array(samples) / 16000).num_frames()
    assert frames.tolist() == [0, 1, 1, 2, 49]


def test_ids_that_cannot_be_told_apart_are_refused(monkeypatch):
    monkeypatch.setattr(unit_array, "derive_seed", len)
    utterances = Columns(["aa", "b", "cc"], [__file__] * 3, np.ones(3))
    with pytest.raises(ValueError, match="IDs aa and cc cannot be told apart.*another ID"):
        index_utterances(utterances)


def test_what_is_unpickled_maps_the_files_anew(tmp_path):
    many = Columns([str(n) for n in range(500)], [__file__] * 500, np.full(500, 1.0))
    units = UnitArray(write(tmp_path, many), many, 7)
    pickled = pickle.dumps(units)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    for array in (again.units, again.index):
        assert isinstance(array, np.memmap)
    assert np.array_equal(again["77"], units["77"])


def test_shuffled_units_keep_their_shares_and_nothing_else(tmp_path):
    plain, shuffled = UnitArray(write(tmp_path), TWO, 7), UnitArray(tmp_path, TWO, 7, 1)
    assert not np.array_equal(plain["b"], shuffled["b"])
    assert np.array_equal(np.sort(plain.units), np.sort(shuffled.units))
    assert np.array_equal(pickle.loads(pickle.dumps(shuffled))["b"], shuffled["b"])


def test_units_of_another_rate_are_refused(tmp_path):
    change(write(tmp_path), rate=100)
    with pytest.raises(ValueError, match="units at 100 Hz.*50 Hz"):
        UnitArray(tmp_path, TWO, 7)


def test_units_of_another_length_are_refused_by_file_and_both_lengths(tmp_path):
    longer = TWO._replace(durations=np.array([1.0, 2.5]))
    with pytest.raises(
        ValueError, match=r"test_unit_array.py is 2\.5 s long, 124 frames.*99 units"
    ):
        UnitArray(write(tmp_path), longer, 7)


@pytest.mark.parametrize("name", ["c", "0", "zzz"])
def test_units_of_another_corpus_are_refused(name, tmp_path):
    other = Columns(["a", name, "b"], [__file__] * 3, np.array([1.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match=rf"no units for {name} \(.*test_unit_array.py\)"):
        UnitArray(write(tmp_path), other, 7)


def test_some_of_the_utterances_are_enough(tmp_path):
    one = Columns(["b"], [__file__], np.array([2.0]))
    assert len(UnitArray(write(tmp_path), one, 7)["b"]) == 99


def test_more_units_than_targets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_targets is 5"):
        UnitArray(write(tmp_path), TWO, 5)


@pytest.mark.parametrize("name", ["units.npy", "units.index.npy"])
@pytest.mark.parametrize("size", [10, 200, None])
def test_an_array_that_is_cut_or_missing_is_refused(name, size, tmp_path):
    path = write(tmp_path) / name
    content = path.read_bytes()
    path.unlink()
    if size:
        path.write_bytes(content[:size])
    with pytest.raises(ValueError, match=rf"{name} is missing or was changed.*Remove"):
        UnitArray(tmp_path, TWO, 7)


def test_units_of_an_earlier_format_are_refused(tmp_path):
    change(write(tmp_path), sha256="0" * 64, index={"a": [0, 49, 1, 1]})
    with pytest.raises(ValueError, match="units.npy is missing or was changed"):
        UnitArray(tmp_path, TWO, 7)


def test_an_unfinished_array_is_refused(tmp_path):
    def interrupted():
        yield [0], np.zeros(49)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_units(tmp_path, index_utterances(TWO), interrupted(), {"num_units": 7})
    with pytest.raises(ValueError, match=r"units\.json is missing"):
        UnitArray(tmp_path, TWO, 7)


def test_units_that_are_not_one_a_frame_are_refused(tmp_path):
    parts = [([0], np.zeros(49)), ([1], np.zeros(100))]
    with pytest.raises(ValueError, match="100 units for 1 utterances of 99 frames. Remove"):
        write_units(tmp_path, index_utterances(TWO), parts, {"num_units": 7})
    assert not (tmp_path / "units.json").exists()


def test_a_description_that_was_changed_is_refused(tmp_path):
    path = write(tmp_path) / "units.json"
    path.write_text(path.read_text().replace('"num_units": 7', '"num_units": 8'))
    with pytest.raises(ValueError, match="no description of units, or was changed"):
        read_description(tmp_path)


def test_audio_that_was_replaced_is_told_from_that_of_the_units(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    utterances = TWO._replace(wavs=[__file__, path])
    write(tmp_path / "units", utterances)
    UnitArray(tmp_path / "units", utterances, 7)
    path.write_bytes(b"three")
    with pytest.raises(ValueError, match="a.wav was changed after its units were made.*Remove"):
        UnitArray(tmp_path / "units", utterances, 7)


@pytest.mark.parametrize(("seconds", "same"), [(1.5, True), (2.5, False)])
def test_times_that_an_archive_rounded_are_those_of_before(seconds, same, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    utterances = TWO._replace(wavs=[__file__, path])
    write(tmp_path / "units", utterances)
    time = path.stat().st_mtime_ns - int(seconds * 10**9)
    os.utime(path, ns=(time, time))
    with nullcontext() if same else pytest.raises(ValueError, match="was changed after its units"):
        UnitArray(tmp_path / "units", utterances, 7)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="No space left on device: .*units.partial.npy"):
        write(tmp_path / "units", TWO)


def test_other_ranks_than_the_main_one_read_no_audio_and_no_digest(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(unit_array, "rank", lambda: 1)
    monkeypatch.setattr(unit_array, "stamp", None)
    monkeypatch.setattr(unit_array, "digest_file", None)
    assert len(UnitArray(tmp_path, None, 7)["a"]) == 49
