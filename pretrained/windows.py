"""Recordings longer than a window: cut, encoded window by window, put together again.

A window sees 2 s more on either side than is kept of it. What only looks that far is therefore what
the whole recording would give: the log-mel bands of the utterance encoder, the TDNN, and the
pooling, whose statistics are over all windows. What normalises over a whole row does so over the
window: the frame encoder's front end, attention and `frame_norm`, and ECAPA-TDNN's
squeeze-and-excitation.
"""

import itertools
import math

import numpy as np
import torch

from lobes.signal import HOP, SAMPLE_RATE
from pretrained.audio import read_blocks

WINDOW = 30 * SAMPLE_RATE  # samples
CONTEXT = 2 * SAMPLE_RATE  # of these, thrown away on either side
STEP = WINDOW - 2 * CONTEXT


def cut_windows(blocks):
    """Cut a stream into windows of 30 s, one every 26 s. The last is between 4 s and 30 s.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        Shape (samples,) each, 16 kHz.

    Yields
    ------
    tuple
        The window, a tensor (1, samples); whether it is the first; whether it is the last.

    Example
    -------
    >>> windows = cut_windows([np.zeros(1000000, np.float32)])
    >>> [(window.shape[1], first, last) for window, first, last in windows]
    [(480000, True, False), (480000, False, False), (168000, False, True)]
    """
    held, first = np.empty(0, np.float32), True
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > WINDOW:
            yield torch.from_numpy(held[:WINDOW])[None], first, False
            held, first = held[STEP:], False
    yield torch.from_numpy(held)[None], first, True


def kept(first, last, hop):
    """Return which frames of a window are kept.

    Arguments
    ---------
    first, last : bool
        Whether nothing comes before the window, and nothing after it.
    hop : int
        Samples from one frame to the next.

    Returns
    -------
    slice
        The windows' kept frames follow on each other.

    Example
    -------
    >>> kept(True, False, hop=320), kept(False, True, hop=320)
    (slice(0, 1400, None), slice(100, None, None))
    """
    return slice(0 if first else CONTEXT // hop, None if last else (WINDOW - CONTEXT) // hop)


def read_windows(path, device):
    """Read an audio file: whole where it is one window, else as its windows.

    Arguments
    ---------
    path : str or Path
        Of a format that soundfile reads.
    device : torch.device
        Where the samples go.

    Returns
    -------
    whole : torch.Tensor or None
        Shape (1, samples), 16 kHz, of a file of up to 30 s.
    windows : iterator of tuple
        Those of a longer file, as `cut_windows` yields them.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmp_path") / "long.wav"
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 640000), 16000)
    >>> whole, windows = read_windows(path, torch.device("cpu"))
    >>> whole, len(list(windows))
    (None, 2)
    """
    windows = ((x.to(device), *ends) for x, *ends in cut_windows(read_blocks(path)))
    window, first, last = next(windows)
    whole = window if last else None
    return whole, itertools.chain([(window, first, last)], windows)


def window_bands(features, window, first, last):
    """Return the log-mel bands of a window's kept frames, which `LogMel.join` takes."""
    # Cut before the logarithm, whose floor depends on all frames that it sees.
    return features.decibels(features.power(window)[:, kept(first, last, features.hop)])


def encode_windows(frame_encoder, utterance_encoder, windows):
    """Encode a recording from its windows.

    Arguments
    ---------
    frame_encoder : FrameEncoder or None
    utterance_encoder : UtteranceEncoder or None
        Both in evaluation mode.
    windows : iterable of tuple
        As `cut_windows` yields them, on the device of the encoders.

    Returns
    -------
    frames : torch.Tensor or None
        Shape (1, frames, d_model).
    utterance : torch.Tensor or None
        Shape (1, E).

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
    >>> with torch.no_grad():
    ...     windows = cut_windows([torch.randn(40 * 16000).numpy()])
    ...     frames, utterance = encode_windows(None, encoder, windows)
    >>> frames, utterance.shape
    (None, torch.Size([1, 4]))
    """
    frames, bands = [], []
    for window, first, last in windows:
        if frame_encoder is not None:
            frames.append(frame_encoder(window)[:, kept(first, last, HOP)])
        if utterance_encoder is not None:
            bands.append(window_bands(utterance_encoder.features, window, first, last))
    frames = torch.cat(frames, dim=1) if frames else None
    if not bands:
        return frames, None
    features, backbone = utterance_encoder.features, utterance_encoder.backbone
    bands = features.join(bands)
    return frames, backbone.embed_parts(lambda: map_windows(backbone.frames, bands, features.hop))


def map_windows(function, x, hop, stride=1):
    """Yield what a function makes of a recording, from windows of 30 s of it, context cut off.

    Arguments
    ---------
    function : callable
        Maps (1, channels, time) to (1, any, ceil(time / stride)).
    x : torch.Tensor
        Shape (1, channels, time).
    hop : int
        Samples from one position to the next.
    stride : int
        How many positions make one of the result.

    Yields
    ------
    torch.Tensor
        The parts of the result, which follow on each other.

    Example
    -------
    >>> x = torch.randn(1, 8, 4000)
    >>> parts = list(map_windows(lambda x: x[..., ::3], x, hop=320, stride=3))
    >>> len(parts), torch.equal(torch.cat(parts, dim=2), x[..., ::3])
    (4, True)
    """
    step, context = (stride * math.ceil(length / hop / stride) for length in (STEP, CONTEXT))
    for start in range(0, x.shape[2], step):
        before = max(0, start - context)
        y = function(x[..., before : start + step + context])
        yield y[..., (start - before) // stride : (start - before + step) // stride]
