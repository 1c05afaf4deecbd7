"""What the recipes on VoxCeleb share: a Brain that classifies speakers, speakers as numbers."""

from functools import partial

import torch
from torch.nn import functional as F

from recipes.common.downstream.downstream_brain import DownstreamBrain
from recipes.common.downstream.labels import deal

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
        """Return embeddings (batch, dim) and the scores of the speakers (batch, speakers)."""
        embeddings = self.modules.speaker_head(*self.states(batch.to(self.device)))
        return embeddings, self.modules.classifier(embeddings)

    def speaker_numbers(self, batch, scores):
        """Return the speakers' numbers, (batch,), and track how many have the highest score."""
        speakers = torch.as_tensor(batch.speaker, device=scores.device)
        right = scores.argmax(1) == speakers
        self.meter.add("accuracy", right.sum(), len(right))
        return speakers

    def cross_entropy(self, logits, speakers):
        """Return this rank's share of the cross-entropy of the speakers over the global batch."""
        losses = F.cross_entropy(logits, speakers, reduction="none")
        return self.mean_over_ranks(losses.sum(), len(losses))


def add_speakers(hparams, datasets):
    """Give each utterance the item `speaker`: its number among the training speakers, or -1.

    Arguments
    ---------
    hparams : dict
        `shuffle_labels`: deal the training utterances' speakers out at random, as a control.
    datasets : dict
        By split: Utterances; changed in place.

    Returns
    -------
    dict
        The number of each training speaker.
    """
    train = datasets["train"]
    names = sorted(set(train.column("spk_id")))
    speakers = {name: number for number, name in enumerate(names)}
    dealt = deal(speaker_ids(train), hparams) if hparams["shuffle_labels"] else {}
    number = partial(speaker_number, speakers, dealt)
    for dataset in datasets.values():
        dataset.add_dynamic_item(number, takes=["id", "spk_id"], provides="speaker")
    return speakers


def speaker_ids(dataset):
    """Return the speaker of each utterance by its ID."""
    return dict(zip(dataset.data_ids, dataset.column("spk_id"), strict=True))


def speaker_number(speakers, dealt, utterance, speaker):
    """Return the number of an utterance's speaker, -1 for one who is not trained on.

    Arguments
    ---------
    speakers : dict
        The number of each training speaker.
    dealt : dict
        The speaker of each training utterance whose own does not count, as `deal` has it.
    utterance, speaker : str
        The utterance's ID, and its own speaker.

    Returns
    -------
    int

    Example
    -------
    >>> speaker_number({"id1": 0, "id2": 1}, {"a": "id2"}, "a", "id1")
    1
    """
    return speakers.get(dealt.get(utterance, speaker), -1)
