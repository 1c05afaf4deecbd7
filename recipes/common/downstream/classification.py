"""What recipes that classify utterances share: the Brain, and the run from manifests to figures."""

import csv
import io
from pathlib import Path

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import main_process_only
from torch.nn import functional as F

from recipes.common.data.files import replace_text
from recipes.common.downstream.class_figures import (
    chance_accuracy,
    class_figures,
    class_intervals,
    confusion_rows,
)
from recipes.common.downstream.downstream_brain import DownstreamBrain
from recipes.common.downstream.labels import add_classes, check_classes, column_of, distinct
from recipes.common.downstream.sweep import Sweep


class ClassificationBrain(DownstreamBrain):
    """Classifying utterances, as SUPERB does: the model with the lowest error is tested.

    `labels` are the numbers of the training split's classes by their names, as `add_classes`
    returns them; the hyperparameters' `label_column` is the manifests' column of the classes.
    """

    label_keys = ("class_number",)
    criterion = "error"

    @staticmethod
    def list_classes(labels):
        """Return the names of the classes in order, by the labels of the training utterances."""
        return distinct(labels)

    @staticmethod
    def list_slots(labels):
        """Return the number of values of each slot, of classes that have slots."""
        return []

    @classmethod
    def make_modules(cls, hparams, upstream, labels):
        """Return the head, of the sizes of the upstream and of the labels."""
        sizes = upstream.states.num_layers, upstream.states.dim, len(labels)
        more = {"last_layers": hparams["last_layers"], "slots": cls.list_slots(labels)}
        return {"classification_head": hparams["head"](*sizes, **more)}

    def compute_forward(self, batch, stage):
        """Return the logits of the classes, (batch, classes)."""
        return self.modules.classification_head(*self.states(batch.to(self.device)))

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy of the classes; of held-out utterances keep the predictions."""
        logits = predictions.float()
        numbers = self.class_numbers(batch, logits)
        if stage != Stage.TRAIN:
            scores, best = logits.softmax(1).max(1)
            columns = (column.tolist() for column in (numbers, best, scores))
            self.rows += zip(batch.id, *columns, strict=True)
        return self.cross_entropy(logits, numbers)

    def class_numbers(self, batch, scores):
        """Return the classes' numbers, (batch,), and track how many have the highest score."""
        numbers = torch.as_tensor(batch.class_number, device=scores.device)
        right = scores.argmax(1) == numbers
        self.meter.add("accuracy", right.sum(), len(right))
        return numbers

    def cross_entropy(self, logits, numbers):
        """Return this rank's share of the cross-entropy of the classes over the global batch."""
        losses = F.cross_entropy(logits, numbers, reduction="none")
        return self.mean_over_ranks(losses.sum(), len(losses))

    def on_stage_start(self, stage, epoch=None):
        """Forget the predictions of the stage before."""
        super().on_stage_start(stage, epoch)
        self.rows = []

    def summarise(self):
        """Return the accuracy in training, the error in validation, all figures of the test."""
        if self.stage == Stage.TRAIN:
            return {"accuracy": float(self.meter.average("accuracy"))}
        names = list(self.labels)
        ids, numbers, best, scores = zip(*sorted(self.rows), strict=True)
        labels, predicted = ([names[n] for n in column] for column in (numbers, best))
        figures = class_figures(labels, predicted)
        if self.stage != Stage.TEST:
            return figures
        speaker_of = column_of(self.loaders["test"].dataset, "spk_id")
        speakers = [speaker_of[name] for name in ids]
        trained_on = self.loaders["train"].dataset.column(self.hparams.label_column)
        columns = (ids, speakers, labels, predicted, [f"{score:.6f}" for score in scores])
        heading = ["ID", "spk_id", "label", "predicted", "score"]
        self.write_table("predictions.csv", [heading, *zip(*columns, strict=True)])
        self.write_table("confusion.csv", confusion_rows(names, labels, predicted))
        return {
            **figures,
            **class_intervals(labels, predicted, speakers, self.hparams.seed),
            "chance": chance_accuracy(trained_on, labels),
            "classes": len(names),
        }

    def facts(self):
        """Return the names of the classes."""
        return {"labels": list(self.labels)}

    @main_process_only
    def write_table(self, name, rows):
        """Write a CSV file beside metrics.json."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        replace_text(Path(self.hparams.output_folder).parent / name, text.getvalue())


def dataio_prepare(hparams, datasets, list_classes=distinct):
    """Give each utterance its `class_number`, and return the number of each class."""
    column = hparams["label_column"]
    classes = add_classes(hparams, datasets, column, list_classes)
    check_classes(hparams, datasets, column, classes)
    return classes


def main(arguments, brain_class=ClassificationBrain):
    """Train a classifier at each learning rate, test the best one and export it."""
    sweep = Sweep(arguments, brain_class)
    datasets = sweep.prepare()
    classes = dataio_prepare(sweep.hparams, datasets, brain_class.list_classes)
    loaders = sweep.make_loaders(datasets)
    brain = sweep.fit(loaders, classes)
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    sweep.finish(brain)
