"""Pseudo-phoneme units of a corpus: fitted on its training split, written once, checked when read.

All units of a corpus lie in one int16 array, `units.npy`; `units.json` says where each utterance
begins, at which rate, and what made them: the settings, and the size and the time of each file.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from speechbrain.utils.logger import get_logger
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader
from tqdm import tqdm

from lobes.signal import FRAME_RATE, SAMPLE_RATE, num_frames
from lobes.targets import KMeansQuantizer, RandomProjectionQuantizer, mfcc
from pretrained.audio import read_speech
from pretrained.plain_files import digest_file, read_json
from recipes.common.data.crops import SpeechBatch
from recipes.common.data.files import replace_text, stamp
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.data.seeding import derive_rng, derive_seed

logger = get_logger(__name__)

FIRST_MINIBATCH = 50_000
MINIBATCH = 10_000


class UnitArray:
    """The units of a corpus, by utterance.

    Arguments
    ---------
    folder : str or Path
        Holds `units.npy` and `units.json`.
    rows : iterable of dict
        The utterances that need units: `id`, `wav`, `duration` (s).
    num_units : int
        How many units the model tells apart.
    shuffle_seed : int, optional
        A control: deal the units of the corpus out at random, so that nothing predicts them.

    Raises
    ------
    ValueError
        Where the units are of another rate, corpus, number or length, or the array is cut short.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.wav").write_bytes(b"")
    >>> rows = [{"id": "a", "wav": folder / "a.wav", "duration": 1.0}]
    >>> write_units(folder, rows, lambda done: [("a", np.arange(49))], {"num_units": 50})
    >>> UnitArray(folder, rows, num_units=50)["a"].shape
    (49,)
    """

    def __init__(self, folder, rows, num_units, shuffle_seed=None):
        self.folder = Path(folder)
        self.description = read_description(self.folder)
        self.index = self.description["index"]
        path = self.folder / "units.npy"
        if not path.is_file() or digest_file(path) != self.description["sha256"]:
            raise ValueError(f"{path} is missing or was changed. {_again(self.folder)}")
        self.units = self._open_array()
        self._check(rows, num_units)
        self.shuffled = shuffle_seed is not None
        if self.shuffled:
            self.units = derive_rng(shuffle_seed, "shuffled units").permutation(self.units)

    def __getitem__(self, utterance):
        """Return an utterance's units: int16, shape (frames,)."""
        start, length, *_ = self.index[utterance]
        return self.units[start : start + length]

    def __getstate__(self):
        """Leave the array on the disk: a worker that is spawned maps it anew."""
        return {**vars(self), "units": self.units if self.shuffled else None}

    def __setstate__(self, state):
        vars(self).update(state)
        if not self.shuffled:
            self.units = self._open_array()

    def _open_array(self):
        path = self.folder / "units.npy"
        needed = max((start + length for start, length, *_ in self.index.values()), default=0)
        units = np.load(path, mmap_mode="r")
        if units.dtype != np.int16 or units.ndim != 1 or len(units) != needed:
            raise ValueError(
                f"{path} holds {units.shape} of {units.dtype}; units.json describes ({needed},) of "
                f"int16. {_again(self.folder)}"
            )
        return units

    def _check(self, rows, num_units):
        if self.description["rate"] != FRAME_RATE:
            raise ValueError(
                f"{self.folder}: units at {self.description['rate']} Hz; the frame encoder gives "
                f"{FRAME_RATE} Hz. {_again(self.folder)}"
            )
        for row in rows:
            if row["id"] not in self.index:
                raise ValueError(
                    f"{self.folder} has no units for {row['id']} ({row['wav']}): they are of "
                    f"another corpus or split. {_again(self.folder)}"
                )
            expected, found = _row_frames(row), self.index[row["id"]][1]
            if expected != found:
                raise ValueError(
                    f"{self.folder}: {row['wav']} is {row['duration']} s long, {expected} frames "
                    f"at {FRAME_RATE} Hz, but has {found} units at {self.description['rate']} Hz. "
                    f"{_again(self.folder)}"
                )
            if self.index[row["id"]][2:] != stamp(row["wav"]):
                raise ValueError(
                    f"{self.folder}: {row['wav']} was changed after its units were made, or copied "
                    f"without its time. {_again(self.folder)}"
                )
        largest = int(self.units.max()) if len(self.units) else 0
        if largest >= num_units or self.description["num_units"] != num_units:
            raise ValueError(
                f"{self.folder} holds {self.description['num_units']} units, up to number "
                f"{largest}; num_targets is {num_units}. {_again(self.folder)}"
            )


