"""What a report is read on: utterances, what is known of them, and what probes are to tell."""

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lobes.signal import SAMPLE_RATE, num_frames
from recipes.common.annotations.alignments import frame_phones, read_alignments
from recipes.common.annotations.text import read_lexicon, transcribe_phones
from recipes.common.annotations.triphones import SILENCES
from recipes.common.data.manifest import validate_manifests
from recipes.common.data.seeding import derive_rng
from recipes.common.data.table import ROOT, read_manifest
from recipes.common.evaluation.folds import FOLDS
from recipes.common.evaluation.grouping import group_by
from recipes.common.report.measures import make_trials, often_enough, phone_mix
from recipes.common.report.representations import draw_places
from recipes.common.training.run import manifest_paths

LABELS = ("gender", "session", "channel")  # what a manifest may know of an utterance
VALUES = ("age", "noise", "duration")
PER_SPEAKER = 8  # utterances of a speaker, at least, where a draw is limited


class Target(NamedTuple):
    """What a probe is to tell.

    Arguments
    ---------
    items : numpy.ndarray
        Places of the items that it is known of.
    y : numpy.ndarray
        Labels or values of these; of a phone mix, shape (items, axes).
    groups : numpy.ndarray
        What is held out.
    speakers : numpy.ndarray
        Of these items.
    """

    items: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    speakers: np.ndarray


@dataclass
class Speech:
    """The utterances that are read and those of training, and what is known of them.

    Arguments
    ---------
    read, train : list of dict
        Rows of manifests; `wav` is a path; `sentence` and `session` are there where known.
    alignments : dict
        By ID, as `read_alignments` returns them, of both.
    texts : dict
        By ID: the phones of utterances that are read, separated by spaces, where known.
    phones, train_phones : numpy.ndarray
        Shape (utterances, drawn frames), object: the phone of each drawn frame, None in silences
        and where it is not known.
    told_apart : bool
        Sessions are known, at least four of each speaker that is read.
    frame_targets, utterance_targets : dict
        Target by factor.
    trials, train_trials : list of tuple
        As `make_trials` returns them.
    missing : list of dict
        `what` cannot be measured, and `why`.
    """

    read: list
    train: list
    alignments: dict
    texts: dict
    phones: np.ndarray
    train_phones: np.ndarray
    told_apart: bool
    frame_targets: dict = field(default_factory=dict)
    utterance_targets: dict = field(default_factory=dict)
    trials: list = field(default_factory=list)
    train_trials: list = field(default_factory=list)
    missing: list = field(default_factory=list)

    def miss(self, what, why):
        """Tell what cannot be measured, and why."""
        self.missing.append({"what": what, "why": why})


def gather(hparams):
    """Read the manifests and what is known of their utterances.

    Arguments
    ---------
    hparams : dict
        Of a report, with `valid_splits` empty and the splits to read as `test_splits`.

    Returns
    -------
    Speech

    Raises
    ------
    ValueError
        Where a manifest, an alignment or the lexicon is wrong, the splits share speakers, or voices
        cannot be told in them, as all is said by one speaker or no speaker says two sentences.
    """
    paths = manifest_paths(hparams)
    named = {path.stem: path for part in paths.values() for path in part}
    groups = {part: [path.stem for path in paths[part]] for part in ("train", "test")}
    validate_manifests(named, hparams["data_folder"], disjoint_speakers=groups)
    read = draw_rows(load_rows(paths["test"], hparams), hparams["read_utterances"])
    train = draw_rows(load_rows(paths["train"], hparams), hparams["train_utterances"])
    given = hparams["alignments"]
    alignments = {} if given is None else read_alignments(given, read + train)
    count, told_apart = hparams["frames_per_utterance"], sessions_told_apart(read)
    speech = Speech(
        read=read,
        train=train,
        alignments=alignments,
        texts=phone_texts(read, alignments, hparams["lexicon"]),
        phones=drawn_phones(read, alignments, count),
        train_phones=drawn_phones(train, alignments, count),
        told_apart=told_apart,
        trials=make_trials(read, told_apart, hparams["trials"], hparams["seed"]),
        train_trials=make_trials(train, told_apart, hparams["trials"], hparams["seed"]),
    )
    check_trials("train_splits", speech.train_trials)
    check_trials("read_splits", speech.trials)
    set_targets(speech)
    if len({row.get("sentence") for row in read}) == len(read) or "sentence" not in read[0]:
        speech.miss("same sentence nearer", "No sentence is known to be read by two speakers.")
    return speech


