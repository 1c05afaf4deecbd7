"""Run a recipe's train.py again and again, killing it at one point after the other.

    python interrupted_run.py TRAIN_PY POINT,POINT,... ARGUMENT ...

Each run is a process of its own, forked before any computation; the last one is left alone. A POINT
is the name of a function below. The exit code is 0 where every kill happened and the last run ended
well.
"""

import importlib.util
import os
import signal
import sys

import recipes.common.training.checkpoints
import recipes.LibriSpeech.pretrain.frame
import recipes.LibriSpeech.pretrain.joint
import recipes.LibriSpeech.pretrain.utterance  # noqa: F401
from recipes.common.data import units
from recipes.common.downstream import features
from recipes.common.downstream import sweep as downstream
from recipes.common.training import brain


def die_at(owner, name, call):
    """Kill this process at the n-th call of a function."""
    original, calls = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def kmeans():
    """Inside the k-means fit."""
    die_at(units.MiniBatchKMeans, "partial_fit", 2)


def labelling():
    """While units are written."""
    die_at(units.KMeansQuantizer, "forward", 20)


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


def run(train_py, arguments):
    """Run train.py's `main` in this process."""
    sys.path.insert(0, os.path.dirname(train_py))
    os.chdir(os.path.dirname(train_py))
    spec = importlib.util.spec_from_file_location("train", train_py)
    train = importlib.util.module_from_spec(spec)
    sys.modules["train"] = train
    spec.loader.exec_module(train)
    sys.argv = [train_py, *arguments]
    train.main(arguments)


def fork_run(train_py, arguments, point=None):
    """Run train.py in a child and return how it ended: minus the signal's number, or a code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if point:
                globals()[point]()
            run(train_py, arguments)
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    """Kill a run at each point, then let it end."""
    train_py, points, *arguments = sys.argv[1:]
    for point in filter(None, points.split(",")):
        code = fork_run(train_py, arguments, point)
        if code != -signal.SIGKILL:
            sys.exit(f"{point}: expected a kill, the run ended with {code}")
    sys.exit(fork_run(train_py, arguments))


if __name__ == "__main__":
    main()
