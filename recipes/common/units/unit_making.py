"""Pseudo-phoneme units: a quantizer fitted on the training split, the units of every split.

All ranks work at it, each on its device; see `SharedWork`.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from speechbrain.utils.logger import get_logger

from lobes.signal import FRAME_RATE
from lobes.targets import KMeansQuantizer, RandomProjectionQuantizer
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.units.kmeans import fit_kmeans
from recipes.common.units.passes import SharedWork, cut_jobs, digest_weights
from recipes.common.units.unit_array import (
    again,
    columns,
    digest_index,
    index_utterances,
    read_description,
    write_units,
)
from recipes.common.units.unit_features import UnitFeatures

logger = get_logger(__name__)


def make_units(folder, datasets, hparams, teacher=None, device="cpu"):
    """Fit a quantizer on the training split and write the units of every split.

    Every rank calls it. What is there already is kept, where the same settings made it.

    Arguments
    ---------
    folder : str or Path
        Receives `quantizer.safetensors`, `units.npy`, `units.index.npy` and `units.json`.
    datasets : dict
        `Utterances` of each split; the quantizer is fitted on "train" alone.
    hparams : dict
        `quantizer` ("kmeans" or "random_projection"), `num_targets`, `teacher_layer`,
        `kmeans_seconds`, `kmeans_passes`, `max_batch_seconds`, `num_workers`, `seed`.
    teacher : FrameEncoder, optional
        The encoder whose hidden layer is clustered; MFCC without one.
    device : str or torch.device
        This rank's.

    Raises
    ------
    ValueError
        Where other settings made the units that are there.
    """
    folder, layer = Path(folder), hparams["teacher_layer"]
    settings = ("quantizer", "kmeans_seconds", "kmeans_passes", "seed")
    description = {
        "num_units": hparams["num_targets"],
        "features": _features_name(teacher, layer),
        **{key: hparams[key] for key in settings},
    }
    if (folder / "units.json").exists():
        _check_settings(folder, description)
        return
    teacher = None if teacher is None else teacher.to(device).eval()
    features = {
        split: UnitFeatures(data, hparams, teacher, layer) for split, data in datasets.items()
    }
    with SharedWork(folder / "parts") as work:
        index_path = work.folder / "index.npy"
        made_of = work.on_main(_write_index, index_path, datasets, description)
        quantizer = _quantizer(work, folder, features["train"], hparams, made_of["train"], device)
        parts = _label(work, features, quantizer, made_of["all"])
        work.on_main(_write_units, folder, index_path, parts, description)


def _features_name(teacher, layer):
    return "mfcc" if teacher is None else f"layer {layer} of encoder {digest_weights(teacher)}"


def _check_settings(folder, description):
    found = read_description(folder)
    for key, value in description.items():
        if found.get(key) != value:
            raise ValueError(
                f"{folder}: its units were made with {key} {found.get(key)}, now it is "
                f"{value}. {again(folder)}"
            )


def _write_index(path, datasets, description):
    """Write the index of all splits; return what units of "train" and of "all" are made of."""
    index = index_utterances(columns(*datasets.values()))
    np.save(path, index)
    stops = dict(zip(datasets, np.cumsum([len(data) for data in datasets.values()]), strict=True))
    train = index[:, stops["train"] - len(datasets["train"]) : stops["train"]]
    return {"train": digest_index(train, description), "all": digest_index(index, description)}


def _quantizer(work, folder, features, hparams, made_of, device):
    if hparams["quantizer"] == "random_projection":
        seed = derive_seed(hparams["seed"], "quantizer")
        return RandomProjectionQuantizer(features.size, hparams["num_targets"], seed=seed)
    path = folder / "quantizer.safetensors"
    if not work.on_main(_is_made_of, path, made_of):
        places, durations = _sample(columns(features.dataset).durations, hparams)
        work.on_main(_tell_room, work.folder, features.size, durations)
        jobs = cut_jobs(features.plan(places, durations))

        def compute(batches):
            return {"frames": torch.cat([features.of(batch).half().cpu() for batch in batches])}

        parts = work.share("k-means", made_of, jobs, features.load, compute)
        work.on_main(_fit, path, parts, hparams, made_of, device)
    return KMeansQuantizer(load_file(path)["centres"])


def _is_made_of(path, made_of):
    """Return whether the centres that an interrupted run left are of the same frames."""
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_of") == made_of


def _sample(durations, hparams):
    """Return places and durations of random utterances, up to `kmeans_seconds` of audio."""
    drawn = derive_rng(hparams["seed"], "k-means sample").permutation(len(durations))
    within = np.cumsum(durations[drawn]) <= hparams["kmeans_seconds"]
    drawn = drawn[: max(1, int(within.sum()))]
    return drawn, durations[drawn]


def _tell_room(folder, size, durations):
    seconds = durations.sum()
    gigabytes = seconds * FRAME_RATE * size * torch.float16.itemsize / 1e9
    logger.info(
        f"k-means: features of {seconds / 3600:.1f} h take {gigabytes:.1f} GB in {folder} until it "
        "is fitted"
    )


def _fit(path, parts, hparams, made_of, device):
    """Fit k-means to the frames of all parts, in their order, and remove these."""
    centres = fit_kmeans(
        lambda: (load_file(part)["frames"] for part in parts),
        hparams["num_targets"],
        derive_seed(hparams["seed"], "k-means"),
        hparams["kmeans_passes"],
        device,
    )
    save_file({"centres": centres}, f"{path}.partial", {"made_of": made_of})
    os.replace(f"{path}.partial", path)
    shutil.rmtree(parts[0].parent)


def _label(work, features, quantizer, made_of):
    """Have all utterances labelled; return the places of each job's and the file of its units."""
    parts, begin = [], 0
    for split, own in features.items():
        durations = columns(own.dataset).durations
        jobs = cut_jobs(own.plan(np.arange(len(durations)), durations))

        def compute(batches, own=own):
            found = [_units_of(own.of(batch), quantizer) for batch in batches]
            return {"units": torch.cat(found)}

        paths = work.share(f"units of {split}", made_of, jobs, own.load, compute)
        parts += [
            (begin + np.concatenate(job), path) for job, path in zip(jobs, paths, strict=True)
        ]
        begin += len(durations)
    return parts


def _units_of(frames, quantizer):
    return quantizer.to(frames.device)(frames).short().cpu()


def _write_units(folder, index_path, parts, description):
    found = ((places, load_file(path)["units"].numpy()) for places, path in parts)
    write_units(folder, np.load(index_path), found, description)
