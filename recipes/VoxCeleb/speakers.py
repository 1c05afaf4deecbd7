"""The tasks on VoxCeleb's speakers: identification, and verification with a trained head."""

from pathlib import Path
from typing import NamedTuple

import torch
from speechbrain import Stage
from speechbrain.utils.distributed import main_process_only
from torch.nn import functional as F

from lobes.distributed import all_reduce_sum, alone, world_size
from recipes.common.data.manifest import CorpusError
from recipes.common.data.seeding import derive_rng
from recipes.common.downstream.sweep import DownstreamBrain, deal
from recipes.common.evaluation.drawing import draw_det, draw_scores
from recipes.common.evaluation.metrics import eer, eer_threshold
from recipes.common.evaluation.scoring import as_norm, cohort_means, score_trials
from recipes.common.evaluation.verification import MAX_REFERENCE, compare_systems
from recipes.common.training.experiment import manifest_paths
from recipes.VoxCeleb.voxceleb_prepare import read_trials, trials_path

HELD_OUT = ("valid", "test")


class SpeakerBrain(DownstreamBrain):
    """Classifying the speakers of the training split."""

    label_keys = ("speaker",)

    @staticmethod
    def make_modules(hparams, upstream, speakers):
        """Return the head and a classifier of the training speakers."""
        states = upstream.states
        head = hparams["head"](states.num_layers, states.dim, last_layers=hparams["last_layers"])
        return {
            "speaker_head": head,
            "classifier": hparams["classifier"](head.embedding_dim, len(speakers)),
        }

    def compute_forward(self, batch, stage):
        """Return embeddings and what the classifier makes of them."""
        embeddings = self.modules.speaker_head(*self.states(batch.to(self.device)))
        return embeddings, self.modules.classifier(embeddings)

    def mean_over_ranks(self, losses):
        """Return this rank's share of the mean over the global batch."""
        count = all_reduce_sum(torch.tensor(len(losses), device=losses.device))
        return losses.sum() * world_size() / count


class IdentificationBrain(SpeakerBrain):
    """Speaker identification: the same speakers in all splits."""

    criterion = "error"

    @staticmethod
    def add_labels(hparams, datasets):
        """Number the training speakers; raise CorpusError for another one in a held-out split."""
        speakers = add_speakers(hparams, datasets)
        manifests = manifest_paths(hparams)
        for split in HELD_OUT:
            with datasets[split].output_keys_as(["id", "spk_id"]):
                for row in datasets[split]:
                    if row["spk_id"] not in speakers:
                        raise CorpusError(
                            f"{', '.join(map(str, manifests[split]))}: {row['id']}: speaker "
                            f"{row['spk_id']} has no utterance in the training split, so that "
                            "nothing can identify him or her: move one there in the split's list."
                        )
        return speakers

    def compute_objectives(self, predictions, batch, stage):
        """Return the cross-entropy of the speakers."""
        _, logits = predictions
        speakers = torch.as_tensor(batch.speaker, device=logits.device)
        right = logits.argmax(1) == speakers
        self.track("accuracy", right.sum().double(), len(right))
        return self.mean_over_ranks(F.cross_entropy(logits.float(), speakers, reduction="none"))

    def summarise(self):
        """Return the accuracy."""
        accuracy = float(self.average("accuracy"))
        return {"accuracy": accuracy, "error": 1 - accuracy}

    def facts(self):
        """Return None: who is identified are the training speakers, of no use to others."""
        return None


class Trials(NamedTuple):
    """What a verification run is trained and judged on.

    Attributes
    ----------
    speakers : dict
        The number of each training speaker.
    trials : dict
        By "valid" and "test": a list of (label, enrolment ID, test ID).
    speaker_of : dict
        The speaker of each utterance.
    """

    speakers: dict
    trials: dict
    speaker_of: dict


class VerificationBrain(SpeakerBrain):
    """Speaker verification: trained as a classifier with a margin, judged by cosines on trials."""

    criterion = "eer"

    @staticmethod
    def add_labels(hparams, datasets):
        """Number the training speakers, read the trials, draw the cohort of AS-norm."""
        speakers = add_speakers(hparams, datasets)
        trials, speaker_of = {}, {}
        for split, dataset in list(datasets.items()):
            with dataset.output_keys_as(["id", "spk_id"]):
                found = {row["id"]: row["spk_id"] for row in dataset}
            speaker_of |= found
            if split in HELD_OUT:
                trials[split] = []
                for name in hparams[f"{split}_splits"]:
                    path = trials_path(hparams["data_folder"], name)
                    trials[split] += read_trials(path, found, hparams["skip_bad"])
        train = datasets["train"]
        drawn = derive_rng(hparams["seed"], "cohort").permutation(train.data_ids)[:MAX_REFERENCE]
        cohort = set(drawn.tolist())
        datasets["cohort"] = train.filtered_sorted(key_test={"id": cohort.__contains__})
        return Trials(speakers, trials, speaker_of)

    @staticmethod
    def fewer_labels(labels, datasets):
        """Return some trials of either kind; of the datasets their utterances alone are left."""
        trials = {split: few_trials(labels.trials[split]) for split in HELD_OUT}
        for split, listed in trials.items():
            named = {name for _, *pair in listed for name in pair}
            datasets[split] = datasets[split].filtered_sorted(key_test={"id": named.__contains__})
        return labels._replace(trials=trials)

    @staticmethod
    def make_modules(hparams, upstream, labels):
        """Return the head and a classifier of the training speakers."""
        return SpeakerBrain.make_modules(hparams, upstream, labels.speakers)

    def on_stage_start(self, stage, epoch=None):
        """Forget the embeddings of the stage before."""
        super().on_stage_start(stage, epoch)
        self.embeddings = {}

    def compute_objectives(self, predictions, batch, stage):
        """Return the loss with a margin; of held-out speakers keep the embeddings."""
        embeddings, cosines = predictions
        if stage != Stage.TRAIN:
            self.embeddings.update(zip(batch.id, embeddings.cpu().numpy(), strict=True))
            return cosines.new_zeros(())
        speakers = torch.as_tensor(batch.speaker, device=cosines.device)
        right = cosines.argmax(1) == speakers
        self.track("accuracy", right.sum().double(), len(right))
        targets = F.one_hot(speakers, cosines.shape[1])
        logits = self.hparams.margin(cosines, targets.float())
        return self.mean_over_ranks(F.cross_entropy(logits, speakers, reduction="none"))

    def summarise(self):
        """Return the accuracy in training, the EER in validation, all figures of the test."""
        if self.stage == Stage.TRAIN:
            return {"accuracy": float(self.average("accuracy"))}
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
        return {**systems["head"], **figures, "threshold": self.threshold}

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


def _labels(trials):
    return [label for label, _, _ in trials]


def add_speakers(hparams, datasets):
    """Give each utterance the item `speaker`: its number among the training speakers, or -1.

    Arguments
    ---------
    hparams : dict
        `shuffle_labels`: deal the training utterances' speakers out at random, as a control.
    datasets : dict
        By split: DynamicItemDataset; changed in place.

    Returns
    -------
    dict
        The number of each training speaker.
    """
    with datasets["train"].output_keys_as(["id", "spk_id"]):
        own = {row["id"]: row["spk_id"] for row in datasets["train"]}
    speakers = {name: number for number, name in enumerate(sorted(set(own.values())))}
    dealt = deal(own, hparams)

    def number(utterance, speaker):
        return speakers.get(dealt.get(utterance, speaker), -1)

    for dataset in datasets.values():
        dataset.add_dynamic_item(number, takes=["id", "spk_id"], provides="speaker")
    return speakers
