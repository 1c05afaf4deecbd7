"""The measures of a report, each a function of arrays.

A *reading* is a dict with a figure's fields as report.json has them (`measure`, `value`,
`interval`, ...) and `evidence`: the scores of speakers or of trials that paired tests compare, see
`recipes.common.evaluation.comparison.compare`.
"""

from collections import Counter

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from recipes.common.data.seeding import derive_rng
from recipes.common.evaluation import bootstrap, scoring
from recipes.common.evaluation.abx import abx
from recipes.common.evaluation.folds import FOLDS
from recipes.common.evaluation.metrics import error_rates
from recipes.common.evaluation.probes import leakage

CHANCE = 0.5  # of an EER, an ABX error, and which of two is nearer
MIX_AXES = 3
DET_POINTS = 200
PCA_DIM = 50
PERPLEXITY = 30


def share_reading(measure, value, interval, seed, speakers, evidence, **more):
    """Return the reading of a share of one seed.

    Arguments
    ---------
    measure : str
    value : float
        In [0, 1].
    interval : sequence of float or None
    seed : int
    speakers : array_like
        Names of those that it is of.
    evidence : dict
        What paired tests compare.
    **more
        Further fields.

    Returns
    -------
    dict
    """
    return {
        "measure": measure,
        "unit": "%",
        "value": value,
        "interval": interval,
        "seeds": [seed],
        "values": [value],
        "speakers": len(np.unique(speakers)),
        "evidence": evidence,
        **more,
    }


def often_enough(y, groups):
    """Return which items have a label that probes can be tested on.

    Arguments
    ---------
    y, groups : array_like
        Shapes (items,).

    Returns
    -------
    numpy.ndarray
        Shape (items,), bool: the label is in at least four groups, one for each fold.

    Example
    -------
    >>> often_enough(["a", "a", "a", "a", "b"], [1, 2, 3, 4, 4]).tolist()
    [True, True, True, True, False]
    """
    pairs = set(zip(np.asarray(y).tolist(), np.asarray(groups).tolist(), strict=True))
    counts = Counter(label for label, _ in pairs)
    return np.array([counts[label] >= FOLDS for label in np.asarray(y).tolist()], bool)


def read_probes(x, y, groups, speakers, kinds, seeds):
    """Return what probes read of a factor.

    Arguments
    ---------
    x, y, groups, kinds, seeds
        As `recipes.common.evaluation.probes.leakage` takes them.
    speakers : array_like
        Shape (items,), the speaker of each item.

    Returns
    -------
    list of dict
        A reading for each kind of probe. Evidence and interval are by speaker where the speaker is
        what is held out, or the factor; else there is no evidence.

    Example
    -------
    >>> y = np.arange(64) % 2
    >>> speakers = np.arange(64) // 4
    >>> [reading] = read_probes(np.eye(2)[y], y, speakers, speakers, ["linear"], seeds=[1])
    >>> reading["measure"], reading["value"], reading["interval"]
    ('balanced accuracy', 1.0, [1.0, 1.0])
    """
    y, groups, speakers = np.asarray(y), np.asarray(groups), np.asarray(speakers)
    readings = []
    for kind, result in leakage(x, y, groups, kinds, seeds).items():
        evidence = {}
        if np.array_equal(groups, speakers):
            evidence = {key: result[key] for key in ("group_names", "group_scores")}
        elif np.array_equal(y, speakers):
            names, scores = bootstrap.label_scores(result["correct"], y[result["items"]])
            evidence = {"group_names": names, "group_scores": scores}
            # No wider for folds: speakers are classes here, and each is in every part.
            interval = bootstrap.bootstrap_groups(scores, seeds[0], paired_use=1.0)
            result["interval"] = np.clip(interval, 0, 1)
        readings.append(_probe_reading(kind, result, len(np.unique(speakers)), evidence))
    return readings


def _probe_reading(kind, result, speakers, evidence):
    fields = ("measure", "value", "chance", "control", "selectivity", "seeds", "values")
    return {
        **{name: result[name] for name in fields},
        "probe": kind,
        "unit": "%" if result["measure"] == "balanced accuracy" else "",
        "interval": [float(end) for end in result["interval"]],
        "speakers": speakers,
        "evidence": evidence,
    }


def phone_mix(texts):
    """Return in which way the shares of phones in utterances differ most.

    Arguments
    ---------
    texts : list of str
        Phones of each utterance, separated by spaces.

    Returns
    -------
    numpy.ndarray
        Shape (utterances, 3): the shares' first principal components.

    Example
    -------
    >>> phone_mix(["a b", "a a", "b b c", "c a"]).shape
    (4, 3)
    """
    phones = sorted({phone for text in texts for phone in text.split()})
    counts = np.array([[text.split().count(phone) for phone in phones] for text in texts], float)
    shares = counts / counts.sum(1, keepdims=True)
    return PCA(MIX_AXES, svd_solver="full").fit_transform(shares)


