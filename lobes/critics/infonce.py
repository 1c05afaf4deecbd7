"""InfoNCE (van den Oord et al., arXiv 1807.03748): a lower bound, to watch beside CLUB."""

import math

import torch

from lobes.critics.club import MICritic, ResidualMLP, _row_weight
from lobes.critics.groups import index_groups
from lobes.distributed import gather_rows, row_counts


class InfoNCE(MICritic):
    """InfoNCE, arXiv 1807.03748: a lower bound that is at most the log of the number of rows.

    Each x is to pick its own y among that and the y of all other groups. The score of x with y is
    <a(x), b(y)> / sqrt(hidden_dim) + h(x) + k(y) with networks that see the features and their
    squares, so that the log-ratio of jointly Gaussian x and y is among the scores. The scale keeps
    the first scores small.

    Arguments
    ---------
    x_dim : int
        Features of x.
    y_dim : int
        Features of y.
    hidden_dim : int
        Hidden units of each network, and the size of a(x) and b(y).

    Example
    -------
    >>> critic = InfoNCE(x_dim=6, y_dim=4, hidden_dim=16)
    >>> value = critic(torch.randn(12, 6), torch.randn(12, 4), torch.arange(12) // 3)
    >>> value.shape
    torch.Size([])
    """

    updating_modes = ("estimate", "objective")

    def __init__(self, x_dim, y_dim, hidden_dim=512):
        super().__init__(x_dim, y_dim)
        self.hidden_dim = hidden_dim
        self.embed_x = ResidualMLP(2 * x_dim, hidden_dim, hidden_dim + 1)
        self.embed_y = ResidualMLP(2 * y_dim, hidden_dim, hidden_dim + 1)

    @torch.no_grad()
    def scores(self, x, y):
        """Return the score of each x with each y.

        Arguments
        ---------
        x : torch.Tensor
            Shape (rows, x_dim).
        y : torch.Tensor
            Shape (other rows, y_dim).

        Returns
        -------
        torch.Tensor
            Shape (rows, other rows).
        """
        x, y = self.standardise_x(x.float()), self.standardise_y(y.float())
        return self._scores(x, y, row_counts(y))

    def _scores(self, x, y, rows):
        """Score this rank's rows with the rows of all ranks: (rows, rows of all ranks)."""
        x = self.embed_x(torch.cat([x, x.square()], dim=1))
        y = gather_rows(self.embed_y(torch.cat([y, y.square()], dim=1)), rows)
        products = x[:, :-1] @ y[:, :-1].T
        return products / math.sqrt(self.hidden_dim) + x[:, -1:] + y[:, -1]

    def _estimate(self, x, y, groups):
        index = index_groups(x, groups)
        scores = self._scores(x, y, index.rows)
        excluded = ~index.negatives
        excluded.diagonal(index.start).fill_(False)  # its own y
        candidates = scores.masked_fill(excluded, -math.inf)
        num_candidates = 1 + index.num_others[index.own]
        value = scores.diagonal(index.start) - candidates.logsumexp(1) + num_candidates.log()
        return value.sum() * _row_weight(x)
