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
