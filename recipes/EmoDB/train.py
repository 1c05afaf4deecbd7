#!/usr/bin/env python3
"""Emotion recognition on Emo-DB, on the states of an upstream.

    python train.py hparams/linear_tiny.yaml --data_folder emodb --output_folder O/emodb
        --features O/joint/model

tests each fold of two speakers in turn, with a training each, and writes the means to metrics.json;
`--test_fold 1` tests one. `--features` is an exported model folder, fbank, or random:<folder>. On
several GPUs, a fold at a time: torchrun --nproc_per_node=4 train.py ... --test_fold 1
"""

from recipes.common.downstream import classification
from recipes.common.downstream.cross_validation import cross_validate
from recipes.common.training.refusals import run_recipe
from recipes.EmoDB.emodb_prepare import FOLDS

if __name__ == "__main__":
    run_recipe(cross_validate, classification.main, "test_fold", FOLDS)
