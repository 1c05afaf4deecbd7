"""Speaker verification: how well cosine scores tell same-speaker trials from others.

An utterance embedding is judged beside two baselines on the same trials: the mean and standard
deviation over time of log-mel bands, and the embedding of the same architecture with random
weights. The ratio of error rates comes with a bootstrap interval over speakers. Whether a system's
embeddings are centred or standardised first is settled on the development trials.
"""

from pathlib import Path

import numpy as np
import torch
from speechbrain.lobes.features import Fbank
from torch import nn

from recipes.common.audio import read_speech
from recipes.common.manifest import ROOT, read_manifest
from recipes.common.metrics import bootstrap_eer_ratio, eer
from recipes.common.seeding import derive_rng, derive_seed

NUM_MELS = 80
MAX_REFERENCE = 500  # utterances: means and deviations of dimensions need no more


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
    unit = {}
    for name, embedding in embeddings.items():
        norm = np.linalg.norm(embedding.astype(np.float64))
        if not (np.isfinite(norm) and norm > 0):
            raise ValueError(f"The embedding of {name} has length {norm}: no cosine is defined.")
        unit[name] = embedding / norm
    missing = sorted({name for trial in trials for name in trial[1:]} - unit.keys())
    if missing:
        raise ValueError(
            f"{len(missing)} utterance(s) of the trials have no embedding, {missing[0]} first: is "
            "the manifest that of these trials?"
        )
    enrolled = np.stack([unit[enrol] for _, enrol, _ in trials])
    tested = np.stack([unit[test] for _, _, test in trials])
    return (enrolled * tested).sum(1)


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
    mean = np.stack(list(reference.values())).mean(0)
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
    deviation = np.stack(list(reference.values())).std(0)
    deviation[deviation == 0] = 1
    centred = centre(embeddings, reference)
    return {name: value / deviation for name, value in centred.items()}


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


def verify(encoder, lists, data_root, seed, reference=None):
    """Return the error rates of an encoder and of its baselines on the same trials.

    The systems are "utterance" (the encoder), "fbank" (`FbankStatistics`) and "random" (the same
    architecture with random weights), each scored by the cosine of its embeddings: as they are
    ("plain") and, with reference data, after `centre` ("centred") and `standardise`
    ("standardised"). None of these is best everywhere, for a baseline as for the encoder: each
    system gets the one that does best on the development trials, and that one on the test trials.

    Arguments
    ---------
    encoder : UtteranceEncoder
        Trained.
    lists : dict
        "test" and, optionally, "dev": pairs of the manifest of the trials' utterances and the
        trials, (label, enrolment ID, test ID), label 1 for the same speaker. Without "dev" the
        scoring is plain.
    data_root : str or Path
        The corpus's folder.
    seed : int
        Seed of the random weights, of the choice of reference data, of the shuffled labels and of
        the bootstrap.
    reference : tuple, optional
        Manifest and data root of training data; 500 of its utterances are drawn.

    Returns
    -------
    dict
        `scoring`: of each system. `dev_eer_by_scoring`: what it was chosen by, where there is
        "dev". For each list: `trials`, `utterances`, `speakers`: counts; `eer`: of each system, in
        [0, 1]; `eer_shuffled_labels`: of the encoder where the trials' labels are shuffled, about
        0.5; `ratio`: for each baseline, the EER of "utterance" by the baseline's (`value`) and its
        95 % interval over speakers (`interval`), None where the trials are too few to define it.
    """
    systems = {"utterance": encoder, "fbank": FbankStatistics(), "random": _random(encoder, seed)}
    known = dict.fromkeys(systems)
    if reference is not None:
        rows = _draw(reference[0], seed)
        known = {name: embed(system, rows, reference[1]) for name, system in systems.items()}
    scored = {part: _score(systems, known, *pair, data_root) for part, pair in lists.items()}
    figures = {"scoring": dict.fromkeys(systems, "plain")}
    if "dev" in scored:
        scores, labels = scored["dev"]["scores"], scored["dev"]["labels"]
        figures["scoring"] = choose_scorings(scores, labels)
        figures["dev_eer_by_scoring"] = {
            system: {name: eer(values, labels) for name, values in by_scoring.items()}
            for system, by_scoring in scores.items()
        }
    for part, list_scored in scored.items():
        figures[part] = _compare(list_scored, figures["scoring"], seed)
    return figures


def _score(systems, known, manifest, trials, data_root):
    """Return the scores of a list's trials by system and scoring, their labels and speakers."""
    needed = {name for trial in trials for name in trial[1:]}
    rows = [row for row in read_manifest(manifest) if row["ID"] in needed]
    scores = {}
    for name, system in systems.items():
        embeddings = embed(system, rows, data_root)
        scores[name] = {"plain": score_trials(embeddings, trials)}
        if known[name] is not None:
            for scoring, change in (("centred", centre), ("standardised", standardise)):
                scores[name][scoring] = score_trials(change(embeddings, known[name]), trials)
    speaker = {row["ID"]: row["spk_id"] for row in rows}
    return {
        "scores": scores,
        "labels": [label for label, _, _ in trials],
        "speakers": [(speaker[enrol], speaker[test]) for _, enrol, test in trials],
        "utterances": len(rows),
    }


def _compare(scored, scoring, seed):
    """Return the figures of a list's trials, each system scored in one way."""
    labels, speakers = scored["labels"], scored["speakers"]
    scores = {system: scored["scores"][system][name] for system, name in scoring.items()}
    shuffled = derive_rng(seed, "shuffled labels").permutation(labels)
    return {
        "trials": len(labels),
        "utterances": scored["utterances"],
        "speakers": len({name for pair in speakers for name in pair}),
        "eer": {system: eer(values, labels) for system, values in scores.items()},
        "eer_shuffled_labels": eer(scores["utterance"], shuffled),
        "ratio": {
            name: _ratio(scores["utterance"], scores[name], labels, speakers, seed)
            for name in scores
            if name != "utterance"
        },
    }


def _random(encoder, seed):
    """Return an encoder of the same architecture with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "random weights"))
        fresh = type(encoder)(**encoder.config)
    return fresh.to(next(encoder.parameters()).device)


def _draw(manifest, seed):
    """Return up to `MAX_REFERENCE` rows of a manifest, drawn at random."""
    rows = read_manifest(manifest)
    order = derive_rng(seed, "reference").permutation(len(rows))[:MAX_REFERENCE]
    return [rows[i] for i in order]


def _ratio(scores, baseline, labels, speakers, seed):
    if eer(baseline, labels) == 0:
        return {"value": None, "interval": None}
    with np.errstate(divide="ignore", invalid="ignore"):
        value, interval = bootstrap_eer_ratio(scores, baseline, labels, speakers, seed)
    return {"value": value, "interval": list(interval) if np.isfinite(interval).all() else None}
