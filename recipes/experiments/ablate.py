#!/usr/bin/env python3
"""Ablations of stage C: probe accuracies of each setting on development speakers.

    python ablate.py --models O --data_folder LibriSpeech --alignments ALIGNMENTS --output_folder B
        [--seeds 2] [--jobs 2] [--only NAME ...]
    python ablate.py --write B

O holds the runs frame and utterance, which each setting starts from; ALIGNMENTS are of dev-clean
(see align.py). The settings are those of ablations.yaml, each for 4 epochs instead of 6 unless
it says otherwise. Started again, it does what is missing. `--write` adds what B holds to
ablations.jsonl, which keeps the figures of all runs, and from it writes the table of RESULTS.md
and draws ablations.png. Test speakers are not read.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from ruamel.yaml import YAML

from pretrained.exported import load_model
from recipes.common.annotations.alignments import read_alignments
from recipes.common.closed_forms.rival_models import (
    PLAIN,
    RIVALS,
    find_encoders,
    gather_evidence,
    make_rival,
)
from recipes.common.data.files import read_text, replace_text
from recipes.common.evaluation.bootstrap import bootstrap_groups
from recipes.common.evaluation.drawing import draw_tradeoff
from recipes.common.training.hparams import plain_values, read_tree, resolve_hparams
from recipes.experiments import readings, readmes, runner

HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "ablations.yaml"
DEFAULTS = runner.PRETRAIN / "hparams" / "joint_tiny.yaml"
KEPT = HERE / "ablations.jsonl"
PATHS = {
    "models": "the folder of the runs frame and utterance",
    "data_folder": "the folder LibriSpeech",
    "alignments": "of dev-clean",
    "output_folder": "where the runs go",
}
CONTROL = "control"
# Settings of which rivals in closed form are read, and more and more directions erased
LADDER = ("stages A and B", CONTROL, "default")
# Frames changed in closed form: rows of their own below their setting's
UNERASED = PLAIN
CLOSED = {title: name for name, title in RIVALS.items() if name not in ("plain", "leace")}
ERASED = {f"{count} directions erased": count for count in (20, 40, 60, 80, 100)}
DIRECTIONS = 80  # that the other rivals lose, as joint_tiny.yaml has it
# Keys that defaults have had since: runs before them are as if they had these values
ADDED = {"crop_batches": False, "download": False, "frontend": "fbank", "log_steps": 50}
ADDED |= {"frame_norm": "none", "projection_dim": 128}
EPOCHS = 4
PROBED = {  # as the table calls a measure, and as ablations.jsonl does
    "speaker, pooled z": "speaker_pooled",
    "speaker, deviations": "speaker_deviations",
    "speaker, means and deviations": "speaker_both",
    "speaker, random features": "speaker_random",
    "speaker, frames": "speaker_frames",
    "phone, frames": "phone_frames",
}
PLACED = ("speaker_pooled", "phone_frames")  # where a setting is in the picture
UNPROBED = {"EER of u": "eer", "masked": "masked_accuracy", "retrieval": "retrieval_accuracy"}


def command_line(name, seed, options):
    """Return the command that trains a setting, to be run in the folder of pretraining.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> options = SimpleNamespace(
    ...     models=Path("O"), data_folder=Path("D"), output_folder=Path("B"))
    >>> " ".join(command_line("control", 1, options)[1:7])
    'train.py hparams/joint_tiny.yaml --number_of_epochs 4 --beta 0.0'
    """
    given = {
        "number_of_epochs": EPOCHS,
        **read_tree(SETTINGS)[name],
        "seed": seed,
        "data_folder": options.data_folder,
        "output_folder": run_folder(options.output_folder, name, seed),
        "frame_model": options.models / "frame" / "model",
        "utterance_model": options.models / "utterance" / "model",
    }
    return runner.make_command(["train.py", "hparams/joint_tiny.yaml"], given)


def run_folder(folder, name, seed):
    """Return where the run of a setting goes.

    Example
    -------
    >>> run_folder(Path("B"), "no warm-up", 1).as_posix()
    'B/no_warm-up/1'
    """
    return folder / name.replace(",", "").replace(" ", "_") / str(seed)


def expected_values(name):
    """Return what a setting's run has for each key of joint_tiny.yaml that is a plain value.

    Example
    -------
    >>> values = expected_values("control")
    >>> values["beta"], values["number_of_epochs"], "data_folder" in values
    (0.0, 4, False)
    """
    places = {"data_folder": "none", "output_folder": "none"}
    defaults = YAML().load(resolve_hparams(DEFAULTS, places))
    values = {"number_of_epochs": EPOCHS, **read_tree(SETTINGS)[name]}
    parse = YAML(typ="safe").load
    values = {key: parse(x) if isinstance(x, str) else x for key, x in values.items()}
    return _setting_values(defaults) | values


def _setting_values(tree):
    """Return numbers, words and lists of a hyperparameters file, without seed and places."""
    places = ("seed", "_folder", "_model", "_weights")
    return {key: x for key, x in plain_values(tree).items() if not key.endswith(places)}


def _with_added(found, values):
    """Return a run's values, and what it would have had of the keys that were added since."""
    return {key: value for key, value in ADDED.items() if key in values} | found


