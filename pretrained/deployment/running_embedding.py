"""The embedding of a recording that goes on: of all that was heard, from a bounded part of it."""

import torch

from lobes.signal import SAMPLE_RATE, mean_std_of_sums, weighted_sums
from lobes.tdnn import Attended

MARGIN = 2  # seconds of settled bands that the backbone still sees, as in `pretrained.windows`


class RunningEmbedding:
    """The embedding of all log-mel bands so far.

    The mean that is taken off the bands, and what the pooling's attention compares each frame with,
    are those of the whole recording: its end decides what its beginning becomes. So the newest
    bands are held, and embedded again with every addition. Older ones are settled by what is known
    when they leave: only their sums stay. As long as nothing has left, the embedding is the
    encoder's own of the bands so far.

    Arguments
    ---------
    encoder : UtteranceEncoder
        In evaluation mode.
    seconds : float
        How much is held, at least.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4).eval()
    >>> running = RunningEmbedding(encoder, seconds=8.0)
    >>> with torch.no_grad():
    ...     running.add(encoder.features.decibels(torch.rand(1, 100, 201))).shape
    torch.Size([1, 4])
    """

    def __init__(self, encoder, seconds):
        self.features, self.backbone = encoder.features, encoder.backbone
        rate = SAMPLE_RATE / self.features.hop
        self.most, self.margin = round(seconds * rate), round(MARGIN * rate)
        self.held, self.settled = None, 0  # bands, and how many of them are settled
        self.loudest = None
        self.count, self.band_sums = 0, 0.0  # of settled bands
        self.frame_sums, self.attended = 0.0, Attended()

    def add(self, bands):
        """Add bands and return the embedding of all so far.

        Arguments
        ---------
        bands : torch.Tensor
            Shape (1, frames, 80), at least one frame: the next of `LogMel.decibels`.

        Returns
        -------
        torch.Tensor
            Shape (1, E), float32.
        """
        bands = bands.transpose(1, 2)
        self.loudest = bands.max() if self.loudest is None else self.loudest.maximum(bands.max())
        self.held = bands if self.held is None else torch.cat([self.held, bands], dim=2)
        floored = self.features.floored(self.held, self.loudest)
        x = self.backbone.frames(self.features.without_mean(floored, self._mean(floored)))
        x = x[..., self.settled :]
        scores = self.backbone.asp.scores(x, *self._mean_std(x))
        pooled = self.attended.add(x, scores).pooled().to(x.device)
        self._settle(floored, x, scores)
        return self.backbone.embed_pooled(pooled)

    def _mean(self, floored):
        """Return the mean of each band, (1, 80), over all so far."""
        new = floored[..., self.settled :].cpu().double()
        sums = self.band_sums + new.sum(dim=2)
        return (sums / (self.count + new.shape[2])).float().to(floored.device)

    def _mean_std(self, x):
        """Return mean and deviation of the backbone's frames, (1, channels) each, over all."""
        statistics = mean_std_of_sums(self.frame_sums + _sums(x))
        return [statistic.to(x.device) for statistic in statistics]

    def _settle(self, floored, x, scores):
        """Let the oldest bands leave, so that no more are held than are to be."""
        count = x.shape[2] - self.most
        if count <= 0:
            return
        leaving = floored[..., self.settled : self.settled + count].cpu().double()
        self.count, self.band_sums = self.count + count, self.band_sums + leaving.sum(dim=2)
        self.frame_sums = self.frame_sums + _sums(x[..., :count])
        self.attended = self.attended.add(x[..., :count], scores[..., :count])
        self.settled += count
        dropped = max(0, self.settled - self.margin)
        self.held, self.settled = self.held[..., dropped:], self.settled - dropped


def _sums(x):
    x = x.cpu().double()
    return weighted_sums(x, torch.ones_like(x))
