"""The beginning and the end of every recipe's run."""

import hashlib
import json
import logging
import math
import os
import sys
from difflib import get_close_matches
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from speechbrain.utils.distributed import is_distributed_initialized, main_process_only
from speechbrain.utils.logger import get_logger
from torch import nn

from lobes.distributed import unwrap
from pretrained.exported import CLASSES, save_model
from pretrained.file_states import ENCODERS
from pretrained.plain_files import read_json
from pretrained.sharing.card import write_card
from pretrained.sharing.snapshots import CONFIG_FILE
from recipes.common.data.files import replace_text
from recipes.common.data.loaders import load_split
from recipes.common.data.manifest import count_left_out, validate_manifests
from recipes.common.data.seeding import derive_seed
from recipes.common.data.table import open_table
from recipes.common.data.utterances import Texts
from recipes.common.training.description import describe_run
from recipes.common.training.history import read_history
from recipes.common.training.hparams import read_tree
from recipes.common.training.record import write_metrics

logger = get_logger(__name__)
SPLITS = ("train", "valid", "test")
STARTS = ("frame_model", "utterance_model")  # keys of models that a stage starts from
LOCK_SECONDS = 10  # in which the workers of a killed run let go of its folder
FILES = ("metrics.json", "history.jsonl", "run.lock")
_locks = {}  # by folder, held until this process ends
QUICK_UTTERANCES = 40


def leave_together():
    """End this process when every rank is done; without ranks, return.

    One that exits early makes others abort. And gloo's threads let go of their tensors when they
    get to it: in an interpreter that is being torn down meanwhile, that aborts the process. So the
    interpreter is left as it is.
    """
    if is_distributed_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@main_process_only