def _again(folder):
    return f"Remove {folder} to have the units made anew, or name another folder."


def _row_frames(row):
    return num_frames(round(row["duration"] * SAMPLE_RATE))


def _digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def read_description(folder):
    """Return what units.json says; a ValueError tells where it is missing or was changed."""
    path = folder / "units.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: no units were made in {folder}, or not to the end.")
    description = read_json(path)
    digest = description.pop("digest", None) if isinstance(description, dict) else None
    if digest is None or digest != _digest(description):
        raise ValueError(f"{path} is no description of units, or was changed. {_again(folder)}")
    return description


def write_units(folder, rows, label, description):
    """Write the units of a corpus, going on where an interrupted run stopped.

    Arguments
    ---------
    folder : Path
        Receives `units.npy` and, when all is done, `units.json`.
    rows : list of dict
        The utterances: `id`, `wav`, `duration` (s).
    label : callable
        Takes the set of the IDs that have their units and yields pairs of an ID and its units for
        at least the others.
    description : dict
        Plain values that tell what made the units.
    """
    index, total = {}, 0
    for row in rows:
        index[row["id"]] = [total, _row_frames(row), *stamp(row["wav"])]
        total += _row_frames(row)
    partial, progress = folder / "units.partial.npy", folder / "units.progress"
    made_of = _digest([description, index])
    text = progress.read_text(encoding="utf-8") if progress.exists() else ""
    first, *done = text.split("\n")
    done = set(done)
    if first != made_of or not partial.exists():
        np.lib.format.open_memmap(partial, "w+", np.int16, (total,)).flush()
        done = set()
        progress.write_text(f"{made_of}\n", encoding="utf-8")
    units = np.lib.format.open_memmap(partial, "r+")
    with open(progress, "a", encoding="utf-8") as finished:
        for utterance, found in label(done):
            start, length, *_ = index[utterance]
            if len(found) != length:
                raise ValueError(
                    f"{utterance}: {len(found)} units for {length} frames at {FRAME_RATE} Hz."
                )
            units[start : start + length] = found
            finished.write(f"{utterance}\n")
            finished.flush()
    units.flush()
    os.replace(partial, folder / "units.npy")
    told = {"rate": FRAME_RATE, **description, "index": index}
    told["sha256"] = digest_file(folder / "units.npy")
    replace_text(folder / "units.json", json.dumps({**told, "digest": _digest(told)}))
    progress.unlink()


