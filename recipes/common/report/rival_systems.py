"""Rivals of a report's models: their frames changed in closed form, as systems to measure."""

import hashlib
from pathlib import Path

from pretrained.audio_files import stamp
from pretrained.exported import load_model, save_model
from recipes.common.closed_forms.rival_models import (
    RIVALS,
    default_directions,
    find_encoders,
    gather_evidence,
    make_rival,
)
from recipes.common.data.files import digest_code
from recipes.common.report.representations import make_system

CODE = "recipes/common/closed_forms"


def add_rivals(systems, rows, folder, seed):
    """Return systems with the rivals of each model, which follow the models.

    Arguments
    ---------
    systems : list of System
        Models, then controls.
    rows : list of dict
        Of the training utterances that rivals are fitted on, see `load_rows`.
    folder : Path
        Receives the rivals as exported models, KEY/NAME/model, from which a further run goes on.
    seed : int

    Returns
    -------
    systems : list of System
        A rival has a frame encoder alone: embeddings are the model's.
    missing : list of dict
        `what` has no rivals, and `why`.
    """
    models = [system for system in systems if system.kind == "model"]
    rivals, missing = [], []
    for system in models:
        try:
            rivals += _rivals_of(system, rows, folder, seed)
        except ValueError as error:
            missing.append({"what": f"{system.name}: rivals in closed form", "why": str(error)})
    return [*models, *rivals, *(s for s in systems if s.kind != "model")], missing


def _rivals_of(system, rows, folder, seed):
    """Return the rivals of a model, made where they are not there yet."""
    frame_encoder, utterance_encoder = find_encoders(system.folder)
    names = [name for name in RIVALS if name != "plain" or _erases(system.folder)]
    heard = [(str(row["wav"]), row["spk_id"], stamp(row["wav"])) for row in rows]
    parts = system.digest(), heard, digest_code(CODE), seed
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    folders = {name: Path(folder) / key / name / "model" for name in names}
    missing = [name for name in names if not (folders[name] / "config.json").is_file()]
    if missing:
        count = default_directions(system.folder)
        evidence = gather_evidence(frame_encoder, utterance_encoder, rows, count, seed)
    for name in missing:
        save_model(folders[name], {"frame_encoder": make_rival(name, frame_encoder, evidence)})
    found = []
    for name, path in folders.items():
        rival = make_system(f"{system.name}: {RIVALS[name]}", "rival", str(path), load_model(path))
        rival.rival_of = system.name
        found.append(rival)
    return found


def _erases(folder):
    """Return whether an exported model takes directions off its frames."""
    return load_model(folder)["frame_encoder"].erasure is not None
