"""Speaker verification: how well cosine scores tell same-speaker trials from others.

A representation is judged beside two baselines on the same trials: the mean and standard deviation
over time of log-mel bands and of their differences, and the same architecture with random weights.
Error rates come with bootstrap intervals over speakers, and with and without AS-norm. Whether a
system's embeddings are centred or standardised first is settled on the development trials.
"""

from pathlib import Path

import torch
from torch import nn

from pretrained.audio import read_speech
from recipes.common.data.seeding import derive_rng
from recipes.common.data.table import ROOT, open_table, read_manifest
from recipes.common.downstream.features import STATES
from recipes.common.evaluation import scoring as scorings
from recipes.common.evaluation.baselines import fbank_states, fresh
from recipes.common.evaluation.bootstrap import bootstrap_eer, bootstrap_eer_ratio
from recipes.common.evaluation.metrics import eer, min_dcf

MAX_REFERENCE = 500  # utterances: means and deviations of dimensions need no more
P_TARGETS = (0.01, 0.05)


class MeanState(nn.Module):
    """The mean over time of the last layer's states: what frames tell of the speaker.

    Of an utterance encoder, whose states are one frame, it is the embedding.

    Arguments
    ---------
    states : nn.Module
        One of `lobes.states`.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from lobes.states import FrameStates
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> MeanState(FrameStates(encoder))(torch.randn(2, 16000)).shape
    torch.Size([2, 32])
    """

    def __init__(self, states):
        super().__init__()
        self.states = states

    def forward(self, wavs):
        """Map unpadded waveforms (batch, samples), 16 kHz, to means (batch, dim)."""
        return self.states(wavs)[0][:, :, -1].mean(1)


def with_baselines(encoder, representation, seed):
    """Return what `verify` judges: an encoder's representation first, then its baselines.

    Arguments
    ---------
    encoder : FrameEncoder or UtteranceEncoder
    representation : str
        "frames", whose mean over time is taken, or "utterance".
    seed : int
        Seed of the random weights.

    Returns
    -------
    dict
        The representation by its name; "fbank", log-mel statistics; "random", the same
        architecture with random weights.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=12)
    >>> list(with_baselines(encoder, "utterance", seed=1))
    ['utterance', 'fbank', 'random']
    """
    states = STATES[representation]
    return {
        representation: MeanState(states(encoder)),
        "fbank": MeanState(fbank_states("utterance")),
        "random": MeanState(states(fresh(encoder, seed))),
    }


@torch.no_grad()
def embed(encoder, rows, data_root):
    """Return the embedding of each utterance, taken whole and by itself.

    Arguments
    ---------
    encoder : nn.Module
        Maps (1, samples) to (1, E); run in eval mode, left in the mode that it was in.
    rows : list of dict
        Rows of a manifest.
    data_root : str or Path
        The corpus's folder.

    Returns
    -------
    dict
        ID: array of shape (E,), float32.
    """
    device = next(encoder.parameters(), torch.empty(0)).device
    training = encoder.training
    encoder.eval()
    embeddings = {}
    for row in rows:
        wav = read_speech(Path(data_root) / row["wav"].removeprefix(ROOT))
        embeddings[row["ID"]] = encoder(wav[None].to(device))[0].float().cpu().numpy()
    encoder.train(training)
    return embeddings


def draw_reference(manifest, seed):
    """Return up to `MAX_REFERENCE` rows of a manifest, drawn at random."""
    table = open_table(manifest)
    order = derive_rng(seed, "reference").permutation(len(table))[:MAX_REFERENCE]
    return [table.slice(place, 1).to_pylist()[0] for place in order.tolist()]