def other_values(folder, values):
    """Return the keys in which a run differs from its setting's values, with both values."""
    found = _with_added(_setting_values(read_tree(folder / "hyperparams.yaml")), values)
    return {
        key: (found.get(key, "nothing"), value)
        for key, value in values.items()
        if found.get(key, "nothing") != value
    }


def run_one(name, seed, options):
    """Train a setting and read it, unless that was done; return what went wrong, or None."""
    folder = run_folder(options.output_folder, name, seed)
    if (folder / "hyperparams.yaml").is_file():
        if others := other_values(folder, expected_values(name)):
            return f"{folder} is of another setting, {describe(others)}. Move it away"
    if (folder / "dev.json").is_file():
        return None
    paths = {"read": folder, "data_folder": options.data_folder, "alignments": options.alignments}
    read = runner.make_command([__file__, *(["--ladder"] if name in LADDER else [])], paths)
    log, trained = folder / "ablate.log", (folder / "metrics.json").is_file()
    for command in [read] if trained else [command_line(name, seed, options), read]:
        if problem := runner.run_logged(command, runner.PRETRAIN, log, options.jobs):
            return f"{name}, seed {seed}, {problem}"
    print(folder, flush=True)
    return None


def describe(others):
    """Return the differences that `other_values` finds as text.

    Example
    -------
    >>> describe({"beta": (0.1, 0.03)})
    'with beta 0.1 instead of 0.03'
    """
    parts = [f"{key} {found} instead of {value}" for key, (found, value) in others.items()]
    return "with " + ", ".join(parts)


def read_run(options):
    """Write dev.json of a run: its figures on development speakers, and the speakers' scores."""
    torch.set_num_threads(1)
    rows, encoded = readings.encode_run(options.read, "dev-clean", options.data_folder)
    alignments = read_alignments(options.alignments, rows)
    figures = readings.read_frames(*readings.arrays(encoded), rows, alignments)
    for name, frames in changed_frames(options):
        figures[name] = readings.read_frames(*frames, rows, alignments)
    figures["eer"] = readings.read_verification(rows, encoded.embeddings)["value"]
    valid = runner.read_figures(options.read)["valid"]
    figures |= {name: valid[name] for name in ("masked_accuracy", "retrieval_accuracy")}
    replace_text(options.read / "dev.json", json.dumps(figures) + "\n")


def changed_frames(options):
    """Yield how a run's frames are changed in closed form, and `arrays` of them.

    Where directions were erased, the frames without that come first; with `--ladder`, rivals in
    closed form follow, and more and more directions erased.
    """
    run, data_folder = options.read, options.data_folder
    frame_encoder, utterance_encoder = find_encoders(run / "model")
    made = {}
    if load_model(run / "model")["frame_encoder"].erasure is not None:
        made[UNERASED] = frame_encoder
    if options.ladder:
        rows = readings.rows_of_run(run, "train-clean-100", data_folder)
        given = (frame_encoder, utterance_encoder, rows, DIRECTIONS, runner.SEEDS[0])
        evidence = gather_evidence(*given)
        for title, name in CLOSED.items():
            made[title] = make_rival(name, frame_encoder, evidence)
        for title, count in ERASED.items():
            evidence = evidence._replace(directions=count)
            made[title] = make_rival("leace", frame_encoder, evidence)
    rows = readings.rows_of_run(run, "dev-clean", data_folder)
    with TemporaryDirectory() as folder:
        for title, encoder in made.items():
            yield title, readings.arrays(readings.encode_frames(encoder, rows, Path(folder)))


