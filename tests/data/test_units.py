"""Units: what they are fitted on, and which arrays are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lobes.targets import KMeansQuantizer, RandomProjectionQuantizer, mfcc
from recipes.common.data import units
from recipes.common.data.loaders import load_split
from recipes.common.data.units import (
    UnitArray,
    _digest,
    fit_kmeans,
    make_units,
    manifest_rows,
    write_units,
)
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech

SETTINGS = {
    "min_seconds": 0.5,
    "max_batch_seconds": 10,
    "num_workers": 0,
    "seed": 3,
    "quantizer": "kmeans",
    "num_targets": 12,
    "teacher_layer": 1,
    "kmeans_seconds": 1000,
    "kmeans_passes": 2,
}


@pytest.fixture
def datasets(librispeech, tmp_path):
    splits = {"train": "train-clean-100", "valid": "dev-clean"}
    prepare_librispeech(librispeech, tmp_path, splits.values(), num_workers=1)
    hparams = {**SETTINGS, "data_folder": librispeech}
    return {
        name: load_split([tmp_path / f"{split}.csv"], hparams) for name, split in splits.items()
    }


def rows_of(datasets):
    return [row for dataset in datasets.values() for row in manifest_rows(dataset)]


def test_kmeans_finds_separate_clusters_in_a_stream():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], float)
    chunks = [centres[rng.integers(4, size=500)] + rng.normal(size=(500, 2)) for _ in range(30)]
    found = fit_kmeans(lambda: iter(chunks), 4, seed=1).numpy()
    nearest = np.abs(found[:, None] - centres).max(-1).min(0)
    assert (nearest < 0.2).all()
    again = fit_kmeans(lambda: iter(chunks), 4, seed=1).numpy()
    assert np.array_equal(found, again)


def test_too_few_frames_for_the_units_are_refused():
    with pytest.raises(ValueError, match="too few for 10 units"):
        fit_kmeans(lambda: [np.zeros((5, 2))], 10, seed=0)


def test_the_nearest_centre_names_the_unit():
    centres, frames = torch.randn(9, 5), torch.randn(2, 30, 5)
    expected = torch.cdist(frames, centres[None]).argmin(-1)
    assert torch.equal(KMeansQuantizer(centres)(frames), expected)


def test_random_projection_spreads_over_its_units_and_repeats():
    frames = torch.randn(3000, 39)
    first, second = (RandomProjectionQuantizer(39, 32, seed=s)(frames) for s in (0, 0))
    assert torch.equal(first, second) and len(first.unique()) > 25
    assert not torch.equal(first, RandomProjectionQuantizer(39, 32, seed=1)(frames))


def test_the_fit_sees_the_training_split_alone(datasets, tmp_path):
    make_units(tmp_path / "both", datasets, SETTINGS)
    make_units(tmp_path / "train", {"train": datasets["train"]}, SETTINGS)
    both, train = (
        (tmp_path / name / "quantizer.safetensors").read_bytes() for name in ("both", "train")
    )
    assert both == train


def test_units_are_those_of_the_nearest_centres(datasets, tmp_path):
    from safetensors.torch import load_file
    from speechbrain.dataio.dataio import read_audio

    make_units(tmp_path / "units", datasets, SETTINGS)
    units = UnitArray(tmp_path / "units", rows_of(datasets), 12)
    centres = load_file(tmp_path / "units" / "quantizer.safetensors")["centres"]
    for row in rows_of(datasets)[::7]:
        expected = torch.cdist(mfcc(read_audio(row["wav"])), centres).argmin(-1)
        assert np.array_equal(units[row["id"]], expected.numpy())


def test_other_settings_are_refused(datasets, tmp_path):
    make_units(tmp_path / "units", datasets, SETTINGS)
    make_units(tmp_path / "units", datasets, SETTINGS)
    with pytest.raises(ValueError, match="num_units 12, now it is 13"):
        make_units(tmp_path / "units", datasets, {**SETTINGS, "num_targets": 13})


def test_a_hidden_layer_can_be_clustered(datasets, tmp_path):
    from lobes.frame_encoder import FrameEncoder

    torch.manual_seed(0)
    sizes = {"conv_channels": 16, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 32}
    teacher = FrameEncoder("fbank", **sizes)
    make_units(tmp_path / "units", datasets, SETTINGS, teacher)
    found = UnitArray(tmp_path / "units", rows_of(datasets), 12)
    assert found.description["features"].startswith("layer 1 of encoder")


ROWS = [
    {"id": "a", "wav": Path(__file__), "duration": 1.0},
    {"id": "b", "wav": Path(__file__), "duration": 2.0},
]


def write(folder):
    folder.mkdir(exist_ok=True)
    found = [("a", np.arange(49) % 7), ("b", np.arange(99) % 7)]
    write_units(
        folder, ROWS, lambda done: [pair for pair in found if pair[0] not in done], {"num_units": 7}
    )
    return folder


def change(folder, **values):
    path = folder / "units.json"
    told = {**json.loads(path.read_text()), **values}
    del told["digest"]
    path.write_text(json.dumps({**told, "digest": _digest(told)}))


def test_minibatches_hold_every_frame_once_and_are_of_the_size_asked_for(monkeypatch):
    monkeypatch.setattr(units, "MINIBATCH", 7)
    rows = np.arange(60.0).reshape(-1, 1)
    parts = np.split(rows, [4, 5, 31])
    batches = list(units._minibatches(iter(parts), 10))
    assert [len(batch) for batch in batches] == [10, *[7] * 7, 1]
    np.testing.assert_array_equal(np.concatenate(batches), rows)


def test_written_units_come_back(tmp_path):
    units = UnitArray(write(tmp_path), ROWS, 7)
    assert units["b"].tolist() == (np.arange(99) % 7).tolist() and units["a"].dtype == np.int16


def test_shuffled_units_keep_their_shares_and_nothing_else(tmp_path):
    plain, shuffled = UnitArray(write(tmp_path), ROWS, 7), UnitArray(tmp_path, ROWS, 7, 1)
    assert not np.array_equal(plain["b"], shuffled["b"])
    assert np.array_equal(np.sort(plain.units), np.sort(shuffled.units))


def test_units_of_another_rate_are_refused(tmp_path):
    change(write(tmp_path), rate=100)
    with pytest.raises(ValueError, match="units at 100 Hz.*50 Hz"):
        UnitArray(tmp_path, ROWS, 7)


def test_units_of_another_length_are_refused_by_file_and_both_lengths(tmp_path):
    rows = [ROWS[0], {**ROWS[1], "duration": 2.5}]
    with pytest.raises(ValueError, match=r"test_units.py is 2\.5 s long, 124 frames.*99 units"):
        UnitArray(write(tmp_path), rows, 7)


def test_units_of_another_corpus_are_refused(tmp_path):
    rows = [*ROWS, {"id": "c", "wav": Path(__file__), "duration": 1.0}]
    with pytest.raises(ValueError, match=r"no units for c \(.*test_units.py\)"):
        UnitArray(write(tmp_path), rows, 7)


def test_more_units_than_targets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_targets is 5"):
        UnitArray(write(tmp_path), ROWS, 5)


@pytest.mark.parametrize("size", [10, 200])
def test_an_array_cut_short_is_refused(tmp_path, size):
    path = write(tmp_path) / "units.npy"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"units\.npy is missing or was changed"):
        UnitArray(tmp_path, ROWS, 7)


def test_an_unfinished_array_is_refused_and_then_completed(tmp_path):
    def broken(done):
        yield "a", np.arange(49) % 7
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_units(tmp_path, ROWS, broken, {"num_units": 7})
    with pytest.raises(ValueError, match=r"units\.json is missing"):
        UnitArray(tmp_path, ROWS, 7)
    asked = []

    def rest(done):
        asked.append(set(done) - {""})
        yield "b", np.arange(99) % 7

    write_units(tmp_path, ROWS, rest, {"num_units": 7})
    assert asked == [{"a"}]
    assert UnitArray(tmp_path, ROWS, 7)["a"].tolist() == (np.arange(49) % 7).tolist()


def replaced(path, seed):
    """Put other audio of the same length in the place of a file's."""
    samples = soundfile.info(path).frames
    noise = np.random.default_rng(seed).normal(0, 0.1, samples)
    soundfile.write(path, noise, 16000)
    return path


