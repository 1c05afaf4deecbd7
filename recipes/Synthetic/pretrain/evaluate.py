#!/usr/bin/env python3
"""Measure what stage C left between frames and embeddings of the synthetic corpus.

python evaluate.py hparams/evaluate.yaml --data_folder DATA --output_folder O/leakage
    --model O/joint/model --control O/joint_beta0/model
"""

import sys

from recipes.LibriSpeech.pretrain.evaluate import main

if __name__ == "__main__":
    main(sys.argv[1:])
