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
    speakers, utterances = names_of(rows)
    deviations = pool_deviations(whole)
    features = RandomFeatures(whole)(whole)
    drawn = speakers.repeat(FRAMES), utterances.repeat(FRAMES)
    return {
        "speaker_pooled": read_speakers(means, speakers, utterances),
        "speaker_deviations": read_speakers(deviations, speakers, utterances),
        "speaker_both": read_speakers(np.hstack([means, deviations]), speakers, utterances),
        "speaker_random": read_speakers(features, speakers, utterances),
        "speaker_frames": read_speakers(frames.reshape(len(drawn[0]), -1), *drawn),
        "phone_frames": read_phones(frames, rows, alignments),
    }


def read_layers(frames, rows, alignments):
    """Return the probe accuracies of each hidden state, from drawn frames alone.

    Arguments
    ---------
    frames : numpy.ndarray
        Drawn ones, (utterances, FRAMES, states, dim).
    rows, alignments
        As `read_frames` takes them.

    Returns
    -------
    list of dict
        From the first hidden state to the last: `speaker_random` and `phone_frames`, as
        `read_frames` returns them.
    """
    layers = [frames[:, :, state] for state in range(frames.shape[2])]
    return [
        {
            "speaker_random": read_speakers(RandomFeatures(list(x))(list(x)), *names_of(rows)),
            "phone_frames": read_phones(x, rows, alignments),
        }
        for x in layers
    ]


def names_of(rows):
    """Return the speaker and the name of each utterance, (utterances,)."""
    return tuple(np.array([row[key] for row in rows]).astype(str) for key in ("spk_id", "ID"))


def read_speakers(inputs, speakers, utterances):
    """Return the accuracy of a probe of the speaker on held-out utterances, and its `scores`."""
    return _read(inputs, speakers, utterances, speakers)


def read_phones(frames, rows, alignments):
    """Return the accuracy of a probe of the phone on held-out speakers, and its `scores`."""
    phones = drawn_phones(rows, alignments, FRAMES).ravel()
    frames, owners = frames.reshape(len(phones), -1), names_of(rows)[0].repeat(FRAMES)
    known = np.flatnonzero(phones != np.array(None))
    known = known[often_enough(phones[known], owners[known])]
    return _read(frames[known], phones[known].astype(str), owners[known], owners[known])


def _read(inputs, labels, held_out_by, scored_by):
    reading = read_probes(inputs, labels, held_out_by, scored_by, ["linear"], seeds=[1])[0]
    scores = reading["evidence"]["group_scores"][0].round(6).tolist()
    return {"value": reading["value"], "scores": scores}


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
