"""The downstream tasks, and small runs of them."""

import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from speechbrain import Stage
from speechbrain.core import RunOptions
from torch.utils.data import DataLoader

from lobes.frame_encoder import FrameEncoder
from lobes.states import FbankStates
from lobes.utterance_encoder import UtteranceEncoder
from recipes.common.data.sampler import LengthSortedBatches
from recipes.common.downstream import classification
from recipes.common.downstream.classification import ClassificationBrain
from recipes.common.downstream.sweep import hparams_at, make_brain, make_loaders
from recipes.LibriSpeech.ASR import train as asr
from recipes.LibriSpeech.PR import train as pr
from recipes.VoxCeleb.SpeakerRec import train as rec
from tests.made_datasets import made_dataset

RECIPES = Path(__file__).parents[2] / "recipes"
LEXICON = "ONE W AH1 N\nTWO T UW1\nTHREE TH R IY1\nFOUR F AO1 R\nFIVE F AY1 V\nSIX S IH1 K S\n"
RATES = [0.01, 0.003]


class Task(NamedTuple):
    """A recipe's folder, hyperparameters file, Brain and train.py, and options of a small run."""

    folder: str
    yaml: str
    brain: type
    train: object
    options: dict


TASKS = {
    "PR": Task("LibriSpeech/PR", "lexicon_tiny", pr.PhonemeBrain, pr, {}),
    "ASR": Task(
        "LibriSpeech/ASR",
        "bpe_tiny",
        asr.WordBrain,
        asr,
        {"vocab_size": 15, "upstream": "finetune", "frozen_steps": 2},
    ),
    "SID": Task("VoxCeleb/SpeakerID", "linear_tiny", ClassificationBrain, classification, {}),
    "xvector": Task(
        "VoxCeleb/SpeakerRec", "xvector_tiny", rec.VerificationBrain, rec, {"features": "fbank"}
    ),
    "embedding": Task(
        "VoxCeleb/SpeakerRec", "embedding_tiny", rec.VerificationBrain, rec, {"frozen_steps": 2}
    ),
}


def encoders():
    torch.manual_seed(0)
    return {
        "frame_encoder": FrameEncoder("fbank", 16, d_model=16, num_layers=2, nhead=2, d_ffn=32),
        "utterance_encoder": UtteranceEncoder("tdnn", channels=8, embedding_dim=12),
    }


def arguments(task, corpora, output, **changes):
    """Return the command line of a small run of a task."""
    recipe = TASKS[task]
    speech = recipe.folder.startswith("LibriSpeech")
    options = {
        "data_folder": corpora.librispeech if speech else corpora.voxceleb1,
        "output_folder": output,
        "features": corpora.model,
        "lrs": RATES,
        "number_of_epochs": 2,
        "max_batch_seconds": 15,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 3,
        **({"lexicon": corpora.lexicon} if task == "PR" else {}),
        **recipe.options,
        **changes,
    }
    words = [str(word).replace(", ", ",") for k, v in options.items() for word in (f"--{k}", v)]
    return [
        str(RECIPES / recipe.folder / "hparams" / f"{recipe.yaml}.yaml"),
        *words,
        "--noprogressbar",
    ]


def hparams_of(task, folder, rate=0.01, **changes):
    """Return what a task's hyperparameters file builds, for made-up data."""
    recipe = TASKS[task]
    given = {"data_folder": "none", "output_folder": str(folder), "features": "fbank"}
    given |= {"upstream": "frozen", "representation": "frames"}
    given |= {"lexicon": "none"} if task == "PR" else {}
    given |= {key: str(v) if isinstance(v, Path) else v for key, v in changes.items()}
    path = RECIPES / recipe.folder / "hparams" / f"{recipe.yaml}.yaml"
    return hparams_at(path, given, folder, rate)


def started(task, hparams, labels):
    """Return a Brain at the first step of its training."""
    sampler = LengthSortedBatches([1.0] * 20, 1.0, seed=0)
    loaders = {"train": DataLoader(range(20), batch_sampler=sampler)}
    options = RunOptions(noprogressbar=True)
    brain = make_brain(TASKS[task].brain, hparams, options, labels, None, loaders)
    brain.labels_digest = "of no labels"
    brain.on_fit_start()
    brain.hparams.epoch_counter.current = 1
    brain.on_stage_start(Stage.TRAIN, 1)
    brain.modules.train()
    return brain


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module, before):
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}


def trained(task, hparams, labels, datasets, cache):
    """Train a Brain to its end and test it, as a recipe does."""
    loaders = make_loaders(hparams, datasets, cache, TASKS[task].brain.label_keys)
    options = RunOptions(noprogressbar=True)
    brain = make_brain(TASKS[task].brain, hparams, options, labels, cache, loaders)
    brain.fit(hparams["epoch_counter"], loaders["train"], loaders["valid"])
    brain.evaluate(loaders["test"], min_key=brain.criterion)
    return brain


def made_up_speakers(folder, speakers, utterances, distance):
    """Return datasets, so many utterances of each speaker in "train" and one elsewhere, states."""
    torch.manual_seed(0)
    voices = distance * torch.randn(speakers, FbankStates.dim)
    data, states = {"train": {}, "valid": {}, "test": {}}, {}
    for split, own in data.items():
        for speaker, number in itertools.product(
            range(speakers), range(utterances if split == "train" else 1)
        ):
            name = f"{split}-{speaker}-{number}"
            own[name] = {"duration": 1.0, "wav": "none", "spk_id": f"{speaker:03d}"}
            states[name] = voices[speaker] + torch.randn(2, 1, FbankStates.dim)
    datasets = {
        split: made_dataset(folder / "manifest" / f"{split}.csv", own)
        for split, own in data.items()
    }
    return datasets, states


def identify(folder, **changes):
    """Return a trained Brain of speaker identification on made-up speakers."""
    hparams = hparams_of("SID", folder, max_batch_seconds=40, **changes)
    datasets, states = made_up_speakers(folder, 100, 4, distance=1.0)
    labels = classification.dataio_prepare(hparams, datasets)
    return trained("SID", hparams, labels, datasets, states)
