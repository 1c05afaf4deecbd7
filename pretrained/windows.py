"""Recordings longer than a window: cut, encoded window by window, put together again.

A window sees 2 s more on either side than is kept of it. What only looks that far is therefore what
the whole recording would give: the log-mel bands of the utterance encoder, the TDNN, and the
pooling, whose statistics are over all windows. What normalises over a whole row does so over the
window: the frame encoder's front end and attention, and ECAPA-TDNN's squeeze-and-excitation.
"""

import numpy as np
import torch
from speechbrain.processing.features import spectral_magnitude

from lobes.frame_encoder import HOP
from lobes.pooling import MIN_VARIANCE
from lobes.targets import SAMPLE_RATE

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
        self._bands = []

    def add(self, window, first, last):
        """Encode a window of `cut_windows`, on the device of the encoders."""
        if self.frame_encoder is not None:
            self._frames.append(self.frame_encoder(window)[:, kept(first, last, HOP)])
        if self.utterance_encoder is not None:
            features = self.utterance_encoder.features
            power = spectral_magnitude(features.fbank.compute_STFT(window))
            # Cut before the logarithm, whose floor depends on all frames that it sees.
            power = power[:, kept(first, last, features.hop)]
            self._bands.append(features.fbank.compute_fbanks(power))

    def frames(self):
        """Return the frames of the recording, (1, frames, d_model), or None."""
        return torch.cat(self._frames, dim=1) if self._frames else None

    def utterance(self):
        """Return the embedding of the recording, (1, E), or None."""
        if not self._bands:
            return None
        backbone, features = self.utterance_encoder.backbone, self.utterance_encoder.features
        bands = _floor_and_centre(torch.cat(self._bands, dim=1).transpose(1, 2), features)
        pooled = pool_windows(
            backbone.asp, lambda: _backbone_windows(backbone, bands, features.hop)
        )
        return backbone.fc(backbone.asp_bn(pooled)[..., None]).squeeze(2)


def _floor_and_centre(bands, features):
    """Do over the recording what `LogMel` does over a row: 80 dB below the loudest, centred."""
    bands = bands.clamp(min=bands.max() - features.fbank.compute_fbanks.top_db)
    return features.centre(bands)


def _backbone_windows(backbone, bands, hop):
    """Yield the frames that the backbone makes of the bands (1, 80, time)."""
    step, context = STEP // hop, CONTEXT // hop
    for start in range(0, bands.shape[2], step):
        before = max(0, start - context)
        x = backbone.frames(bands[..., before : start + step + context])
        yield x[..., start - before : start - before + step]


def pool_windows(pooling, windows):
    """Pool a recording as `AttentiveStatisticsPooling` pools a row, from windows of it.

    The first pass takes the mean and the deviation of all frames, which the attention sees beside
    each frame. The second sums frames by their attention, relative to the largest score so far.

    Arguments
    ---------
    pooling : AttentiveStatisticsPooling
    windows : callable
        Returns an iterator of the windows' frames, (batch, channels, time) each; called twice.

    Returns
    -------
    torch.Tensor
        Shape (batch, 2 * channels), float32: weighted means, then weighted deviations.

    Example
    -------
    >>> from lobes.pooling import AttentiveStatisticsPooling
    >>> pooling, x = AttentiveStatisticsPooling(8).eval(), torch.randn(1, 8, 50)
    >>> pooled = pool_windows(pooling, lambda: x.split(20, dim=2))
    >>> bool(torch.allclose(pooled, pooling(x), atol=1e-5))
    True
    """
    sums = sum(torch.stack([torch.ones_like(x), x, x * x]).sum(-1) for x in _double(windows()))
    context = [part.float() for part in _mean_std(sums)]
    largest, sums = None, 0.0
    for x in windows():
        scores = pooling.scores(x, *context).double()
        new = scores.amax(dim=2)
        if largest is not None:
            new = torch.maximum(new, largest)
            sums = sums * torch.exp(largest - new)
        largest = new
        weights, x = torch.exp(scores - largest[..., None]), x.double()
        sums = sums + torch.stack([weights, weights * x, weights * x * x]).sum(-1)
    return torch.cat(_mean_std(sums), dim=1).float()


def _double(windows):
    return (x.double() for x in windows)


def _mean_std(sums):
    """Return mean and deviation from the sums of weights, weighted values and squares."""
    total, values, squares = sums
    mean = values / total
    return mean, (squares / total - mean.square()).clamp(min=MIN_VARIANCE).sqrt()
