#!/usr/bin/env python3
"""Speaker verification on VoxCeleb1 by a head on the states of an upstream.

    python train.py hparams/xvector_tiny.yaml --data_folder voxceleb1 --output_folder O/xvector
        --features O/joint/model
    python train.py hparams/embedding_tiny.yaml --data_folder voxceleb1 --output_folder O/embedding
        --features O/joint/model

`--features` is an exported model folder, fbank, or random:<folder>; `--upstream finetune` trains
the upstream along. On several GPUs: torchrun --nproc_per_node=4 train.py ...
"""

from pathlib import Path
from typing import NamedTuple

import recipes  # noqa: F401, before torch is loaded

# isort: split
import torch
from speechbrain import Stage
from speechbrain.utils.distributed import main_process_only
from torch.nn import functional as F

from lobes.distributed import alone
from recipes.common.data.seeding import derive_rng
from recipes.common.data.utterances import Utterances
from recipes.common.downstream.classification import ClassificationBrain
from recipes.common.downstream.labels import add_classes, column_of
from recipes.common.downstream.sweep import Sweep
from recipes.common.evaluation.drawing import draw_det, draw_scores
from recipes.common.evaluation.metrics import eer, eer_threshold
from recipes.common.evaluation.scoring import as_norm, cohort_means, score_trials
from recipes.common.evaluation.verification import MAX_REFERENCE, compare_systems
from recipes.common.training.refusals import run_recipe
from recipes.common.training.run import manifest_paths
from recipes.VoxCeleb.voxceleb_prepare import count_left_out_trials, read_trials, trials_path

HELD_OUT = ("valid", "test")


class Trials(NamedTuple):
    """What a verification run is trained and judged on.

    Attributes
    ----------
    speakers : dict
        The number of each training speaker.
    trials : dict
        By "valid" and "test": a list of (label, enrolment ID, test ID).
    speaker_of : dict
        The speaker of each utterance of the trials and of the cohort.
    left_out : dict
        By "valid" and "test": how many trials `skip_bad` left out.
    """

    speakers: dict
    trials: dict
    speaker_of: dict
    left_out: dict


class VerificationBrain(ClassificationBrain):
    """Speaker verification: trained as a classifier with a margin, judged by cosines on trials."""

    criterion = "eer"

    def name_labels(self):
        """Return the training speakers in the order of the classifier, and what validation asks."""
        return {"speakers": list(self.labels.speakers), "trials": self.labels.trials["valid"]}

    @staticmethod
    def make_modules(hparams, upstream, labels):
        """Return the head and a classifier of the training speakers."""
        states = upstream.states
        head = hparams["head"](states.num_layers, states.dim, last_layers=hparams["last_layers"])
        classifier = hparams["classifier"](head.embedding_dim, len(labels.speakers))
        return {"speaker_head": head, "classifier": classifier}

    def compute_forward(self, batch, stage):
        """Return embeddings (batch, dim) and their cosines to the speakers (batch, speakers)."""
        embeddings = self.modules.speaker_head(*self.states(batch.to(self.device)))
        return embeddings, self.modules.classifier(embeddings)

    def compute_objectives(self, predictions, batch, stage):
        """Return the loss with a margin; of held-out speakers keep the embeddings."""
        embeddings, cosines = predictions
        if stage != Stage.TRAIN:
            self.embeddings.update(zip(batch.id, embeddings.cpu().numpy(), strict=True))
            return cosines.new_zeros(())
        speakers = self.class_numbers(batch, cosines)
        targets = F.one_hot(speakers, cosines.shape[1])
        return self.cross_entropy(self.hparams.margin(cosines, targets.float()), speakers)

    def on_stage_start(self, stage, epoch=None):
        """Forget the embeddings of the stage before."""
        super().on_stage_start(stage, epoch)
        self.embeddings = {}

    def summarise(self):
        """Return the accuracy in training, the EER in validation, all figures of the test."""
        if self.stage == Stage.TRAIN:
            return {"accuracy": float(self.meter.average("accuracy"))}
        if self.stage == Stage.VALID:
            trials = self.labels.trials["valid"]
            return {"eer": eer(score_trials(self.embeddings, trials), _labels(trials))}
        return self.test_trials(self.embeddings)

    def test_trials(self, embeddings):
        """Return the figures of the test trials, draw their curves, and set the threshold."""
        trials, seed = self.labels.trials["test"], self.hparams.seed
        cohort = cohort_means(self.embed("cohort"), self.labels.speaker_of)
        scores = {
            "plain": score_trials(embeddings, trials),
            "as_norm": as_norm(embeddings, trials, cohort, self.hparams.cohort_top),
        }
        developed = self.labels.trials["valid"]
        self.threshold = eer_threshold(
            score_trials(self.embed("valid"), developed), _labels(developed)
        )
        self.draw(scores, _labels(trials))
        figures = compare_systems({"head": scores}, trials, self.labels.speaker_of, seed)
        systems = figures.pop("systems")
        left_out = self.labels.left_out["test"]
        return {
            **systems["head"],
            **figures,
            "trials_left_out": left_out,
            "threshold": self.threshold,
        }

    @torch.no_grad()
    def embed(self, split):
        """Return the embedding of each utterance of a split by its ID."""
        self.modules.eval()
        embeddings = {}
        with alone():
            for batch in self.loaders[split]:
                made, _ = self.compute_forward(batch, Stage.TEST)
                embeddings.update(zip(batch.id, made.cpu().numpy(), strict=True))
        return embeddings

    @main_process_only
    def draw(self, scores, labels):
        """Draw the error curve and the scores of the test trials, beside metrics.json."""
        folder = Path(self.hparams.output_folder).parent
        draw_det({name: (values, labels) for name, values in scores.items()}, folder / "det.png")
        draw_scores(scores["plain"], labels, folder / "scores.png", self.threshold)

    def facts(self):
        """Return how scores are made and decided on."""
        names = ", ".join(self.hparams.valid_splits)
        return {
            "scoring": "plain",
            "threshold": self.threshold,
            "threshold_set_on": f"equal error rate of {names}",
        }


