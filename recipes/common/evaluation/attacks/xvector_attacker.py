"""An attacker that is trained on frames: an x-vector network, which tells training speakers apart.

Its temporal convolutions see what no statistic over single frames sees: how frames follow each
other. Snyder et al., "X-vectors", ICASSP 2018; the loss is AM-softmax (arXiv 1801.05599, eq. 6).
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from speechbrain.nnet.losses import AngularMargin
from torch.nn import functional

from lobes.heads import CosineClassifier, SpeakerHead
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.evaluation.attacks.pooling import frame_moments
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import score_trials

CHANNELS, EMBEDDING = 128, 128
CROP = 100  # frames, 2 s
BATCH = 32  # crops, each of a speaker drawn at random
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
MARGIN, SCALE = 0.2, 30.0
CHECK_EVERY, MAX_STEPS, PATIENCE = 100, 600, 2


class Held(NamedTuple):
    """Utterances of development speakers, on whose trials training is stopped.

    Attributes
    ----------
    whole : list of numpy.ndarray
        All frames of each, (frames, dim).
    ids : list of str
    trials : list of tuple
        (label, enrolment ID, test ID), label 1 for the same speaker.
    """

    whole: list
    ids: list
    trials: list


class XVectorAttacker:
    """A trained x-vector network; see `train_xvector`.

    Arguments
    ---------
    dim : int
        Size of a frame.
    moments : tuple of numpy.ndarray
        Mean and deviation of training frames, by which frames are standardised.

    Example
    -------
    >>> whole = [np.random.default_rng(n).normal(size=(30, 4)) for n in range(3)]
    >>> XVectorAttacker(4, frame_moments(whole))(whole).shape
    (3, 128)
    """

    def __init__(self, dim, moments):
        self.head = SpeakerHead(1, dim, CHANNELS, pooling="xvector", embedding_dim=EMBEDDING)
        self.mean, self.deviation = map(torch.from_numpy, moments)

    def embeddings(self, frames, lens):
        """Map frames (batch, time, dim) and lengths (batch,) to embeddings (batch, 128)."""
        return self.head.embed((frames - self.mean) / self.deviation, lens)

    @torch.no_grad()
    def __call__(self, whole):
        """Map utterances, (frames, dim) each, taken whole, to embeddings (utterances, 128)."""
        self.head.eval()
        made = [
            self.embeddings(torch.from_numpy(x.astype("f4"))[None], torch.tensor([len(x)]))[0]
            for x in whole
        ]
        return torch.stack(made).numpy()


def train_xvector(whole, speakers, held, seed):
    """Train an attacker to tell training speakers apart; keep it as it is best on development.

    Training draws crops of 2 s, 32 in a batch, each of a speaker drawn at random. After every 100
    steps the equal error rate on the development trials is taken; it ends after 600 steps, or
    after 2 such looks without a better one.

    Arguments
    ---------
    whole : list of numpy.ndarray
        All frames of each training utterance, (frames, dim).
    speakers : array_like
        Their names, (utterances,).
    held : Held
        Of other speakers.
    seed : int
        Seed of the first weights and of the crops.

    Returns
    -------
    XVectorAttacker
    """
    names, owners = np.unique(np.asarray(speakers), return_inverse=True)
    own = [np.flatnonzero(owners == place) for place in range(len(names))]
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "x-vector"))
        attacker = XVectorAttacker(whole[0].shape[1], frame_moments(whole))
        classifier = CosineClassifier(EMBEDDING, len(names))
    parameters = [*attacker.head.parameters(), *classifier.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    margin = AngularMargin(MARGIN, SCALE)
    best, lowest, waited = None, float("inf"), 0
    for step in range(1, MAX_STEPS + 1):
        attacker.head.train()
        drawn = derive_rng(seed, "crops", step)
        targets = drawn.integers(len(names), size=BATCH)
        crops, lens = _crops([whole[drawn.choice(own[target])] for target in targets], drawn)
        cosines = classifier(attacker.embeddings(crops, lens))
        targets = torch.from_numpy(targets)
        logits = margin(cosines, functional.one_hot(targets, len(names)).float())
        optimizer.zero_grad()
        functional.cross_entropy(logits, targets).backward()
        optimizer.step()
        if step % CHECK_EVERY:
            continue
        rate = _error_rate(attacker, held)
        waited = 0 if rate < lowest else waited + 1
        if rate < lowest:
            best, lowest = copy.deepcopy(attacker.head.state_dict()), rate
        if waited == PATIENCE:
            break
    attacker.head.load_state_dict(best)
    return attacker


def _crops(utterances, rng):
    """Return a crop of each utterance, zero where it is shorter: (batch, CROP, dim), and lengths.

    Frames come as float16, of which a batch is made float32.
    """
    crops = np.zeros((len(utterances), CROP, utterances[0].shape[1]), np.float32)
    lens = [min(len(x), CROP) for x in utterances]
    for crop, x, count in zip(crops, utterances, lens, strict=True):
        first = rng.integers(len(x) - count + 1)
        crop[:count] = x[first : first + count]
    return torch.from_numpy(crops), torch.tensor(lens)


def _error_rate(attacker, held):
    """Return the equal error rate of cosines on the development trials."""
    embeddings = dict(zip(held.ids, attacker(held.whole), strict=True))
    return eer(score_trials(embeddings, held.trials), [label for label, *_ in held.trials])
