"""Rivals of joint training: a model's frames changed in closed form, as models of their own.

Each takes minutes and trains nothing. As exported models they are read by the same probes, heads
and attackers as any other model, so that a table tells what joint training adds to them.
"""

import copy
from typing import NamedTuple

import torch

from lobes.closed_forms.erasure import directions_of_share, speaker_means
from lobes.frame_encoder import FrameEncoder
from pretrained.exported import load_model
from recipes.common.closed_forms.moments import Moments, moments_of_rows
from recipes.common.data.seeding import derive_rng

SHARE = 0.95  # of the variance of means or embeddings that principal directions are to hold
UTTERANCES_PER_COMPONENT = 10  # least squares on more components learn utterances by heart
MOST_UTTERANCES = 10_000  # that a rival is fitted on
PLAIN = "nothing erased"
RIVALS = {  # of each its folder, and how tables call it
    "plain": PLAIN,
    "mean": "each utterance's mean frame taken off",
    "mean_std": "mean frame taken off, divided by the deviation",
    "collapsed_speakers": "principal directions of speaker means collapsed",
    "collapsed_utterances": "principal directions of utterance means collapsed",
    "least_squares": "least squares on the embedding taken off",
    "leace": "directions that tell most of the embedding erased",
    "leace_speakers": "directions that tell most of speakers' names erased",
    "least_squares_shuffled": "least squares on embeddings of other utterances",
    "leace_shuffled": "directions that tell most of embeddings of other utterances erased",
}
# Those that change frames, and are no controls.
CLOSED_FORMS = [name for name in RIVALS if name != "plain" and not name.endswith("_shuffled")]


class Evidence(NamedTuple):
    """What rivals are fitted on.

    Attributes
    ----------
    moments : Moments
        Of the frames of an encoder from which nothing is erased.
    speakers : list of str
        Of each utterance.
    utterance_encoder : UtteranceEncoder
        That gave the embeddings.
    directions : int
        How many are erased where the share of variance does not decide.
    seed : int
        Of those that take other utterances' embeddings.
    """

    moments: Moments
    speakers: list
    utterance_encoder: torch.nn.Module
    directions: int
    seed: int


def find_encoders(model, utterance=None):
    """Return the frame encoder that rivals are made of, and the utterance encoder that they need.

    Arguments
    ---------
    model : str or Path
        An exported model with a frame encoder.
    utterance : str or Path, optional
        One with an utterance encoder, where `model` has none.

    Returns
    -------
    tuple
        FrameEncoder, from which nothing is erased, and UtteranceEncoder.

    Raises
    ------
    ValueError
        Where one of them is missing, or the frames are changed in another way already.
    """
    encoders = load_model(model)
    if utterance is not None:
        encoders["utterance_encoder"] = load_model(utterance).get("utterance_encoder")
    for name in ("frame_encoder", "utterance_encoder"):
        if encoders.get(name) is None:
            raise ValueError(
                f"{model if utterance is None or name == 'frame_encoder' else utterance} holds no "
                f"{name}, which rivals in closed form are made with: name another model."
            )
    frame_encoder = encoders["frame_encoder"]
    for key, nothing in (("frame_norm", "none"), ("least_squares", None)):
        if frame_encoder.config[key] != nothing:
            raise ValueError(
                f"{model}: its frames lose their utterance's mean already ({key}), which is what "
                "closed forms are fitted on. Make rivals of a model whose frames keep it."
            )
    return unerased(frame_encoder), encoders["utterance_encoder"]


def gather_evidence(frame_encoder, utterance_encoder, rows, directions, seed):
    """Return what rivals are fitted on, from at most 10,000 utterances, drawn at random.

    Arguments
    ---------
    frame_encoder : FrameEncoder
    utterance_encoder : UtteranceEncoder
    rows : list of dict
        Of training utterances: `wav`, a path, and `spk_id`.
    directions : int
        How many are erased.
    seed : int

    Returns
    -------
    Evidence
    """
    drawn = derive_rng(seed, "rivals").permutation(len(rows))[:MOST_UTTERANCES]
    rows = [rows[place] for place in sorted(drawn.tolist())]
    moments = moments_of_rows(frame_encoder, utterance_encoder, rows)
    speakers = [str(row["spk_id"]) for row in rows]
    return Evidence(moments, speakers, utterance_encoder, directions, seed)


def make_rival(name, frame_encoder, evidence):
    """Return a frame encoder whose frames are changed in closed form.

    Arguments
    ---------
    name : str
        Of `RIVALS`.
    frame_encoder : FrameEncoder
        As `find_encoders` returns it; it stays as it is.
    evidence : Evidence

    Returns
    -------
    FrameEncoder
        In evaluation mode. What its prediction head makes of frames without their mean is of no
        use: the head was trained on others.

    Example
    -------
    >>> encoder = FrameEncoder("fbank", 16, d_model=16, num_layers=1, nhead=2, d_ffn=32).eval()
    >>> make_rival("mean", encoder, None).config["frame_norm"]
    'mean'
    """
    if name in ("plain", "mean", "mean_std"):
        return _rebuilt(frame_encoder, frame_norm="none" if name == "plain" else name)
    made, (mean, covariance, means, embeddings, lens) = _rebuilt(frame_encoder), evidence.moments
    if name.endswith("_shuffled"):
        order = derive_rng(evidence.seed, "shuffled").permutation(len(embeddings))
        embeddings = embeddings[torch.from_numpy(order)]
    if name.startswith("least_squares"):
        most = max(1, len(embeddings) // UTTERANCES_PER_COMPONENT)
        components = min(directions_of_share(embeddings, SHARE), most)
        made.regress(evidence.utterance_encoder, means, lens, embeddings, components)
    elif name.startswith("collapsed"):
        of_speakers = name == "collapsed_speakers"
        vectors = speaker_means(means, lens, evidence.speakers) if of_speakers else means
        made.add_erasure(directions_of_share(vectors, SHARE))
        made.erasure.collapse(vectors)
    else:
        told = _names(evidence.speakers) if name == "leace_speakers" else embeddings
        made.erase(evidence.directions, mean, covariance, means, told)
    return made.eval()


def default_directions(model):
    """Return how many directions rivals of an exported model lose: its own number, or a quarter."""
    config = load_model(model)["frame_encoder"].config
    return config["erased_directions"] or config["d_model"] // 4


def unerased(frame_encoder):
    """Return a frame encoder from which nothing is erased, in evaluation mode.

    Example
    -------
    >>> encoder = FrameEncoder("fbank", 16, d_model=16, num_layers=1, nhead=2, d_ffn=32)
    >>> encoder.add_erasure(3)
    >>> unerased(encoder).config["erased_directions"]
    0
    """
    made = FrameEncoder(**{**frame_encoder.config, "erased_directions": 0})
    kept = frame_encoder.state_dict()
    made.load_state_dict({key: kept[key] for key in made.state_dict()})
    return made.to(frame_encoder.mask_embedding.device).eval()


def _rebuilt(frame_encoder, **changes):
    """Return a copy of an encoder with other arguments, which change no weights."""
    made = FrameEncoder(**copy.deepcopy({**frame_encoder.config, **changes}))
    made.load_state_dict(frame_encoder.state_dict())
    return made.to(frame_encoder.mask_embedding.device).eval()


def _names(speakers):
    """Return which speaker each utterance is of, (utterances, speakers), 1 or 0."""
    places = {name: place for place, name in enumerate(sorted(set(speakers)))}
    return torch.eye(len(places), dtype=torch.float64)[[places[name] for name in speakers]]
