"""Checkpoints that a kill or a full disk cannot spoil."""

import os
import shutil
from contextlib import contextmanager

from speechbrain.utils.checkpoints import CKPT_PREFIX, Checkpoint, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, main_process_only

PARTIAL = "partial-"


class AtomicCheckpointer(Checkpointer):
    """A `Checkpointer` whose checkpoints are complete or not there.

    A checkpoint is written to a folder of another name, flushed to the disk and renamed. What an
    interrupted save left behind is never read and is removed by the next save.

    Arguments
    ---------
    checkpoints_dir : str or Path
        The folder of the checkpoints.
    recoverables : dict, optional
        What to save, by name.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path") / "save"
    >>> layer = torch.nn.Linear(2, 3)
    >>> saved = AtomicCheckpointer(folder, {"layer": layer}).save_checkpoint()
    >>> sorted(path.name for path in saved.path.iterdir())
    ['CKPT.yaml', 'layer.ckpt']
    """

    def save_checkpoint(self, *args, **kwargs):
        """Save as `Checkpointer.save_checkpoint` does, and only then give the folder its name.

        Returns
        -------
        Checkpoint or None
            The checkpoint; None on other processes than the main one.

        Raises
        ------
        OSError
            Where the disk is full or cannot be written. Earlier checkpoints are as they were.
        """
        self._remove_partial()
        try:
            written = super().save_checkpoint(*args, **kwargs)
            published = None if written is None else self._publish(written)
        except (OSError, RuntimeError) as error:
            self._remove_partial()
            raise OSError(
                f"No checkpoint could be written to {self.checkpoints_dir}: {error}. Earlier "
                "checkpoints there are intact. Free some space and start the same command again."
            ) from error
        # Each process lists the checkpoints to choose which to delete: all are to find the same.
        ddp_barrier()
        return published

    def save_and_keep_only(self, *args, importance_keys=(), **kwargs):
        """Save and delete as `Checkpointer.save_and_keep_only` does.

        SpeechBrain's default of `importance_keys` is one list, longer with every call.
        """
        super().save_and_keep_only(*args, importance_keys=[*importance_keys], **kwargs)

    def list_checkpoints(self):
        """List the checkpoints; a ValueError names one whose description cannot be read."""
        found = []
        for folder in self._list_checkpoint_dirs():
            with _named(folder):
                (checkpoint,) = self._construct_checkpoint_objects([folder])
                checkpoint.meta["unixtime"]
                found.append(checkpoint)
        return found

    def load_checkpoint(self, checkpoint):
        """Load as `Checkpointer.load_checkpoint` does; a ValueError names one that is broken."""
        with _named(checkpoint.path):
            super().load_checkpoint(checkpoint)

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(PARTIAL + path.name)

    def _publish(self, written):
        for path in written.path.iterdir():
            _flush(path)
        _flush(written.path)
        final = written.path.with_name(written.path.name.removeprefix(PARTIAL))
        os.replace(written.path, final)
        _flush(self.checkpoints_dir)
        files = {name: final / path.name for name, path in written.paramfiles.items()}
        return Checkpoint(final, written.meta, files)

    @main_process_only
    def _remove_partial(self):
        for path in self.checkpoints_dir.glob(f"{PARTIAL}{CKPT_PREFIX}*"):
            shutil.rmtree(path)


@contextmanager
def _named(folder):
    """Have whatever goes wrong name a checkpoint."""
    try:
        yield
    except Exception as error:  # each recoverable has a loader of its own
        raise ValueError(
            f"{folder} cannot be loaded ({type(error).__name__}). Where it is broken, remove it: "
            "the same command goes on from an earlier one, or from the beginning."
        ) from error


def _flush(path):
    windows = os.name == "nt"  # which flushes what may be written to, and no folder
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
