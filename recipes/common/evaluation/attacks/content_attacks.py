"""What is said, as far as embeddings tell: what linear and non-linear probes find.

The speakers whose utterances are read are always others than those that a probe was fitted on.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from recipes.common.evaluation.probe_fitting import HIDDEN
from recipes.common.report.measures import MIX_AXES, often_enough, phone_mix, read_mix, read_probes

LEAST_UTTERANCES = 10  # that a word is said in
FACTORS = ("phones", "words", "sentence")


class Said(NamedTuple):
    """Utterances, their embeddings and what is said in them.

    Attributes
    ----------
    rows : list of dict
        `ID`, `spk_id` and, where known, `sentence`: its words.
    embeddings : numpy.ndarray
        Shape (utterances, E).
    phones : dict
        By ID, where known: the phones, separated by spaces.
    """

    rows: list
    embeddings: np.ndarray
    phones: dict


def content_attacks(dev, test, seed):
    """Return what probes find of the content, and which kind of probe is the strongest.

    Arguments
    ---------
    dev, test : Said
        Of different speakers. The stronger kind of probe is the one that does better on the first.
    seed : int
        Of the probes.

    Returns
    -------
    dict
        Of each factor that is known in both parts, `attackers`: by kind of probe, "linear" and
        "mlp", the value on "dev" and the reading on "test"; and `best`, the stronger kind. The
        factors are

        - "phones": R2 of the axes in which shares of phones differ most, see `phone_mix`;
        - "words": likewise, of words that are said in at least 10 utterances;
        - "sentence": the balanced accuracy in telling sentences that at least four speakers say.

        Each reading has as `control` what the probe makes of shuffled labels.
    """
    found = {}
    for factor in FACTORS:
        on_test = read_factor(factor, test, seed)
        on_dev = on_test and read_factor(factor, dev, seed)
        if not on_dev:
            continue
        attackers = {
            first["probe"]: {"dev": first["value"], "test": second}
            for first, second in zip(on_dev, on_test, strict=True)
        }
        best = max(attackers, key=lambda kind: attackers[kind]["dev"])
        found[factor] = {"attackers": attackers, "best": best}
    return found


def read_factor(factor, part, seed):
    """Return the readings of a factor, one for each kind of probe; None where it is not known.

    Arguments
    ---------
    factor : str
        Of `FACTORS`.
    part : Said
    seed : int

    Returns
    -------
    list of dict or None
    """
    speakers = np.array([str(row["spk_id"]) for row in part.rows])
    if factor == "sentence":
        sentences = np.array([row.get("sentence", row["ID"]) for row in part.rows])
        known = np.flatnonzero(often_enough(sentences, speakers))
        if len(set(sentences[known])) < 2:
            return None
        own = speakers[known]
        return read_probes(part.embeddings[known], sentences[known], own, own, HIDDEN, [seed])
    if factor == "phones":
        texts = [part.phones.get(row["ID"], "") for row in part.rows]
    else:
        texts = keep_frequent([row.get("sentence", "") for row in part.rows])
    known = np.flatnonzero([bool(text) for text in texts])
    if len({word for text in texts for word in text.split()}) <= MIX_AXES:
        return None
    mix = phone_mix([texts[place] for place in known])
    return read_mix(part.embeddings[known], mix, speakers[known], list(HIDDEN), [seed])


def keep_frequent(texts, least=LEAST_UTTERANCES):
    """Return texts without the words that fewer than `least` of them have.

    Example
    -------
    >>> keep_frequent(["I SEE A CAT", "I SEE"], least=2)
    ['I SEE', 'I SEE']
    """
    counts = Counter(word for text in texts for word in set(text.split()))
    return [" ".join(word for word in text.split() if counts[word] >= least) for text in texts]
