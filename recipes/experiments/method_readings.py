"""What methods are compared by: figures of utterance encoders and of frame encoders."""

from functools import partial

import numpy as np

from pretrained.audio import read_speech
from recipes.common.annotations.triphones import triphones
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.abx import MODES
from recipes.common.evaluation.metrics import eer
from recipes.common.report import measures
from recipes.common.report.representations import encode
from recipes.common.report.speech import drawn_phones, phone_texts
from recipes.common.report.unit_figures import read_units
from recipes.experiments import readmes
from recipes.experiments.channels import make_channels
from recipes.experiments.readings import read_verification
from recipes.experiments.runner import SEEDS

FRAMES = 10  # of each utterance, for probes and units
UNITS = 100
DISTANCE = "angular"
LIMITS = {"max_items": 10, "max_speakers": 5}
CHANNELS = ("16 kHz", "8 kHz", "mu-law", "MP3, 20 kbit/s", "room")


def read_utterances(system, rows, lexicon, folder):
    """Return what embeddings tell of speakers, of phones and of channels.

    Arguments
    ---------
    system : System
        With an utterance encoder.
    rows : list of dict
        Utterances, see `load_rows`.
    lexicon : Path
        For the phones of their sentences.
    folder : Path
        Receives the embeddings.

    Returns
    -------
    dict
        `eer`; `phones`, R2 of how often each is said; `channel`, the balanced accuracy in telling
        which of `CHANNELS` an utterance came through. Of each `value`, `interval` over speakers
        and what `pool` needs; of a probe also `control`, with shuffled labels.
    """
    embeddings = encode(system, rows, 1, folder).embeddings
    speakers = np.array([row["spk_id"] for row in rows]).astype(str)
    texts = phone_texts(rows, {}, str(lexicon))
    known = np.array([row["ID"] in texts for row in rows])
    mix = measures.phone_mix([texts[row["ID"]] for row in rows if row["ID"] in texts])
    [phones] = measures.read_mix(embeddings[known], mix, speakers[known], ["linear"], seeds=[1])
    sent, channel = send(system, rows)
    [told] = measures.read_probes(sent, channel, speakers, speakers, ["linear"], seeds=[1])
    trials = read_verification(rows, embeddings)
    return {"eer": plain(trials), "phones": plain(phones), "channel": plain(told)}


def send(system, rows):
    """Return the embeddings of utterances, each sent through one of the channels, and which."""
    channels = make_channels(None)
    found, names = [], []
    for row in rows:
        name = CHANNELS[int(derive_rng("channel", row["ID"]).integers(len(CHANNELS)))]
        wav = channels[name](read_speech(row["wav"]), derive_seed("channel", row["ID"]))
        found.append(system.utterance(wav[None])[0][0, 0, 0].numpy())
        names.append(name)
    return np.stack(found), np.array(names)


def read_frames(system, rows, training, alignments, folder):
    """Return what the last layer's frames tell of phones and of speakers.

    Arguments
    ---------
    system : System
        With a frame encoder.
    rows, training : list of dict
        Utterances that are read, and those on which k-means is fitted.
    alignments : dict
        Of the first.
    folder : Path
        Receives the frames.

    Returns
    -------
    dict
        `abx_within`, `abx_across`, `pnmi`, `speaker_means` and `speaker_deviations`, see
        `read_utterances`.
    """
    read = encode(system, rows, FRAMES, folder, whole=True)
    train = encode(system, training, FRAMES, folder)
    ids = np.array([row["ID"] for row in rows])
    speakers = np.array([row["spk_id"] for row in rows]).astype(str)
    speaker_of = dict(zip(ids, speakers, strict=True))
    items = triphones((n, speaker_of[n], alignments[n]) for n in ids if n in alignments)
    frames = dict(zip(ids, read.whole, strict=True))
    figures = {
        f"abx_{mode}": measures.read_abx(frames, items, mode, DISTANCE, SEEDS[0], **LIMITS)
        for mode in MODES
    }
    phones = drawn_phones(rows, alignments, FRAMES).ravel()
    known = np.flatnonzero(phones != np.array(None))
    last, owners = read.frames[:, :, -1].reshape(len(phones), -1), speakers.repeat(FRAMES)
    fitted = train.frames[:, :, -1].reshape(-1, last.shape[1])
    of_known = last[known], phones[known].astype(str), owners[known]
    [figures["pnmi"], *_] = read_units(fitted, *of_known, UNITS, seeds=[1])
    deviations = np.stack([x.astype(np.float32).std(0) for x in read.whole])
    for name, x in (("means", read.means), ("deviations", deviations)):
        [told] = measures.read_probes(x, speakers, ids, speakers, ["linear"], seeds=[1])
        figures[f"speaker_{name}"] = told
    return {name: plain(figure) for name, figure in figures.items()}


