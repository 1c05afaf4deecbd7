#!/usr/bin/env python3
"""Attack a model: who speaks, by its frames; what is said, by its utterance embeddings.

    python attack.py --features O/joint/model --manifests O/joint/manifest
        --data_folder LibriSpeech --output_folder A
    python attack.py --features O/joint/model --representation utterance --lexicon LEXICON ...

`--features` is an exported model folder, fbank (log-mel bands), or random:<folder> (its
architecture with random weights). Several attackers are trained on train-clean-100, the one that
does best on dev-clean counts, and all are read on test-clean. Prints a table, and writes
metrics.json.
"""

import argparse
import dataclasses
import shutil
import sys
import time
from pathlib import Path

import torch

from recipes.common.data.manifest import validate_manifests
from recipes.common.evaluation.attacks.content_attacks import Said, content_attacks
from recipes.common.evaluation.attacks.speaker_attacks import Part, speaker_attacks
from recipes.common.report.representations import encode, load_systems
from recipes.common.report.speech import draw_rows, load_rows, phone_texts
from recipes.common.training.record import write_metrics
from recipes.experiments import readmes
from recipes.experiments.method_readings import plain
from recipes.experiments.readings import read_verification
from recipes.experiments.runner import SEEDS

SPLITS = ("train-clean-100", "dev-clean", "test-clean")
TRAINING_UTTERANCES = 3000  # that attackers are trained on, at most
FRACTION = {"accuracy": "accuracy", "eer": "EER"}  # as tables call it


def main(arguments=None):
    """Attack, and print what was found."""
    options = read_options(arguments)
    torch.set_num_threads(1)
    try:
        found = attack(options)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(make_table(found))


def read_options(arguments):
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", required=True, help="a model folder, fbank or random:FOLDER")
    parser.add_argument("--manifests", type=Path, required=True, help="the folder of the splits")
    parser.add_argument("--data_folder", type=Path, required=True, help="of the manifests")
    parser.add_argument("--output_folder", type=Path, required=True, help="receives metrics.json")
    parser.add_argument("--representation", choices=("frames", "utterance"), default="frames")
    parser.add_argument("--lexicon", type=Path, help="pronunciations, for the phones of sentences")
    parser.add_argument("--splits", nargs=3, default=SPLITS, help="train, development and test")
    parser.add_argument("--seed", type=int, default=SEEDS[0], help="of random weights")
    return parser.parse_args(arguments)


def attack(options):
    """Return what attacks find, as `attack_frames` or `attack_embeddings` does; written too."""
    began, states = time.time(), options.output_folder / "states"
    parts = read_splits(options)
    system = choose_system(options.features, options.representation, options.seed)
    on_frames = options.representation == "frames"
    found = (attack_frames if on_frames else attack_embeddings)(system, parts, states, options)
    shutil.rmtree(states)  # frames of all utterances: gigabytes
    manifests = [options.manifests / f"{name}.csv" for name in options.splits]
    given = {"seed": options.seed, "manifests": manifests, "start_time": began}
    write_metrics(options.output_folder / "metrics.json", found, **given)
    return found


def read_splits(options):
    """Return the utterances of training, development and test speakers, lists of rows."""
    paths = {name: options.manifests / f"{name}.csv" for name in options.splits}
    groups = {name: [name] for name in options.splits}
    validate_manifests(paths, options.data_folder, disjoint_speakers=groups)
    given = {"data_folder": options.data_folder, "min_seconds": 0.5, "session": None}
    train, dev, test = (load_rows([path], given) for path in paths.values())
    return draw_rows(train, TRAINING_UTTERANCES), dev, test


def choose_system(features, representation, seed):
    """Return the system that is attacked, with the encoder that is asked for and no other."""
    random, folder = features.startswith("random:"), features.removeprefix("random:")
    folders = [] if features == "fbank" else [folder]
    system = load_systems(folders, controls=random or not folders, seed=seed)[-1]
    if getattr(system, representation) is None:
        raise ValueError(f"{features} has no encoder of --representation {representation}.")
    other = "utterance" if representation == "frames" else "frames"
    return dataclasses.replace(system, **{other: None})


def attack_frames(system, parts, states, options):
    """Return what `speaker_attacks` finds in frames; of the EER, draws of the strongest alone."""
    encoded = [encode(system, rows, 1, states, whole=True).whole for rows in parts]
    found = speaker_attacks(*map(Part, parts, encoded), SEEDS[0])
    for name, attacker in found["attackers"].items():
        if name != found["best"]["eer"]:
            attacker["test"]["eer"]["evidence"] = {}
        attacker["test"] = {measure: plain(x) for measure, x in attacker["test"].items()}
    return found


def attack_embeddings(system, parts, states, options):
    """Return what `content_attacks` finds in embeddings, and as `eer` how they verify speakers."""
    said = []
    for rows in parts[1:]:
        texts = phone_texts(rows, {}, options.lexicon and str(options.lexicon))
        said.append(Said(rows, encode(system, rows, 1, states).embeddings, texts))
    found = content_attacks(*said, SEEDS[0])
    for factor in found.values():
        for attacker in factor["attackers"].values():
            attacker["test"] = plain(attacker["test"])
    test = said[1]
    return {"content": found, "eer": plain(read_verification(test.rows, test.embeddings))}


def make_table(found):
    """Return what attacks found as Markdown: the strongest in bold type.

    Example
    -------
    >>> reading = {"value": 0.2, "interval": [0.1, 0.3], "chance": 0.03, "control": 0.02}
    >>> attacker = {"dev": {"accuracy": 0.25, "eer": 0.3}, "test": {"accuracy": reading}}
    >>> attacker["test"]["eer"] = reading
    >>> best = {"accuracy": "means", "eer": "means"}
    >>> print(make_table({"attackers": {"means": attacker}, "best": best}).splitlines()[-1])
    | means | EER | 30.0 | **20.0 [10.0, 30.0]** | 3.0 | 2.0 |
    """
    heads = ["attacker", "measure", "dev", "test", "chance", "shuffled labels"]
    rows = []
    if "attackers" in found:
        for name, attacker in found["attackers"].items():
            for measure, title in FRACTION.items():
                best = found["best"][measure] == name
                dev, test = attacker["dev"][measure], attacker["test"][measure]
                rows.append([name, title, *_cells(dev, test, best)])
        return readmes.markdown_table(heads, "llrrrr", rows)
    for factor, told in found["content"].items():
        for kind, attacker in told["attackers"].items():
            cells = _cells(attacker["dev"], attacker["test"], told["best"] == kind)
            rows.append([f"{kind} probe", factor, *cells])
    rows.append(["cosine", "EER", *_cells(None, found["eer"], False)])
    return readmes.markdown_table(heads, "llrrrr", rows)


def _cells(dev, test, best):
    """Return a reading's cells, in per cent."""
    dev, value, chance, control = (
        "" if x is None else f"{100 * x:.1f}"
        for x in (dev, test["value"], test["chance"], test["control"])
    )
    if test["interval"]:
        low, high = test["interval"]
        value += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return [dev, f"**{value}**" if best else value, chance, control]


if __name__ == "__main__":
    main()
