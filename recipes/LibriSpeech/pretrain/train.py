#!/usr/bin/env python3
"""Pretrain Learn2Diss: one stage, which the hyperparameters file names.

    python train.py hparams/frame.yaml --data_folder LibriSpeech --output_folder O/frame
    python train.py hparams/utterance.yaml --data_folder LibriSpeech --output_folder O/utterance
    python train.py hparams/joint.yaml --data_folder LibriSpeech --output_folder O/joint

On several GPUs: torchrun --nproc_per_node=8 train.py ...
"""

import sys
import time
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import ddp_init_group, run_on_main

from recipes.common.training.experiment import (
    finish,
    keep_freed_memory,
    leave_together,
    load_hparams,
    place_overrides,
    prepare,
    quick_look,
    split_datasets,
)


def main(arguments):
    """Prepare the data, train the stage, evaluate it and export its encoders."""
    began = time.time()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    overrides = place_overrides(hparams_file, overrides)
    keep_freed_memory()

    run_on_main(prepare, args=[hparams])
    datasets = split_datasets(hparams)
    if run_opts["debug"]:
        hparams, datasets = quick_look(hparams, datasets)
        hparams["train_logger"].save_file = str(Path(hparams["output_folder"]) / "train_log.txt")

    stage = hparams["stage"]
    stage.initialise(hparams)
    sb.create_experiment_directory(hparams["output_folder"], hparams_file, overrides)
    loaders = stage.make_loaders(hparams, datasets)

    brain = stage(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"](),
    )
    brain.loaders, brain.train_sampler = loaders, loaders["train"].batch_sampler
    brain.fit(hparams["epoch_counter"], loaders["train"], loaders["valid"])
    brain.evaluate(loaders["test"])
    finish(brain, hparams, began)
    leave_together()


if __name__ == "__main__":
    main(sys.argv[1:])
