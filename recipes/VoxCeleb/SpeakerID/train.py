#!/usr/bin/env python3
"""Speaker identification on VoxCeleb1, on the states of an upstream.

    python train.py hparams/linear_tiny.yaml --data_folder voxceleb1 --output_folder O/sid
        --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

import sys

from recipes.common.data.files import CorpusError
from recipes.common.downstream.labels import manifests_of
from recipes.common.downstream.sweep import Sweep
from recipes.VoxCeleb.speakers import HELD_OUT, SpeakerBrain, add_speakers, speaker_ids


class IdentificationBrain(SpeakerBrain):
    """Classifying speakers who are the same in all splits; the lowest error is tested."""

    criterion = "error"

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy of the speakers."""
        _, logits = predictions
        return self.cross_entropy(logits.float(), self.speaker_numbers(batch, logits))

    def summarise(self):
        """Return the accuracy and the error."""
        accuracy = float(self.meter.average("accuracy"))
        return {"accuracy": accuracy, "error": 1 - accuracy}


def dataio_prepare(hparams, datasets):
    """Give each utterance its `speaker`, and return the number of each training speaker."""
    speakers = add_speakers(hparams, datasets)
    for split in HELD_OUT:
        for name, speaker in speaker_ids(datasets[split]).items():
            if speaker not in speakers:
                raise CorpusError(
                    f"{manifests_of(hparams, split)}: {name}: speaker {speaker} has no utterance "
                    "in the training split, so that nothing can identify him or her: move one "
                    "there in the split's list."
                )
    return speakers


def main(arguments):
    """Train a classifier at each learning rate and test the best one."""
    sweep = Sweep(arguments, IdentificationBrain)
    datasets = sweep.prepare()
    speakers = dataio_prepare(sweep.hparams, datasets)
    loaders = sweep.make_loaders(datasets)
    brain = sweep.fit(loaders, speakers)
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    sweep.finish(brain)


if __name__ == "__main__":
    main(sys.argv[1:])
