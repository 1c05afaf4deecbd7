#!/usr/bin/env python3
"""Rivals in closed form of an exported model, as exported models: R/NAME/model for each.

    python rivals.py --model O/joint_plain/model --data_folder LibriSpeech --output_folder R
        [--utterance O/utterance/model] [--manifest train.csv] [--only NAME ...] [--directions 80]

The frames of each are the model's last layer, with nothing erased, changed in closed form:
`recipes.common.closed_forms.rival_models` tells how. They are fitted on the utterances of the
manifests, by default those of the model's own run. Every recipe takes R/NAME/model as it takes
any model.
"""

import argparse
import sys
import time
from pathlib import Path

from lobes.closed_forms.erasure import check_directions
from pretrained.exported import save_model
from recipes.common.closed_forms.rival_models import (
    RIVALS,
    default_directions,
    find_encoders,
    gather_evidence,
    make_rival,
)
from recipes.common.data.manifest import validate_manifests
from recipes.common.report.speech import load_rows
from recipes.common.training.hparams import read_tree
from recipes.common.training.record import write_metrics

MIN_SECONDS = 0.5


def main(arguments=None):
    """Make the rivals."""
    options = read_options(arguments)
    try:
        make_rivals(options)
    except (ValueError, OSError) as error:
        sys.exit(str(error))


def read_options(arguments):
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--utterance", type=Path, help="one with the embeddings, where it has none")
    parser.add_argument("--data_folder", type=Path, required=True, help="of the manifests")
    parser.add_argument("--output_folder", type=Path, required=True, help="where the models go")
    parser.add_argument("--manifest", type=Path, nargs="+", help="the run's own, unless given")
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS), help="which")
    parser.add_argument("--directions", type=int, help="how many are erased: the model's number")
    parser.add_argument("--seed", type=int, default=2407)
    return parser.parse_args(arguments)


def make_rivals(options):
    """Write the rivals that are asked for and metrics.json, and print the rivals' folders."""
    start_time = time.time()
    frame_encoder, utterance_encoder = find_encoders(options.model, options.utterance)
    manifests = options.manifest or training_manifests(options.model)
    validate_manifests({path.stem: path for path in manifests}, options.data_folder, {})
    given = {"data_folder": options.data_folder, "min_seconds": MIN_SECONDS, "session": None}
    rows = load_rows(manifests, given)
    count = options.directions or default_directions(options.model)
    check_directions(count, frame_encoder.config["d_model"])
    given = frame_encoder, utterance_encoder, rows, count, options.seed
    evidence = gather_evidence(*given)
    for name in options.only:
        made = make_rival(name, frame_encoder, evidence)
        folder = options.output_folder / name / "model"
        save_model(folder, {"frame_encoder": made, "utterance_encoder": utterance_encoder})
        print(folder, flush=True)
    figures = {"rivals": options.only, "directions": count, "speakers": len(set(evidence.speakers))}
    given = {"seed": options.seed, "manifests": manifests, "start_time": start_time}
    write_metrics(options.output_folder / "metrics.json", figures, **given)


def training_manifests(model):
    """Return the manifests that the run of an exported model was trained on."""
    run = model.resolve().parent
    settings = run / "hyperparams.yaml"
    names = read_tree(settings)["train_splits"] if settings.is_file() else []
    paths = [run / "manifest" / f"{name}.csv" for name in names]
    if not paths or not all(path.is_file() for path in paths):
        raise ValueError(
            f"{run} does not hold the settings and the manifests of a run (hyperparams.yaml, "
            "manifest/), on whose training utterances rivals could be fitted: name manifests by "
            "--manifest."
        )
    return paths


if __name__ == "__main__":
    main()