def read_mix(x, mix, speakers, kinds, seeds):
    """Return what probes read of the phones that are in an utterance, by regression.

    Arguments
    ---------
    x : array_like
        Shape (utterances, dim).
    mix : array_like
        Shape (utterances, axes), as `phone_mix` returns it.
    speakers : array_like
        Shape (utterances,), who are held out.
    kinds, seeds
        As `recipes.common.evaluation.probes.leakage` takes them.

    Returns
    -------
    list of dict
        A reading for each kind of probe: R2, the mean over axes.

    Example
    -------
    >>> mix = np.random.default_rng(0).normal(size=(200, 2))
    >>> [reading] = read_mix(mix, mix, np.arange(200) // 10, ["linear"], seeds=[1])
    >>> reading["value"] > 0.95
    True
    """
    axes = [leakage(x, axis, speakers, kinds, seeds) for axis in np.asarray(mix, float).T]
    readings = []
    for kind in kinds:
        own = [axis[kind] for axis in axes]
        scores = np.mean([result["group_scores"] for result in own], axis=0)
        result = {
            **own[0],
            **{n: float(np.mean([r[n] for r in own])) for n in ("value", "control", "selectivity")},
            "values": np.mean([r["values"] for r in own], axis=0).tolist(),
            "interval": np.clip(bootstrap.bootstrap_groups(scores, seeds[0]), -np.inf, 1),
        }
        evidence = {"group_names": own[0]["group_names"], "group_scores": scores}
        readings.append(_probe_reading(kind, result, scores.shape[1], evidence))
    return readings


def make_trials(rows, told_apart, most, seed):
    """Return verification trials of utterances: all, or a draw of as many of each kind.

    No trial compares two utterances of the same sentence: few speakers say one twice, so what is
    said would tell other speakers from the same.

    Arguments
    ---------
    rows : list of dict
        `ID`, `spk_id`, `sentence` where known and, where sessions are told apart, `session`.
    told_apart : bool
        No trial compares two utterances of one session.
    most : int
        Trials of each kind, at most.
    seed : int
        Seed of the draw.

    Returns
    -------
    list of tuple
        (label, enrolment ID, test ID), label 1 for the same speaker.

    Example
    -------
    >>> rows = [{"ID": i, "spk_id": i // 2} for i in range(4)]
    >>> make_trials(rows, False, 2, seed=0)
    [(1, 0, 1), (1, 2, 3), (0, 0, 2), (0, 0, 3)]
    """
    speakers = np.array([row["spk_id"] for row in rows])
    first, second = np.triu_indices(len(rows), 1)
    for name in ("sentence", "session") if told_apart else ("sentence",):
        values = np.array([row.get(name, place) for place, row in enumerate(rows)], object)
        other = values[first] != values[second]
        first, second = first[other], second[other]
    same = speakers[first] == speakers[second]
    trials = []
    for label, places in ((1, np.flatnonzero(same)), (0, np.flatnonzero(~same))):
        rng = derive_rng(seed, "trials", label)
        places = np.sort(rng.permutation(places)[:most])
        trials += [(label, rows[first[p]]["ID"], rows[second[p]]["ID"]) for p in places]
    return trials


def read_eer(embeddings, trials, speaker_of, seed):
    """Return how well cosines tell speakers.

    Arguments
    ---------
    embeddings : dict
        By ID: an array (E,).
    trials : list of tuple
        As `make_trials` returns them.
    speaker_of : dict
        Speaker by ID.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    reading : dict
    curve : dict
        `false_acceptance`, `false_rejection`: lists, at most 200 points; `eer`.

    Example
    -------
    >>> embeddings = {i: np.eye(2)[i // 2] for i in range(4)}
    >>> trials = [(1, 0, 1), (1, 2, 3), (0, 0, 2), (0, 1, 3)]
    >>> reading, curve = read_eer(embeddings, trials, {0: "a", 1: "a", 2: "b", 3: "b"}, seed=0)
    >>> reading["value"], curve["eer"]
    (0.0, 0.0)
    """
    scores = scoring.score_trials(embeddings, trials)
    labels = np.array([label for label, _, _ in trials])
    speakers = np.array([(speaker_of[one], speaker_of[other]) for _, one, other in trials])
    value, interval = bootstrap.bootstrap_eer(scores, labels, speakers, seed)
    trials = {"scores": scores, "labels": labels, "speakers": speakers}
    reading = share_reading("EER", value, interval, seed, speakers, trials, chance=CHANCE)
    _, missed, accepted = error_rates(scores, labels)
    kept = np.unique(np.linspace(0, len(missed) - 1, DET_POINTS).astype(int))
    curve = {
        "false_acceptance": accepted[kept].round(5).tolist(),
        "false_rejection": missed[kept].round(5).tolist(),
        "eer": value,
    }
    return reading, curve


