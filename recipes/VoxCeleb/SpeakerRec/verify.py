#!/usr/bin/env python3
"""Speaker verification by the cosine of exported utterance embeddings, on VoxCeleb1 trials.

    python verify.py hparams/verify.yaml --data_folder voxceleb1 --output_folder O/verify
        --model O/utterance/model

Nothing is trained here. Baselines on the same trials: mean and deviation of log-mel bands, and the
same encoder with random weights.
"""

import sys
import time
from pathlib import Path

import speechbrain as sb

from pretrained.exported import load_model
from recipes.common.experiment import load_hparams, report
from recipes.common.manifest import read_manifest, validate_manifests
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


def load_lists(hparams):
    """Return the manifest and the trials of "test" and, where there is one, of "dev"."""
    root, names = hparams["data_folder"], {"test": hparams["test_trials"]}
    if hparams["dev_trials"] is not None:
        names = {"dev": hparams["dev_trials"], **names}
    hparams["prepare"](trials=list(names.values()))
    folder = Path(hparams["manifest_folder"])
    manifests = {part: folder / f"{name}.csv" for part, name in names.items()}
    validate_manifests(manifests, root, {part: [part] for part in names})
    lists = {}
    for part, manifest in manifests.items():
        known = {row["ID"] for row in read_manifest(manifest)}
        path = trials_path(root, names[part])
        lists[part] = manifest, read_trials(path, known, hparams["skip_bad"])
    return lists


def load_reference(hparams):
    """Return the manifest and the folder of the training data, or None."""
    manifest, folder = hparams["reference_manifest"], hparams["reference_folder"]
    if manifest is None:
        return None
    validate_manifests({"reference": manifest}, folder, {})
    return manifest, folder


def main(arguments):
    """Prepare the trials, score them, write metrics.json."""
    began = time.time()
    hparams_file, run_opts, overrides = sb.parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    encoder = load_encoder(hparams["model"], run_opts["device"] or "cpu")
    lists, reference = load_lists(hparams), load_reference(hparams)

    figures = verify(encoder, lists, hparams["data_folder"], hparams["seed"], reference)
    manifests = [manifest for manifest, _ in lists.values()]
    if reference is not None:
        manifests.append(reference[0])
    report(hparams, figures, manifests, began)


if __name__ == "__main__":
    main(sys.argv[1:])
