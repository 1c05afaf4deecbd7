"""Recipes' commands: each a process forked from one that has imported what they need.

That saves each of them ten seconds. They can be killed at a point: the name of a function below,
or several, joined by "+". They can be several ranks; all end when one does, as by torchrun.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import recipes.common.training.checkpoints
from recipes.common.downstream import features
from recipes.common.downstream import sweep as downstream
from recipes.common.training import brain
from recipes.common.units import kmeans as fitting
from recipes.common.units import passes, unit_making

ROOT = Path(__file__).parents[2]
SECONDS = 300


class Commands:
    """Runs commands of recipes."""

    def __init__(self):
        self.server = subprocess.Popen(
            [sys.executable, "-m", "tests.recipes.commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, script, *words, point="", ranks=1):
        """Run `python script words`, in the script's folder, to its end or to a point.

        Returns
        -------
        code : int
            The exit code; minus the signal's number where it was killed.
        said : str
            What it printed.
        """
        with tempfile.NamedTemporaryFile("r", errors="replace") as log:
            request = [ranks, str(script), [*map(str, words)], point, log.name]
            self.server.stdin.write(json.dumps(request) + "\n")
            self.server.stdin.flush()
            code = int(self.server.stdout.readline())
            return code, log.read()

    def succeed(self, script, *words, points="", ranks=1):
        """Run a command, kill it at each of the points and start it again; return what it said."""
        for point in filter(None, points.split(",")):
            code, said = self.run(script, *words, point=point, ranks=ranks)
            assert code == -signal.SIGKILL, f"{point}: ended with {code}\n{said[-5000:]}"
        code, said = self.run(script, *words, ranks=ranks)
        assert code == 0, said[-5000:]
        return said

    def close(self):
        """End the process that commands are forked from."""
        self.server.stdin.close()
        self.server.wait()


def die_at(owner, name, call):
    """Kill this process at the n-th call of a function."""
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def noted():
    """Nowhere: a line for each batch says which utterances the run trains on."""
    original = brain.ResumableBrain.on_fit_batch_start

    def note(self, batch, should_step):
        line = f"\ntrains in epoch {self.hparams.epoch_counter.current} on {' '.join(batch.id)}\n"
        os.write(1, line.encode())
        return original(self, batch, should_step)

    brain.ResumableBrain.on_fit_batch_start = note


def kmeans():
    """Inside the k-means fit."""
    die_at(fitting, "_step", 2)


def labelling():
    """While units are written."""
    die_at(unit_making, "_units_of", 2)


def moments():
    """While the ranks take the moments of the last step."""
    die_at(passes, "save", 2)


def caching():
    """While the states of a frozen upstream are written."""
    die_at(features, "read_speech", 20)


def sweep():
    """Between the trainings at two learning rates."""
    die_at(downstream, "make_brain", 2)


def epoch():
    """Inside an epoch, between two checkpoints."""
    die_at(brain.ResumableBrain, "on_fit_batch_start", 4)


def save():
    """During a save, before the checkpoint has its name."""
    die_at(recipes.common.training.checkpoints, "_flush", 4)


def validation():
    """During validation."""
    die_at(brain.ResumableBrain, "evaluate_batch", 2)


def end():
    """After the last epoch, before the test split is read and anything exported."""
    die_at(brain.ResumableBrain, "evaluate", 1)


def run(script, words, point, log):
    """Run a command in this process; return its exit code."""
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(os.path.dirname(script))
    sys.argv = [script, *words]
    signal.alarm(SECONDS)
    for name in filter(None, point.split("+")):
        globals()[name]()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve():
    """Fork the processes of each line of requests, and print how they ended."""
    import_all()
    for line in sys.stdin:
        ranks, *request = json.loads(line)
        left, code = start_ranks(ranks, request), 0
        while left:
            pid, status = os.wait()
            left.remove(pid)
            if os.waitstatus_to_exitcode(status) and not code:
                code = os.waitstatus_to_exitcode(status)
                for other in left:
                    os.kill(other, signal.SIGKILL)
        print(code, flush=True)


def start_ranks(count, request):
    """Fork so many processes that run a request; return their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    started = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            if count > 1:
                own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
                os.environ.update({**where, **{key: str(value) for key, value in own.items()}})
            code = 1
            try:
                code = run(*request)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        started.append(child)
    return started


def import_all():
    """Import what the commands need: without any computation, so that forks are safe."""
    import torch._dynamo  # noqa: F401, optimizers import it
    from speechbrain.utils import logger

    import recipes.common.evaluation.verification
    import recipes.LibriSpeech.pretrain.codes
    import recipes.LibriSpeech.pretrain.joint
    import recipes.LibriSpeech.pretrain.spin
    import recipes.LibriSpeech.pretrain.train
    import recipes.LibriSpeech.pretrain.utterance  # noqa: F401

    described = logger.get_environment_description()  # a second of pip's for each run's env.log
    logger.get_environment_description = lambda: described


if __name__ == "__main__":
    serve()