def nearer_sentence(embeddings, rows, told_apart):
    """Return how often the same sentence is nearer than the same speaker.

    An anchor is compared with every pair of an utterance of the same sentence by another speaker
    and one of another sentence by the same speaker.

    Arguments
    ---------
    embeddings : dict
        By ID: an array (E,).
    rows : list of dict
        `ID`, `spk_id`, `sentence` and, where sessions are told apart, `session`.
    told_apart : bool
        The same speaker is heard in another session.

    Returns
    -------
    shares : numpy.ndarray
        Shape (anchors,), in [0, 1]; equal distances count 0.5.
    speakers : list
        The speaker of each anchor.

    Example
    -------
    >>> rows = [{"ID": i, "spk_id": i // 2, "sentence": i % 2} for i in range(4)]
    >>> embeddings = {i: np.eye(2)[i % 2] for i in range(4)}
    >>> nearer_sentence(embeddings, rows, told_apart=False)
    (array([1., 1., 1., 1.]), [0, 0, 1, 1])
    """
    unit = scoring.unit_length(embeddings)
    vectors = np.stack([unit[row["ID"]] for row in rows])
    speakers = np.array([row["spk_id"] for row in rows])
    sentences = np.array([row["sentence"] for row in rows])
    sessions = np.array([row["session"] if told_apart else place for place, row in enumerate(rows)])
    shares, anchors = [], []
    for place in range(len(rows)):
        cosines = vectors @ vectors[place]
        own, same = speakers == speakers[place], sentences == sentences[place]
        sentence = cosines[same & ~own]
        speaker = cosines[own & ~same & (sessions != sessions[place])]
        if len(sentence) and len(speaker):
            difference = sentence[:, None] - speaker
            shares.append((np.sign(difference).mean() + 1) / 2)
            anchors.append(rows[place]["spk_id"])
    return np.array(shares), anchors


def read_same_sentence(embeddings, rows, told_apart, seed):
    """Return the reading of `nearer_sentence`, or None where fewer than two speakers have anchors.

    Example
    -------
    >>> rows = [{"ID": i, "spk_id": i // 2, "sentence": i % 2} for i in range(4)]
    >>> embeddings = {i: np.eye(2)[i // 2] for i in range(4)}
    >>> read_same_sentence(embeddings, rows, told_apart=False, seed=0)["value"]
    0.0
    """
    shares, speakers = nearer_sentence(embeddings, rows, told_apart)
    if len(set(speakers)) < 2:
        return None
    value, interval = bootstrap.bootstrap_mean(shares, speakers, seed)
    names, means = bootstrap.label_scores([shares], speakers)
    evidence = {"group_names": names, "group_scores": means}
    return share_reading(
        "same sentence nearer", value, list(interval), seed, names, evidence, chance=CHANCE
    )


def read_abx(features, items, mode, distance, seed, **limits):
    """Return the ABX error of frames.

    Its interval is that of the speakers of A and B.

    Arguments
    ---------
    features, items, mode, distance, seed, limits
        As `recipes.common.evaluation.abx.abx` takes them.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        Where there is no triple.
    """
    result = abx(features, items, mode, distance, seed, **limits)
    scores = result["speaker_errors"] - result["speaker_errors"].mean() + result["error"]
    names, interval = result["speakers"], None
    if len(names) > 1:
        interval = bootstrap.bootstrap_groups(scores[None], seed, paired_use=1.0)
        interval = np.clip(interval, 0, 1).tolist()
    evidence = {"group_names": names, "group_scores": scores[None]}
    measure = f"ABX error {mode}, {distance}"
    error = result["error"]
    return share_reading(measure, error, interval, seed, names, evidence, chance=CHANCE)


def draw_map(x, seed):
    """Return points of the plane whose neighbourhoods are those of vectors: PCA, then t-SNE.

    Arguments
    ---------
    x : numpy.ndarray
        Shape (points, dim), of at least 3 points.
    seed : int
        Seed of t-SNE.

    Returns
    -------
    list of list of float

    Example
    -------
    >>> len(draw_map(np.random.default_rng(0).normal(size=(20, 4)), seed=0))
    20
    """
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    reduced = PCA(min(PCA_DIM, *x.shape), svd_solver="full").fit_transform(x)
    tsne = TSNE(
        perplexity=min(PERPLEXITY, (len(x) - 1) / 3), init="pca", random_state=seed, n_jobs=1
    )
    return tsne.fit_transform(reduced).round(2).tolist()
