#!/usr/bin/env python3
"""Speaker verification by the cosine of exported representations, on VoxCeleb1 trials.

    python verify.py hparams/verify.yaml --data_folder voxceleb1 --output_folder O/verify
        --model O/utterance/model

Nothing is trained here. Baselines on the same trials: mean and deviation of log-mel bands, and the
same encoder with random weights.
"""

import time
from os.path import samefile
from pathlib import Path

import recipes  # noqa: F401, before torch is loaded

# isort: split
from speechbrain.utils.distributed import infer_device

from recipes.common.data.manifest import validate_manifests
from recipes.common.data.table import read_manifest
from recipes.common.downstream.features import load_encoder
from recipes.common.evaluation import verification
from recipes.common.evaluation.drawing import draw_det, draw_scores
from recipes.common.evaluation.metrics import eer_threshold
from recipes.common.evaluation.scoring import statistics_of
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.common.training.run import claim, report
from recipes.VoxCeleb.voxceleb_prepare import count_left_out_trials, read_trials, trials_path


def load_lists(hparams, reference):
    """Return the manifest and the trials of "test" and, where there is one, of "dev".

    A reference of the same corpus must not share speakers with them: see `load_reference`.
    """
    root, names = hparams["data_folder"], {"test": hparams["test_trials"]}
    if hparams["dev_trials"] is not None:
        names = {"dev": hparams["dev_trials"], **names}
    hparams["prepare"](splits=list(names.values()))
    folder = Path(hparams["manifest_folder"])
    manifests = {part: folder / f"{name}.csv" for part, name in names.items()}
    apart = dict(manifests)
    if reference is not None and samefile(reference[1], root):
        apart["reference"] = reference[0]
    validate_manifests(apart, root, {part: [part] for part in apart})
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
    if not Path(manifest).is_file():
        raise ValueError(
            f"reference_manifest is {manifest}, which is missing: expected a CSV file."
        )
    validate_manifests({"reference": manifest}, folder, {})
    return manifest, folder


def verifier_facts(system, hparams, figures, curves, reference):
    """Return the scoring and the threshold of the development trials, for the exported folder."""
    scoring = figures["scoring"]["utterance"]
    facts = {
        "features": "utterance_encoder",
        "scoring": scoring,
        "threshold": eer_threshold(*curves["dev"]["utterance"]),
        "threshold_set_on": f"equal error rate of {hparams['dev_trials']}",
    }
    if scoring != "plain":
        rows = verification.draw_reference(reference[0], hparams["seed"])
        mean, deviation = statistics_of(verification.embed(system, rows, reference[1]))
        facts["mean"] = mean.tolist()
        if scoring == "standardised":
            facts["deviation"] = deviation.tolist()
    return facts


def main(arguments):
    """Prepare the trials, score them, write metrics.json, curves and, with "dev", a verifier."""
    began = time.time()
    hparams_file, run_opts, overrides = read_command_line(arguments, heeded=["device"])
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    judged = hparams["representation"]
    encoder = load_encoder(hparams["model"], judged, "model")
    encoder = encoder.to(run_opts["device"] or infer_device())
    reference = load_reference(hparams)
    lists = load_lists(hparams, reference)

    claim(hparams["output_folder"])
    systems = verification.with_baselines(encoder, judged, hparams["seed"])
    figures, curves = verification.verify(
        systems, lists, hparams["data_folder"], hparams["seed"], reference, hparams["cohort_top"]
    )
    for part, (manifest, trials) in lists.items():
        path = trials_path(hparams["data_folder"], manifest.stem)
        figures[part]["trials_left_out"] = count_left_out_trials([path], trials)
    output = Path(hparams["output_folder"])
    manifests = [manifest for manifest, _ in lists.values()]
    if reference is not None:
        manifests.append(reference[0])
    modules = facts = None
    if "dev" in lists and judged == "utterance":
        modules = {"utterance_encoder": encoder}
        facts = verifier_facts(systems[judged], hparams, figures, curves, reference)
    report(hparams, figures, began, manifests, modules, facts)
    for part, scored in curves.items():
        draw_det(scored, output / f"det_{part}.png")
        draw_scores(*scored[judged], output / f"scores_{part}.png")


if __name__ == "__main__":
    run_recipe(main)
