#!/usr/bin/env python3
"""Triphone ABX of every layer of a frame encoder, on an item file of the ZeroSpeech evaluations.

    python train.py hparams/abx.yaml --features O/joint/model --item_file dev-clean.item
        --data_folder LibriSpeech/dev-clean --output_folder O/abx

`--features` is an exported model folder, fbank, or random:<folder>. Nothing is trained.
"""

import time
from pathlib import Path

import recipes  # noqa: F401, before torch is loaded

# isort: split
from speechbrain.utils.distributed import infer_device

from recipes.common.annotations.item_files import find_audio, fit_items, read_items
from recipes.common.downstream.features import cache_states, load_upstream
from recipes.common.evaluation.abx import DISTANCES, MODES
from recipes.common.report.measures import read_abx
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.common.training.run import claim, report


class LayerFrames:
    """The frames of one layer, by utterance.

    Arguments
    ---------
    states : StateCache
    layer : int
        0 is the first layer's input.
    """

    def __init__(self, states, layer):
        self.states = states
        self.layer = layer

    def __getitem__(self, utterance):
        """Return the frames of an utterance, (frames, dim), float32."""
        return self.states[utterance][:, self.layer]


def check_words(hparams):
    """Refuse a mode or a distance that there is not, before anything is computed."""
    for name, values, known in (
        ("modes", hparams["modes"], MODES),
        ("distance", [hparams["distance"]], DISTANCES),
    ):
        if not values or not set(values) <= set(known):
            raise ValueError(f"{name} is {hparams[name]!r}, not of {', '.join(known)}.")


def measure_layers(states, items, hparams):
    """Return the ABX errors of each layer, from its input on: a dict by mode each."""
    layers = []
    limits = {name: hparams[name] for name in ("max_items", "max_speakers")}
    for layer in range(states.array.shape[1]):
        frames, told = LayerFrames(states, layer), {"layer": layer}
        for mode in hparams["modes"]:
            given = (frames, items, mode, hparams["distance"], hparams["seed"])
            reading = read_abx(*given, **limits)
            told[mode] = {"error": reading["value"], "interval": reading["interval"]}
        layers.append(told)
    return layers


def main(arguments):
    """Encode the files of the items, measure each layer and write metrics.json."""
    began = time.time()
    hparams_file, run_opts, overrides = read_command_line(arguments, heeded=["device"])
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    check_words(hparams)
    device = run_opts.device or infer_device()
    frozen = {"representation": "frames", "upstream": "frozen"}
    upstream = load_upstream({**hparams, **frozen}).to(device)
    first = "0" if hparams["features"] == "fbank" else "0.01"
    items = read_items(hparams["item_file"], first)
    audio = find_audio({item.utterance for item in items}, hparams["data_folder"])
    claim(hparams["output_folder"])
    rows = [{"id": name, "wav": audio[name]} for name in sorted(audio)]
    folder = Path(hparams["output_folder"]) / hparams["cache_folder"]
    states = cache_states(upstream, rows, folder)
    items = fit_items(items, {name: frames for name, (_, frames) in states.places.items()})
    figures = {
        "features": str(hparams["features"]),
        "distance": hparams["distance"],
        "items": len(items),
        "utterances": len(rows),
        "layers": measure_layers(states, items, hparams),
    }
    report(hparams, figures, began, manifests=[hparams["item_file"]])


if __name__ == "__main__":
    run_recipe(main)