def verify(systems, lists, data_root, seed, reference=None, cohort_top=300):
    """Return the error figures of systems on the same trials, and their scores.

    Each system is scored by the cosine of its embeddings: as they are and, with reference data,
    centred and standardised (see `scoring.change_embeddings`). None of these is best everywhere,
    for a baseline as for the model: each system gets the one that does best on the development
    trials, and that one on the test trials.

    Arguments
    ---------
    systems : dict
        Encoders by name; the first is judged, the others are its baselines.
    lists : dict
        "test" and, optionally, "dev": pairs of the manifest of the trials' utterances and the
        trials, (label, enrolment ID, test ID), label 1 for the same speaker. Without "dev" the
        scoring is plain.
    data_root : str or Path
        The corpus's folder.
    seed : int
        Seed of the choice of reference data, of the shuffled labels and of the bootstrap.
    reference : tuple, optional
        Manifest and data root of training data; 500 of its utterances are drawn. Their speakers are
        the cohort of AS-norm.
    cohort_top : int
        See `as_norm`.

    Returns
    -------
    figures : dict
        `scoring`: of each system. `dev_eer_by_scoring`: what it was chosen by, where there is
        "dev". For each list: `trials`, `utterances`, `speakers`: counts; `systems`: of each the
        `trial_figures` and, with reference data, those after AS-norm as `as_norm`;
        `eer_shuffled_labels`: of the first where the trials' labels are shuffled, about 0.5;
        `ratio`: for each baseline, the first's EER by the baseline's (`value`) and its 95 %
        interval over speakers (`interval`), None where the trials are too few to define it.
    scores : dict
        By list and system: pairs of scores and labels, for the curves.
    """
    known = dict.fromkeys(systems)
    speaker_of = {}
    if reference is not None:
        rows = draw_reference(reference[0], seed)
        speaker_of = {row["ID"]: row["spk_id"] for row in rows}
        known = {name: embed(system, rows, reference[1]) for name, system in systems.items()}
    embedded = {part: _embed(systems, *pair, data_root) for part, pair in lists.items()}
    figures = {"scoring": dict.fromkeys(systems, scorings.SCORINGS[0])}
    if "dev" in lists:
        rates = {
            name: scorings.rate_scorings(own, known[name], lists["dev"][1])
            for name, own in embedded["dev"][0].items()
        }
        figures["scoring"] = {name: min(own, key=own.get) for name, own in rates.items()}
        figures["dev_eer_by_scoring"] = rates
    curves = {}
    for part, (_, trials) in lists.items():
        embeddings, speakers = embedded[part]
        scored = {
            name: _score_chosen(
                embeddings[name], known[name], trials, scoring, speaker_of, cohort_top
            )
            for name, scoring in figures["scoring"].items()
        }
        figures[part] = compare_systems(scored, trials, speakers, seed)
        labels = [label for label, _, _ in trials]
        curves[part] = {name: (values["plain"], labels) for name, values in scored.items()}
    return figures, curves


def _embed(systems, manifest, trials, data_root):
    """Return the embeddings of a list's utterances by system, and the speaker of each."""
    needed = {name for trial in trials for name in trial[1:]}
    rows = [row for row in read_manifest(manifest) if row["ID"] in needed]
    embeddings = {name: embed(system, rows, data_root) for name, system in systems.items()}
    return embeddings, {row["ID"]: row["spk_id"] for row in rows}


def _score_chosen(embeddings, known, trials, scoring, speaker_of, top):
    """Return the scores of trials in one way, and with reference data those after AS-norm."""
    changed = scorings.change_embeddings(embeddings, known, scoring)
    scores = {"plain": scorings.score_trials(changed, trials)}
    if known is not None:
        changed_known = scorings.change_embeddings(known, known, scoring)
        cohort = scorings.cohort_means(changed_known, speaker_of)
        scores["as_norm"] = scorings.as_norm(changed, trials, cohort, top)
    return scores


def compare_systems(scored, trials, speaker_of, seed):
    """Return the figures of a list's trials; see `verify`.

    Arguments
    ---------
    scored : dict
        By system: "plain" scores and, where there is a cohort, those after "as_norm".
    trials : list of tuple
        (label, enrolment ID, test ID).
    speaker_of : dict
        ID: speaker.
    seed : int
        Seed of the shuffled labels and of the bootstrap.

    Returns
    -------
    dict
    """
    labels = [label for label, _, _ in trials]
    speakers = [(speaker_of[enrol], speaker_of[test]) for _, enrol, test in trials]
    figures = {}
    for name, ways in scored.items():
        told = {way: trial_figures(own, labels, speakers, seed) for way, own in ways.items()}
        figures[name] = {**told.pop("plain"), **told}
    first, *others = scored
    shuffled = derive_rng(seed, "shuffled labels").permutation(labels)
    own = scored[first]["plain"]
    return {
        "trials": len(labels),
        "utterances": len({name for trial in trials for name in trial[1:]}),
        "speakers": len({name for pair in speakers for name in pair}),
        "systems": figures,
        "eer_shuffled_labels": eer(own, shuffled),
        "ratio": {
            name: bootstrap_eer_ratio(own, scored[name]["plain"], labels, speakers, seed)
            for name in others
        },
    }


def trial_figures(scores, labels, speakers, seed):
    """Return the error figures of a system on a list of trials.

    Arguments
    ---------
    scores : array_like
        Shape (trials,).
    labels : array_like
        Shape (trials,), 1 for target trials, 0 for others.
    speakers : array_like
        Shape (trials, 2), the speakers of each trial.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    dict
        `eer`, in [0, 1]; `eer_interval`, its 95 % interval over speakers, None where the trials are
        too few to define it; `min_dcf_0.01`, `min_dcf_0.05`, in [0, 1].
    """
    rate, interval = bootstrap_eer(scores, labels, speakers, seed)
    costs = {f"min_dcf_{p}": min_dcf(scores, labels, p) for p in P_TARGETS}
    return {"eer": rate, "eer_interval": interval, **costs}
