#!/usr/bin/env python3
"""k-means units of a layer of a frame encoder: fitted on training speech, named in every split.

    python train.py hparams/units.yaml --teacher O/joint/model --teacher_layer 3
        --data_folder LibriSpeech --output_folder O/units

The centres are in O/units/units/quantizer.safetensors, by which other files' units are written as
text: python -m pretrained units *.flac --model O/joint/model --layer 3 --centroids ... --out U.txt
"""

import time
from pathlib import Path

import recipes  # noqa: F401, before torch is loaded

# isort: split
import numpy as np
from speechbrain.utils.distributed import infer_device

from pretrained.commands.runtime import keep_freed_memory
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.common.training.run import claim, prepare, report, split_datasets
from recipes.common.units.unit_array import UnitArray, columns
from recipes.common.units.unit_making import make_units
from recipes.LibriSpeech.pretrain.frame import check_layer, load_encoder


def count_units(units, datasets):
    """Return how many utterances, frames and different units each split has."""
    counts = {}
    for split, dataset in datasets.items():
        own = np.concatenate([units[name] for name in dataset.column("id")])
        used = len(np.unique(own))
        counts[split] = {"utterances": len(dataset), "frames": len(own), "units_used": used}
    return counts


def main(arguments):
    """Fit k-means to the training split, name the units of all splits and write metrics.json."""
    began = time.time()
    hparams_file, run_opts, overrides = read_command_line(arguments, heeded=["device"])
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    teacher = load_encoder(hparams["teacher"], "frame_encoder")
    check_layer(hparams["teacher_layer"], teacher)
    keep_freed_memory()
    prepare(hparams)
    datasets = split_datasets(hparams)
    claim(hparams["output_folder"])
    folder = Path(hparams["output_folder"]) / "units"
    folder.mkdir(exist_ok=True)
    make_units(folder, datasets, hparams, teacher, run_opts["device"] or infer_device())
    units = UnitArray(folder, columns(*datasets.values()), hparams["num_targets"])
    told = {name: units.description[name] for name in ("features", "num_units")}
    report(hparams, {**told, **count_units(units, datasets)}, began)


if __name__ == "__main__":
    run_recipe(main)