def claim(folder):
    """Make an output folder and keep other runs out of it until this process ends.

    Raises
    ------
    ValueError
        Where another run is at work in the folder, or results cannot be written there.

    Example
    -------
    >>> claim(getfixture("tmp_path") / "run")
    """
    folder = Path(folder).resolve()
    if folder in _locks:
        return
    if folder.is_file():
        raise ValueError(f"{folder} is a file: expected the run's output folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "model").is_file() or any((folder / name).is_dir() for name in FILES):
        raise ValueError(
            f"{folder} cannot take the results: model must be a folder, if it is there, and "
            f"{', '.join(FILES)} files. Use another output_folder."
        )
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout as error:
        raise ValueError(
            f"Another run is at work in {folder}: wait for its end, or use another output_folder."
        ) from error
    _locks[folder] = lock


def prepare(hparams):
    """Have the corpus's manifests written.

    Arguments
    ---------
    hparams : dict
        `prepare`, `prepare_options`, and what it is called with.

    Raises
    ------
    ValueError
        Where `download` is set, and the corpus is none that its prepare script fetches; where it
        does not take one of the `prepare_options`.
    """
    options = dict(hparams["prepare_options"])
    if hparams["download"]:
        if "download" not in signature(hparams["prepare"]).parameters:
            raise ValueError(
                "--download True: this corpus cannot be fetched by its recipe. The recipe's README "
                "says what is expected in data_folder."
            )
        options["download"] = True
    try:
        hparams["prepare"](
            data_folder=hparams["data_folder"],
            save_folder=hparams["manifest_folder"],
            splits=[name for split in SPLITS for name in hparams[f"{split}_splits"]],
            skip_prep=hparams["skip_prep"],
            skip_bad=hparams["skip_bad"],
            **options,
        )
    except TypeError as error:
        unknown = [
            name for name in options if f"unexpected keyword argument '{name}'" in str(error)
        ]
        if not unknown:
            raise
        near = get_close_matches(unknown[0], signature(hparams["prepare"]).parameters, n=1)
        raise ValueError(
            f"prepare_options has {unknown[0]}, which this corpus's preparation does not take. "
            f"{f'Did you mean {near[0]}? ' if near else ''}The recipe's README has its options."
        ) from error


def manifest_paths(hparams):
    """Return the manifests of each of "train", "valid" and "test": lists of paths."""
    folder = Path(hparams["manifest_folder"])
    return {
        split: [folder / f"{name}.csv" for name in hparams[f"{split}_splits"]] for split in SPLITS
    }


def split_datasets(hparams, disjoint_speakers=True):
    """Return the datasets of "train", "valid" and "test", checked against each other.

    Arguments
    ---------
    hparams : dict
        `manifest_folder`, `data_folder`, `min_seconds` and, for each split, a list of the
        manifests that make it up, such as `train_splits`.
    disjoint_speakers : bool
        Whether no speaker may be in two of the three.

    Returns
    -------
    dict
        Utterances each.

    Raises
    ------
    ValueError
        Where a split is empty, a file is missing or a speaker is in two splits.
    """
    paths = manifest_paths(hparams)
    named = {path.stem: path for split in SPLITS for path in paths[split]}
    groups = {split: [path.stem for path in paths[split]] for split in SPLITS}
    validate_manifests(named, hparams["data_folder"], groups if disjoint_speakers else {})
    return {split: load_split(paths[split], hparams) for split in SPLITS}


def check_unseen(hparams, datasets):
    """Raise ValueError where an earlier stage was trained on what is held out here.

    Arguments
    ---------
    hparams : dict
        `frame_model` and `utterance_model`, where the stage starts from such: model folders. Only
        those in the folder of a run, with its settings and its manifests, can be checked.
    datasets : dict
        By split, as `split_datasets` returns them.
    """
    held_out = {name: split for split in SPLITS[1:] for name in datasets[split].data_ids}
    for folder in start_folders(hparams).values():
        earlier = folder.parent
        if not (earlier / "hyperparams.yaml").is_file():
            continue
        settings = read_tree(earlier / "hyperparams.yaml")
        paths = manifest_paths(settings)["train"] if "train_splits" in settings else []
        if not all(path.is_file() for path in paths):
            continue
        check_manifests_of(earlier, paths, settings)
        for path in paths:
            names = open_table(path)["ID"]
            if seen := [name for name in Texts(names, range(len(names))) if name in held_out]:
                raise ValueError(
                    f"{path} has {len(seen)} utterances that are held out here, such as {seen[0]} "
                    f"({held_out[seen[0]]}): {earlier} was trained on them. Give all stages the "
                    "same splits: the same data_folder, prepare_options and lists of splits."
                )


def check_manifests_of(earlier, paths, settings):
    """Raise ValueError where the manifests of a run list other utterances than it trained on.

    Arguments
    ---------
    earlier : Path
        The run's folder.
    paths : list of Path
        Its training manifests.
    settings : dict
        Its settings.
    """
    told = earlier / "data.json"
    trained = read_json(told).get(utterances_of("train")) if told.is_file() else None
    if paths and trained and digest_utterances(load_split(paths, settings)) != trained:
        raise ValueError(
            f"{paths[0]} lists other utterances than {earlier} was trained on, so that nobody can "
            "tell what its model has not heard. Give it the data of before, or train it again in "
            "another output_folder."
        )


def check_exportable(modules):
    """Raise ValueError where an encoder is of a class that no exported folder could tell.

    Arguments
    ---------
    modules : dict
        By name; those that are no encoders are not looked at.
    """
    for name in ENCODERS:
        own, known = type(modules.get(name)), CLASSES[name]
        if name in modules and own is not known:
            raise ValueError(
                f"modules.{name} is a {own.__module__}.{own.__name__}: expected a "
                f"{known.__module__}.{known.__name__}, as exported folders have. Change that "
                "class, or put yours in its place in CLASSES of pretrained/exported.py."
            )


def keep_to_data(hparams, datasets):
    """Raise ValueError where a run's checkpoints are of other data or models; else remember these.

    Arguments
    ---------
    hparams : dict
        `output_folder`, which gets `data.json`; `frame_model` and `utterance_model`, where the
        stage starts from such.
    datasets : dict
        By split. Utterances of "train" and "valid" count, by their IDs and durations.
    """
    output = Path(hparams["output_folder"])
    path, trained = output / "data.json", any(output.glob("save/CKPT*"))
    parts = "train", "valid"
    splits = {utterances_of(split): digest_utterances(datasets[split]) for split in parts}
    models = digests_of_models(hparams)
    before = read_json(path) if trained and path.is_file() else splits
    for name, digest in splits.items():
        if before.get(name, digest) != digest:
            raise ValueError(
                f"{output} holds a run whose {name} were others, or of another length. Use another "
                "output_folder, or the data of before."
            )
    for key, digest in models.items():
        if before.get(key, digest) != digest:
            raise ValueError(
                f"{output} holds a run that started from another {key}: {hparams[key]} has other "
                "weights. Use another output_folder, or the model of before."
            )
    replace_text(path, json.dumps({**before, **splits, **models}))


def utterances_of(split):
    """Return how data.json calls the utterances of a split."""
    return f"utterances of {split}"


def digests_of_models(hparams):
    """Return the digests of the weights of the models that a stage starts from, by key."""
    files = {key: folder / CONFIG_FILE for key, folder in start_folders(hparams).items()}
    return {
        key: read_json(file)["sha256"]["weights"] for key, file in files.items() if file.is_file()
    }


def start_folders(hparams):
    """Return the model folders that a stage starts from, by key; public weights are none.

    Example
    -------
    >>> start_folders({"frame_model": "O/joint/../frame/model", "frame_weights": None})
    {'frame_model': PosixPath('O/frame/model')}
    """
    given = {key: hparams[key] for key in STARTS if hparams.get(key)}
    if hparams.get("frame_weights"):
        given.pop("frame_model", None)
    return {key: Path(os.path.normpath(folder)) for key, folder in given.items()}


def digest_utterances(dataset):
    """Return a digest of the IDs and the durations of utterances, whatever their order."""
    ids = np.fromiter(map(derive_seed, dataset.data_ids), np.int64, len(dataset))
    order = np.argsort(ids, kind="stable")
    digest = hashlib.sha256(ids[order].tobytes())
    digest.update(np.asarray(dataset.column("duration"), np.float64)[order].tobytes())
    return digest.hexdigest()


def quick_look(hparams, datasets):
    """Return what `--debug` runs on: a few utterances, with results in a folder of their own."""
    output = Path(hparams["output_folder"]) / "debug"
    hparams = {**hparams, "output_folder": str(output)}
    hparams["train_logger"].save_file = str(output / "train_log.txt")
    few = {name: data.filtered_sorted(select_n=QUICK_UTTERANCES) for name, data in datasets.items()}
    return hparams, few


@main_process_only
def finish(brain, hparams, began):
    """Export the encoders, and write metrics.json and the model card that shows it.

    Arguments
    ---------
    brain : ResumableBrain
        Trained and evaluated.
    hparams : dict
        `output_folder`, `seed` and the manifests' keys.
    began : float
        When the run began, s since the epoch.
    """
    output = Path(hparams["output_folder"])
    encoders = {name: unwrap(brain.modules[name]) for name in brain.architecture()}
    last = read_history(output / "history.jsonl")[-1]
    figures = {
        "epochs": last["epoch"],
        "steps": brain.optimizer_step,
        "parameters": {name: count_parameters(module) for name, module in encoders.items()},
        "utterances": count_utterances(hparams, brain.loaders),
        "train": last["train"],
        "valid": last["valid"],
        "test": brain.test_figures,
    }
    report(hparams, figures, began, modules=encoders)


def report(hparams, figures, began, manifests=None, modules=None, facts=None):
    """Write the figures of a run to metrics.json and show them; export what it trained.

    Arguments
    ---------
    hparams : dict
        `output_folder`, `seed` and the manifests' keys.
    figures : dict
        As `write_metrics` takes them.
    began : float
        When the run began, s since the epoch.
    manifests : list of Path, optional
        Of the data, where they are not those of the run's splits.
    modules, facts : dict, optional
        As `save_model` takes them; the folder gets a model card. Without modules none is made.
    """
    output = Path(hparams["output_folder"])
    if modules is not None:
        save_model(output / "model", modules, facts)
    if manifests is None:
        manifests = [path for paths in manifest_paths(hparams).values() for path in paths]
    path = output / "metrics.json"
    write_metrics(path, figures, seed=hparams["seed"], manifests=manifests, start_time=began)
    if modules is not None:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        write_card(output / "model", metrics, describe_run(hparams, manifests))
    print(json.dumps(figures, indent=2))


def count_utterances(hparams, loaders):
    """Return how many utterances each split has: `used`, of these `shortened`, and `left_out`.

    Arguments
    ---------
    hparams : dict
        The manifests' keys, `max_seconds`, and `span_mask` or `change_voice` of a stage that crops
        what is longer in all splits, or `crop` of a task that crops it in training.
    loaders : dict
        By split.

    Returns
    -------
    dict
        By split. `left_out` counts what `skip_bad`, `min_seconds` and a recipe left out.
    """
    counts = {}
    for split, paths in manifest_paths(hparams).items():
        listed = sum(len(open_table(path)) for path in paths) + count_left_out(paths)
        dataset, longest = loaders[split].dataset, math.inf
        if {"span_mask", "change_voice"} & hparams.keys() or (
            split == "train" and hparams.get("crop")
        ):
            longest = hparams["max_seconds"]
        shortened = int((dataset.column("duration") > longest).sum())
        if shortened and split != "train":
            logger.warning(f"{split}: {shortened} utterances are cropped to {longest} s")
        used = len(dataset)
        counts[split] = {"used": used, "shortened": shortened, "left_out": listed - used}
    return counts


def count_parameters(module: nn.Module):
    """Return the number of parameters that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
