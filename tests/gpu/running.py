"""Parts one after another, each within its share of the time, and a record after every step.

The parts work in a process of their own. One that fails, hangs or takes the process down costs
that process alone: what it had measured is written, and the next part has a fresh one.
"""

import gc
import json
import multiprocessing
import os
import platform
import signal
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from recipes.common.training.record import write_metrics
from tests.gpu import made_up
from tests.gpu.report_tables import tables


@dataclass(frozen=True)
class Settings:
    """What is run, and where.

    Arguments
    ---------
    device : str
        "cuda" or "cpu".
    size : str
        "base", "small" or "tiny".
    audio : Path, optional
        A folder of speech for the stages of pretraining; synthetic voices without it.
    out : Path
        Receives metrics.json and table.md.
    minutes : float
        For all parts together.
    began : float
        When the run began, s since the epoch.
    """

    device: str
    size: str
    audio: Path | None
    out: Path
    minutes: float
    began: float


class Record:
    """The figures of a run in metrics.json, which is whole at any moment.

    Two processes may have it open as long as they write in turn.

    Arguments
    ---------
    settings : Settings
    """

    def __init__(self, settings):
        self.path, self.settings = settings.out / "metrics.json", settings

    def begin(self):
        """Write a record without parts, in the place of what is there."""
        plain = {key: str(value) for key, value in vars(self.settings).items() if key != "began"}
        self._write({"settings": plain, "machine": {}, "parts": {}})

    def figures(self):
        """Return what is recorded."""
        return json.loads(self.path.read_text(encoding="utf-8"))["figures"]

    def add(self, *place, value):
        """Put a value into its place: the keys that lead there."""
        figures = self.figures()
        at = figures
        for key in place[:-1]:
            at = at.setdefault(key, {})
        at[place[-1]] = value
        self._write(figures)

    def _write(self, figures):
        began = self.settings.began
        write_metrics(self.path, figures, seed=made_up.SEED, manifests=[], start_time=began)


def machine(device):
    """Return what the figures are measured on."""
    facts = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    facts["torch"] = torch.__version__
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


class Worker:
    """A process that measures parts when it is told to.

    Arguments
    ---------
    settings : Settings
    parts : dict
        By name, what `run_steps` takes.
    folder : Path
        For what the parts write on their way.
    """

    def __init__(self, settings, parts, folder):
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, settings, parts, folder))
        self.process.start()
        theirs.close()

    def run(self, name, seconds):
        """Measure a part and return None, or what kept it from its end: a key and a text."""
        try:
            self.pipe.send(name)
            if not self.pipe.poll(seconds):
                return "note", f"stopped after its {seconds:.0f} s; what it had measured stands"
            failed = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(10)
            return "error", f"its process ended with {self.process.exitcode}"
        return ("error", f"failed: {', '.join(failed)}") if failed else None

    def stop(self):
        """End the process and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.process.join()


def serve(pipe, settings, parts, folder):
    """Measure each part that the pipe names, and answer with the names of the steps that failed."""
    os.setsid()  # so that what a part starts ends with this process
    record = Record(settings)
    record.add("machine", value=machine(settings.device))
    while True:
        name = pipe.recv()
        note = partial(record.add, "parts", name)
        try:
            pipe.send(run_steps(parts[name], settings, folder, note))
        except Exception as error:
            traceback.print_exc()
            pipe.send([f"{type(error).__name__}: {error}"])


def run_steps(part, settings, folder, note):
    """Measure the steps of a part, and note the figures of each or its error.

    Arguments
    ---------
    part : callable
        Takes the settings and a folder; yields pairs of a name and a function that returns figures.
        With a `problem` among these, the step has failed.
    settings : Settings
    folder : Path
    note : callable
        Takes the keys of a value, and the value.

    Returns
    -------
    list of str
        The names of the steps that failed.
    """
    failed = []
    for name, step in part(settings, folder):
        began = time.time()
        try:
            figures = step()
            note("steps", name, value={**figures, "took_seconds": round(time.time() - began, 1)})
            if "problem" in figures:
                print(f"{name}: {figures['problem']}", flush=True)
                failed.append(name)
        except Exception as error:
            traceback.print_exc()
            note("steps", name, value={"error": f"{type(error).__name__}: {error}"[:2000]})
            failed.append(name)
        print(f"{name}: {time.time() - began:.1f} s", flush=True)
        del step
        forget(settings.device)
    return failed


def forget(device):
    """Give back what a step left behind in memory."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def run_parts(settings, parts, shares, folder):
    """Measure all parts and write their tables; return the names of those that failed.

    Arguments
    ---------
    settings : Settings
    parts : dict
        By name, what `run_steps` takes.
    shares : dict
        By name, of the time. What a part leaves over is shared by those after it.
    folder : Path
        For what the parts write on their way.
    """
    record, worker, failed = Record(settings), None, []
    record.begin()
    try:
        for name, seconds in time_limits(settings, shares):
            print(f"== {name}: up to {seconds:.0f} s", flush=True)
            worker = worker or Worker(settings, parts, folder)
            outcome = worker.run(name, seconds)
            if outcome is not None:
                worker.stop()
                worker = None
                record.add("parts", name, outcome[0], value=outcome[1])
                failed += [name] if outcome[0] == "error" else []
            (settings.out / "table.md").write_text(tables(record.figures()), encoding="utf-8")
    finally:
        if worker is not None:
            worker.stop()
    return failed


def time_limits(settings, shares):
    """Yield each part's name and its share of the time that is left when its turn comes, s."""
    names = list(shares)
    for place, name in enumerate(names):
        left = settings.began + 60 * settings.minutes - time.time()
        yield name, max(1.0, left * shares[name] / sum(shares[n] for n in names[place:]))
