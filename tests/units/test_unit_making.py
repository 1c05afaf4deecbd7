"""Making units: what they are fitted on, and that nothing depends on who made them."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from speechbrain.dataio.dataio import read_audio

from lobes.frame_encoder import FrameEncoder
from lobes.signal import num_frames
from lobes.targets import mfcc
from recipes.common.data.crops import SpeechBatch
from recipes.common.data.loaders import load_split
from recipes.common.units import passes, unit_features, unit_making
from recipes.common.units.unit_array import UnitArray, columns
from recipes.common.units.unit_features import UnitFeatures
from recipes.common.units.unit_making import make_units
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from tests.units.ranks import end_this_process, run_ranks

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
FILES = ("quantizer.safetensors", "units.npy", "units.index.npy", "units.json")


def load(corpus, folder):
    splits = {"train": "train-clean-100", "valid": "dev-clean"}
    prepare_librispeech(corpus, folder, splits.values(), num_workers=1)
    hparams = {**SETTINGS, "data_folder": corpus}
    return {name: load_split([folder / f"{split}.csv"], hparams) for name, split in splits.items()}


@pytest.fixture
def datasets(librispeech, tmp_path):
    return load(librispeech, tmp_path)


def open_units(folder, datasets):
    return UnitArray(folder, columns(*datasets.values()), 12)


def contents(folder):
    """Return what the files of units hold; nothing else may be there."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return [(folder / name).read_bytes() for name in FILES]


def a_teacher():
    torch.manual_seed(0)
    sizes = {"conv_channels": 16, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 32}
    return FrameEncoder("fbank", **sizes)


def test_the_fit_sees_the_training_split_alone(datasets, tmp_path):
    make_units(tmp_path / "both", dict(reversed(datasets.items())), SETTINGS)
    make_units(tmp_path / "train", {"train": datasets["train"]}, SETTINGS)
    both, train = (
        (tmp_path / name / "quantizer.safetensors").read_bytes() for name in ("both", "train")
    )
    assert both == train


@torch.no_grad()
def test_a_layer_s_frames_of_long_recordings_are_those_of_windows(monkeypatch):
    def frames_of(lengths):
        rng = np.random.default_rng(0)
        rows = [
            {"id": str(n), "duration": n / 16000, "features": torch.from_numpy(0.1 * rng.random(n))}
            for n in lengths
        ]
        batch = SpeechBatch([{**row, "features": row["features"].float()} for row in rows])
        return UnitFeatures(None, SETTINGS, teacher, layer=1).of(batch), batch.features.data

    teacher = a_teacher().eval()
    whole, _ = frames_of([40000, 23456])
    monkeypatch.setattr(unit_features, "LONGEST", 30000)
    torch.testing.assert_close(frames_of([40000, 23456])[0], whole, atol=1e-5, rtol=1e-4)
    found, wavs = frames_of([70 * 16000, 40000])
    assert len(found) == num_frames(70 * 16000) + num_frames(40000)
    expected = teacher(wavs[:1, : 30 * 16000], output_hidden_states=True)[1][1][0, :1400]
    torch.testing.assert_close(found[:1400], expected)
    expected = teacher(wavs[:1, 52 * 16000 :], output_hidden_states=True)[1][1][0, 100:]
    torch.testing.assert_close(found[:3499][-len(expected) :], expected)


def check_units(folder, datasets):
    """Check that each utterance has the units that the folder's own centres give its MFCC."""
    units = open_units(folder, datasets)
    centres = load_file(folder / "quantizer.safetensors")["centres"]
    names, wavs, _ = columns(*datasets.values())
    for name, wav in zip(names, wavs, strict=True):
        expected = torch.cdist(mfcc(read_audio(wav)), centres).argmin(-1)
        assert np.array_equal(units[name], expected.numpy())


def test_units_are_those_of_the_nearest_centres(datasets, tmp_path):
    make_units(tmp_path / "units", datasets, SETTINGS)
    check_units(tmp_path / "units", datasets)


def test_units_that_are_gone_on_with_in_other_batches_are_no_others(datasets, tmp_path, small_jobs):
    given = tmp_path / "units", datasets
    assert run_ranks(1, tmp_path / "log", be_killed_within, "write_units", *given, SETTINGS)
    assert len(list((tmp_path / "units" / "parts").rglob("*.safetensors"))) > 5
    make_units(*given, {**SETTINGS, "max_batch_seconds": 5})
    check_units(*given)


def test_units_of_a_hidden_layer_are_those_of_each_utterance_alone(datasets, tmp_path):
    teacher = a_teacher()
    make_units(tmp_path / "units", datasets, SETTINGS, teacher)
    units = open_units(tmp_path / "units", datasets)
    assert units.description["features"].startswith("layer 1 of encoder")
    centres = load_file(tmp_path / "units" / "quantizer.safetensors")["centres"]
    names, wavs, _ = columns(*datasets.values())
    assert not teacher.training
    for name, wav in list(zip(names, wavs, strict=True))[::5]:
        with torch.no_grad():
            states = teacher(read_audio(wav)[None], output_hidden_states=True)[1]
        expected = torch.cdist(states[1][0], centres).argmin(-1).numpy()
        assert (units[name] == expected).mean() > 0.98  # but for rounding


