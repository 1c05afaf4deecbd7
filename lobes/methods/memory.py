"""A queue of what earlier batches left, the newest in the place of the oldest."""

import torch
from torch import nn
from torch.nn import functional as F

from lobes.distributed import gather_rows
from lobes.signal import to_device


class Memory(nn.Module):
    """The last rows of one or more kinds, of all ranks.

    Arguments
    ---------
    size : int
        How many rows are kept.
    **dims : int
        The size of a row of each kind, by name: each is a buffer (size, dim), float32. At first it
        holds random directions of unit length.

    Attributes
    ----------
    filled : int
        How many rows were ever added, at most `size`.

    Example
    -------
    >>> from lobes.distributed import row_counts
    >>> memory = Memory(4, keys=2)
    >>> memory.add(row_counts(torch.ones(3)), keys=torch.ones(3, 2))
    >>> memory.filled, memory.keys.sum(1)[:3].tolist()
    (3, [2.0, 2.0, 2.0])
    """

    def __init__(self, size, **dims):
        super().__init__()
        self.size, self.place, self.filled = size, 0, 0
        self.kinds = list(dims)
        for kind, dim in dims.items():
            self.register_buffer(kind, F.normalize(torch.randn(size, dim), dim=1))

    @torch.no_grad()
    def add(self, rows, **values):
        """Add the rows of all ranks; where they are more than fit, the last of them.

        Arguments
        ---------
        rows : numpy.ndarray
            Shape (ranks,), the number of rows of each rank.
        **values : torch.Tensor
            By kind: this rank's, shape (rows, dim).
        """
        count = int(rows.sum())
        kept = min(count, self.size)
        places = (self.place + torch.arange(kept)) % self.size
        for kind in self.kinds:
            buffer = getattr(self, kind)
            added = gather_rows(values[kind].to(buffer.dtype), rows)[count - kept :]
            buffer.index_copy_(0, to_device(places, buffer.device), added)
        self.place = (self.place + kept) % self.size
        self.filled = min(self.filled + kept, self.size)

    def get_extra_state(self):
        """Return what a checkpoint holds beside the buffers."""
        return torch.tensor([self.place, self.filled])

    def set_extra_state(self, state):
        """Take what `get_extra_state` returned."""
        self.place, self.filled = state.tolist()
