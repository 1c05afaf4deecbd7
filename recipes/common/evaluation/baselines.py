"""Baselines: random weights and log-mel bands, which every representation is judged beside."""

import torch
from speechbrain.lobes.features import Fbank
from torch import nn

from lobes.signal import NUM_MELS
from lobes.states import FbankStates, PooledStates
from recipes.common.data.seeding import derive_seed

# What a frame encoder does after the last layer, left out
PLAIN = {"erased_directions": 0, "frame_norm": "none", "least_squares": None}


def plain_config(encoder):
    """Return the arguments of an encoder whose frames are not changed after the last layer.

    Arguments
    ---------
    encoder : FrameEncoder or UtteranceEncoder

    Returns
    -------
    dict
    """
    return {key: PLAIN.get(key, value) for key, value in encoder.config.items()}


def fresh(encoder, seed):
    """Return an encoder of the same architecture with random weights.

    Nothing is done to its frames after the last layer.

    Arguments
    ---------
    encoder : FrameEncoder or UtteranceEncoder
    seed : int
        Seed of the weights.

    Returns
    -------
    FrameEncoder or UtteranceEncoder
        On the same device, in evaluation mode.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "random weights"))
        made = type(encoder)(**plain_config(encoder))
    return made.to(next(encoder.parameters()).device).eval()


def fbank_states(representation):
    """Return log-mel bands in the place of an encoder's states.

    Arguments
    ---------
    representation : str
        "frames", or "utterance" for the bands' mean and standard deviation over time.

    Returns
    -------
    nn.Module
        One of `lobes.states`.

    Example
    -------
    >>> fbank_states("frames").dim, fbank_states("utterance").dim
    (240, 480)
    """
    bands = FbankStates()
    return bands if representation == "frames" else PooledStates(bands)


class FbankStatistics(nn.Module):
    """Mean and standard deviation over time of 80 log-mel bands (SpeechBrain's Fbank, dB).

    Unlike in `fbank_states`, nothing is subtracted and there are no differences: the long-term
    spectrum, channel included, is the strength of this baseline.

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
