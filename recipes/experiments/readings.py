"""Probe accuracies and error rates of a run, on speakers that no model was trained on."""

import numpy as np
import torch

from lobes.closed_forms.erasure import Erasure
from recipes.common.report.measures import make_trials, often_enough, read_eer, read_probes
from recipes.common.report.representations import encode, load_systems
from recipes.common.report.speech import drawn_phones, load_rows
from recipes.experiments.runner import SEEDS

FRAMES = 40  # of each utterance, for probes
TRIALS = 10000


def encode_run(run, split, data_folder, erased=True):
    """Return the utterances of a split and what a run's model gives for them.

    Arguments
    ---------
    run : Path
        Folder of the run, with its manifest and model; receives the states.
    split : str
    data_folder : Path
    erased : bool
        False for frames from which nothing is erased, whatever the model does.

    Returns
    -------
    rows : list of dict
        The utterances.
    encoded : Encoded
        Of these, in their order.
    """
    given = {"data_folder": data_folder, "min_seconds": 0.5, "session": None}
    rows = load_rows([run / "manifest" / f"{split}.csv"], given)
    [system] = load_systems([run / "model"], controls=False, seed=SEEDS[0])
    if not erased:
        system.frames.states.encoder.erasure = None
    return rows, encode(system, rows, FRAMES, run / "states", whole=True)


def arrays(encoded):
    """Return of the last layer what `read_frames` takes: means, drawn frames and all."""
    return encoded.means, encoded.frames[:, :, -1], encoded.whole


def centred(means, frames, whole):
    """Take each utterance's mean frame off the arrays of `read_frames`."""
    rest = [x.astype(np.float32) - mean for x, mean in zip(whole, means, strict=True)]
    return None, frames - means[:, None], rest


def eraser(whole, embeddings, count):
    """Return a function that erases the directions of frames that predict embeddings best.

    Arguments
    ---------
    whole : list of numpy.ndarray
        The frames of each training utterance, (frames, dim).
    embeddings : numpy.ndarray
        Of these utterances, (utterances, E).
    count : int
        How many directions, see `lobes.closed_forms.erasure`.

    Returns
    -------
    callable
        Takes an array of frames, (..., dim), or a list of these.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.normal(size=(200, 1))
    >>> whole = [rng.normal(size=(50, 3)) + [x, 0, 0] for x in embeddings[:, 0]]
    >>> means = eraser(whole, embeddings, 1)(np.stack(whole)).mean(1)
    >>> bool(abs(np.corrcoef(means[:, 0], embeddings[:, 0])[0, 1]) < 0.01)
    True
    """
    whole = [torch.from_numpy(x.astype(np.float64)) for x in whole]
    frames, means = torch.cat(whole), torch.stack([x.mean(0) for x in whole])
    moments = frames.mean(0), torch.cov(frames.T, correction=0)
    erasure = Erasure(frames.shape[1], count)
    erasure.fit(*moments, means, torch.from_numpy(embeddings))

    def erase(x):
        if isinstance(x, list):
            return [erase(part) for part in x]
        return erasure(torch.from_numpy(x)).numpy()

    return erase


def read_frames(means, frames, whole, rows, alignments):
    """Return the probe accuracies of speakers and phones from the last layer.

    Arguments
    ---------
    means : numpy.ndarray or None
        Of each utterance's frames, (utterances, dim); None where they are not to be read.
    frames : numpy.ndarray
        Drawn ones, (utterances, FRAMES, dim).
    whole : list of numpy.ndarray
        All frames, (frames, dim), of each utterance.
    rows : list of dict
        The utterances.
    alignments : dict
        Of these.

    Returns
    -------
    dict
        By measure: `value`, and the `scores` of the speakers, which paired tests compare.
    """
    speakers = np.array([row["spk_id"] for row in rows]).astype(str)
    utterances = np.array([row["ID"] for row in rows])
    phones = drawn_phones(rows, alignments, FRAMES).ravel()
    frames, owners = frames.reshape(len(phones), -1), speakers.repeat(FRAMES)
    known = np.flatnonzero(phones != np.array(None))
    known = known[often_enough(phones[known], owners[known])]
    deviations = np.stack([x.astype(np.float32).std(0) for x in whole])
    inputs = {
        "speaker_pooled": (means, speakers, utterances, speakers),
        "speaker_deviations": (deviations, speakers, utterances, speakers),
        "speaker_frames": (frames, owners, utterances.repeat(FRAMES), owners),
        "phone_frames": (frames[known], phones[known].astype(str), owners[known], owners[known]),
    }
    inputs = {name: given for name, given in inputs.items() if given[0] is not None}
    readings = {name: read_probes(*x, ["linear"], seeds=[1])[0] for name, x in inputs.items()}
    return {
        name: {
            "value": reading["value"],
            "scores": reading["evidence"]["group_scores"][0].round(6).tolist(),
        }
        for name, reading in readings.items()
    }


def read_verification(rows, embeddings):
    """Return the equal error rate of cosines of embeddings, on trials of the utterances.

    Arguments
    ---------
    rows : list of dict
        The utterances.
    embeddings : numpy.ndarray
        Of these, (utterances, E).

    Returns
    -------
    dict
        See `recipes.common.report.measures.read_eer`.
    """
    speakers = {row["ID"]: row["spk_id"] for row in rows}
    by_id = dict(zip(speakers, embeddings, strict=True))
    trials = make_trials(rows, False, TRIALS, SEEDS[0])
    return read_eer(by_id, trials, speakers, SEEDS[0])[0]
