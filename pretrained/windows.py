"""Recordings longer than a window: cut, encoded window by window, put together again.

A window sees 2 s more on either side than is kept of it. What only looks that far is therefore what
the whole recording would give: the log-mel bands of the utterance encoder, the TDNN, and the
pooling, whose statistics are over all windows. What normalises over a whole row does so over the
window: the frame encoder's front end and attention, and ECAPA-TDNN's squeeze-and-excitation.
"""

import math

import numpy as np
import torch

from lobes.signal import HOP, SAMPLE_RATE

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


class LongBands:
    """The log-mel bands of a recording from its windows: what `LogMel` gives of the whole.

    Arguments
    ---------
    features : LogMel

    Example
    -------
    >>> from lobes.utterance_encoder import LogMel
    >>> bands = LongBands(LogMel())
    >>> for window in cut_windows([torch.randn(40 * 16000).numpy()]):
    ...     bands.add(*window)
    >>> bands.bands().shape
    torch.Size([1, 80, 4001])
    """

    def __init__(self, features):
        self.features = features
        self._parts = []

    def add(self, window, first, last):
        """Take a window of `cut_windows`, on the device of the features."""
        # Cut before the logarithm, whose floor depends on all frames that it sees.
        power = self.features.power(window)[:, kept(first, last, self.features.hop)]
        self._parts.append(self.features.decibels(power))

    def bands(self):
        """Return the bands, (1, 80, frames)."""
        return self.features.join(self._parts)


class LongEncoding:
    """Encodes a recording from its windows, given one after another.

    Arguments
    ---------
    frame_encoder : FrameEncoder or None
    utterance_encoder : UtteranceEncoder or None
        Both in evaluation mode.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
    >>> encoding = LongEncoding(None, encoder)
    >>> with torch.no_grad():
    ...     for window in cut_windows([torch.randn(40 * 16000).numpy()]):
    ...         encoding.add(*window)
    ...     encoding.utterance().shape
    torch.Size([1, 4])
    """

    def __init__(self, frame_encoder, utterance_encoder):
        self.frame_encoder = frame_encoder
        self.utterance_encoder = utterance_encoder
        self._frames = []
        self._bands = None if utterance_encoder is None else LongBands(utterance_encoder.features)

    def add(self, window, first, last):
        """Encode a window of `cut_windows`, on the device of the encoders."""
        if self.frame_encoder is not None:
            self._frames.append(self.frame_encoder(window)[:, kept(first, last, HOP)])
        if self._bands is not None:
            self._bands.add(window, first, last)

    def frames(self):
        """Return the frames of the recording, (1, frames, d_model), or None."""
        return torch.cat(self._frames, dim=1) if self._frames else None

    def utterance(self):
        """Return the embedding of the recording, (1, E), or None."""
        if self._bands is None:
            return None
        backbone, hop = self.utterance_encoder.backbone, self.utterance_encoder.features.hop
        bands = self._bands.bands()
        return backbone.embed_parts(lambda: map_windows(backbone.frames, bands, hop))


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