def fit_kmeans(features, num_units, seed, passes=1):
    """Fit k-means to a stream of features in bounded memory.

    k-means++ on the first 50,000 frames, then mini-batches of 10,000 (Sculley, "Web-scale k-means
    clustering", WWW 2010), as in HuBERT. Single-threaded, so that the same frames give the same
    centres.

    Arguments
    ---------
    features : callable
        Each call yields arrays of shape (frames, dim), the whole stream once.
    num_units : int
        Number of centres.
    seed : int
        Seed of the fit.
    passes : int
        How often the stream is read.

    Returns
    -------
    torch.Tensor
        Shape (num_units, dim).

    Raises
    ------
    ValueError
        Where the stream has fewer frames than centres.

    Example
    -------
    >>> frames = np.random.default_rng(0).normal(size=(2000, 2))
    >>> frames[:1000] += 8
    >>> fit_kmeans(lambda: [frames], 2, seed=0).shape
    torch.Size([2, 2])
    """
    kmeans = MiniBatchKMeans(num_units, random_state=seed % 2**32, batch_size=MINIBATCH, n_init=1)
    seen = 0
    with threadpool_limits(1):
        for _ in range(passes):
            for minibatch in _minibatches(features(), MINIBATCH if seen else FIRST_MINIBATCH):
                if seen == 0 and len(minibatch) < num_units:
                    raise ValueError(
                        f"{len(minibatch)} frames are too few for {num_units} units: give more "
                        "audio or ask for fewer units."
                    )
                # A last, small rest of a pass would move the centres by its own noise.
                if seen == 0 or len(minibatch) >= num_units:
                    kmeans.partial_fit(minibatch)
                seen += len(minibatch)
    return torch.from_numpy(kmeans.cluster_centers_).float()


def _minibatches(features, first_size):
    kept, count, size = [], 0, first_size
    for frames in features:
        kept.append(frames)
        count += len(frames)
        while count >= size:
            joined = np.concatenate(kept)
            yield joined[:size]
            kept, count, size = [joined[size:]], count - size, MINIBATCH
    if count:
        yield np.concatenate(kept)


class FeatureStream:
    """Reads the features that units are made from: MFCC, or a layer of a frame encoder.

    Arguments
    ---------
    dataset : DynamicItemDataset
        Of a manifest.
    hparams : dict
        `max_batch_seconds`, `num_workers`, `seed`.
    teacher : FrameEncoder, optional
        Gives the features; MFCC without one.
    layer : int
        Which of the teacher's hidden states, 0 being the first layer's input.
    """

    def __init__(self, dataset, hparams, teacher=None, layer=0):
        self.hparams = hparams
        self.teacher = None if teacher is None else teacher.eval()
        self.layer = layer
        self.dataset = dataset
        self.dataset.add_dynamic_item(self._item, takes=["wav"], provides=["features"])
        self.dataset.set_output_keys(["id", "features"])

    def _item(self, path):
        wav = read_speech(path)
        return mfcc(wav) if self.teacher is None else wav

    def __call__(self, rows, name, done=frozenset()):
        """Yield pairs of an ID and its features, shape (frames, dim).

        The batches depend on the rows alone: one in which all are done is left out, so that an
        interrupted pass goes on with the very batches that it would have had.
        """
        places = {row: place for place, row in enumerate(self.dataset.data_ids)}
        plan = LengthSortedBatches(
            [row["duration"] for row in rows],
            self.hparams["max_batch_seconds"],
            self.hparams["seed"],
        )
        batches = [[places[rows[i]["id"]] for i in batch] for batch in plan]
        # Shuffled, so that any part of the batches is a fair sample of the lengths.
        order = derive_rng(self.hparams["seed"], "units").permutation(len(batches))
        ids = self.dataset.data_ids
        wanted = [batches[b] for b in order if not all(ids[i] in done for i in batches[b])]
        loader = DataLoader(
            self.dataset,
            batch_sampler=wanted,
            num_workers=self.hparams["num_workers"],
            collate_fn=SpeechBatch,
        )
        for batch in tqdm(loader, desc=name, dynamic_ncols=True):
            yield from zip(batch.id, self._features(batch.features), strict=True)

    @torch.no_grad()
    def _features(self, padded):
        data, lens = padded
        if self.teacher is None:
            counts = (lens * data.shape[1]).round().long()
        else:
            device = next(self.teacher.parameters()).device
            data, lens = data.to(device), lens.to(device)
            counts = self.teacher.frame_lens(data, lens).cpu()
            _, states = self.teacher(data, lens, output_hidden_states=True)
            data = states[self.layer].cpu()
        return [row[:count] for row, count in zip(data, counts.tolist(), strict=True)]


