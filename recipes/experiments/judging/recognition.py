"""Phoneme recognition from frames, as the studies run it and read it."""

import csv
import hashlib
from pathlib import Path

import numpy as np

from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.metrics import error_counts
from recipes.experiments import runner


def recognise(folder, features, seed, last_layers, first, options):
    """Run LibriSpeech/PR unless it ended before; return what went wrong, or None.

    Arguments
    ---------
    folder : Path
        Of the run.
    features : str
        A model folder, fbank or random:<folder>.
    seed : int
        Of the head.
    last_layers : int
        How many of the last layers are summed; 0 for all.
    first : Path
        The run of the same features with the first seed, which sweeps the learning rates: another
        run trains at the rate that was best there.
    options : argparse.Namespace
        `data_folder`, `lexicon` and `jobs`.

    Returns
    -------
    str or None
    """
    digest, made_of = digest_features(features), folder / "model.sha256"
    if (folder / "metrics.json").is_file():
        if made_of.is_file() and made_of.read_text(encoding="utf-8") == digest:
            return None
        return f"{folder}: {made_of.name} is not of what {features} holds now: remove the folder."
    given = {
        "data_folder": options.data_folder,
        "output_folder": folder,
        "lexicon": options.lexicon,
        "features": features,
        "last_layers": last_layers,
        "seed": seed,
    }
    if folder != first:
        given["lrs"] = f"[{runner.read_figures(first)['lr']}]"
    folder.mkdir(parents=True, exist_ok=True)
    made_of.write_text(digest, encoding="utf-8")
    command = runner.make_command(["train.py", "hparams/lexicon_tiny.yaml"], given)
    recipe = runner.RECIPES / "LibriSpeech" / "PR"
    problem = runner.run_logged(command, recipe, folder / "log.txt", options.jobs)
    return problem and f"{folder} {problem}"


def digest_features(features):
    """Return a digest of what features depend on: "" for log-mel bands.

    Arguments
    ---------
    features : str
        A model folder, fbank or random:<folder>.

    Returns
    -------
    str

    Example
    -------
    >>> digest_features("fbank")
    ''
    """
    if features == "fbank":
        return ""
    file = "config.json" if features.startswith("random:") else "model.safetensors"
    content = (Path(features.removeprefix("random:")) / file).read_bytes()
    return hashlib.sha256(content).hexdigest()


def read_phone_errors(folder, speaker_of):
    """Return the phone error rate of a run on test speakers, as a reading.

    Arguments
    ---------
    folder : Path
        Of the run, with its metrics.json and hypotheses.csv.
    speaker_of : dict
        The speaker of each utterance by its ID.

    Returns
    -------
    dict
        `value`; `dev`, that of development speakers; `evidence`: scores of speakers.
    """
    with open(folder / "hypotheses.csv", encoding="utf-8", newline="") as file:
        found = {row["ID"]: row for row in csv.DictReader(file)}
    counts = [
        error_counts([row["reference"].split()], [row["greedy"].split()]) for row in found.values()
    ]
    errors, tokens = (np.array([count[key] for count in counts]) for key in ("errors", "tokens"))
    _, groups = np.unique([speaker_of[name] for name in found], return_inverse=True)
    scores = bootstrap.group_scores(errors, tokens, np.zeros(len(errors), int), groups)
    return {
        "value": float(errors.sum() / tokens.sum()),
        "dev": runner.read_figures(folder)["valid"]["per"],
        "evidence": {"group_scores": [scores.tolist()]},
    }
