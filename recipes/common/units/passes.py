"""Passes over a corpus that the ranks share and that an interrupted run takes up again.

The work is cut into jobs by the corpus alone; of n ranks, rank r does jobs r, r + n, r + 2n and so
on. What a job gives is a file of its own, written whole. So the result does not depend on how many
ranks there were, nor on how often they were interrupted. Ranks wait for each other by looking for
files in a folder that all of them see: a collective gives up after its process group's timeout.
"""

import hashlib
import itertools
import json
import math
import shutil
import threading
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save
from speechbrain.utils.distributed import ddp_barrier, ddp_broadcast
from torch.utils.data import DataLoader
from tqdm import tqdm

from lobes.distributed import rank, world_size
from pretrained.plain_files import read_json, write_whole

JOB_BATCHES = 16  # at least: what a kill costs each rank
MOST_JOBS = 4096  # files in a folder
MOMENT_JOBS = 16
POLL = 0.2  # s from one look for a file to the next
BEAT = 10  # s from one sign of life to the next
SILENCE = 600  # s without one, after which a rank counts as ended; file systems cache for a minute


class Presence:
    """Signs of life that ranks leave each other in a folder.

    torchrun ends all ranks of a run when one fails; other launchers may leave them waiting.

    Arguments
    ---------
    folder : Path
        Of this run alone.
    """

    def __init__(self, folder):
        self.folder = folder
        self.heard = {}  # by rank, its last sign and when that was seen
        self.checked = -math.inf
        self.stopped = threading.Event()
        self.beating = threading.Thread(target=self._beat, daemon=True)
        self.beating.start()

    def _beat(self):
        while not self.stopped.is_set():
            with suppress(OSError):  # which a network file system has now and then
                (self.folder / f"{rank()}.alive").touch()
            self.stopped.wait(BEAT)

    def stop(self, error=None):
        """Give no more signs; where an error ended this rank's part, tell the others."""
        self.stopped.set()
        self.beating.join()
        if error is not None:
            text = f"{type(error).__name__}: {error}"
            write_whole(self.folder / f"{rank()}.failed", text.encode())

    def check(self):
        """Raise RuntimeError where another rank failed or has not been heard of for long."""
        now = time.monotonic()
        if now - self.checked < BEAT:
            return
        self.checked = now
        for other in range(world_size()):
            failed, alive = (self.folder / f"{other}.{word}" for word in ("failed", "alive"))
            if failed.exists():
                told = failed.read_text(encoding="utf-8")
                raise RuntimeError(f"Rank {other} failed, for which this one waited. {told}")
            sign = alive.stat().st_mtime_ns if alive.exists() else None
            before, since = self.heard.get(other, (None, now))
            self.heard[other] = (sign, since if sign == before else now)
            if now - self.heard[other][1] > SILENCE:
                raise RuntimeError(
                    f"Rank {other} has given no sign of life in {self.folder} for {SILENCE} s: it "
                    "ended, or does not see this folder, which must be on a file system that all "
                    "ranks share. Start the same command again: what is done is kept."
                )


