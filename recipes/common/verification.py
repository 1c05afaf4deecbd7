"""Speaker verification: how well cosine scores tell same-speaker trials from others.

An utterance embedding is judged beside two baselines on the same trials: the mean and standard
deviation over time of log-mel bands, and the embedding of the same architecture with random
weights. The ratio of error rates comes with a bootstrap interval over speakers.
"""

from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.dataio import read_audio
from speechbrain.lobes.features import Fbank
from torch import nn

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
        wav = read_audio(str(Path(data_root) / row["wav"].removeprefix(ROOT)))
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
    >>> standardise({"c": np.array([4.0, 2.0])}, reference)
    {'c': array([2., 0.])}
    """
    known = np.stack(list(reference.values()))
    deviation = known.std(0)
    deviation[deviation == 0] = 1
    return {name: (value - known.mean(0)) / deviation for name, value in embeddings.items()}


def verify(encoder, manifest, trials, data_root, seed, reference=None):
    """Return the error rates of an encoder and of its baselines on the same trials.

    The systems are "utterance" (the encoder), "fbank" (`FbankStatistics`) and "random" (the same
    architecture with random weights), each scored by the cosine of its embeddings. With reference
    data each is also scored after `standardise`. None of these is better everywhere, so none is
    left out: on one corpus the plain cosine of log-mel statistics is the strongest baseline, on
    another the standardised one.

    Arguments
    ---------
    encoder : UtteranceEncoder
        Trained.
    manifest : str or Path
        Manifest of the utterances of the trials.
    trials : list of tuple
        (label, enrolment ID, test ID), label 1 for the same speaker.
    data_root : str or Path
        The corpus's folder.
    seed : int
        Seed of the random weights, of the choice of reference data and of the bootstrap.
    reference : tuple, optional
        Manifest and data root of training data; 500 of its utterances are drawn.

    Returns
    -------
    dict
        `trials`, `utterances`, `speakers`: counts. `eer`: of each system, in [0, 1]. `ratio`: for
        each baseline, the EER of "utterance" by the baseline's (`value`) and its 95 % interval over
        speakers (`interval`); None where the trials are too few to define it.
    """
    needed = {name for trial in trials for name in trial[1:]}
    rows = [row for row in read_manifest(manifest) if row["ID"] in needed]
    systems = {"utterance": encoder, "fbank": FbankStatistics(), "random": _random(encoder, seed)}
    scores = {}
    for name, system in systems.items():
        embeddings = embed(system, rows, data_root)
        scores[name] = score_trials(embeddings, trials)
        if reference is not None:
            known = embed(system, _draw(reference[0], seed), reference[1])
            standardised = standardise(embeddings, known)
            scores[f"{name}_standardised"] = score_trials(standardised, trials)

    labels = [label for label, _, _ in trials]
    speaker = {row["ID"]: row["spk_id"] for row in rows}
    speakers = [(speaker[enrol], speaker[test]) for _, enrol, test in trials]
    baselines = [name for name in scores if not name.startswith("utterance")]
    return {
        "trials": len(trials),
        "utterances": len(rows),
        "speakers": len(set(speaker.values())),
        "eer": {name: eer(values, labels) for name, values in scores.items()},
        "ratio": {
            name: _ratio(scores["utterance"], scores[name], labels, speakers, seed)
            for name in baselines
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
