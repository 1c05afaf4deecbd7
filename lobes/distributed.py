"""Sums and gathers across the ranks of a process group that gradients flow through.

Without a process group every function is the identity, so that the modules that use them
give the same result in one process. Each rank is expected to scale its loss such that the mean
over the ranks, which DistributedDataParallel takes, is the loss of the global batch.

What the ranks tell each other of the sizes of their batches goes over the CPU: no rank waits for
its device to know them.
"""

from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

_alone = False
_cpu_groups = {}


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
    return x if world_size() == 1 else _SumOverRanks.apply(x)


class _SumOverRanks(torch.autograd.Function):
    """all_reduce; the gradients of all ranks add up, too."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SharedCounts:
    """Whole numbers of every rank, sent when this is made and waited for when they are needed.

    Arguments
    ---------
    **counts : int
        Numbers of this rank, under the same names on every rank.

    Example
    -------
    >>> counts = SharedCounts(rows=8, frames=392)
    >>> counts["rows"].tolist(), counts.total("frames")
    ([8], 392)
    """

    def __init__(self, **counts):
        self.names = list(counts)
        self.table = np.zeros((world_size(), len(counts)), np.int64)
        self.table[rank()] = list(counts.values())
        self.work = None
        if world_size() > 1:
            table = torch.from_numpy(self.table)  # the same memory
            self.work = dist.all_reduce(table, group=_cpu_group(), async_op=True)

    def __getitem__(self, name):
        """Return the number of each rank, an array (ranks,) of int64."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        return self.table[:, self.names.index(name)]

    def total(self, name):
        """Return the sum over the ranks, an int."""
        return int(self[name].sum())


def _cpu_group():
    """Return a process group of all ranks whose tensors are on the CPU, made at the first call."""
    if "gloo" in dist.get_backend():
        return dist.group.WORLD
    if _cpu_groups.get("of") is not dist.group.WORLD:
        _cpu_groups.update({"of": dist.group.WORLD, "group": dist.new_group(backend="gloo")})
    return _cpu_groups["group"]


def gather_numbers(numbers, rows):
    """Return arrays of every rank, one after the other, without gradients and over the CPU.

    Arguments
    ---------
    numbers : numpy.ndarray
        Shape (rows of this rank,), int64.
    rows : numpy.ndarray
        Shape (ranks,), the number of rows of each rank.

    Returns
    -------
    numpy.ndarray
        Shape (rows of all ranks,), int64.

    Example
    -------
    >>> gather_numbers(np.array([3, 4]), np.array([2]))
    array([3, 4])
    """
    if world_size() == 1:
        return numbers
    start = row_offset(rows)
    everyone = np.zeros(rows.sum(), np.int64)
    everyone[start : start + len(numbers)] = numbers
    dist.all_reduce(torch.from_numpy(everyone), group=_cpu_group())  # the same memory
    return everyone


def sum_over_ranks(values):
    """Return the sum over the ranks of an array of numbers, over the CPU.

    Example
    -------
    >>> sum_over_ranks(np.array([1.5, 2.0]))
    array([1.5, 2. ])
    """
    if world_size() == 1:
        return values
    total = np.array(values)
    dist.all_reduce(torch.from_numpy(total), group=_cpu_group())  # the same memory
    return total


def row_counts(x):
    """Return how many rows each rank has, (ranks,) int64; the ranks wait for each other.

    Example
    -------
    >>> row_counts(torch.ones(4, 3))
    array([4])
    """
    return SharedCounts(rows=len(x))["rows"]


def row_offset(rows):
    """Return how many rows the ranks before this one have, from the number of rows of each.

    Example
    -------
    >>> row_offset(np.array([4]))
    0
    """
    return int(rows[: rank()].sum())


def gather_rows(x, rows):
    """Return the rows of every rank, one rank after the other, with gradients to their owners.

    Arguments
    ---------
    x : torch.Tensor
        Shape (rows, ...). The number of rows may differ from rank to rank.
    rows : numpy.ndarray
        Shape (ranks,), the number of rows of each rank, see `row_counts`.

    Returns
    -------
    torch.Tensor
        Shape (rows of all ranks, ...).

    Example
    -------
    >>> gather_rows(torch.ones(4, 3), np.array([4])).shape
    torch.Size([4, 3])
    """
    return x if world_size() == 1 else _GatherRows.apply(x, rows)


class _GatherRows(torch.autograd.Function):
    """all_gather of blocks that are padded to the longest; the gradients of all ranks add up."""

    @staticmethod
    def forward(ctx, x, rows):
        ctx.rows = rows
        inner = (0, 0) * (x.ndim - 1)  # of the dimensions after the first, which come before it
        own = F.pad(x, (*inner, 0, int(rows.max()) - len(x))).contiguous()
        blocks = [torch.empty_like(own) for _ in rows]
        dist.all_gather(blocks, own)
        return torch.cat([block[:n] for block, n in zip(blocks, rows.tolist(), strict=True)])

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        start = row_offset(ctx.rows)
        return grad[start : start + int(ctx.rows[rank()])], None


def unwrap(module):
    """Return the module inside DistributedDataParallel, or the module itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module