def plain(figure):
    """Return what is kept of a reading, as JSON has it.

    Arguments
    ---------
    figure : dict
        `value` and `evidence`: `group_names` and `group_scores`, or of an equal error rate
        `scores`, `labels` and `speakers` of its trials; where known also `interval`, `control` and
        `chance`.

    Returns
    -------
    dict
        The same, but with `draws` in the place of the trials, the equal error rate in each draw of
        the speakers, which is the same draw in all figures of the same trials, and how many
        `speakers` there are. Evidence has six decimals.

    Example
    -------
    >>> read = {"group_names": np.array(["a", "b"]), "group_scores": np.array([[0.25, 0.75]])}
    >>> plain({"value": 0.5, "evidence": read})["evidence"]
    {'group_names': ['a', 'b'], 'group_scores': [[0.25, 0.75]]}
    """
    kept = {name: figure.get(name) for name in ("value", "interval", "control", "chance")}
    evidence = figure["evidence"]
    if "scores" in evidence:
        rate = partial(eer, evidence["scores"], evidence["labels"])
        labels, speakers = evidence["labels"], evidence["speakers"]
        draws = bootstrap.draw_trials(rate, labels, speakers, SEEDS[0])
        evidence = {"draws": draws, "speakers": len(np.unique(speakers))}
    return {**kept, "evidence": {name: _listed(x) for name, x in evidence.items()}}


def _listed(values):
    values = np.asarray(values)
    return (values.round(6) if values.dtype.kind == "f" else values).tolist()


def pool(figures, paired_use=bootstrap.PROBE_PAIRED_USE, less=None):
    """Return the mean of a figure over seeds, and its 95 % interval over speakers and seeds.

    Arguments
    ---------
    figures : list of dict
        As `read_utterances` and `read_frames` return them, one of each seed.
    paired_use : float
        See `bootstrap_groups`: 1 where no probe was fitted.
    less : list of dict, optional
        The same figure of another system, seed by seed, on the same speakers: what is returned is
        then the difference from it.

    Returns
    -------
    value : float
    interval : sequence of float or None
        None where nothing is known of speakers.

    Example
    -------
    >>> scores = {"group_scores": [[0.2, 0.4, 0.3]]}
    >>> value, (low, high) = pool([{"value": 0.3, "evidence": scores}] * 2)
    >>> low < value < high
    True
    """
    sides = [figures] if less is None else [figures, less]
    value = float(np.mean([f["value"] for f in figures]))
    value -= 0.0 if less is None else float(np.mean([f["value"] for f in less]))
    evidence = figures[0]["evidence"]
    if "draws" in evidence:
        return value, _over_draws(value, sides)
    if "group_scores" in evidence:
        parts = [np.concatenate([f["evidence"]["group_scores"] for f in side]) for side in sides]
        scores = parts[0] if less is None else parts[0] - parts[1]
        low, high = bootstrap.bootstrap_groups(scores, SEEDS[0], paired_use)
        return value, (low, min(high, 1.0))
    return value, None


def _over_draws(value, sides):
    """Return the interval of a mean EER over seeds, or of its difference from a second one's."""
    draws, of_seeds = (
        [np.array([read(figure) for figure in side]) for side in sides]
        for read in (lambda figure: figure["evidence"]["draws"], lambda figure: figure["value"])
    )
    draws, of_seeds = (one[0] - (one[1] if one[1:] else 0) for one in (draws, of_seeds))
    interval = bootstrap.interval_of(draws.mean(0))
    speakers = sides[0][0]["evidence"]["speakers"]
    return interval and bootstrap.widen_for_seeds(value, interval, of_seeds, speakers)


def percent(figures, paired_use=bootstrap.PROBE_PAIRED_USE):
    """Return what `pool` does as text, in per cent.

    Example
    -------
    >>> percent([{"value": 0.25, "evidence": {}}])
    '25.0'
    """
    value, interval = pool(figures, paired_use)
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} [{', '.join(f'{100 * x:.1f}' for x in interval)}]"


def change(figures, others):
    """Return by how much a figure of no probe differs from another system's, in points; see `pool`.

    Example
    -------
    >>> own, other = ({"value": x, "evidence": {"group_scores": [[x] * 3]}} for x in (0.3, 0.25))
    >>> change([own], [other])
    '+5.0 [+5.0, +5.0]'
    """
    value, interval = pool(figures, 1.0, less=others)
    return "-" if interval is None else readmes.change_and_interval(value, interval)
