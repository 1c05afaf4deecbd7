"""Which rows of all ranks are negatives of which, for every critic."""

import numpy as np
import torch

from lobes.distributed import gather_numbers, row_counts, row_offset
from lobes.signal import to_device


class GroupIndex:
    """Which rows of all ranks are negatives of which of this rank's rows.

    It is made on the CPU, once for all critics that see the same groups.

    Arguments
    ---------
    groups : numpy.ndarray or torch.Tensor
        Shape (rows,), integers, the group of each of this rank's rows; a device is waited for.
    device : torch.device
        Where the rows are.
    rows : numpy.ndarray, optional
        Shape (ranks,), the number of rows of each rank; asked of them if None.

    Raises
    ------
    ValueError
        Where all rows belong to one group.

    Attributes
    ----------
    rows : numpy.ndarray
        Shape (ranks,), the number of rows of each rank.
    start : int
        The number of rows on the ranks before this one: row i is number `start` + i of all.
    own : torch.Tensor
        Shape (rows,), the group of this rank's rows, from 0.
    everyone : torch.Tensor
        Shape (rows of all ranks,), the group of every row.
    sizes, num_others : torch.Tensor
        Shape (groups,), the number of rows inside and outside each group.
    num_pairs : int
        The number of ordered pairs of rows of different groups.

    Example
    -------
    >>> index = GroupIndex(torch.tensor([7, 7, 3, 5]), "cpu")
    >>> index.num_pairs
    10
    >>> index.negatives.shape
    torch.Size([4, 4])
    """

    def __init__(self, groups, device, rows=None):
        groups = groups.cpu().numpy() if torch.is_tensor(groups) else groups
        self.rows = row_counts(groups) if rows is None else rows
        self.start = row_offset(self.rows)
        everyone = gather_numbers(groups.astype(np.int64), self.rows)
        everyone = np.unique(everyone, return_inverse=True)[1]
        sizes = np.bincount(everyone)
        others = len(everyone) - sizes
        self.num_pairs = int((sizes * others).sum())
        if self.num_pairs == 0:
            raise ValueError(
                f"no negative pair among {len(everyone)} rows of {len(sizes)} group(s): "
                "the groups of a batch must name at least two utterances"
            )
        self.everyone, self.sizes, self.num_others = (
            to_device(torch.from_numpy(x), device) for x in (everyone, sizes, others)
        )
        self.own = self.everyone[self.start : self.start + len(groups)]

    @property
    def negatives(self):
        """Whether each pair is of different groups, bool (rows, rows of all ranks)."""
        return self.own.unsqueeze(1) != self.everyone


def index_groups(x, groups=None):
    """Return the `GroupIndex` of rows x; without groups each row is one."""
    if isinstance(groups, GroupIndex):
        return groups
    rows = row_counts(x)
    if groups is None:
        groups = row_offset(rows) + np.arange(len(x))
    return GroupIndex(groups, x.device, rows)