def make_units(folder, datasets, hparams, teacher=None):
    """Fit a quantizer on the training split and write the units of every split.

    What is there already is kept, where the same settings made it.

    Arguments
    ---------
    folder : str or Path
        Receives `quantizer.safetensors`, `units.npy` and `units.json`.
    datasets : dict
        A DynamicItemDataset for each split; the quantizer is fitted on "train" alone.
    hparams : dict
        `quantizer` ("kmeans" or "random_projection"), `num_targets`, `teacher_layer`,
        `kmeans_seconds`, `kmeans_passes`, `max_batch_seconds`, `num_workers`, `seed`.
    teacher : FrameEncoder, optional
        The encoder whose hidden layer is clustered; MFCC without one.

    Raises
    ------
    ValueError
        Where other settings made the units that are there.
    """
    folder = Path(folder)
    settings = ("quantizer", "kmeans_seconds", "kmeans_passes", "seed")
    description = {
        "num_units": hparams["num_targets"],
        "features": _features_name(teacher, hparams["teacher_layer"]),
        **{key: hparams[key] for key in settings},
    }
    if (folder / "units.json").exists():
        found = read_description(folder)
        for key, value in description.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{folder}: its units were made with {key} {found.get(key)}, now it is "
                    f"{value}. {_again(folder)}"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    streams = {
        split: FeatureStream(data, hparams, teacher, hparams["teacher_layer"])
        for split, data in datasets.items()
    }
    rows = {split: manifest_rows(data) for split, data in datasets.items()}
    made_of = _digest([description, [(row["id"], *stamp(row["wav"])) for row in rows["train"]]])
    quantizer = _quantizer(folder, streams["train"], rows["train"], hparams, made_of)

    def label(done):
        for split, stream in streams.items():
            for utterance, features in stream(rows[split], f"Units of {split}", done):
                yield utterance, quantizer(features).numpy()

    write_units(folder, [row for split in rows.values() for row in split], label, description)


def _features_name(teacher, layer):
    if teacher is None:
        return "mfcc"
    digest = hashlib.blake2b(digest_size=8)
    for value in teacher.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return f"layer {layer} of encoder {digest.hexdigest()}"


def manifest_rows(dataset):
    """Return the `id`, `wav` and `duration` of each utterance of a dataset."""
    with dataset.output_keys_as(["id", "wav", "duration"]):
        return list(dataset)


def _quantizer(folder, stream, rows, hparams, made_of):
    path = folder / "quantizer.safetensors"
    if hparams["quantizer"] == "random_projection":
        return RandomProjectionQuantizer(
            next(iter(stream(rows[:1], "Features")))[1].shape[1],
            hparams["num_targets"],
            seed=derive_seed(hparams["seed"], "quantizer"),
        )
    if not path.exists() or _made_of(path) != made_of:
        centres = fit_kmeans(
            lambda: (features.numpy() for _, features in stream(_sample(rows, hparams), "k-means")),
            hparams["num_targets"],
            derive_seed(hparams["seed"], "k-means"),
            hparams["kmeans_passes"],
        )
        save_file({"centres": centres}, f"{path}.partial", {"made_of": made_of})
        os.replace(f"{path}.partial", path)
    return KMeansQuantizer(load_file(path)["centres"])


def _made_of(path):
    """Return what the centres of an interrupted run were made of, as it is written beside them."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("made_of")


def _sample(rows, hparams):
    """Return utterances drawn at random, up to `kmeans_seconds` of audio."""
    kept, seconds = [], 0.0
    for place in derive_rng(hparams["seed"], "k-means sample").permutation(len(rows)):
        if kept and seconds + rows[place]["duration"] > hparams["kmeans_seconds"]:
            break
        kept.append(rows[place])
        seconds += rows[place]["duration"]
    return kept
