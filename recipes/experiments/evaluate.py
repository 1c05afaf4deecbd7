#!/usr/bin/env python3
"""The leakage between frames and embeddings after stage C, against the control.

    python evaluate.py hparams/evaluate.yaml --data_folder LibriSpeech --output_folder O/leakage
        --model O/joint/model --control O/joint_plain/model

Fresh critics on frozen encoders (recipes/common/evaluation/leakage.py); differences with 95 %
intervals over speakers. Masked accuracies are those of the two runs' own metrics.json; retrieval
accuracies are means over `crop_draws` draws of crops, made as the control's run made its own.
"""

import time
from pathlib import Path

import numpy as np
import torch

from lobes.losses import retrieval_accuracy
from pretrained.exported import load_model
from recipes.common.data.crops import both_crops
from recipes.common.data.seeding import derive_seed
from recipes.common.evaluation.bootstrap import bootstrap_mean
from recipes.common.evaluation.leakage import encode_pairs, read_leakage, split_utterances
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.common.training.run import claim, report, split_datasets
from recipes.experiments.runner import read_figures
from recipes.LibriSpeech.pretrain.utterance import crops_of_run

RUNS = ("model", "control")
UNSEEN = ("unseen speakers, valid", "unseen speakers, test")


def encode_all(folder, parts, hparams):
    """Return the pairs of each part, encoded by the model of a folder."""
    encoders = load_model(folder)
    return {
        name: encode_pairs(encoders, rows, hparams["frames_per_utterance"], hparams["seed"])
        for name, rows in parts.items()
    }


def compare(model, control, speakers, seed):
    """Return the figures of a model and of its control on a part, and their difference."""
    figures = {}
    for name in ("likelihood_gain", "info_nce"):
        difference, interval = bootstrap_mean((model[name] - control[name]).mean(0), speakers, seed)
        figures[name] = {
            "model": by_seed(model[name].mean(1)),
            "control": by_seed(control[name].mean(1)),
            "difference": difference,
            "interval": interval,
        }
    figures["club"] = {"model": by_seed(model["club"]), "control": by_seed(control["club"])}
    return figures


def by_seed(values):
    """Return the mean, the standard deviation and the values themselves, a seed each."""
    return {"mean": values.mean().item(), "std": values.std().item(), "seeds": values.tolist()}


def pool_unseen(readings, speakers):
    """Add the part "unseen speakers", which holds both splits' utterances, to each reading.

    Arguments
    ---------
    readings : list of dict
        As `read_leakage` returns them; changed in place.
    speakers : dict
        The number of each utterance's speaker, by part; changed in place.
    """
    for parts in readings:
        valid, test = (parts[name] for name in UNSEEN)
        pooled = {
            key: np.concatenate([valid[key], test[key]], axis=1)
            for key in ("likelihood_gain", "info_nce")
        }
        parts["unseen speakers"] = {**pooled, "club": (valid["club"] + test["club"]) / 2}
    valid, test = (speakers[name] for name in UNSEEN)
    speakers["unseen speakers"] = np.concatenate([valid, test + valid.max() + 1])


def check_runs(hparams):
    """Raise ValueError unless both models are of runs whose records stand beside them."""
    for name in RUNS:
        for file in ("metrics.json", "hyperparams.yaml"):
            path = Path(hparams[name]).parent / file
            if not path.is_file():
                raise ValueError(
                    f"{path} is not there: --{name} is to be the folder `model` of a run of stage "
                    "C that has ended, with the run's files beside it."
                )


def kept_accuracies(hparams):
    """Return both runs' accuracies and their ratios."""
    runs = {name: read_figures(Path(hparams[name]).parent) for name in RUNS}
    figures = {}
    for split, retrieval in retrieval_accuracies(hparams).items():
        masked = {name: runs[name][split]["masked_accuracy"] for name in RUNS}
        for what, values in (("masked", masked), ("retrieval", retrieval)):
            ratio = values["model"] / values["control"]
            figures[f"{split}_{what}_accuracy"] = {**values, "ratio": ratio}
    return figures


@torch.no_grad()
def retrieval_accuracies(hparams):
    """Return by split and run the retrieval accuracy of projections, over draws of crops."""
    encoders = {name: load_model(hparams[name])["utterance_encoder"].eval() for name in RUNS}
    found = {split: dict.fromkeys(RUNS, 0.0) for split in ("valid", "test")}
    draws = hparams["crop_draws"]
    for draw in range(draws):
        seed = derive_seed(hparams["seed"], "crops", draw)
        datasets = split_datasets(hparams)
        datasets = {split: datasets[split] for split in found}
        loaders = crops_of_run(Path(hparams["control"]).parent, datasets, seed)
        for split, loader in loaders.items():
            share = 1 / (draws * len(datasets[split]))
            for batch in loader:
                crops = both_crops(batch)
                for name, encoder in encoders.items():
                    first, second = encoder(*crops, project=True)[1].chunk(2)
                    right = retrieval_accuracy(first, second) * len(first)
                    found[split][name] += float(right) * share
    return found


def main(arguments):
    """Encode, fit the critics, compare."""
    began = time.time()
    hparams_file, _, overrides = read_command_line(arguments, heeded=[])
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    check_runs(hparams)
    claim(hparams["output_folder"])
    rows = {}
    for split, dataset in split_datasets(hparams).items():
        with dataset.output_keys_as(["id", "wav", "spk_id"]):
            rows[split] = list(dataset)
    parts = {**split_utterances(rows["train"], hparams["seed"])}
    parts["training speakers"] = parts.pop("read")
    parts |= dict(zip(UNSEEN, (rows["valid"], rows["test"]), strict=True))

    encoded = {name: encode_all(hparams[name], parts, hparams) for name in RUNS}
    read = {
        name: read_leakage(encoded[name], hparams["hidden_dim"], hparams["critic_seeds"])
        for name in encoded
    }
    speakers = {part: encoded["model"][part]["speakers"] for part in read["model"]}
    pool_unseen(read.values(), speakers)
    figures = {
        part: compare(read["model"][part], read["control"][part], speakers[part], hparams["seed"])
        for part in speakers
    }
    figures["kept"] = kept_accuracies(hparams)
    report(hparams, figures, began)


if __name__ == "__main__":
    run_recipe(main)
