#!/usr/bin/env python3
"""Intent classification on Fluent Speech Commands, on the states of an upstream.

    python train.py hparams/linear_tiny.yaml --data_folder fluent_speech_commands_dataset
        --output_folder O/intent --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

from itertools import product

from recipes.common.downstream.classification import ClassificationBrain, main
from recipes.common.training.refusals import run_recipe
from recipes.FluentSpeechCommands.fluent_prepare import BETWEEN


class IntentBrain(ClassificationBrain):
    """Classifying intents by a classifier of each slot's values: all have to be right.

    That is what SUPERB does (Yang et al., Interspeech 2021). Intents whose values were trained on
    in other combinations alone can be told as well.
    """

    @staticmethod
    def list_classes(labels):
        """Return every combination of the slots' values, those of the last running fastest."""
        return [BETWEEN.join(values) for values in product(*slot_values(labels))]

    @staticmethod
    def list_slots(labels):
        """Return the number of values of each slot."""
        return [len(values) for values in slot_values(labels)]


def slot_values(labels):
    """Return the values of each slot, sorted.

    Example
    -------
    >>> slot_values(["increase, heat", "increase, volume"])
    [['increase'], ['heat', 'volume']]
    """
    return [sorted(set(values)) for values in zip(*(x.split(BETWEEN) for x in labels), strict=True)]


if __name__ == "__main__":
    run_recipe(main, IntentBrain)