def read_kept():
    """Return the settings of ablations.jsonl by name: `options`, `values` and `runs` by seed."""
    found = {}
    for line in read_text(KEPT).splitlines() if KEPT.is_file() else []:
        run = json.loads(line)
        shared = {key: run[key] for key in ("options", "values")}
        runs = found.setdefault(run["setting"], {**shared, "runs": {}})["runs"]
        runs[run["seed"]] = run["figures"]
    return found


def write_kept(found):
    """Write what `read_kept` returns, a run a line."""
    lines = []
    for name, setting in found.items():
        head = {"setting": name, "options": setting["options"], "values": setting["values"]}
        for seed, figures in setting["runs"].items():
            lines.append(json.dumps({**head, "seed": seed, "figures": figures}) + "\n")
    replace_text(KEPT, "".join(lines))


def collect(folder):
    """Add the figures of the runs of a folder to ablations.jsonl; return all of them.

    A setting that was changed since it was run, by itself or by the defaults, is forgotten.
    """
    kept, found = read_kept(), {}
    for name, options in read_tree(SETTINGS).items():
        known, values = kept.get(name, {}), expected_values(name)
        same = known and _with_added(known["values"], values) == values
        runs, values = (known["runs"], known["values"]) if same else ({}, values)
        for seed in runner.SEEDS:
            run = run_folder(folder, name, seed)
            if not (run / "dev.json").is_file():
                continue
            if others := other_values(run, values):
                print(f"{run} is left out: {describe(others)}")
                continue
            runs[str(seed)] = json.loads((run / "dev.json").read_text(encoding="utf-8"))
        if runs:
            found[name] = {"options": options, "values": values, "runs": runs}
    write_kept(found)
    return found


def make_table(found):
    """Return the figures of settings as Markdown, in percent.

    Arguments
    ---------
    found : dict
        As `read_kept` returns them.

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
        for change in (UNERASED, *CLOSED, *ERASED):
            runs = {
                k: {**v, **unread, **v[change]} for k, v in setting["runs"].items() if change in v
            }
            if runs:
                settings[f"{name}: {change}"] = {**setting, "runs": runs}
    return settings


def draw(found, path):
    """Draw the probe accuracy of the speaker against that of the phone; see `make_table`.

    The settings of `LADDER` are curves, from nothing erased to most; the others go from nothing
    erased to what they erase themselves.
    """
    places = {
        name: tuple(
            100 * np.mean([run[key]["value"] for run in setting["runs"].values()]) for key in PLACED
        )
        for name, setting in with_changed(found).items()
        if all(run.get(key) for run in setting["runs"].values() for key in PLACED)
    }
    curves, points = {}, {}
    for name in found:
        plain = f"{name}: {UNERASED}"
        if name in LADDER:
            steps = {"0": plain if plain in places else name}
            steps |= {str(count): f"{name}: {change}" for change, count in ERASED.items()}
            curves[name] = {text: places[step] for text, step in steps.items() if step in places}
        else:
            points[name] = [places[step] for step in (plain, name) if step in places]
    labels = "speaker from pooled z (accuracy, %)", "phone from frames (accuracy, %)"
    draw_tradeoff(curves, points, labels, path)


def _probed(runs, control, key, is_control):
    if not all(run.get(key) for run in runs.values()):
        return "-"
    text = f"{100 * np.mean([run[key]['value'] for run in runs.values()]):.1f}"
    shared = [seed for seed in runs if control.get(seed, {}).get(key)]
    if is_control or not shared:
        return text
    own, other = ([part[seed][key]["scores"] for seed in shared] for part in (runs, control))
    differences = np.array(own) - np.array(other)
    interval = bootstrap_groups(differences, runner.SEEDS[0])
    return f"{text} ({readmes.change_and_interval(differences.mean(), interval)})"


def main():
    """Train and read the settings, or write the table."""
    parser = runner.runs_parser(__doc__, PATHS, seeds=2)
    parser.add_argument("--only", nargs="+", choices=read_tree(SETTINGS), help="settings")
    parser.add_argument("--read", type=Path, metavar="RUN", help="only read this run")
    parser.add_argument("--ladder", action="store_true", help="read it with more erased, too")
    options = parser.parse_args()
    if options.write is not None:
        found = collect(options.write)
        readmes.write_between(HERE / "RESULTS.md", "ablations", make_table(found))
        draw(found, HERE / "ablations.png")
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
