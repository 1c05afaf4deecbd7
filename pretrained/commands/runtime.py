"""How a process that computes for long waits for its threads and keeps its memory."""

import ctypes
import os
import platform
import sys

SPINS = "5000"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KERNELS = "64"


def spin_little():
    """Let OpenMP's threads give their cores away when they wait. Call it before torch is loaded.

    A thread that waits for others spins, by default for milliseconds. On cores that other processes
    want too, it spins away the time that the others need: two threads beside one busy process took
    more than three times as long as alone. Threads that spin not at all (`OMP_WAIT_POLICY=passive`)
    are fastest on shared cores, and took a third longer on idle ones. The count lies between. A
    user's own setting stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_freed_memory():
    """Let the C library keep freed memory: on a CPU, page faults took a third of the time.

    And let oneDNN keep few compiled kernels: it has one for each length of a batch, which gigabytes
    come of.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
    _set_thresholds(2**30, 2**31 - 1)


def give_large_memory_back(_=None):
    """Let the C library give large blocks back, which in a worker are those of long recordings."""
    _set_thresholds(2**25, 2**26)


def _set_thresholds(mapped, trimmed):
    """Set from how many bytes on a block is mapped, and how many free ones may be kept."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, mapped)
        libc.mallopt(M_TRIM_THRESHOLD, trimmed)


def check_device(name):
    """Return a device by its name, where this machine has it; a ValueError tells where not."""
    import torch

    try:
        torch.zeros(1, device=name).cpu()  # meta tensors have no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used on this machine: {reason}") from error
    return torch.device(name)
