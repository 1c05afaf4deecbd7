"""What models give for the same utterances, computed once and kept on disk.

A system is an exported model or one of its controls: log-mel bands, or the architecture with random
weights. Frames of all systems have the same centres, 0.0125 + 0.02 i s, and the same of them are
drawn: a frame that one system is judged on, all are judged on.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.logger import get_logger
from torch import nn
from tqdm import tqdm

from lobes.heads import WeightedSum
from lobes.signal import SAMPLE_RATE, num_frames
from lobes.states import FrameStates, UtteranceStates
from pretrained.audio import read_speech
from pretrained.audio_files import stamp
from pretrained.exported import load_model
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.downstream.features import Upstream
from recipes.common.evaluation.baselines import fbank_states, fresh, plain_config

logger = get_logger(__name__)
STEPS = 300
BATCH = 512
LEARNING_RATE = 0.02


@dataclass
class System:
    """What is measured.

    Arguments
    ---------
    name : str
    kind : str
        "model", "rival", "fbank" or "random".
    folder : str or None
        Of the exported model.
    frames, utterance : Upstream or None
        One of `lobes.states` each, frozen; None where the folder lacks the encoder.
    rival_of : str or None
        The name of the model whose frames a rival changes in closed form.
    """

    name: str
    kind: str
    folder: str | None
    frames: Upstream | None
    utterance: Upstream | None
    rival_of: str | None = None

    def digest(self):
        """Return a text that changes with the kinds of states, their weights and their code."""
        parts = (self.frames, self.utterance)
        return "-".join("none" if part is None else part.digest() for part in parts)


@dataclass
class Encoded:
    """What a system gives for utterances, in their order.

    Arguments
    ---------
    frames : numpy.ndarray or None
        Shape (utterances, drawn frames, layers, dim), float32: states at the drawn places.
    means : numpy.ndarray or None
        Shape (utterances, dim), float32: means over all frames of the last layer.
    whole : list of numpy.ndarray or None
        All frames of the last layer, (frames, dim), float16, of each utterance.
    embeddings : numpy.ndarray or None
        Shape (utterances, E), float32.
    """

    frames: np.ndarray | None
    means: np.ndarray | None
    whole: list | None
    embeddings: np.ndarray | None


def load_systems(folders, controls, seed):
    """Return the models of folders, and the controls.

    Arguments
    ---------
    folders : list of str
        Exported models. A model is called as its run: as the folder that its "model" folder is in.
    controls : bool
        Add "FBANK" and, of each different architecture, "random weights". Models that differ in
        what is done to frames after the last layer share them.
    seed : int
        Seed of random weights.

    Returns
    -------
    list of System

    Raises
    ------
    FileNotFoundError, ValueError
        Where a folder is no exported model, or two models have the same name.

    Example
    -------
    >>> [system.name for system in load_systems([], controls=True, seed=0)]
    ['FBANK']
    """
    systems, architectures = [], {}
    for folder in map(str, folders):
        name = _run_name(folder)
        if name in (system.name for system in systems):
            raise ValueError(f"{folder}: there is a model {name} already: rename its run's folder.")
        encoders = load_model(folder)
        systems.append(make_system(name, "model", folder, encoders))
        architectures.setdefault(_architecture(encoders), (name, folder, encoders))
    if not controls:
        return systems
    bands = [Upstream(fbank_states(name), frozen=True) for name in ("frames", "utterance")]
    systems.append(System("FBANK", "fbank", None, *bands))
    for number, (name, folder, encoders) in enumerate(architectures.values()):
        title = f"random weights ({name})" if number else "random weights"
        random = {key: fresh(encoder, seed) for key, encoder in encoders.items()}
        systems.append(make_system(title, "random", folder, random))
    return systems


def _architecture(encoders):
    """Return a text that is the same for encoders that are the same with random weights.

    What is done to frames after the last layer is not done to those of random weights.
    """
    return repr({key: plain_config(encoders[key]) for key in sorted(encoders)})


def _run_name(folder):
    path = Path(os.path.abspath(folder))
    return path.parent.name if path.name == "model" else path.name


def make_system(name, kind, folder, encoders):
    """Return encoders as a system.

    Arguments
    ---------
    name, kind : str
    folder : str or None
        See `System`.
    encoders : dict
        `frame_encoder`, `utterance_encoder` or both.

    Returns
    -------
    System
    """
    kinds = {"frame_encoder": FrameStates, "utterance_encoder": UtteranceStates}
    upstreams = [
        Upstream(states(encoders[key]), frozen=True) if key in encoders else None
        for key, states in kinds.items()
    ]
    return System(name, kind, folder, *upstreams)


def draw_places(row, count):
    """Return the places of the frames of an utterance that are drawn.

    Arguments
    ---------
    row : dict
        `ID`, which seeds the draw, and `duration`, s.
    count : int
        How many; a shorter utterance's frames come more than once.

    Returns
    -------
    numpy.ndarray
        Shape (count,), rising.

    Example
    -------
    >>> draw_places({"ID": "a", "duration": 1.0}, 3).tolist()
    [10, 22, 31]
    """
    total = num_frames(round(row["duration"] * SAMPLE_RATE))
    rng = derive_rng("drawn frames", row["ID"])
    return np.sort(rng.choice(total, count, replace=total < count))


def encode(system, rows, count, folder, whole=False):
    """Return what a system gives for utterances; from disk where it was computed before.

    Arguments
    ---------
    system : System
    rows : list of dict
        `ID`, `duration` (s) and `wav`, a path.
    count : int
        Frames to draw of each utterance, see `draw_places`.
    folder : Path
        Receives "<digest>.npz", complete or absent.
    whole : bool
        Keep all frames of the last layer too.

    Returns
    -------
    Encoded

    Raises
    ------
    ValueError
        Where audio cannot be read, or states are not finite; names the utterance.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", 0.1 * np.random.randn(16000), 16000)
    >>> [fbank] = load_systems([], controls=True, seed=0)
    >>> rows = [{"ID": "a", "duration": 1.0, "wav": folder / "a.wav"}]
    >>> encoded = encode(fbank, rows, 5, folder, whole=True)
    >>> encoded.frames.shape, encoded.whole[0].shape, encoded.embeddings.shape
    ((1, 5, 1, 240), (49, 240), (1, 480))
    """
    listed = [(row["ID"], row["duration"], str(row["wav"]), stamp(row["wav"])) for row in rows]
    key = hashlib.sha256(repr((system.digest(), listed, count, whole)).encode()).hexdigest()[:16]
    path = Path(folder) / f"{key}.npz"
    if not path.exists():
        logger.info(f"{system.name}: encoding {len(rows)} utterances: {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_arrays(path, np.savez, _compute(system, rows, count, whole))
    with np.load(path) as arrays:
        found = dict(arrays)
    if "whole" in found:
        found["whole"] = np.split(found["whole"], np.cumsum(found.pop("lengths"))[:-1])
    return Encoded(**{name: found.get(name) for name in Encoded.__dataclass_fields__})


def replace_arrays(path, save, arrays):
    """Write arrays by `np.savez` or its like to a file that is complete or absent.

    Arguments
    ---------
    path : Path
    save : callable
    arrays : dict
    """
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            save(file, **arrays)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@torch.no_grad()
def _compute(system, rows, count, whole):
    """Return the arrays that `encode` keeps."""
    kept = {"frames": [], "means": [], "whole": [], "embeddings": []}
    for row in tqdm(rows, desc=f"Encoding by {system.name}", dynamic_ncols=True, delay=5):
        wav = read_speech(row["wav"])[None]
        if system.frames is not None:
            states = _centred_alike(system.frames(wav)[0][0], wav.shape[1]).numpy()
            _refuse_not_finite(states, row)
            last = states[:, -1]
            kept["frames"].append(states[draw_places(row, count)])
            kept["means"].append(last.mean(0))
            if whole:
                kept["whole"].append(last.astype(np.float16))
        if system.utterance is not None:
            embedding = system.utterance(wav)[0][0, 0, 0].numpy()
            _refuse_not_finite(embedding, row)
            kept["embeddings"].append(embedding)
    arrays = {name: np.stack(kept[name]) for name in kept if name != "whole" and kept[name]}
    if kept["whole"]:
        arrays["whole"] = np.concatenate(kept["whole"])
        arrays["lengths"] = np.array([len(part) for part in kept["whole"]])
    return arrays


def _centred_alike(states, samples):
    """Return the states of the frames that the encoders have too.

    Log-mel frames are centred 0.0125 s before: of each encoder's frame, the next one is nearer.
    """
    frames = num_frames(samples)
    first = 1 if len(states) > frames else 0
    return states[first : first + frames]


def _refuse_not_finite(states, row):
    if not np.isfinite(states).all():
        raise ValueError(f"{row['wav']}: the states of {row['ID']} are not finite: a broken model?")


def learn_layer_weights(frames, labels, seed):
    """Learn a softmax-weighted sum over layers, with a linear classifier of a factor on it.

    Arguments
    ---------
    frames : numpy.ndarray
        Shape (items, layers, dim), of training utterances: none that the sum is judged on.
    labels : array_like
        Shape (items,), of several kinds.
    seed : int
        Seed of the batches.

    Returns
    -------
    numpy.ndarray
        Shape (layers,), weights that sum to 1.

    Example
    -------
    >>> labels = np.arange(400) % 2
    >>> noise = np.random.default_rng(0).normal(size=(400, 2, 4))
    >>> noise[:, 1, 0] += 4 * labels
    >>> weights = learn_layer_weights(noise, labels, seed=0)
    >>> bool(weights[1] > 0.8)
    True
    """
    names, targets = np.unique(labels, return_inverse=True)
    x, y = torch.from_numpy(frames.astype(np.float32)), torch.from_numpy(targets)
    generator = torch.Generator().manual_seed(derive_seed(seed, "layer weights"))
    layers = WeightedSum(x.shape[1])
    scale = nn.BatchNorm1d(x.shape[2], affine=False)
    classify = nn.Linear(x.shape[2], len(names))
    nn.init.zeros_(classify.weight)
    nn.init.zeros_(classify.bias)
    parameters = [*layers.parameters(), *classify.parameters()]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        logits = classify(scale(layers(x[batch, None])[:, 0]))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, y[batch]).backward()
        optimizer.step()
    return layers.weights.detach().softmax(0).numpy()
