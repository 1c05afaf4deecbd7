"""One way to plug features into every downstream recipe.

`features` is the folder of an exported model, "fbank" for log-mel bands, or "random:<folder>" for
that folder's architecture with fresh weights, the control. `representation` is "frames" or
"utterance". `upstream` is "frozen" (always in evaluation mode, without gradient; its states can be
cached) or "finetune".
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from torch import nn
from tqdm import tqdm

from lobes.signal import SAMPLE_RATE, num_frames
from lobes.states import FbankStates, FrameStates, PooledStates, UtteranceStates
from pretrained.audio import read_speech
from pretrained.audio_files import stamp
from pretrained.exported import load_model
from recipes.common.data.files import digest_code
from recipes.common.data.seeding import derive_rng
from recipes.common.evaluation.baselines import fbank_states, fresh

logger = get_logger(__name__)
RANDOM = "random:"
# What states are not made of, or have no gradient for, so that ranks would wait for it in vain.
OF_PRETRAINING = ("encoder.head.", "encoder.mask_embedding", "encoder.projection.")
OF_PRETRAINING += ("encoder.least_squares.",)
ENCODERS = {"frames": "frame_encoder", "utterance": "utterance_encoder"}
STATES = {"frames": FrameStates, "utterance": UtteranceStates}
KINDS = {  # as an exported folder tells what its head stands on
    FrameStates: "frame_encoder",
    UtteranceStates: "utterance_encoder",
    FbankStates: "fbank",
    PooledStates: "fbank_statistics",
}


class Upstream(nn.Module):
    """The states of an utterance, frozen or to be trained further.

    Arguments
    ---------
    states : nn.Module
        One of `lobes.states`.
    frozen : bool
        Whether it stays in evaluation mode and passes no gradient, whatever mode is asked for.

    Example
    -------
    >>> upstream = Upstream(FbankStates(), frozen=True).train()
    >>> upstream.training
    False
    >>> upstream(torch.randn(2, 16000))[0].shape
    torch.Size([2, 51, 1, 240])
    """

    def __init__(self, states, frozen):
        super().__init__()
        self.states = states
        self.kind = KINDS[type(states)]
        self.frozen = frozen
        for name, parameter in states.named_parameters():
            parameter.requires_grad = not (frozen or name.startswith(OF_PRETRAINING))
        self.train()

    def train(self, mode=True):
        """Set the mode, which is evaluation wherever this is frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, wavs, wav_lens=None):
        """Return states and lengths; see `lobes.states.FrameStates.forward`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.states(wavs, wav_lens)

    def digest(self):
        """Return a short digest of the kind of states, of their weights and their code."""
        code = digest_code("lobes", "pretrained/audio.py")
        digest = hashlib.sha256(repr((self.states, self.states.dim, code)).encode())
        for name, value in self.states.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_encoder(folder, representation, option):
    """Return the encoder of a representation, from an exported folder.

    Arguments
    ---------
    folder : str or Path
    representation : str
        "frames" or "utterance".
    option : str
        What gives the folder, for the message.

    Returns
    -------
    FrameEncoder or UtteranceEncoder

    Raises
    ------
    ValueError
        Where there is no such representation, or the folder lacks its encoder.
    FileNotFoundError
        Where there is no such folder.
    """
    check_representation(representation)
    encoders, name = load_model(folder), ENCODERS[representation]
    if name not in encoders:
        raise ValueError(
            f"{option}: {folder} holds no {name}, only {', '.join(encoders)}: for its "
            f"representation give --representation "
            f"{next(key for key, value in ENCODERS.items() if value in encoders)}."
        )
    return encoders[name]


def check_representation(name):
    """Raise ValueError unless it is "frames" or "utterance"."""
    if name not in ENCODERS:
        raise ValueError(f"representation is {name!r}, not one of {list(ENCODERS)}.")


def load_upstream(hparams):
    """Build what the heads are trained on.

    Arguments
    ---------
    hparams : dict
        `features`, `representation`, `upstream` (see the module's docstring) and `seed`, of random
        weights.

    Returns
    -------
    Upstream

    Raises
    ------
    ValueError
        Where a value is none of the possible ones, log-mel bands are to be fine-tuned, or the
        folder lacks the encoder of the representation.
    FileNotFoundError
        Where there is no such folder.
    """
    features, representation = str(hparams["features"]), hparams["representation"]
    check_representation(representation)
    if hparams["upstream"] not in ("frozen", "finetune"):
        raise ValueError(f"upstream is {hparams['upstream']!r}, not 'frozen' or 'finetune'.")
    frozen = hparams["upstream"] == "frozen"
    if features == "fbank":
        if not frozen:
            raise ValueError("features: fbank has no weights to fine-tune: --upstream frozen.")
        return Upstream(fbank_states(representation), frozen)
    folder = features.removeprefix(RANDOM)
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"features: {folder} is no folder of an exported model; fbank and random:<folder> are "
            "the other choices."
        )
    encoder = load_encoder(folder, representation, "features")
    if features.startswith(RANDOM):
        encoder = fresh(encoder, hparams["seed"])
    return Upstream(STATES[representation](encoder), frozen)


class StateCache:
    """States of utterances, computed once and read from disk.

    Arguments
    ---------
    folder : Path
        As `write_states` leaves it.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", 0.1 * np.ones(16000), 16000)
    >>> upstream = Upstream(FbankStates(), frozen=True)
    >>> write_states(upstream, [{"id": "a", "wav": folder / "a.wav"}], folder / "states")
    >>> StateCache(folder / "states")["a"].shape
    torch.Size([51, 1, 240])
    """

    def __init__(self, folder):
        self.folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.places, shape = index["places"], tuple(index["shape"])
        self.array = np.memmap(folder / "states.f16", np.float16, "r", shape=shape)

    def __reduce__(self):
        """Tell a worker the folder: what is pickled of a memory map would be the whole of it."""
        return StateCache, (self.folder,)

    def __getitem__(self, utterance):
        """Return the states of an utterance by its ID, (frames, layers, dim), float32."""
        start, frames = self.places[utterance]
        return torch.from_numpy(self.array[start : start + frames].astype(np.float32))


@torch.no_grad()
def write_states(upstream, rows, folder):
    """Compute the states of utterances, each by itself, unless the folder is there: complete.

    Arguments
    ---------
    upstream : Upstream
        Frozen.
    rows : list of dict
        With `id` and `wav`, a path.
    folder : Path
        Receives `states.f16`, float16 of shape (all frames, layers, dim), and `index.json`.
    """
    if folder.exists():
        return
    logger.info(f"Computing the states of {len(rows)} utterances: {folder}")
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    device = next(upstream.parameters(), torch.empty(0)).device
    places, total = {}, 0
    try:
        with open(partial / "states.f16", "wb") as file:
            for row in tqdm(rows, desc="Computing states", dynamic_ncols=True, delay=5):
                states, _ = upstream(read_speech(row["wav"])[None].to(device))
                places[row["id"]] = total, states.shape[1]
                total += states.shape[1]
                file.write(states[0].half().cpu().numpy().tobytes())
        index = {"shape": [total, *states.shape[2:]], "places": places}
        (partial / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if not folder.exists():  # unless another run made the same meanwhile
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def open_cache(hparams, upstream, datasets):
    """Return the cached states of all datasets, computed now where they are not there.

    Arguments
    ---------
    hparams : dict
        `cache_folder`: below `output_folder` unless it is absolute, null for none. Runs of the same
        features and data share one.
    upstream : Upstream
    datasets : dict
        Utterances by split.

    Returns
    -------
    StateCache or None
        None without a folder, and for an upstream that is fine-tuned.
    """
    if hparams["cache_folder"] is None or not upstream.frozen:
        return None
    rows = {}
    for dataset in datasets.values():
        with dataset.output_keys_as(["id", "wav", "duration"]):
            rows.update((row["id"], dict(row)) for row in dataset)
    folder = Path(hparams["output_folder"]) / hparams["cache_folder"]
    return cache_states(upstream, list(rows.values()), folder)


def cache_states(upstream, rows, folder):
    """Return the cached states of utterances, computed now where they are not there.

    Arguments
    ---------
    upstream : Upstream
        Frozen.
    rows : list of dict
        With `id` and `wav`, a path.
    folder : Path
        Receives a folder, named by what the states are made of.

    Returns
    -------
    StateCache
    """
    made_of = sorted((*map(str, row.values()), stamp(row["wav"])) for row in rows)
    data = hashlib.sha256(repr(made_of).encode())
    folder = folder / f"{upstream.digest()}-{data.hexdigest()[:16]}"
    run_on_main(write_states, args=[upstream, rows, folder])
    return StateCache(folder)


def add_features(dataset, hparams, cache, clock=None):
    """Give each utterance the item `states` or, without a cache, `sig`.

    Arguments
    ---------
    dataset : Utterances
        Changed in place.
    hparams : dict
        `max_seconds`, `crop` (whether longer utterances are cropped in training), `seed`.
    cache : StateCache or None
    clock : Clock, optional
        The epoch that crops are drawn for. Without one, utterances are whole.

    Returns
    -------
    str
        The name of the item.
    """
    item = "sig" if cache is None else "states"
    read = CroppedFeatures(hparams, cache, clock)
    dataset.add_dynamic_item(read, takes=["id", "wav"], provides=item)
    return item


class CroppedFeatures:
    """The cached states of an utterance or, without a cache, its audio; cropped anew in each epoch.

    Arguments are those of `add_features`.
    """

    def __init__(self, hparams, cache, clock):
        longest = round(hparams["max_seconds"] * SAMPLE_RATE)
        self.longest = longest if cache is None else num_frames(longest)
        self.seed = hparams["seed"]
        self.cache = cache
        self.clock = clock if hparams["crop"] else None

    def __call__(self, utterance, path):
        """Return states (frames, layers, dim), or audio (samples,), of an utterance by its ID."""
        whole = read_speech(path) if self.cache is None else self.cache[utterance]
        if self.clock is None or len(whole) <= self.longest:
            return whole
        rng = derive_rng(self.seed, "crop", self.clock.epoch, utterance)
        start = int(rng.integers(len(whole) - self.longest + 1))
        return whole[start : start + self.longest]
