#!/usr/bin/env python3
"""Speaker verification by the cosine of exported utterance embeddings, on VoxCeleb1 trials.

    python verify.py hparams/verify.yaml --data_folder voxceleb1 --output_folder O/verify
        --model O/utterance/model

Nothing is trained here. Baselines on the same trials: mean and deviation of log-mel bands, and the
same encoder with random weights.
"""

import json
import sys
import time
from pathlib import Path

import speechbrain as sb

from pretrained.exported import load_model
from recipes.common.experiment import load_hparams
from recipes.common.manifest import validate_manifests
from recipes.common.metrics import write_metrics
from recipes.common.verification import verify
from recipes.VoxCeleb.voxceleb_prepare import read_trials, trials_path


def load_encoder(folder, device):
    """Return the utterance encoder of an exported folder."""
    encoders = load_model(folder)
    if "utterance_encoder" not in encoders:
        raise ValueError(
            f"model: {folder} holds no utterance_encoder. Give the folder of stage B or C."
        )
    return encoders["utterance_encoder"].to(device)


def trial_names(hparams):
    """Return the names of the "dev" and "test" lists; without dev_trials, "test" alone."""
    names = {"dev": hparams["dev_trials"], "test": hparams["test_trials"]}
    return {part: name for part, name in names.items() if name is not None}


def main(arguments):
    """Prepare the trials, score them, write metrics.json."""
    began = time.time()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    encoder = load_encoder(hparams["model"], run_opts["device"] or "cpu")

    root, names = hparams["data_folder"], trial_names(hparams)
    hparams["prepare"](trials=list(names.values()))
    manifests = {name: Path(hparams["manifest_folder"]) / f"{name}.csv" for name in names.values()}
    validate_manifests(manifests, root, {part: [name] for part, name in names.items()})
    trials = {
        name: read_trials(trials_path(root, name), skip_bad=hparams["skip_bad"])
        for name in manifests
    }
    reference = None
    if hparams["reference_manifest"] is not None:
        reference = hparams["reference_manifest"], hparams["reference_folder"]

    lists = {part: (manifests[name], trials[name]) for part, name in names.items()}
    figures = verify(encoder, lists, root, hparams["seed"], reference)
    write_metrics(
        Path(hparams["output_folder"]) / "metrics.json",
        figures,
        seed=hparams["seed"],
        manifests=[*manifests.values(), *(reference or ())[:1]],
        start_time=began,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