class SharedWork:
    """Ranks at work on a corpus, each on its own jobs.

    Every rank takes the same steps in the same order.

    Arguments
    ---------
    folder : str or Path
        Keeps what jobs gave while the work is not done, and is removed at its end.

    Example
    -------
    >>> from safetensors.torch import load_file
    >>> def compute(batches):
    ...     return {"sum": torch.tensor([sum(map(sum, batches))])}
    >>> with SharedWork(getfixture("tmp_path") / "parts") as work:
    ...     paths = work.share("sums", "numbers", [[[1, 2], [3]], [[4]]], list, compute)
    ...     [load_file(path)["sum"].item() for path in paths]
    [6, 4]
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.turn = 0

    def __enter__(self):
        run = self.folder / f"run-{ddp_broadcast(uuid.uuid4().hex)}"
        if rank() == 0:
            for stale in self.folder.glob("run-*"):
                shutil.rmtree(stale)
            run.mkdir(parents=True)
        ddp_barrier()
        self.run, self.presence = run, Presence(run)
        return self

    def __exit__(self, kind, error, trace):
        self.presence.stop(error)
        if error is None:
            ddp_barrier()
            if rank() == 0:
                shutil.rmtree(self.folder)

    def wait(self, paths):
        """Wait until all of some files are there.

        Raises
        ------
        RuntimeError
            Where a rank has ended before.
        """
        for path in paths:
            while not path.exists():
                self.presence.check()
                time.sleep(POLL)

    def on_main(self, function, *args):
        """Return what a function gives on the main rank, for which the others wait.

        Arguments
        ---------
        function : callable
            Returns what JSON can hold.
        *args
            Its arguments.
        """
        told = self.run / f"{self.turn}.json"
        self.turn += 1
        if rank() == 0:
            write_whole(told, json.dumps(function(*args)).encode())
        self.wait([told])
        return read_json(told)

    def share(self, name, made_of, jobs, load, compute):
        """Do this rank's jobs, wait for those of the others, and return where their results lie.

        Arguments
        ---------
        name : str
            Of the pass, as the progress bar shows it.
        made_of : str
            Digest of all that the results depend on beside the jobs: those of others are removed.
        jobs : list of list
            The batches of each job.
        load : callable
            Takes batches and yields each of them, loaded.
        compute : callable
            Takes the loaded batches of a job, of which it reads every one, and returns its tensors
            by name.

        Returns
        -------
        list of Path
            A safetensors file for each job.
        """
        # The results of other jobs, as of batches of another length, have the same numbers.
        digest = hashlib.sha256(json.dumps([made_of, jobs]).encode()).hexdigest()
        folder = self.folder / name / digest[:16]
        self.on_main(_keep_whole_parts, folder)
        paths = [folder / f"{number}.safetensors" for number in range(len(jobs))]
        own = [n for n in range(rank(), len(jobs), world_size()) if not paths[n].exists()]
        batches = [batch for number in own for batch in jobs[number]]
        bar = tqdm(total=len(batches), desc=name, dynamic_ncols=True, disable=rank() != 0)
        with bar, torch.no_grad():
            loaded = iter(load(batches))
            for number in own:
                part = compute(itertools.islice(loaded, len(jobs[number])))
                write_whole(paths[number], save(part))
                bar.update(len(jobs[number]))
        # The main rank alone looks at the parts: it may soon remove them.
        self.on_main(self.wait, paths)
        return paths


def share_moments(folder, encoders, loader, compute, every=1):
    """Have the ranks pass a loader's batches through encoders; return what came of it.

    Arguments
    ---------
    folder : Path
        Of a `SharedWork`.
    encoders : list of torch.nn.Module
        What the results depend on, beside the batches. Those of the main rank count: the last bits
        of others may be others, where machines of another kind computed them.
    loader : torch.utils.data.DataLoader
        Whose batches are always the same.
    compute : callable
        As `SharedWork.share` takes it, for a sixteenth of the batches, of all lengths.
    every : int
        How many batches there are for one that is taken.

    Returns
    -------
    list of dict
        The tensors of each sixteenth, the same on every rank.
    """
    batches = list(loader.batch_sampler)[::every]
    jobs = [batches[first::MOMENT_JOBS] for first in range(min(MOMENT_JOBS, len(batches)))]
    with SharedWork(folder) as work:
        made_of = work.on_main(digest_weights, *encoders)
        load = partial(_with_batches, loader)
        paths = work.share("moments", made_of, jobs, load, compute)
        # Not mapped: the files are removed at the end, which NFS refuses of one that is in use.
        return [load_bytes(path.read_bytes()) for path in paths]


def cut_jobs(batches):
    """Return batches in jobs of like size: at least 16 of them, at most 4096 jobs.

    Example
    -------
    >>> [len(job) for job in cut_jobs([[0, 1]] * 40)]
    [16, 16, 8]
    """
    size = max(JOB_BATCHES, math.ceil(len(batches) / MOST_JOBS))
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def digest_weights(*modules):
    """Return a digest of modules' weights and buffers.

    Example
    -------
    >>> layer = torch.nn.Linear(2, 3)
    >>> digest_weights(layer) == digest_weights(torch.nn.Linear(2, 3))
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in modules:
        for value in module.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _with_batches(loader, batches):
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


def _keep_whole_parts(folder):
    """Make a folder, or remove the files in it that were cut; remove those beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other)
    for path in folder.iterdir():
        if path.suffix != ".safetensors" or not _is_whole(path):
            path.unlink()


def _is_whole(path):
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError):
        return False
