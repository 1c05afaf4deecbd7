"""Who speaks, as far as frames tell: what the strongest of several attackers finds.

Each attacker is trained on frames as they are given out, of training speakers, as the attackers of
the VoicePrivacy Challenge are trained on anonymised speech (arXiv 2404.02677, section 3). What
takes one statistic off the frames stops the attacker that looks at it, and no other: so several
look, and the one that does best on development speakers is read on test speakers.
"""

from typing import NamedTuple

from recipes.common.evaluation.attacks.backend import fit_backend
from recipes.common.evaluation.attacks.pooling import (
    RandomFeatures,
    pool_means,
    pool_means_and_deviations,
)
from recipes.common.evaluation.attacks.xvector_attacker import Held, train_xvector
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import score_trials
from recipes.common.report.measures import make_trials, read_eer, read_probes

TRIALS = 10000  # of each kind, at most
ATTACKERS = ("means", "means and deviations", "second moments", "random features", "x-vector")


class Part(NamedTuple):
    """Utterances of speakers whom no other part has.

    Attributes
    ----------
    rows : list of dict
        `ID`, `spk_id` and, where known, `sentence`.
    whole : list of numpy.ndarray
        All frames of each, (frames, dim), as they are given out.
    """

    rows: list
    whole: list

    @property
    def ids(self):
        """The ID of each utterance."""
        return [row["ID"] for row in self.rows]

    @property
    def speakers(self):
        """The name of each utterance's speaker."""
        return [str(row["spk_id"]) for row in self.rows]

    def trials(self, seed):
        """Return verification trials of the utterances; see `make_trials`."""
        return make_trials(self.rows, False, TRIALS, seed)


class Attacker(NamedTuple):
    """What an attacker takes of utterances.

    Attributes
    ----------
    features : callable
        From the frames of utterances, a list, to what a probe reads, (utterances, features).
    embed : callable
        From these features to what cosines compare, (utterances, E).
    """

    features: object
    embed: object


def speaker_attacks(train, dev, test, seed):
    """Return what attackers find of unseen speakers, and which of them is the strongest.

    Arguments
    ---------
    train, dev, test : Part
        Attackers are trained on the first; the strongest is the one that does best on the second;
        the third decides nothing.
    seed : int
        Of the trials, of the probes and of the attackers that are trained.

    Returns
    -------
    dict
        `attackers`: of each, under "dev" its figures, and under "test" its readings, of

        - "accuracy": a linear probe on an attacker's features of an utterance names the speaker of
          others, which it was not fitted on: balanced accuracy, in [0, 1];
        - "eer": cosines of its embeddings, in verification.

        `best`: by "accuracy" and "eer", the name of the attacker with the highest, or lowest, on
        development speakers.

    Raises
    ------
    ValueError
        Where parts share a speaker.
    """
    _check_apart({"train": train, "dev": dev, "test": test})
    held = Held(dev.whole, dev.ids, dev.trials(seed))
    found = {}
    for name in ATTACKERS:
        attacker = train_attacker(name, train, held, seed)
        found[name] = {
            "dev": rate_on_development(attacker, dev, held.trials, seed),
            "test": read_attacker(attacker, test, seed),
        }
    return {"attackers": found, "best": choose(found)}


def _check_apart(parts):
    """Raise ValueError where two parts share a speaker."""
    seen = {}
    for name, part in parts.items():
        shared = sorted(set(part.speakers) & seen.keys())
        if shared:
            raise ValueError(
                f"speaker {shared[0]} is in {seen[shared[0]]} and in {name}: attackers are to be "
                "read on speakers whom they were not trained or chosen on."
            )
        seen |= dict.fromkeys(part.speakers, name)


def train_attacker(name, train, held, seed):
    """Return an attacker trained on training speakers.

    Arguments
    ---------
    name : str
        Of `ATTACKERS`.
    train : Part
    held : Held
        Development speakers, on whom the training of an x-vector is stopped.
    seed : int

    Returns
    -------
    Attacker
    """
    if name == "x-vector":
        network = train_xvector(train.whole, train.speakers, held, seed)
        return Attacker(network, lambda embeddings: embeddings)
    pool = {
        "means": lambda: pool_means,
        "means and deviations": lambda: pool_means_and_deviations,
        "second moments": lambda: RandomFeatures(train.whole, ["squared"]),
        "random features": lambda: RandomFeatures(train.whole),
    }[name]()
    return Attacker(pool, fit_backend(pool(train.whole), train.speakers))


def rate_on_development(attacker, dev, trials, seed):
    """Return an attacker's "accuracy" and "eer" on development speakers, in [0, 1]."""
    features = attacker.features(dev.whole)
    embeddings = dict(zip(dev.ids, attacker.embed(features), strict=True))
    rate = eer(score_trials(embeddings, trials), [label for label, *_ in trials])
    return {"accuracy": read_names(features, dev, seed)["value"], "eer": rate}


def read_attacker(attacker, test, seed):
    """Return an attacker's readings of "accuracy" and "eer" on test speakers, with evidence."""
    features = attacker.features(test.whole)
    embeddings = dict(zip(test.ids, attacker.embed(features), strict=True))
    speaker_of = dict(zip(test.ids, test.speakers, strict=True))
    trials, _ = read_eer(embeddings, test.trials(seed), speaker_of, seed)
    return {"accuracy": read_names(features, test, seed), "eer": trials}


def read_names(features, part, seed):
    """Return how well a linear probe names the speaker of utterances that it was not fitted on."""
    [reading] = read_probes(features, part.speakers, part.ids, part.speakers, ["linear"], [seed])
    return reading


def choose(found):
    """Return the strongest attacker by each measure, on development speakers.

    Arguments
    ---------
    found : dict
        By attacker: "dev", a dict of "accuracy" and "eer".

    Returns
    -------
    dict

    Example
    -------
    >>> found = {"a": {"dev": {"accuracy": 0.2, "eer": 0.4}}}
    >>> choose(found | {"b": {"dev": {"accuracy": 0.9, "eer": 0.5}}})
    {'accuracy': 'b', 'eer': 'a'}
    """
    return {
        "accuracy": max(found, key=lambda name: found[name]["dev"]["accuracy"]),
        "eer": min(found, key=lambda name: found[name]["dev"]["eer"]),
    }
