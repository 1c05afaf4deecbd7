#!/usr/bin/env python3
"""Ablations of stage C: probe accuracies of each setting on development speakers.

    python ablate.py --models O --data_folder LibriSpeech --alignments ALIGNMENTS --output_folder B
        [--seeds 2] [--jobs 2] [--only NAME ...]
    python ablate.py --write B

O holds the runs frame and utterance, which settings start from; a setting that is a run of O itself
(joint, joint_beta0, joint_plain) is not trained again. ALIGNMENTS are of dev-clean (see align.py).
The settings are those of ablations.yaml. Started again, it does what is missing, and what other
code, settings, data or models made. `--write` writes the table of RESULTS.md from B, and draws
ablations.png and layers.png. Test speakers are not read.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from pretrained.plain_files import read_json
from recipes.common.annotations.alignments import read_alignments
from recipes.common.closed_forms.rival_models import (
    RIVALS,
    find_encoders,
    gather_evidence,
    make_rival,
)
from recipes.common.evaluation.bootstrap import DIFFERENCE_PAIRED_USE, bootstrap_groups
from recipes.common.evaluation.drawing import draw_tradeoff
from recipes.common.training.hparams import read_tree
from recipes.experiments import readings, readmes, runner
from recipes.experiments.judging import aims
from recipes.experiments.provenance import Run, changed, changed_reading, kept_reading, make_run

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "ablations.yaml"
READING = "dev.json"  # of a run
PATHS = {
    "models": "the folder of the runs frame and utterance",
    "data_folder": "the folder LibriSpeech",
    "alignments": "of dev-clean",
    "output_folder": "where the runs go",
}
CONTROL = "control"
OF_MODELS = {CONTROL: aims.CONTROL, "default": aims.JOINT, "no critic": aims.NO_CRITIC}
# Settings of which rivals in closed form are read, and more and more directions erased
LADDER = ("stages A and B", CONTROL)
# Frames changed in closed form: rows of their own below their setting's
CLOSED = {title: name for name, title in RIVALS.items() if name not in ("plain", "leace")}
ERASED = {f"{count} directions erased": count for count in (20, 40, 60, 80, 100)}
DIRECTIONS = 80  # that the other rivals lose
PROBED = {  # as the table calls a measure, and as dev.json does
    "speaker, pooled z": "speaker_pooled",
    "speaker, deviations": "speaker_deviations",
    "speaker, means and deviations": "speaker_both",
    "speaker, random features": "speaker_random",
    "speaker, frames": "speaker_frames",
    "phone, frames": "phone_frames",
}
PLACED = ("speaker_random", "phone_frames")  # where a setting is in the pictures
AXES = ("speaker from random features of z (accuracy, %)", "phone from frames (accuracy, %)")
UNPROBED = {"EER of u": "eer", "masked": "masked_accuracy", "retrieval": "retrieval_accuracy"}


def run_of(name, seed, options):
    """Return the run that trains a setting: one of the models', if the same is among them.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> options = SimpleNamespace(
    ...     models=Path("O"), data_folder=Path("D"), output_folder=Path("B"))
    >>> run = run_of("control", 1, options)
    >>> run.folder.as_posix(), run.given["beta"], run.given["frame_model"].as_posix()
    ('B/control/1', 0.0, 'O/frame/model')
    """
    given = {
        **read_tree(SETTINGS)[name],
        "seed": seed,
        "data_folder": options.data_folder,
        "frame_model": options.models / "frame" / "model",
        "utterance_model": options.models / "utterance" / "model",
    }
    folder = run_folder(options.output_folder, name, seed)
    run = Run(folder, runner.PRETRAIN, ["train.py", "hparams/joint_tiny.yaml"], given)
    if name in OF_MODELS:
        kept = run._replace(folder=options.models / OF_MODELS[name])
        if (kept.folder / "metrics.json").is_file() and not changed(kept):
            return kept
    return run


def run_folder(folder, name, seed):
    """Return where the run of a setting and its reading go.

    Example
    -------
    >>> run_folder(Path("B"), "no warm-up", 1).as_posix()
    'B/no_warm-up/1'
    """
    return folder / name.replace(",", "").replace(" ", "_") / str(seed)


def inputs_of(name, run, options):
    """Return what a reading of a setting is made from."""
    return {
        "model": run / "model",
        "data": options.data_folder,
        "alignments": options.alignments,
        "setting": json.dumps(dict(read_tree(SETTINGS)[name])),
    }


def run_one(name, seed, options):
    """Train a setting and read it, unless that was done; return what went wrong, or None."""
    run = run_of(name, seed, options)
    if problem := make_run(run, options.jobs):
        return f"{name}, seed {seed}: {problem}"
    folder = run_folder(options.output_folder, name, seed)
    path, inputs = folder / READING, inputs_of(name, run.folder, options)
    if path.is_file() and not changed_reading(path, inputs):
        return None
    paths = {"read": run.folder, "name": name, "data_folder": options.data_folder}
    paths |= {"alignments": options.alignments, "output_folder": folder}
    command = runner.make_command([__file__], paths)
    if problem := runner.run_logged(command, runner.PRETRAIN, folder / "log.txt", options.jobs):
        return f"{name}, seed {seed}, {problem}"
    print(folder, flush=True)
    return None


def read_run(options):
    """Write dev.json: a run's figures on development speakers, and the speakers' scores."""
    torch.set_num_threads(1)
    inputs = inputs_of(options.name, options.read, options)
    made_of = [readings, sys.modules[__name__]]
    kept_reading(options.output_folder / READING, inputs, lambda: read_figures(options), made_of)


def read_figures(options):
    """Return the figures of a run on development speakers, and the speakers' scores."""
    rows, encoded = readings.encode_run(options.read, "dev-clean", options.data_folder)
    alignments = read_alignments(options.alignments, rows)
    figures = readings.read_frames(*readings.arrays(encoded), rows, alignments)
    figures["layers"] = readings.read_layers(encoded.frames, rows, alignments)
    for name, frames in changed_frames(options):
        figures[name] = readings.read_frames(*frames, rows, alignments)
    figures["eer"] = readings.read_verification(rows, encoded.embeddings)["value"]
    valid = runner.read_figures(options.read)["valid"]
    return figures | {name: valid[name] for name in ("masked_accuracy", "retrieval_accuracy")}


