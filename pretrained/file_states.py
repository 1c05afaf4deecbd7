"""States of audio files of any length, as the heads of exported folders see them."""

import itertools

import torch

from lobes.signal import HOP
from lobes.states import FbankStates, FrameStates, PooledStates, UtteranceStates
from pretrained.audio import read_blocks
from pretrained.windows import LongBands, LongEncoding, cut_windows, kept

ENCODERS = {"frame_encoder": FrameStates, "utterance_encoder": UtteranceStates}


def make_states(features, modules):
    """Return the module of `lobes.states` that an exported folder's features name.

    Arguments
    ---------
    features : str
        "frame_encoder", "utterance_encoder", "fbank" or "fbank_statistics", which are mean and
        deviation over time of the former.
    modules : dict
        With the encoder that is named.

    Returns
    -------
    nn.Module

    Example
    -------
    >>> make_states("fbank_statistics", {}).dim
    480
    """
    if features in ENCODERS:
        return ENCODERS[features](modules[features])
    states = FbankStates()
    return PooledStates(states) if features == "fbank_statistics" else states


class FileStates:
    """The states of an audio file, summed over layers so that an hour's fit in memory.

    Up to 30 s they are what the states module gives of the samples. A longer recording's come from
    windows (`pretrained.windows`): log-mel bands, their statistics and a TDNN's embedding are what
    the whole would give; a frame encoder normalises and attends within each window.

    Arguments
    ---------
    features : str
    modules : dict
        As `make_states` takes them.
    sum_layers : callable
        Maps (1, frames, layers, dim) to (1, frames, dim), frame by frame.
    device : str or torch.device
        Where to compute.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> path = getfixture("tmp_path") / "long.wav"
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 640000), 16000)
    >>> states, lens = FileStates("fbank", {}, lambda states: states[:, :, 0])(path)
    >>> states.shape, lens.tolist()
    (torch.Size([1, 2001, 240]), [2001])
    """

    def __init__(self, features, modules, sum_layers, device="cpu"):
        self.features = features
        self.states = make_states(features, modules).to(device).eval()
        self.sum_layers = sum_layers
        self.device = torch.device(device)

    @torch.no_grad()
    def __call__(self, path):
        """Return the states of a file, (1, frames, dim), and their number, (1,), int64.

        What cannot be read is refused as `pretrained.audio.read_blocks` tells.
        """
        windows = (
            (window.to(self.device), first, last)
            for window, first, last in cut_windows(read_blocks(path))
        )
        window, first, last = next(windows)
        if last:
            states, lens = self.states(window)
            return self.sum_layers(states), lens
        x = self._long(itertools.chain([(window, first, last)], windows))
        return x, torch.tensor([x.shape[1]], device=self.device)

    def _long(self, windows):
        if self.features == "frame_encoder":
            return torch.cat([self._window(*window) for window in windows], dim=1)
        if self.features == "utterance_encoder":
            return self.sum_layers(_long_utterance(self.states, windows))
        if self.features == "fbank":
            return self.sum_layers(_long_fbank(self.states, windows))
        return self.sum_layers(self.states.pool(_long_fbank(self.states.states, windows)))

    def _window(self, window, first, last):
        return self.sum_layers(self.states(window)[0][:, kept(first, last, HOP)])


def _long_utterance(states, windows):
    """Return what `UtteranceStates` gives of a recording, (1, 1, 1, dim)."""
    encoding = LongEncoding(None, states.encoder)
    for window in windows:
        encoding.add(*window)
    return states.from_embeddings(encoding.utterance())[0]


def _long_fbank(states, windows):
    """Return what `FbankStates` gives of a recording, (1, frames, 1, 240)."""
    long = LongBands(states.features)
    for window in windows:
        long.add(*window)
    bands = long.bands()
    return states.from_bands(bands, torch.tensor([bands.shape[2]], device=bands.device))[0]
