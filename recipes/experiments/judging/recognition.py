"""Phoneme recognition from frames, as the studies ask for it, run it and read it."""

import csv
import sys

import numpy as np

from recipes.common.annotations.text import check_words, read_lexicon
from recipes.common.data.files import CorpusError
from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.metrics import error_counts
from recipes.experiments import runner
from recipes.experiments.provenance import Run, as_features, make_run
from recipes.LibriSpeech.librispeech_prepare import list_utterances

SPLITS = ("train-clean-100", "dev-clean", "test-clean")


def add_skip_bad(parser):
    """Give the parser of a study the option to leave out what the lexicon does not know."""
    parser.add_argument(
        "--skip_bad",
        choices=("False", "True"),
        default="False",
        help="True: recognise phones without the utterances that have words the lexicon lacks",
    )


def check_lexicon(data_folder, lexicon, skip_bad):
    """Leave with a message where phoneme recognition would, before hours of training.

    Arguments
    ---------
    data_folder : Path
        The folder LibriSpeech.
    lexicon : Path
    skip_bad : str
        "True" where utterances are left out that have words without a pronunciation.
    """
    texts = {}
    try:
        for split in SPLITS:
            rows, _ = list_utterances(data_folder, split)
            texts[split] = {row["ID"]: row["wrd"] for row in rows}
        check_words(texts, read_lexicon(lexicon), lexicon, skip_bad == "True")
    except CorpusError as error:
        sys.exit(str(error))


def recognise(folder, features, seed, last_layers, options):
    """Run LibriSpeech/PR unless the same run is there; return what went wrong, or None.

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
    options : argparse.Namespace
        `data_folder`, `lexicon`, `skip_bad` and `jobs`.

    Returns
    -------
    str or None
    """
    given = {
        "data_folder": options.data_folder,
        "lexicon": options.lexicon,
        "skip_bad": options.skip_bad,
        "features": as_features(features),
        "last_layers": last_layers,
        "seed": seed,
    }
    recipe = runner.RECIPES / "LibriSpeech" / "PR"
    words = ["train.py", "hparams/lexicon_tiny.yaml"]
    return make_run(Run(folder, recipe, words, given), options.jobs)


def speakers_of(manifest):
    """Return the speaker of each utterance of a manifest by its ID."""
    with open(manifest, encoding="utf-8", newline="") as file:
        return {row["ID"]: row["spk_id"] for row in csv.DictReader(file)}


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