def check_trials(splits, trials):
    """Raise ValueError unless there are trials of one speaker and of two.

    Example
    -------
    >>> check_trials("read_splits", [(1, "a", "b")])
    Traceback (most recent call last):
        ...
    ValueError: read_splits: there are no two speakers, by which to tell voices.
    """
    kinds = {label for label, *_ in trials}
    for label, lacking in ((1, "no speaker says two sentences"), (0, "there are no two speakers")):
        if label not in kinds:
            raise ValueError(f"{splits}: {lacking}, by which to tell voices.")


def load_rows(paths, hparams):
    """Return the rows of manifests, with the audio's paths, sentences and sessions.

    Arguments
    ---------
    paths : list of Path
    hparams : dict
        `data_folder`, `min_seconds`, and `session`: a regular expression that finds the session's
        name at the beginning of an utterance's ID, None where it tells none.

    Returns
    -------
    list of dict
    """
    rows = []
    for row in (row for path in paths for row in read_manifest(path)):
        row["wav"] = Path(hparams["data_folder"]) / row["wav"].removeprefix(ROOT)
        if row.get("wrd"):
            row["sentence"] = " ".join(row["wrd"].upper().split())
        if hparams["session"] is not None:
            found = re.match(hparams["session"], row["ID"])
            if found is None:
                raise ValueError(f"session: {hparams['session']!r} finds none in {row['ID']}.")
            row["session"] = found[0]
        if row["duration"] >= hparams["min_seconds"]:
            rows.append(row)
    return rows


def draw_rows(rows, most):
    """Return at most so many utterances, by turns of the speakers, the same in every run.

    Arguments
    ---------
    rows : list of dict
        `ID` and `spk_id`.
    most : int or None
        None for all. Where it is less than eight times the speakers, some speakers are left out.

    Returns
    -------
    list of dict

    Example
    -------
    >>> rows = [{"ID": i, "spk_id": i % 9} for i in range(900)]
    >>> drawn = draw_rows(rows, 48)
    >>> len(drawn), len({row["spk_id"] for row in drawn})
    (48, 6)
    """
    if most is None or len(rows) <= most:
        return rows
    own = group_by(rows, lambda row: row["spk_id"])
    kept = derive_rng("speakers").permutation(sorted(own))[: max(most // PER_SPEAKER, FOLDS)]
    drawn = []
    for speaker in kept.tolist():
        order = derive_rng("utterances", speaker).permutation(len(own[speaker]))
        drawn.append([own[speaker][place] for place in order])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*drawn))
    drawn = list(filter(None, turns))[:most]
    return sorted(drawn, key=lambda row: row["ID"])


def sessions_told_apart(rows):
    """Return whether all speakers are known to have at least four sessions, one for each fold.

    Example
    -------
    >>> sessions_told_apart([{"spk_id": "a", "session": i} for i in range(4)])
    True
    """
    sessions = {(row["spk_id"], row.get("session")) for row in rows}
    return min(Counter(speaker for speaker, _ in sessions).values()) >= FOLDS


def phone_texts(rows, alignments, lexicon):
    """Return the phones of utterances: of alignments, else of the column `phn`, else by a lexicon.

    Arguments
    ---------
    rows : list of dict
    alignments : dict
        By ID; empty where there are none.
    lexicon : str or None
        As `recipes.common.annotations.text.read_lexicon` takes it.

    Returns
    -------
    dict
        By ID: phones, separated by spaces; utterances whose phones are not known are not in it.

    Example
    -------
    >>> phone_texts([{"ID": "a"}], {"a": [(0, 0.1, "SIL"), (0.1, 0.2, "AH")]}, None)
    {'a': 'AH'}
    """
    if alignments:
        texts = {
            name: " ".join(phone for *_, phone in phones if phone.lower() not in SILENCES)
            for name, phones in alignments.items()
        }
    elif all(row.get("phn") for row in rows):
        texts = {row["ID"]: row["phn"] for row in rows}
    elif lexicon is not None and all("sentence" in row for row in rows):
        found, _ = transcribe_phones([row["wrd"] for row in rows], read_lexicon(lexicon))
        texts = {row["ID"]: text for row, text in zip(rows, found, strict=True)}
    else:
        texts = {}
    return {row["ID"]: texts[row["ID"]] for row in rows if texts.get(row["ID"])}


