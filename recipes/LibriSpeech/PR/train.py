#!/usr/bin/env python3
"""Phoneme recognition on LibriSpeech: CTC on the states of an upstream.

    python train.py hparams/lexicon_tiny.yaml --data_folder LibriSpeech --output_folder O/pr
        --lexicon librispeech-lexicon.txt --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

import sys

from recipes.common.downstream.sweep import run

if __name__ == "__main__":
    run(sys.argv[1:])