def changed_frames(options):
    """Yield how a run's frames are changed in closed form, and `arrays` of them.

    Of the settings of `LADDER`: the rivals in closed form, and more and more directions erased.
    """
    if options.name not in LADDER:
        return
    run, data_folder = options.read, options.data_folder
    frame_encoder, utterance_encoder = find_encoders(run / "model")
    rows = readings.rows_of_run(run, "train-clean-100", data_folder)
    given = (frame_encoder, utterance_encoder, rows, DIRECTIONS, runner.SEEDS[0])
    evidence = gather_evidence(*given)
    made = {title: make_rival(name, frame_encoder, evidence) for title, name in CLOSED.items()}
    for title, count in ERASED.items():
        evidence = evidence._replace(directions=count)
        made[title] = make_rival("leace", frame_encoder, evidence)
    rows = readings.rows_of_run(run, "dev-clean", data_folder)
    for title, encoder in made.items():
        yield title, readings.arrays(readings.encode_frames(encoder, rows))


def collect(folder):
    """Return the settings that were run by name: `options` and `runs`, the figures by seed."""
    found, data = {}, None
    for name, options in read_tree(SETTINGS).items():
        runs = {}
        for seed in runner.SEEDS:
            path = run_folder(folder, name, seed) / READING
            if not path.is_file():
                continue
            kept, made_by = (read_json(path)[part] for part in ("figures", "made_by"))
            read_from = [made_by["inputs"][part] for part in ("data", "alignments")]
            data = data or read_from
            if made_by["settings"]["setting"] != json.dumps(dict(options)):
                print(f"{path.parent} is left out: it is of another setting.")
            elif read_from != data:
                print(f"{path.parent} is left out: it is of other data than the first.")
            else:
                runs[str(seed)] = kept
        if runs:
            found[name] = {"options": options, "runs": runs}
    return found


