#!/usr/bin/env python3
"""Speech recognition on LibriSpeech: CTC over characters or word pieces.

    python train.py hparams/char_tiny.yaml --data_folder LibriSpeech --output_folder O/asr
        --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

import sys

from recipes.common.downstream.sweep import run

if __name__ == "__main__":
    run(sys.argv[1:])
