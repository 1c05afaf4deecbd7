"""Ranks as processes of their own, which are forked: they start in no time."""

import multiprocessing
import os
import signal
import threading
import time
import traceback

import pytest
import torch.distributed as dist
from tqdm import tqdm

SECONDS = 60


def run_ranks(count, folder, function, *args):
    """Run a function on so many ranks; as torchrun does, end all others when one fails.

    Arguments
    ---------
    count : int
        Number of ranks; one is a process without a process group.
    folder : Path
        Takes what failed.
    function : callable
    *args
        Its arguments.

    Returns
    -------
    dict
        What was raised, as text, by rank; "" of a rank that was killed.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs processes that are forked")
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store-{time.monotonic_ns()}"
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=_run, args=(rank, count, store, function, args))
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    begun = time.monotonic()
    while any(process.is_alive() for process in ranks):
        failed = [process for process in ranks if process.exitcode]
        if failed or time.monotonic() - begun > SECONDS:
            time.sleep(0.1)
            for process in ranks:
                process.kill()
        time.sleep(0.02)
    raised = {}
    for rank, process in enumerate(ranks):
        process.join()
        path = store.with_suffix(f".{rank}")
        if process.exitcode != 0:
            raised[rank] = path.read_text() if path.exists() else ""
    return raised


def _run(rank, count, store, function, args):
    # The parent's lock is shared by all forks: of one that is killed while it holds it, all wait.
    tqdm.set_lock(threading.RLock())
    code = 0
    try:
        if count > 1:
            dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=count)
        function(*args)
    except BaseException:
        store.with_suffix(f".{rank}").write_text(traceback.format_exc())
        code = 1
    os._exit(code)


def end_this_process():
    """End this process as a kill does."""
    os.kill(os.getpid(), signal.SIGKILL)