def test_audio_that_was_replaced_is_told_from_that_of_the_units(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(16000, 0.1), 16000)
    rows = [{"id": "a", "wav": path, "duration": 1.0}]
    (tmp_path / "units").mkdir()
    write_units(tmp_path / "units", rows, lambda done: [("a", np.arange(49))], {"num_units": 50})
    UnitArray(tmp_path / "units", rows, 50)
    replaced(path, seed=1)
    with pytest.raises(ValueError, match="a.wav was changed after its units were made.*Remove"):
        UnitArray(tmp_path / "units", rows, 50)


@pytest.mark.parametrize("change", ["audio", "settings"])
def test_what_an_interrupted_run_left_is_of_use_for_the_same_alone(change, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(16000, 0.1), 16000)
    rows = [{"id": "a", "wav": path, "duration": 1.0}, {"id": "b", "wav": path, "duration": 1.0}]
    asked = []

    def label(done):
        asked.append(done - {""})
        yield "a", np.arange(49)
        if len(asked) == 1:
            raise KeyboardInterrupt
        yield "b", np.arange(49)

    (tmp_path / "units").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_units(tmp_path / "units", rows, label, {"num_units": 50})
    units = 50
    if change == "audio":
        replaced(path, seed=1)
    else:
        units = 60
    write_units(tmp_path / "units", rows, label, {"num_units": units})
    assert asked == [set(), set()]
    assert UnitArray(tmp_path / "units", rows, units)["b"].tolist() == list(range(49))


@pytest.mark.parametrize("frame", [1, 2, 17, 40, 47])
@pytest.mark.parametrize("offset", [130, 200, 270])
def test_a_click_shows_in_the_frame_whose_samples_hold_it(frame, offset):
    wav = 1e-4 * torch.randn(16000, generator=torch.Generator().manual_seed(frame))
    wav[320 * frame + offset] = 0.5
    energy = mfcc(wav)[:, 0]
    assert energy.argmax() == frame
    assert energy.topk(2).values.diff().abs() > 1
