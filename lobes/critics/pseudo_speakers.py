"""A classifier of pseudo-speakers on frames, whose gradient is reversed: an adversary as critic."""

from torch.nn.functional import cross_entropy

from lobes.critics.club import MICritic, ResidualMLP, _row_weight
from lobes.targets import RandomProjectionQuantizer


class PseudoSpeakerCritic(MICritic):
    """A classifier of x into pseudo-speakers, clusters of y: to compare CLUB with.

    To minimise its estimate is to train x's encoder by the reversed gradient of a classifier
    (Ganin and Lempitsky, arXiv 1409.7495). The mean of log q(c|x) is, but for the entropy of the
    clusters, the lower bound of Barber and Agakov (NIPS 2003) on I(x; c). No gradient reaches y,
    whose cluster is the nearest of fixed random directions (arXiv 2202.01855, section 3.1).

    Arguments
    ---------
    x_dim : int
        Features of x.
    y_dim : int
        Features of y.
    hidden_dim : int
        Hidden units of the classifier.
    num_speakers : int
        Clusters.

    Example
    -------
    >>> import torch
    >>> critic = PseudoSpeakerCritic(x_dim=6, y_dim=4, hidden_dim=16, num_speakers=3)
    >>> bool(critic(torch.randn(12, 6), torch.randn(12, 4)) < 0)
    True
    """

    def __init__(self, x_dim, y_dim, hidden_dim=512, num_speakers=64):
        super().__init__(x_dim, y_dim)
        self.clusters = RandomProjectionQuantizer(y_dim, num_speakers)
        self.classifier = ResidualMLP(x_dim, hidden_dim, num_speakers)

    def _estimate(self, x, y, groups):
        logits = self.classifier(x)
        return -cross_entropy(logits, self.clusters(y), reduction="sum") * _row_weight(x)
