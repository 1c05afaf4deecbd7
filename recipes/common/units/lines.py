"""The directions in which lines move an embedding: sampling at a lower rate, a telephone.

They are found without labels: an utterance is embedded as it is and through lines, and what differs
is the line's. `UtteranceEncoder.project_out` takes them off.
"""

import math
from functools import partial

import torch

from lobes.signal import valid_samples
from recipes.common.data.transmission import MU_LAW, limit_band, transmit
from recipes.common.units.passes import share_moments

UTTERANCES = 1000  # or a few more: each is embedded once as it is, and once through each line
LINES = (
    partial(limit_band, cutoff=4000),
    partial(limit_band, cutoff=5500),
    partial(transmit, codec=MU_LAW),
)


def line_directions(encoder, loader, folder, count):
    """Return the directions in which lines move embeddings most, with all ranks.

    Arguments
    ---------
    encoder : UtteranceEncoder
        In evaluation mode.
    loader : torch.utils.data.DataLoader
        Of batches with `sig`.
    folder : Path
        Takes what ranks give each other, and is removed.
    count : int
        How many, less than the size of an embedding.

    Returns
    -------
    torch.Tensor
        Shape (count, E), float64, orthonormal: the eigenvectors of the greatest eigenvalues of the
        second moment of differences, of which a line's mean is part.
    """
    device = next(encoder.parameters()).device

    def compute(batches):
        return {"rows": torch.cat([moved(encoder, *batch.sig, device) for batch in batches])}

    every = math.ceil(len(loader.dataset) / UTTERANCES)
    parts = share_moments(folder, [encoder], loader, compute, every)
    rows = torch.cat([part["rows"] for part in parts]).double()
    return torch.linalg.eigh(rows.T @ rows).eigenvectors.T.flip(0)[:count]


def moved(encoder, wavs, wav_lens, device):
    """Return by what each line moves each embedding of a batch.

    Arguments
    ---------
    encoder : UtteranceEncoder
    wavs : torch.Tensor
        Shape (batch, samples), on the CPU.
    wav_lens : torch.Tensor
        Shape (batch,), relative lengths.
    device : torch.device
        The encoder's.

    Returns
    -------
    torch.Tensor
        Shape (lines * batch, E), on the CPU.
    """
    counts = valid_samples(wavs, wav_lens).counts.tolist()

    def embed(changed):
        return encoder(changed.to(device), wav_lens).cpu()

    plain = embed(wavs)
    return torch.cat([embed(through(line, wavs, counts)) - plain for line in LINES])


def through(line, wavs, counts):
    """Return each row of a batch through a line; what pads it, after its count, stays zero."""
    changed = torch.zeros_like(wavs)
    for row, wav, count in zip(changed, wavs, counts, strict=True):
        row[:count] = line(wav[None, :count])[0]
    return changed
