#!/usr/bin/env python3
"""Pretrain Learn2Diss on speechocean762: one stage, which the hyperparameters file names.

python train.py hparams/frame_tiny.yaml --data_folder DATA --output_folder O/frame
"""

from recipes.common.training.refusals import run_recipe
from recipes.LibriSpeech.pretrain.train import main

if __name__ == "__main__":
    run_recipe(main)
