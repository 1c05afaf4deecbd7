"""Probe accuracies and error rates of a run, on speakers that no model was trained on."""

from tempfile import TemporaryDirectory

import numpy as np

from recipes.common.evaluation.attacks.pooling import RandomFeatures, pool_deviations
from recipes.common.report.measures import make_trials, often_enough, read_eer, read_probes
from recipes.common.report.representations import encode, load_systems, make_system
from recipes.common.report.speech import drawn_phones, load_rows
from recipes.experiments.runner import SEEDS

FRAMES = 40  # of each utterance, for probes
TRIALS = 10000


def rows_of_run(run, split, data_folder):
    """Return the utterances of a split, from a run's manifest: a list of dict."""
    given = {"data_folder": data_folder, "min_seconds": 0.5, "session": None}
    return load_rows([run / "manifest" / f"{split}.csv"], given)


def encode_run(run, split, data_folder):
    """Return the utterances of a split and what a run's model gives for them.

    Arguments
    ---------
    run : Path
        Folder of the run, with its manifest and model.
    split : str
    data_folder : Path

    Returns
    -------
    rows : list of dict
        The utterances.
    encoded : Encoded
        Of these, in their order.
    """
    rows = rows_of_run(run, split, data_folder)
    [system] = load_systems([run / "model"], controls=False, seed=SEEDS[0])
    with TemporaryDirectory() as states:
        return rows, encode(system, rows, FRAMES, states, whole=True)


def encode_frames(frame_encoder, rows):
    """Return what a frame encoder gives for utterances; see `encode_run`.

    Arguments
    ---------
    frame_encoder : FrameEncoder
    rows : list of dict

    Returns
    -------
    Encoded
    """
    system = make_system("frames", "rival", None, {"frame_encoder": frame_encoder})
    with TemporaryDirectory() as states:
        return encode(system, rows, FRAMES, states, whole=True)


def arrays(encoded):
    """Return of the last layer what `read_frames` takes: means, drawn frames and all."""
    return encoded.means, encoded.frames[:, :, -1], encoded.whole


def read_frames(means, frames, whole, rows, alignments):
    """Return the probe accuracies of speakers and phones from the last layer.

    Arguments
    ---------
    means : numpy.ndarray
        Of each utterance's frames, (utterances, dim).
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
    deviations = pool_deviations(whole)
    features = RandomFeatures(whole)(whole)
    inputs = {
        "speaker_pooled": (means, speakers, utterances, speakers),
        "speaker_deviations": (deviations, speakers, utterances, speakers),
        "speaker_both": (np.hstack([means, deviations]), speakers, utterances, speakers),
        "speaker_random": (features, speakers, utterances, speakers),
        "speaker_frames": (frames, owners, utterances.repeat(FRAMES), owners),
        "phone_frames": (frames[known], phones[known].astype(str), owners[known], owners[known]),
    }
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
