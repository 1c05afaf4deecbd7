#!/usr/bin/env python3
"""Emotion recognition on IEMOCAP, on the states of an upstream.

    python train.py hparams/linear_tiny.yaml --data_folder IEMOCAP_full_release
        --output_folder O/iemocap --features O/joint/model

tests each session in turn, with a training each, and writes the means to metrics.json;
`--test_session 1` tests one. `--features` is an exported model folder, fbank, or random:<folder>.
On several GPUs, a session at a time: torchrun --nproc_per_node=4 train.py ... --test_session 1
"""

from recipes.common.downstream import classification
from recipes.common.downstream.cross_validation import cross_validate
from recipes.common.training.refusals import run_recipe
from recipes.IEMOCAP.iemocap_prepare import SESSIONS

if __name__ == "__main__":
    run_recipe(cross_validate, classification.main, "test_session", SESSIONS)
