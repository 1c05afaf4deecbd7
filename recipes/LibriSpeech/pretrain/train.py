#!/usr/bin/env python3
"""Pretrain Learn2Diss: one stage, which the hyperparameters file names.

    python train.py hparams/frame.yaml --data_folder LibriSpeech --output_folder O/frame
    python train.py hparams/spin.yaml --data_folder LibriSpeech --output_folder O/spin
    python train.py hparams/utterance.yaml --data_folder LibriSpeech --output_folder O/utterance
    python train.py hparams/joint.yaml --data_folder LibriSpeech --output_folder O/joint

On several GPUs: torchrun --nproc_per_node=8 train.py ...
"""

import time
from importlib import import_module
from pathlib import Path

import recipes  # noqa: F401, before torch is loaded

# isort: split
import speechbrain as sb
from speechbrain.utils.distributed import ddp_init_group, infer_device, run_on_main

from pretrained.commands.runtime import keep_freed_memory
from recipes.common.training import run
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import check_same_settings, load_hparams, save_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe

HERE = Path(__file__).resolve()


def stage_brain(stage):
    """Return the Brain of a stage: of the stage `frame`, the FrameBrain of frame.py.

    Raises
    ------
    ValueError
        Where there is no such file beside this one.

    Example
    -------
    >>> stage_brain("frame").__name__
    'FrameBrain'
    """
    stages = sorted(path.stem for path in HERE.parent.glob("*.py") if path != HERE)
    if stage not in stages:
        raise ValueError(f"stage is {stage!r}, not one of {', '.join(stages)}.")
    module = import_module(f"recipes.LibriSpeech.pretrain.{stage}")
    return getattr(module, f"{stage.title()}Brain")


def main(arguments, brain_class=None):
    """Prepare the data, train the stage, take its last step, evaluate it, export its encoders.

    Arguments
    ---------
    arguments : list of str
        The words of the command line.
    brain_class : type, optional
        A subclass of `PretrainingBrain`, in the place of the Brain that the key `stage` names.
    """
    began = time.time()
    hparams_file, run_opts, overrides = read_command_line(arguments)
    ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    brain_class = brain_class or stage_brain(hparams["stage"])
    run.check_exportable(hparams["modules"])
    if not run_opts["debug"]:
        check_same_settings(hparams_file, overrides, hparams["output_folder"])
    brain_class.initialise(hparams)
    keep_freed_memory()

    run_on_main(run.prepare, args=[hparams])
    datasets = run.split_datasets(hparams)
    run.check_unseen(hparams, datasets)
    if run_opts["debug"]:
        hparams, datasets = run.quick_look(hparams, datasets)

    run.claim(hparams["output_folder"])
    if not run_opts["debug"]:
        run_on_main(run.keep_to_data, args=[hparams, datasets])
    sb.create_experiment_directory(hparams["output_folder"])
    save_hparams(hparams_file, overrides, hparams["output_folder"])
    loaders = brain_class.make_loaders(hparams, datasets, run_opts["device"] or infer_device())

    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"](),
        loaders=loaders,
    )
    brain.fit(hparams["epoch_counter"], loaders["train"], loaders["valid"])
    brain.finalise()
    brain.evaluate(loaders["test"])
    run.finish(brain, hparams, began)
    run.leave_together()


if __name__ == "__main__":
    run_recipe(main)
