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
from recipes.common.metrics import write_metrics
from recipes.common.verification import verify
from recipes.VoxCeleb.voxceleb_prepare import read_trials, trials_path


def main(arguments):
    """Prepare the trials, score them, write metrics.json."""
    began = time.time()
    hparams_file, _, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    encoders = load_model(hparams["model"])
    if "utterance_encoder" not in encoders:
        raise ValueError(f"model: {hparams['model']} holds no utterance_encoder.")
    hparams["prepare"]()

    figures, manifests = {}, []
    for name in hparams["trials"]:
        manifest = Path(hparams["manifest_folder"]) / f"{name}.csv"
        trials = read_trials(
            trials_path(hparams["data_folder"], name), skip_bad=hparams["skip_bad"]
        )
        figures[name] = verify(
            encoders["utterance_encoder"],
            manifest,
            trials,
            hparams["data_folder"],
            hparams["seed"],
        )
        manifests.append(manifest)
    write_metrics(
        Path(hparams["output_folder"]) / "metrics.json",
        figures,
        seed=hparams["seed"],
        manifests=manifests,
        start_time=began,
    )
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
