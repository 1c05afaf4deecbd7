#!/usr/bin/env python3
"""Classification of the utterances that a CSV file lists, on the states of an upstream.

    python train.py hparams/linear.yaml --table my.csv --features O/joint/model
        --output_folder O/mine

The table has the columns wav and label and, where known, spk_id, split (train, valid or test) and
ID. `--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune`
trains the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

import recipes  # noqa: F401, before torch is loaded

# isort: split
from speechbrain import Stage

from recipes.common.downstream.classification import ClassificationBrain, main
from recipes.common.training.refusals import run_recipe


class TableBrain(ClassificationBrain):
    """Classifying the utterances of a table; see `ClassificationBrain`."""

    def summarise(self):
        """Return the figures, with those of the test also what the splits are made by."""
        figures = super().summarise()
        if self.stage == Stage.TEST:
            figures["split_by"] = self.hparams.split_by
        return figures


if __name__ == "__main__":
    run_recipe(main, TableBrain)
