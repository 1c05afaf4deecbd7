"""Pseudo-phoneme targets: the features that are clustered, and the quantizers that name a unit.

HuBERT (https://arxiv.org/abs/2106.07447, section III) clusters MFCC by k-means; BEST-RQ
(https://arxiv.org/abs/2202.01855, section 3.1) projects features at random onto a random codebook.
"""

import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from lobes.signal import RECEPTIVE_FIELD, SAMPLE_RATE

PERIOD = 160  # samples from one frame of cepstra to the next
AT_ONCE = 6000  # of these frames


def mfcc(wav):
    """Return 39-dimensional MFCC at 50 Hz: 13 cepstra with first and second differences.

    The cepstra are taken every 10 ms, as in HuBERT, and every second frame is kept, so that
    frame t covers the same 400 samples as frame t of the frame encoder. Each dimension has the
    utterance's mean taken off and is divided by its standard deviation: without that the units name
    the speaker and channel as much as the sound.

    Arguments
    ---------
    wav : torch.Tensor
        One utterance, shape (samples,), 16 kHz.

    Returns
    -------
    torch.Tensor
        Shape (frames, 39), frames = max(0, 1 + (samples - 400) // 320).

    Example
    -------
    >>> mfcc(torch.randn(16000)).shape
    torch.Size([49, 39])
    """
    if len(wav) < RECEPTIVE_FIELD:
        return wav.new_zeros(0, 39)
    cepstra = _cepstra(wav).T
    first = torchaudio.functional.compute_deltas(cepstra)
    second = torchaudio.functional.compute_deltas(first)
    features = torch.cat([cepstra, first, second]).T
    features = features - features.mean(dim=0)
    return (features / features.std(dim=0, correction=0).clamp(min=1e-5))[::2]


def _cepstra(wav):
    """Return 13 cepstra every 10 ms, (frames, 13), of a minute at a time: spectra take memory."""
    frames = 1 + (len(wav) - RECEPTIVE_FIELD) // PERIOD
    parts = []
    for start in range(0, frames, AT_ONCE):
        stop = min(start + AT_ONCE, frames)
        part = wav[start * PERIOD : (stop - 1) * PERIOD + RECEPTIVE_FIELD]
        given = {"sample_frequency": SAMPLE_RATE, "use_energy": False}
        parts.append(torchaudio.compliance.kaldi.mfcc(part[None], **given))
    return torch.cat(parts)


class KMeansQuantizer(nn.Module):
    """Names the nearest of a set of centres.

    Arguments
    ---------
    centres : torch.Tensor
        Shape (units, dim).

    Example
    -------
    >>> quantizer = KMeansQuantizer(torch.randn(100, 39))
    >>> quantizer(torch.randn(49, 39)).shape
    torch.Size([49])
    """

    def __init__(self, centres):
        super().__init__()
        self.register_buffer("centres", centres.float())

    def forward(self, features):
        """Return the unit of each frame.

        Arguments
        ---------
        features : torch.Tensor
            Shape (..., dim).

        Returns
        -------
        torch.Tensor
            Shape (...), int64, in [0, units).
        """
        # ||x||^2 is the same for every centre.
        distances = self.centres.square().sum(-1) - 2 * features.float() @ self.centres.T
        return distances.argmin(-1)


class RandomProjectionQuantizer(nn.Module):
    """Names the code nearest in angle to a random projection: BEST-RQ, which fits nothing.

    Arguments
    ---------
    input_dim : int
        Dimension of the features.
    num_units : int
        Size of the codebook.
    code_dim : int
        Dimension of a code.
    seed : int
        Seed of the projection and of the codebook.

    Example
    -------
    >>> quantizer = RandomProjectionQuantizer(39, num_units=100)
    >>> quantizer(torch.randn(49, 39)).shape
    torch.Size([49])
    """

    def __init__(self, input_dim, num_units, code_dim=16, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        projection = torch.empty(input_dim, code_dim)
        nn.init.xavier_uniform_(projection, generator=generator)
        codebook = torch.randn(num_units, code_dim, generator=generator)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(codebook, dim=-1))

    def forward(self, features):
        """Return the unit of each frame.

        Arguments
        ---------
        features : torch.Tensor
            Shape (..., dim), of mean 0 and deviation 1 over an utterance.

        Returns
        -------
        torch.Tensor
            Shape (...), int64, in [0, num_units).
        """
        codes = F.normalize(features.float() @ self.projection, dim=-1)
        return (codes @ self.codebook.T).argmax(-1)
