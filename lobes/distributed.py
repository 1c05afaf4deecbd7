"""Sums and gathers across the ranks of a process group that gradients flow through.

Without a process group every function is the identity, so that the modules that use them
give the same result in one process. Each rank is expected to scale its loss such that the mean
over the ranks, which DistributedDataParallel takes, is the loss of the global batch.
"""

from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

_alone = False


def world_size():
    """Return the number of ranks that take part, 1 without a process group or in `alone()`."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextmanager
def alone():
    """Let each rank compute by itself, as where all ranks evaluate the same data.

    Example
    -------
    >>> with alone():
    ...     world_size()
    1
    """
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank():
    """Return this process's rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce_sum(x):
    """Return the sum of a tensor over all ranks, with gradients to every rank's tensor.

    Arguments
    ---------
    x : torch.Tensor
        Any shape, the same on every rank.

    Returns
    -------
    torch.Tensor
        The sum, of the same shape; `x` itself in a single process.

    Example
    -------
    >>> all_reduce_sum(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce  # not in every build of torch

    return all_reduce(x)


def gather_rows(x):
    """Return the rows of every rank, one rank after the other, with gradients to their owners.

    Arguments
    ---------
    x : torch.Tensor
        Shape (rows, ...). The number of rows may differ from rank to rank.

    Returns
    -------
    torch.Tensor
        Shape (rows of all ranks, ...).

    Example
    -------
    >>> gather_rows(torch.ones(4, 3)).shape
    torch.Size([4, 3])
    """
    if world_size() == 1:
        return x
    start, total = _row_range(x)
    # A sum of zero-padded blocks is a gather that any backend has, and its gradient is a slice.
    inner = (0, 0) * (x.ndim - 1)  # of the dimensions after the first, which come before it
    return all_reduce_sum(F.pad(x, (*inner, start, total - start - len(x))))


def row_offset(x):
    """Return the index of this rank's first row in `gather_rows(x)`.

    Example
    -------
    >>> row_offset(torch.ones(4, 3))
    0
    """
    return 0 if world_size() == 1 else _row_range(x)[0]


def _row_range(x):
    counts = torch.zeros(world_size(), dtype=torch.long, device=x.device)
    counts[dist.get_rank()] = len(x)
    dist.all_reduce(counts)
    return int(counts[: dist.get_rank()].sum()), int(counts.sum())


def unwrap(module):
    """Return the module inside DistributedDataParallel and torch.compile, or the module itself."""
    module = module.module if isinstance(module, DistributedDataParallel) else module
    return getattr(module, "_orig_mod", module)