def drawn_phones(rows, alignments, count):
    """Return the phone of each drawn frame, (utterances, count), object; None where there is none.

    Example
    -------
    >>> rows = [{"ID": "a", "duration": 1.0}]
    >>> drawn_phones(rows, {}, 2).tolist()
    [[None, None]]
    """
    phones = np.full((len(rows), count), None)
    for place, row in enumerate(rows):
        if row["ID"] in alignments:
            total = num_frames(round(row["duration"] * SAMPLE_RATE))
            whole = frame_phones(alignments[row["ID"]], total)
            phones[place] = whole[draw_places(row, count)]
    return phones


def _column(rows, name):
    return np.array([row.get(name) for row in rows], object)


def _add_labels(speech, targets, factor, y, groups, speakers):
    """Add a target of labels, of the items where it is known, unless it cannot be probed."""
    items = np.flatnonzero([value not in (None, "") for value in y])
    y, groups, speakers = y[items].astype(str), groups[items], speakers[items]
    often = often_enough(y, groups)
    if len(set(y[often])) < 2:
        speech.miss(f"{factor}, by probes", f"Fewer than two kinds are in {FOLDS} held-out groups.")
        return
    rare = sorted(set(y[~often]))
    if rare:
        why = f"They are in fewer than {FOLDS} held-out groups."
        speech.miss(f"{factor}, by probes: {', '.join(rare)}", why)
    targets[factor] = Target(items[often], y[often], groups[often], speakers[often])


def set_targets(speech):
    """Set what probes are to tell of drawn frames and of utterances.

    Of frames the phone, on other speakers, and the speaker.

    Arguments
    ---------
    speech : Speech
        Changed in place.
    """
    rows, count, targets = speech.read, speech.phones.shape[1], speech.frame_targets
    speakers, utterances = _column(rows, "spk_id").astype(str), _column(rows, "ID")
    heard = _column(rows, "session") if speech.told_apart else utterances
    owners = speakers.repeat(count)
    if speech.alignments:
        _add_labels(speech, targets, "phone", speech.phones.ravel(), owners, owners)
    else:
        what = "phone, by probes of frames; ABX"
        speech.miss(what, "There are no alignments (--alignments).")
    _add_labels(speech, targets, "speaker", owners, heard.repeat(count), owners)
    targets = speech.utterance_targets
    known = np.flatnonzero([row["ID"] in speech.texts for row in rows])
    if len(set(speakers[known])) >= FOLDS:
        mix = phone_mix([speech.texts[rows[place]["ID"]] for place in known])
        targets["phone"] = Target(known, mix, speakers[known], speakers[known])
    else:
        why = f"The phones of fewer than {FOLDS} speakers are known, by alignments, a column phn "
        why += "or a lexicon (--lexicon)."
        speech.miss("phones of an utterance, and phone error rate", why)
        speech.texts = {}
    _add_labels(speech, targets, "speaker", speakers, heard, speakers)
    for factor in LABELS + VALUES:
        if factor not in rows[0]:
            speech.miss(factor, f"The manifest does not tell the {factor}.")
        elif factor in VALUES:
            _add_values(speech, factor, _column(rows, factor), speakers)
        else:
            groups = utterances if factor == "session" else speakers
            _add_labels(speech, targets, factor, _column(rows, factor), groups, speakers)


def _add_values(speech, factor, values, speakers):
    """Add a target of numbers, of the items where it is known, unless it cannot be probed."""
    items = np.flatnonzero([value not in (None, "") for value in values])
    y, speakers = values[items].astype(float), speakers[items]
    if len(set(speakers)) < FOLDS or y.min() == y.max():
        speech.miss(f"{factor}, by probes", f"It is one, or known of fewer than {FOLDS} speakers.")
        return
    speech.utterance_targets[factor] = Target(items, y, speakers, speakers)