def test_random_projection_needs_no_fit(datasets, tmp_path):
    make_units(tmp_path / "units", datasets, {**SETTINGS, "quantizer": "random_projection"})
    assert len(np.unique(open_units(tmp_path / "units", datasets).units)) == 12
    assert not (tmp_path / "units" / "quantizer.safetensors").exists()


def test_other_settings_are_refused(datasets, tmp_path):
    make_units(tmp_path / "units", datasets, SETTINGS)
    make_units(tmp_path / "units", datasets, SETTINGS)
    with pytest.raises(ValueError, match="num_units 12, now it is 13"):
        make_units(tmp_path / "units", datasets, {**SETTINGS, "num_targets": 13})


def test_a_sample_is_of_random_utterances_up_to_a_length():
    durations = np.random.default_rng(0).uniform(1, 3, 200)
    for most in (0.1, 20.0, 1e6):
        places, own = unit_making._sample(durations, {"seed": 1, "kmeans_seconds": most})
        assert np.array_equal(own, durations[places]) and len(set(places)) == len(places)
        kept, order = [], unit_making.derive_rng(1, "k-means sample").permutation(200)
        for place in order:
            if kept and durations[[*kept, place]].sum() > most:
                break
            kept.append(place)
        assert places.tolist() == kept


def test_audio_of_another_length_than_its_manifest_says_is_refused(librispeech_copy, tmp_path):
    datasets = load(librispeech_copy, tmp_path)
    path = sorted((librispeech_copy / "dev-clean").rglob("*.flac"))[0]
    soundfile.write(path, np.zeros(16000, "float32"), 16000)
    with pytest.raises(ValueError, match=f"{path.stem}: its audio has 49 frames.*Prepare"):
        make_units(tmp_path / "units", datasets, SETTINGS)
    assert not (tmp_path / "units" / "units.json").exists()


@pytest.fixture
def small_jobs(monkeypatch):
    monkeypatch.setattr(passes, "JOB_BATCHES", 1)


@pytest.mark.long
@pytest.mark.parametrize("teacher", [None, a_teacher()], ids=["mfcc", "layer"])
def test_units_by_one_two_and_three_ranks_are_the_same(teacher, datasets, tmp_path, small_jobs):
    for ranks in (1, 2, 3):
        folder = tmp_path / f"by {ranks}"
        assert not run_ranks(
            ranks, tmp_path / "log", make_units, folder, datasets, SETTINGS, teacher
        )
    one, two, three = (contents(tmp_path / f"by {ranks}") for ranks in (1, 2, 3))
    assert one == two == three


def be_killed(count, folder, datasets, settings):
    """Make units, but be killed before the rank's own write of some number."""
    given, plain = itertools.count(), passes.write_whole

    def write_whole(path, content):
        if path.suffix == ".safetensors" and next(given) == count:
            end_this_process()
        plain(path, content)

    passes.write_whole = write_whole
    make_units(folder, datasets, settings)


def be_killed_within(name, folder, datasets, settings):
    """Make units, but have the main rank killed where it calls a function of `make_units`."""
    setattr(unit_making, name, lambda *_: end_this_process())
    make_units(folder, datasets, settings)


@pytest.mark.long
def test_units_of_interrupted_ranks_are_those_of_an_uninterrupted_one(
    datasets, tmp_path, small_jobs
):
    given = tmp_path / "units", datasets, SETTINGS
    make_units(tmp_path / "whole", datasets, SETTINGS)
    steps = [
        *[(ranks, be_killed, count, *given) for ranks, count in ((3, 1), (1, 0), (2, 0))],
        (1, be_killed_within, "fit_kmeans", *given),
        (2, be_killed_within, "fit_kmeans", *given),
        (2, be_killed_within, "KMeansQuantizer", *given),
        *[(ranks, be_killed, count, *given) for ranks, count in ((2, 1), (3, 0), (1, 1), (2, 0))],
        (2, be_killed_within, "write_units", *given),
    ]
    for ranks, *step in steps:
        assert run_ranks(ranks, tmp_path / "log", *step), f"{step[:2]} were not interrupted"
        assert not (tmp_path / "units" / "units.json").exists()
    assert not run_ranks(3, tmp_path / "log", make_units, *given)
    assert contents(tmp_path / "units") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["audio", "settings", "batches", "nothing"])
def test_what_an_interrupted_run_left_is_of_use_for_the_same_alone(
    change, librispeech_copy, tmp_path, small_jobs
):
    datasets, settings = load(librispeech_copy, tmp_path), dict(SETTINGS)
    given = tmp_path / "units", datasets, settings
    assert run_ranks(1, tmp_path / "log", be_killed_within, "fit_kmeans", *given)
    (parts,) = (tmp_path / "units" / "parts" / "k-means").iterdir()
    times = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(times) > 5
    if change == "audio":
        path = sorted((librispeech_copy / "train-clean-100").rglob("*.flac"))[0]
        noise = np.random.default_rng(1).normal(0, 0.1, soundfile.info(path).frames)
        soundfile.write(path, noise, 16000)
    elif change == "settings":
        settings["num_targets"] = 10
    elif change == "batches":
        settings["max_batch_seconds"] *= 0.5
    assert run_ranks(1, tmp_path / "log", be_killed_within, "fit_kmeans", *given)
    (again,) = (tmp_path / "units" / "parts" / "k-means").iterdir()
    assert (again == parts) == (change == "nothing")
    if change == "nothing":
        assert times == {path.name: path.stat().st_mtime_ns for path in again.iterdir()}
