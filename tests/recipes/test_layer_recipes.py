"""The recipes that read every layer of an exported encoder: ABX on item files, and units."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from lobes.frame_encoder import FrameEncoder
from lobes.targets import KMeansQuantizer
from pretrained import Learn2Diss
from pretrained.exported import save_model
from recipes.common.annotations.item_files import COLUMNS, read_items
from recipes.common.evaluation.abx import abx
from recipes.common.units.unit_array import Columns, UnitArray
from recipes.LibriSpeech.ABX import train as abx_recipe
from recipes.LibriSpeech.Units import train as units_recipe

RECIPES = {"ABX": abx_recipe, "Units": units_recipe}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return FrameEncoder("fbank", 16, 16, 2, 2, 32, pos_conv_kernel=4).eval()


@pytest.fixture
def run(encoder, librispeech, tmp_path):
    """Return a function that runs a recipe with options, and returns its figures."""
    save_model(tmp_path / "model", {"frame_encoder": encoder})

    def run(name, yaml, **options):
        given = {"data_folder": librispeech, "output_folder": tmp_path / "out", **options}
        words = [str(word) for pair in given.items() for word in (f"--{pair[0]}", pair[1])]
        hparams = f"{RECIPES[name].__file__.removesuffix('train.py')}hparams/{yaml}.yaml"
        RECIPES[name].main([hparams, "--device", "cpu", *words])
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
        return metrics["figures"]

    return run


@pytest.fixture
def item_file(librispeech, tmp_path):
    """Items of the utterances of dev-clean: two centre phones in one context."""
    rng, lines = np.random.default_rng(0), [" ".join(COLUMNS)]
    for path in sorted((librispeech / "dev-clean").rglob("*.flac")):
        for start in np.arange(0.1, 1.0, 0.2):
            stop = start + rng.uniform(0.06, 0.18)
            phone, speaker = "ae"[rng.integers(2)], path.stem.partition("-")[0]
            lines.append(f"{path.stem} {start:.3f} {stop:.3f} {phone} k t {speaker}")
    (tmp_path / "dev.item").write_text("\n".join(lines))
    return tmp_path / "dev.item"


def states_of(encoder, path):
    """Return the hidden states of a file, (frames, layers, dim)."""
    wav = soundfile.read(path, dtype="float32")[0]
    hidden = Learn2Diss({"frame_encoder": encoder}).encode(wav, output_hidden_states=True)
    return torch.stack([x[0] for x in hidden.hidden_states], dim=1)


@pytest.mark.long
def test_errors_of_each_layer_are_those_of_its_frames(run, encoder, item_file, librispeech):
    model = item_file.parent / "model"
    figures = run("ABX", "abx", features=model, item_file=item_file, max_items=4)
    paths = (librispeech / "dev-clean").rglob("*.flac")
    states = {path.stem: states_of(encoder, path) for path in paths}
    items = read_items(item_file)
    assert figures["items"] == len(items) and figures["utterances"] == len(states)
    assert [told["layer"] for told in figures["layers"]] == [0, 1, 2]
    for told in figures["layers"]:
        frames = {name: x[:, told["layer"]].half() for name, x in states.items()}  # as kept
        for mode in ("within", "across"):
            expected = abx(frames, items, mode, "angular", 2407, max_items=4)["error"]
            assert told[mode]["error"] == expected
            assert told[mode]["interval"][0] <= expected <= told[mode]["interval"][1]


@pytest.mark.long
def test_baselines_are_measured_likewise(run, item_file):
    layers = run("ABX", "abx", features="fbank", item_file=item_file, modes="[within]")["layers"]
    assert [list(told) for told in layers] == [["layer", "within"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": "[between]"}, r"modes is \['between'\], not of within, across"),
        ({"modes": "[]"}, r"modes is \[\]"),
        ({"distance": "euclidean"}, "distance is 'euclidean', not of cosine, angular"),
        ({"data_folder": "."}, "no audio of 18 of the 18 files that items name"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, run, item_file, tmp_path):
    if "data_folder" in options:
        (tmp_path / "empty").mkdir()
        options = {"data_folder": tmp_path / "empty"}
    with pytest.raises(ValueError, match=message):
        run("ABX", "abx", features="fbank", item_file=item_file, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_units_of_a_layer_are_the_nearest_centres(run, encoder, librispeech, tmp_path):
    model = tmp_path / "model"
    options = {"teacher": model, "teacher_layer": 1, "num_targets": 8, "num_workers": 0}
    figures = run("Units", "units", **options)
    assert {split: figures[split]["utterances"] for split in ("train", "valid", "test")} == {
        "train": 36,
        "valid": 18,
        "test": 18,
    }
    assert figures["num_units"] == 8
    assert figures["features"].startswith("layer 1 of encoder")
    folder = tmp_path / "out" / "units"
    centres = load_file(folder / "quantizer.safetensors")["centres"]
    path = next((librispeech / "dev-clean").rglob("*.flac"))
    wav = Columns([path.stem], [path], np.array([soundfile.info(path).duration]))
    frames = states_of(encoder, path)[:, 1]
    found = torch.from_numpy(UnitArray(folder, wav, num_units=8)[path.stem].copy())
    expected = KMeansQuantizer(centres)(frames)
    assert len(found) == len(expected) and len(found.unique()) > 2
    assert (found == expected).float().mean() > 0.97  # in a batch, rounding may decide a frame