def make_table(found):
    """Return the figures of settings as Markdown, in percent.

    Arguments
    ---------
    found : dict
        As `collect` returns them.

    Returns
    -------
    str
        A measure is the mean over seeds. Of a probe, the difference from the control's runs of the
        same seeds follows, with its 95 % interval over speakers and seeds; of what has no
        interval, the range.

    Example
    -------
    >>> figure = {"value": 0.5, "scores": [0.4, 0.6]}
    >>> run = dict.fromkeys(PROBED.values(), figure) | dict.fromkeys(UNPROBED.values(), 0.25)
    >>> table = make_table({"control": {"options": {"beta": 0.0}, "runs": {"1": run}}})
    >>> print(table.splitlines()[-1])
    | control | `--beta 0.0` | 1 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 25.0 | 25.0 | 25.0 |
    """
    every = [run for setting in found.values() for run in setting["runs"].values()]
    probed = {head: key for head, key in PROBED.items() if any(run.get(key) for run in every)}
    heads = ["setting", "options", "seeds", *probed, *UNPROBED]
    control, rows = found.get(CONTROL, {"runs": {}})["runs"], []
    for name, setting in with_changed(found).items():
        runs = setting["runs"]
        words = " ".join(f"--{key} {value}" for key, value in setting["options"].items())
        cells = [name, f"`{words}`" if words else "", str(len(runs))]
        cells += [_probed(runs, control, key, name == CONTROL) for key in probed.values()]
        plain = [[run[key] for run in runs.values()] for key in UNPROBED.values()]
        cells += map(readmes.percent_and_range, plain)
        rows.append(cells)
    return readmes.markdown_table(heads, "ll" + "r" * (len(heads) - 2), rows)


def with_changed(found):
    """Return the settings, each followed by its changed frames as further ones."""
    settings, unread = {}, dict.fromkeys(PROBED.values())
    for name, setting in found.items():
        settings[name] = setting
        for change in (*CLOSED, *ERASED):
            runs = {
                k: {**v, **unread, **v[change]} for k, v in setting["runs"].items() if change in v
            }
            if runs:
                settings[f"{name}: {change}"] = {**setting, "runs": runs}
    return settings


def draw(found, path):
    """Draw the probe accuracy of the speaker against that of the phone; see `make_table`.

    The settings of `LADDER` are curves, from nothing erased to most; the others are points.
    """
    places = {
        name: [tuple(100 * run[key]["value"] for key in PLACED) for run in setting["runs"].values()]
        for name, setting in with_changed(found).items()
        if all(run.get(key) for run in setting["runs"].values() for key in PLACED)
    }
    curves, points = {}, {}
    for name in found:
        if name in LADDER:
            steps = {"0": name, **{str(count): f"{name}: {x}" for x, count in ERASED.items()}}
            curves[name] = {
                text: tuple(np.mean(places[step], 0))
                for text, step in steps.items()
                if step in places
            }
        elif name in places:
            points[name] = places[name]
    draw_tradeoff(curves, points, AXES, path)


def draw_layers(found, path):
    """Draw, of each setting, a curve from the first hidden state to the last; see `draw`."""
    curves = {}
    for name, setting in found.items():
        runs = [run["layers"] for run in setting["runs"].values() if "layers" in run]
        if runs:
            places = [[[layer[key]["value"] for key in PLACED] for layer in run] for run in runs]
            means = 100 * np.mean(places, 0)
            curves[name] = {str(number): tuple(point) for number, point in enumerate(means)}
    draw_tradeoff(curves, {}, AXES, path)


def _probed(runs, control, key, is_control):
    if not all(run.get(key) for run in runs.values()):
        return "-"
    text = f"{100 * np.mean([run[key]['value'] for run in runs.values()]):.1f}"
    shared = [seed for seed in runs if control.get(seed, {}).get(key)]
    if is_control or not shared:
        return text
    own, other = ([part[seed][key]["scores"] for seed in shared] for part in (runs, control))
    differences = np.array(own) - np.array(other)
    interval = bootstrap_groups(differences, runner.SEEDS[0], DIFFERENCE_PAIRED_USE)
    return f"{text} ({readmes.change_and_interval(differences.mean(), interval)})"


def main():
    """Train and read the settings, or write the table."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=2)
    parser.add_argument("--only", nargs="+", choices=read_tree(SETTINGS), help="settings")
    parser.add_argument("--read", type=Path, metavar="RUN", help="only read this run")
    parser.add_argument("--name", choices=read_tree(SETTINGS), help="the setting of that run")
    options = parser.parse_args()
    if options.write is not None:
        found = collect(options.write)
        if not found:
            sys.exit(f"{options.write} holds no figures of settings: run them first.")
        readmes.write_between(HERE / "RESULTS.md", "ablations", make_table(found))
        draw(found, HERE / "ablations.png")
        draw_layers(found, HERE / "layers.png")
        return
    if options.read is not None:
        read_run(options)
        return
    runner.check_paths(parser, options, PATHS)
    names = options.only or list(read_tree(SETTINGS))
    planned = [(name, seed) for seed in runner.SEEDS[: options.seeds] for name in names]
    problems = runner.run_side_by_side(lambda run: run_one(*run, options), planned, options.jobs)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
