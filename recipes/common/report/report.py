"""The report: what each representation of speech tells of content and of speakers, with controls.

`run` is what each corpus's train.py does: prepare, encode the same utterances by every model and
control, measure one after another, compare them, and write report.json and report.html. What is
measured of a model is kept in its folder: a run goes on where it was stopped, and models that were
measured before are compared in minutes.
"""

import itertools
import json
import time
from datetime import datetime, timezone
from pathlib import Path

import speechbrain as sb

from pretrained.commands.runtime import keep_freed_memory
from recipes.common.data.files import replace_text
from recipes.common.evaluation.comparison import compare, tradeoff
from recipes.common.evaluation.verdict import verdict
from recipes.common.report.measurement import measure_once
from recipes.common.report.notes import NOTES
from recipes.common.report.page import write_page
from recipes.common.report.representations import load_systems
from recipes.common.report.rival_systems import add_rivals
from recipes.common.report.speech import gather, load_rows
from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams, read_tree, save_hparams
from recipes.common.training.limits import check_limits
from recipes.common.training.record import write_metrics
from recipes.common.training.run import claim, manifest_paths, prepare

TITLE = "Does it disentangle?"


def run(arguments):
    """Measure models and controls, and write report.json and report.html.

    Arguments
    ---------
    arguments : list of str
        The command line: a hyperparameters file and options.

    Raises
    ------
    ValueError
        Where an option, a model or the data does not fit. Nothing is measured then.
    """
    began = time.time()
    hparams_file, _, overrides = read_command_line(arguments, heeded=[])
    hparams = load_hparams(hparams_file, overrides)
    check_limits(hparams)
    keep_freed_memory()
    systems = load_systems(hparams["models"], hparams["controls"], hparams["seed"])
    hparams = {**hparams, "valid_splits": [], "test_splits": hparams["read_splits"]}
    prepare(hparams)
    speech = gather(hparams)
    claim(hparams["output_folder"])
    sb.create_experiment_directory(hparams["output_folder"])
    save_hparams(hparams_file, overrides, hparams["output_folder"])
    if hparams["rivals"]:
        rows = load_rows(manifest_paths(hparams)["train"], hparams)
        folder = Path(hparams["output_folder"]) / "rivals"
        systems, missing = add_rivals(systems, rows, folder, hparams["seed"])
    else:
        missing = []
    measured = {system.name: measure_once(system, speech, hparams) for system in systems}
    speech.missing += missing  # now: what was measured before is known by what it was read on
    write_report(systems, measured, speech, hparams, began)


def write_report(systems, measured, speech, hparams, began):
    """Compare what was measured, and write metrics.json, report.json and report.html.

    Arguments
    ---------
    systems : list of System
    measured : dict
        By system, as `measure_once` returns it.
    speech : Speech
    hparams : dict
    began : float
        When the run began, s since the epoch.
    """
    models = [describe(system) for system in systems]
    figures = [figure for found in measured.values() for figure in found["figures"]]
    evidence = {
        name: [{**f, **e} for f, e in zip(found["figures"], found["evidence"], strict=True)]
        for name, found in measured.items()
    }
    comparisons = compare_systems(systems, evidence, hparams["seed"])
    judged = verdict(models, figures, comparisons)
    output = Path(hparams["output_folder"])
    write_metrics(
        output / "metrics.json",
        {"verdict": judged, "figures": figures, "comparisons": comparisons},
        seed=hparams["seed"],
        manifests=[path for paths in manifest_paths(hparams).values() for path in paths],
        start_time=began,
    )
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    missing = speech.missing + [entry for found in measured.values() for entry in found["missing"]]
    told = {figure["measure"] for figure in figures}
    report = {
        **_origin(speech, hparams, metrics),
        "models": models,
        "figures": figures,
        **{n: [e for found in measured.values() for e in found[n]] for n in ("maps", "det")},
        "comparisons": comparisons,
        "tradeoff": tradeoff(models, figures),
        "verdict": judged,
        "notes": {measure: note for measure, note in NOTES.items() if measure in told},
        "missing": [entry for place, entry in enumerate(missing) if entry not in missing[:place]],
    }
    replace_text(output / "report.json", json.dumps(report, indent=1) + "\n")
    write_page(report, output / "report.html")
    print("\n".join(judged["sentences"]), output / "report.html", sep="\n")


def compare_systems(systems, evidence, seed):
    """Compare models and controls with each other, and each model with its rivals.

    Arguments
    ---------
    systems : list of System
    evidence : dict
        By system, and the seed, as `recipes.common.evaluation.comparison.compare` takes them.
    seed : int

    Returns
    -------
    list of dict
        As `compare` returns them.
    """
    own = [system.name for system in systems if system.rival_of is None]
    sets = [own, *([s.rival_of, s.name] for s in systems if s.rival_of is not None)]
    found = [compare({name: evidence[name] for name in names}, seed) for names in sets]
    return list(itertools.chain.from_iterable(found))


def _origin(speech, hparams, metrics):
    """Return the parts of a report that say on what, when and by what it was measured."""
    return {
        "title": TITLE,
        "corpus": f"{hparams['corpus']}: {', '.join(hparams['read_splits'])}",
        "seeds": hparams["seeds"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name: metrics[name] for name in ("commit", "versions", "seconds")},
        "data": {"manifests": metrics["data"], "left_out": metrics["left_out"]},
        "read_on": {
            "splits": hparams["read_splits"],
            "speakers": len({row["spk_id"] for row in speech.read}),
            "utterances": len(speech.read),
            "seconds": round(sum(row["duration"] for row in speech.read), 1),
            "sessions_told_apart": speech.told_apart,
        },
    }


def describe(system):
    """Return a system as report.json lists it, with what its run's folder tells of it.

    Arguments
    ---------
    system : System

    Returns
    -------
    dict
        `name`, `kind`, `folder`; `beta`, `frame_norm` and `train_seed`, None where not known.
    """
    path = Path(system.folder or "").resolve().parent / "hyperparams.yaml"
    settings = read_tree(path) if system.kind == "model" and path.is_file() else {}
    return {
        "name": system.name,
        "kind": system.kind,
        "folder": system.folder,
        "beta": settings.get("beta"),
        "frame_norm": settings.get("frame_norm"),
        "train_seed": settings.get("seed"),
    }