def _labels(trials):
    return [label for label, _, _ in trials]


def dataio_prepare(hparams, datasets, debug=False):
    """Give each utterance its `class_number`, read the trials and draw the cohort of AS-norm.

    Arguments
    ---------
    hparams : dict
        `data_folder`, `valid_splits`, `test_splits`, `skip_bad`, `seed`, and of `add_classes`.
    datasets : dict
        By split: Utterances; changed in place, and "cohort" added.
    debug : bool
        Keep a few trials of either kind, and their utterances alone.

    Returns
    -------
    Trials
    """
    speakers = add_classes(hparams, datasets, "spk_id")
    speaker_of, trials, left_out = {}, {}, {}
    train = datasets["train"]
    drawn = derive_rng(hparams["seed"], "cohort").permutation(len(train))[:MAX_REFERENCE]
    datasets["cohort"] = keep_utterances(train, train.take(drawn).data_ids)
    for split in ("cohort", *HELD_OUT):
        found = column_of(datasets[split], "spk_id")
        speaker_of |= found
        if split in HELD_OUT:
            trials[split] = list_trials(hparams, split, found)
            left_out[split] = count_left_out_trials(lists_of(hparams, split), trials[split])
    if debug:
        for split in HELD_OUT:
            trials[split] = few_trials(trials[split])
            named = [name for _, *pair in trials[split] for name in pair]
            datasets[split] = keep_utterances(datasets[split], named)
    return Trials(speakers, trials, speaker_of, left_out)


def lists_of(hparams, split):
    """Return the paths of the trial lists that make up "valid" or "test"."""
    return [trials_path(hparams["data_folder"], name) for name in hparams[f"{split}_splits"]]


def list_trials(hparams, split, known_ids):
    """Return the trials of the lists that make up "valid" or "test"; see `read_trials`."""
    listed = Utterances(manifest_paths(hparams)[split], hparams["data_folder"])
    durations = zip(listed.data_ids, listed.column("duration").tolist(), strict=True)
    short = {name: duration for name, duration in durations if duration < hparams["min_seconds"]}
    lists = lists_of(hparams, split)
    parts = [read_trials(path, known_ids, hparams["skip_bad"], short) for path in lists]
    return [trial for part in parts for trial in part]


def keep_utterances(dataset, names):
    """Return the dataset of the utterances with these IDs."""
    return dataset.filtered_sorted(key_test={"id": set(names).__contains__})


def few_trials(trials, count=10):
    """Return the first trials of either label.

    Arguments
    ---------
    trials : list of tuple
        (label, enrolment ID, test ID), the label 0 or 1.
    count : int
        How many of each at most; twenty trials name no more utterances than `quick_look` keeps.

    Returns
    -------
    list of tuple
        Likewise, label 1 first.

    Example
    -------
    >>> few_trials([(1, "a", "b"), (1, "a", "c"), (0, "a", "d")], count=1)
    [(1, 'a', 'b'), (0, 'a', 'd')]
    """
    return [trial for label in (1, 0) for trial in [t for t in trials if t[0] == label][:count]]


def main(arguments):
    """Train a head at each learning rate, test the best one and export it as a verifier."""
    sweep = Sweep(arguments, VerificationBrain)
    datasets = sweep.prepare()
    labels = dataio_prepare(sweep.hparams, datasets, sweep.debug)
    loaders = sweep.make_loaders(datasets)
    brain = sweep.fit(loaders, labels)
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    sweep.finish(brain)


if __name__ == "__main__":
    run_recipe(main)
