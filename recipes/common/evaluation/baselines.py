"""Baselines: random weights and log-mel bands, which every representation is judged beside."""

import torch

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
