"""Estimators of the mutual information that only tests compare with: sampled CLUB and MINE."""

import math

import torch

from lobes.critics.club import CLUB, _log_gaussian, _row_weight, repeat_rows
from lobes.critics.groups import index_groups
from lobes.critics.infonce import InfoNCE
from lobes.distributed import gather_rows, row_counts


class SampledCLUB(CLUB):
    """CLUB whose negatives are a few rows for each row, drawn anew at each call.

    Unbiased for the estimate of `CLUB`: the rows are drawn uniformly, with replacement, among
    those of all other groups.

    Arguments
    ---------
    x_dim : int
        Features of x, the condition.
    y_dim : int
        Features of y.
    hidden_dim : int
        Hidden units of the mean's and of the log-variance's network.
    num_negatives : int
        Rows drawn for each row.

    Example
    -------
    >>> critic = SampledCLUB(x_dim=6, y_dim=4, hidden_dim=16, num_negatives=2)
    >>> critic(torch.randn(12, 6), torch.randn(12, 4), torch.arange(12) // 3).shape
    torch.Size([])
    """

    def __init__(self, x_dim, y_dim, hidden_dim=512, num_negatives=1):
        super().__init__(x_dim, y_dim, hidden_dim)
        self.num_negatives = num_negatives

    def _negative(self, y, mean, log_variance, index):
        rows = repeat_rows(gather_rows(y, index.rows), sample_negatives(index, self.num_negatives))
        return _log_gaussian(rows, mean.unsqueeze(1), log_variance.unsqueeze(1)).mean(1)


class MINE(InfoNCE):
    """MINE, arXiv 1801.04062: the Donsker-Varadhan lower bound over all pairs of other groups.

    The mean score of the rows minus the log of the mean exp(score) of the pairs. The paper's moving
    average of the latter (section 3.2) is for the few negatives of a shuffled batch. Over all pairs
    the gradient's bias is small and the average's lag does more harm: on correlated Gaussians
    (20 dimensions, 8 nats, batches of 512, 2000 steps, weight .01) it read 2.3, without it 7.5.
    Its exponential of large scores is ruled by a few pairs.

    Arguments
    ---------
    x_dim : int
        Features of x.
    y_dim : int
        Features of y.
    hidden_dim : int
        Hidden units of each network.

    Example
    -------
    >>> critic = MINE(x_dim=6, y_dim=4, hidden_dim=16)
    >>> value = critic(torch.randn(12, 6), torch.randn(12, 4), torch.arange(12) // 3)
    >>> value.shape
    torch.Size([])
    """

    def _estimate(self, x, y, groups):
        index = index_groups(x, groups)
        scores = self._scores(x, y, index.rows)
        negatives = scores.masked_fill(~index.negatives, -math.inf)
        log_total = negatives.flatten().logsumexp(0, keepdim=True)
        log_totals = gather_rows(log_total, row_counts(log_total))
        log_mean = log_totals.logsumexp(0) - math.log(index.num_pairs)
        return scores.diagonal(index.start).sum() * _row_weight(x) - log_mean


def sample_negatives(index, num_negatives):
    """Draw rows of all ranks that are negatives of this rank's, (rows, num_negatives)."""
    order = index.everyone.argsort()
    first = (index.sizes.cumsum(0) - index.sizes)[index.own].unsqueeze(1)
    size = index.sizes[index.own].unsqueeze(1)
    others = index.num_others[index.own].unsqueeze(1)
    uniform = torch.rand(
        len(index.own), num_negatives, dtype=torch.float64, device=index.own.device
    )
    drawn = (uniform * others).long()
    return order[drawn + size * (drawn >= first)]  # Sorted by group, skip the row's own.
