#!/usr/bin/env python3
"""Keyword spotting on Google Speech Commands, on the states of an upstream.

    python train.py hparams/linear_tiny.yaml --data_folder speech_commands
        --output_folder O/keywords --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

from recipes.common.downstream.classification import main
from recipes.common.training.refusals import run_recipe

if __name__ == "__main__":
    run_recipe(main)
