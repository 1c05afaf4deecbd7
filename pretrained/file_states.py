"""States of audio files of any length, as the heads of exported folders see them."""

import torch

from lobes.signal import HOP
from lobes.states import FbankStates, FrameStates, PooledStates, UtteranceStates
from pretrained.windows import encode_windows, kept, read_windows, window_bands

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
        whole, windows = read_windows(path, self.device)
        x = self._long(windows) if whole is None else self.sum_layers(self.states(whole)[0])
        return x, torch.tensor([x.shape[1]], device=self.device)

    def _long(self, windows):
        if self.features == "frame_encoder":
            parts = (
                self.sum_layers(self.states(window)[0][:, kept(first, last, HOP)])
                for window, first, last in windows
            )
            return torch.cat(list(parts), dim=1)
        if self.features == "utterance_encoder":
            embedding = encode_windows(None, self.states.encoder, windows)[1]
            return self.sum_layers(self.states.from_embeddings(embedding)[0])
        if self.features == "fbank":
            return self.sum_layers(_long_fbank(self.states, windows))
        return self.sum_layers(self.states.pool(_long_fbank(self.states.states, windows)))


def _long_fbank(states, windows):
    """Return what `FbankStates` gives of a recording, (1, frames, 1, 240)."""
    features = states.features
    bands = features.join([window_bands(features, *window) for window in windows])
    return states.from_bands(bands, torch.tensor([bands.shape[2]], device=bands.device))[0]
