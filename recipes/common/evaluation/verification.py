"""Speaker verification: how well cosine scores tell same-speaker trials from others.

A representation is judged beside two baselines on the same trials: the mean and standard deviation
over time of log-mel bands, and the same architecture with random weights. Error rates come with
bootstrap intervals over speakers, and with and without AS-norm. Whether a system's embeddings are
centred or standardised first is settled on the development trials.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from speechbrain.lobes.features import Fbank
from torch import nn

from pretrained.audio import read_speech
from recipes.common.data.manifest import ROOT, read_manifest
from recipes.common.data.seeding import derive_rng
from recipes.common.downstream.features import STATES, fresh
from recipes.common.evaluation.metrics import bootstrap_eer_ratio, bootstrap_trials, eer, min_dcf

NUM_MELS = 80
MAX_REFERENCE = 500  # utterances: means and deviations of dimensions need no more
MIN_COHORT = 2  # speakers: a deviation needs two
P_TARGETS = (0.01, 0.05)
SCORINGS = ("plain", "centred", "standardised")


class FbankStatistics(nn.Module):
    """Mean and standard deviation over time of 80 log-mel bands (SpeechBrain's Fbank, dB).

    Nothing is subtracted: the long-term spectrum, channel included, is the baseline's strength.

    Example
    -------
    >>> FbankStatistics()(torch.randn(2, 16000)).shape
    torch.Size([2, 160])
    """

    def __init__(self):
        super().__init__()
        self.fbank = Fbank(n_mels=NUM_MELS)

    def forward(self, wavs):
        """Map unpadded waveforms (batch, samples), 16 kHz, to statistics (batch, 160)."""
        bands = self.fbank(wavs)
        return torch.cat([bands.mean(1), bands.std(1)], dim=1)


class MeanState(nn.Module):
    """The mean over time of the last layer's states: what frames tell of the speaker.

    Of an utterance encoder, whose states are one frame, it is the embedding.

    Arguments
    ---------
    states : nn.Module
        One of `lobes.states`.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from lobes.states import FrameStates
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> MeanState(FrameStates(encoder))(torch.randn(2, 16000)).shape
    torch.Size([2, 32])
    """

    def __init__(self, states):
        super().__init__()
        self.states = states

    def forward(self, wavs):
        """Map unpadded waveforms (batch, samples), 16 kHz, to means (batch, dim)."""
        return self.states(wavs)[0][:, :, -1].mean(1)


def with_baselines(encoder, representation, seed):
    """Return what `verify` judges: an encoder's representation first, then its baselines.

    Arguments
    ---------
    encoder : FrameEncoder or UtteranceEncoder
    representation : str
        "frames", whose mean over time is taken, or "utterance".
    seed : int
        Seed of the random weights.

    Returns
    -------
    dict
        The representation by its name; "fbank", log-mel statistics; "random", the same
        architecture with random weights.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=12)
    >>> list(with_baselines(encoder, "utterance", seed=1))
    ['utterance', 'fbank', 'random']
    """
    states = STATES[representation]
    return {
        representation: MeanState(states(encoder)),
        "fbank": FbankStatistics(),
        "random": MeanState(states(fresh(encoder, seed))),
    }


@torch.no_grad()
def embed(encoder, rows, data_root):
    """Return the embedding of each utterance, taken whole and by itself.

    Arguments
    ---------
    encoder : nn.Module
        Maps (1, samples) to (1, E); run in eval mode, left in the mode that it was in.
    rows : list of dict
        Rows of a manifest.
    data_root : str or Path
        The corpus's folder.

    Returns
    -------
    dict
        ID: array of shape (E,), float32.
    """
    device = next(encoder.parameters(), torch.empty(0)).device
    training = encoder.training
    encoder.eval()
    embeddings = {}
    for row in rows:
        wav = read_speech(Path(data_root) / row["wav"].removeprefix(ROOT))
        embeddings[row["ID"]] = encoder(wav[None].to(device))[0].float().cpu().numpy()
    encoder.train(training)
    return embeddings


def score_trials(embeddings, trials):
    """Return the cosine similarity of each trial's two embeddings.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    trials : list of tuple
        (label, enrolment ID, test ID).

    Returns
    -------
    numpy.ndarray
        Shape (trials,), float64, in [-1, 1].

    Raises
    ------
    ValueError
        Where a trial names an utterance without embedding, or an embedding is zero or not finite.

    Example
    -------
    >>> embeddings = {"a": np.array([1.0, 0.0]), "b": np.array([2.0, 0.0])}
    >>> score_trials(embeddings, [(1, "a", "b")])
    array([1.])
    """
    unit = unit_length(embeddings)
    missing = sorted({name for trial in trials for name in trial[1:]} - unit.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} utterance(s) of the trials have no embedding, {missing[0]} first: is "
            "the manifest that of these trials?"
        )
    enrolled = np.stack([unit[enrol] for _, enrol, _ in trials])
    tested = np.stack([unit[test] for _, _, test in trials])
    return (enrolled * tested).sum(1)


def unit_length(embeddings):
    """Return embeddings scaled to length 1, float64; ValueError where one has no direction."""
    unit = {}
    for name, embedding in embeddings.items():
        norm = np.linalg.norm(embedding.astype(np.float64))
        if not (np.isfinite(norm) and norm > 0):
            raise ValueError(f"The embedding of {name} has length {norm}: no cosine is defined.")
        unit[name] = embedding / norm
    return unit


def cohort_means(embeddings, speaker_of):
    """Return the cohort of AS-norm: each speaker's mean embedding.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,), of training utterances.
    speaker_of : dict
        ID: speaker.

    Returns
    -------
    dict
        Speaker: array of shape (E,), the mean of embeddings scaled to length 1.

    Example
    -------
    >>> means = cohort_means({"a": np.array([2.0, 0.0]), "b": np.array([0.0, 1.0])}, dict(a=1, b=1))
    >>> means[1].tolist()
    [0.5, 0.5]
    """
    own = {}
    for name, value in unit_length(embeddings).items():
        own.setdefault(speaker_of[name], []).append(value)
    return {speaker: np.mean(values, axis=0) for speaker, values in own.items()}


def as_norm(embeddings, trials, cohort, top):
    """Return adaptive s-norm scores (Matejka et al., Interspeech 2017, equation 7 with top files).

    Each side's score is told in deviations from the mean of its own best cohort scores, and the two
    sides are averaged.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    trials : list of tuple
        (label, enrolment ID, test ID).
    cohort : dict
        Embeddings of speakers that no trial names, as `cohort_means` gives them.
    top : int
        How many of the best cohort scores count, at least two; all where there are fewer.

    Returns
    -------
    numpy.ndarray
        Shape (trials,).

    Raises
    ------
    ValueError
        Where the cohort has fewer than two speakers.

    Example
    -------
    >>> cohort = {"x": np.array([1.0, 0.0]), "y": np.array([0.0, 1.0])}
    >>> as_norm({"a": np.array([1.0, 0.0])}, [(1, "a", "a")], cohort, top=2).tolist()
    [1.0]
    """
    if min(len(cohort), top) < MIN_COHORT:
        raise ValueError(f"AS-norm needs {MIN_COHORT} cohort speakers; there are {len(cohort)}.")
    directions = np.stack(list(unit_length(cohort).values()))
    used = {name: embeddings[name] for trial in trials for name in trial[1:]}
    statistics = {}
    for name, value in unit_length(used).items():
        best = np.sort(directions @ value)[-top:]
        statistics[name] = best.mean(), max(best.std(), np.finfo(float).tiny)
    scores = score_trials(embeddings, trials)
    sides = [np.array([statistics[trial[side]] for trial in trials]) for side in (1, 2)]
    return sum((scores - side[:, 0]) / side[:, 1] for side in sides) / 2


def centre(embeddings, reference):
    """Return embeddings less the mean of other data.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    reference : dict
        Embeddings of training data, likewise.

    Returns
    -------
    dict

    Example
    -------
    >>> reference = {"a": np.array([1.0, 0.0]), "b": np.array([3.0, 4.0])}
    >>> centre({"c": np.array([4.0, 2.0])}, reference)
    {'c': array([2., 0.])}
    """
    mean, _ = statistics_of(reference)
    return {name: value - mean for name, value in embeddings.items()}


def standardise(embeddings, reference):
    """Return embeddings with the mean and the deviation of other data at 0 and 1, by dimension.

    Arguments
    ---------
    embeddings : dict
        ID: array of shape (E,).
    reference : dict
        Embeddings of training data, likewise; at least two.

    Returns
    -------
    dict

    Example
    -------
    >>> reference = {"a": np.array([1.0, 0.0]), "b": np.array([3.0, 4.0])}
    >>> standardise({"c": np.array([5.0, 2.0])}, reference)
    {'c': array([3., 0.])}
    """
    _, deviation = statistics_of(reference)
    centred = centre(embeddings, reference)
    return {name: value / deviation for name, value in centred.items()}


def statistics_of(reference):
    """Return the mean and the deviation of embeddings, (E,) each; 1 in the place of a deviation 0.

    Example
    -------
    >>> mean, deviation = statistics_of({"a": np.array([1.0, 0.0]), "b": np.array([3.0, 0.0])})
    >>> mean.tolist(), deviation.tolist()
    ([2.0, 0.0], [1.0, 1.0])
    """
    values = np.stack(list(reference.values()))
    deviation = values.std(0)
    return values.mean(0), np.where(deviation == 0, 1, deviation)


def choose_scorings(scores, labels):
    """Return the scoring of each system whose error rate is lowest, the earlier of equal ones.

    Arguments
    ---------
    scores : dict
        By system, by scoring: array of shape (trials,).
    labels : list of int
        1 for target trials, 0 for others.

    Returns
    -------
    dict
        System: name of its scoring.

    Example
    -------
    >>> scores = {"fbank": {"plain": [0.2, 0.1], "centred": [0.1, 0.2]}}
    >>> choose_scorings(scores, [0, 1])
    {'fbank': 'centred'}
    """
    return {
        system: min(by_scoring, key=lambda name: eer(by_scoring[name], labels))
        for system, by_scoring in scores.items()
    }


def trial_figures(scores, labels, speakers, seed):
    """Return the error figures of a system on a list of trials.

    Arguments
    ---------
    scores : array_like
        Shape (trials,).
    labels : array_like
        Shape (trials,), 1 for target trials, 0 for others.
    speakers : array_like
        Shape (trials, 2), the speakers of each trial.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    dict
        `eer`, in [0, 1]; `eer_interval`, its 95 % interval over speakers, None where the trials are
        too few to define it; `min_dcf_0.01`, `min_dcf_0.05`, in [0, 1].
    """
    rate = partial(eer, scores, labels)
    interval = list(bootstrap_trials(rate, labels, speakers, seed))
    figures = {"eer": rate()}
    figures["eer_interval"] = interval if np.isfinite(interval).all() else None
    return {**figures, **{f"min_dcf_{p}": min_dcf(scores, labels, p) for p in P_TARGETS}}


def verify(systems, lists, data_root, seed, reference=None, cohort_top=300):
    """Return the error figures of systems on the same trials, and their scores.

    Each system is scored by the cosine of its embeddings: as they are ("plain") and, with reference
    data, after `centre` ("centred") and `standardise` ("standardised"). None of these is best
    everywhere, for a baseline as for the model: each system gets the one that does best on the
    development trials, and that one on the test trials.

    Arguments
    ---------
    systems : dict
        Encoders by name; the first is judged, the others are its baselines.
    lists : dict
        "test" and, optionally, "dev": pairs of the manifest of the trials' utterances and the
        trials, (label, enrolment ID, test ID), label 1 for the same speaker. Without "dev" the
        scoring is plain.
    data_root : str or Path
        The corpus's folder.
    seed : int
        Seed of the choice of reference data, of the shuffled labels and of the bootstrap.
    reference : tuple, optional
        Manifest and data root of training data; 500 of its utterances are drawn. Their speakers are
        the cohort of AS-norm.
    cohort_top : int
        See `as_norm`.

    Returns
    -------
    figures : dict
        `scoring`: of each system. `dev_eer_by_scoring`: what it was chosen by, where there is
        "dev". For each list: `trials`, `utterances`, `speakers`: counts; `systems`: of each the
        `trial_figures` and, with reference data, those after AS-norm as `as_norm`;
        `eer_shuffled_labels`: of the first where the trials' labels are shuffled, about 0.5;
        `ratio`: for each baseline, the first's EER by the baseline's (`value`) and its 95 %
        interval over speakers (`interval`), None where the trials are too few to define it.
    scores : dict
        By list and system: pairs of scores and labels, for the curves.
    """
    known = dict.fromkeys(systems)
    speaker_of = {}
    if reference is not None:
        rows = draw_reference(reference[0], seed)
        speaker_of = {row["ID"]: row["spk_id"] for row in rows}
        known = {name: embed(system, rows, reference[1]) for name, system in systems.items()}
    embedded = {part: _embed(systems, *pair, data_root) for part, pair in lists.items()}
    figures = {"scoring": dict.fromkeys(systems, SCORINGS[0])}
    if "dev" in lists:
        by_scoring = {
            name: _score_each_way(embedded["dev"][0][name], known[name], lists["dev"][1])
            for name in systems
        }
        labels = [label for label, _, _ in lists["dev"][1]]
        figures["scoring"] = choose_scorings(by_scoring, labels)
        figures["dev_eer_by_scoring"] = {
            system: {name: eer(values, labels) for name, values in scores.items()}
            for system, scores in by_scoring.items()
        }
    curves = {}
    for part, (_, trials) in lists.items():
        embeddings, speakers = embedded[part]
        scored = {
            name: _score_chosen(
                embeddings[name], known[name], trials, scoring, speaker_of, cohort_top
            )
            for name, scoring in figures["scoring"].items()
        }
        figures[part] = compare_systems(scored, trials, speakers, seed)
        labels = [label for label, _, _ in trials]
        curves[part] = {name: (values["plain"], labels) for name, values in scored.items()}
    return figures, curves


def _embed(systems, manifest, trials, data_root):
    """Return the embeddings of a list's utterances by system, and the speaker of each."""
    needed = {name for trial in trials for name in trial[1:]}
    rows = [row for row in read_manifest(manifest) if row["ID"] in needed]
    embeddings = {name: embed(system, rows, data_root) for name, system in systems.items()}
    return embeddings, {row["ID"]: row["spk_id"] for row in rows}


def change_embeddings(embeddings, known, scoring):
    """Return embeddings as a scoring takes them: "plain", "centred" or "standardised"."""
    changes = {"plain": lambda e, _: e, "centred": centre, "standardised": standardise}
    return changes[scoring](embeddings, known)


def _score_each_way(embeddings, known, trials):
    """Return the scores of a list's trials by scoring."""
    names = SCORINGS if known is not None else SCORINGS[:1]
    return {n: score_trials(change_embeddings(embeddings, known, n), trials) for n in names}


def _score_chosen(embeddings, known, trials, scoring, speaker_of, top):
    """Return the scores of trials in one way, and with reference data those after AS-norm."""
    changed = change_embeddings(embeddings, known, scoring)
    scores = {"plain": score_trials(changed, trials)}
    if known is not None:
        cohort = cohort_means(change_embeddings(known, known, scoring), speaker_of)
        scores["as_norm"] = as_norm(changed, trials, cohort, top)
    return scores


def compare_systems(scored, trials, speaker_of, seed):
    """Return the figures of a list's trials; see `verify`.

    Arguments
    ---------
    scored : dict
        By system: "plain" scores and, where there is a cohort, those after "as_norm".
    trials : list of tuple
        (label, enrolment ID, test ID).
    speaker_of : dict
        ID: speaker.
    seed : int
        Seed of the shuffled labels and of the bootstrap.

    Returns
    -------
    dict
    """
    labels = [label for label, _, _ in trials]
    speakers = [(speaker_of[enrol], speaker_of[test]) for _, enrol, test in trials]
    figures = {}
    for name, values in scored.items():
        figures[name] = trial_figures(values["plain"], labels, speakers, seed)
        if "as_norm" in values:
            figures[name]["as_norm"] = trial_figures(values["as_norm"], labels, speakers, seed)
    first, *others = scored
    shuffled = derive_rng(seed, "shuffled labels").permutation(labels)
    own = scored[first]["plain"]
    return {
        "trials": len(labels),
        "utterances": len({name for trial in trials for name in trial[1:]}),
        "speakers": len({name for pair in speakers for name in pair}),
        "systems": figures,
        "eer_shuffled_labels": eer(own, shuffled),
        "ratio": {
            name: _ratio(own, scored[name]["plain"], figures[name]["eer"], labels, speakers, seed)
            for name in others
        },
    }


def draw_reference(manifest, seed):
    """Return up to `MAX_REFERENCE` rows of a manifest, drawn at random."""
    rows = read_manifest(manifest)
    order = derive_rng(seed, "reference").permutation(len(rows))[:MAX_REFERENCE]
    return [rows[i] for i in order]


def _ratio(scores, baseline, baseline_eer, labels, speakers, seed):
    if baseline_eer == 0:
        return {"value": None, "interval": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        value, interval = bootstrap_eer_ratio(scores, baseline, labels, speakers, seed)
    return {"value": value, "interval": list(interval) if np.isfinite(interval).all() else None}
