"""Phone alignments: read from TextGrid or CTM files, written as CTM, and as a phone of each frame.

An alignment is a list of (start, stop, phone), in seconds, in order; silences ("", SIL, sp, spn, in
any case) are among its phones, as `recipes.common.annotations.triphones.triphones` takes it.
"""

import re
from pathlib import Path

import numpy as np
from praatio import textgrid
from praatio.utilities.errors import PraatioException

from recipes.common.annotations.triphones import MAX_OVERLAP, SILENCES, first_frame
from recipes.common.data.files import CorpusError, read_lines, replace_text

TIERS = ("phones", "phone", "phonemes")  # in lower case
PLACE = re.compile(r"(?<=.)_[BIES]$")  # of a phone in its word
STRESS = re.compile(r"(?<=^[A-Za-z]{2})[012]$")  # ARPAbet's: "t2" is a phone of its own in eSpeak
MAX_EXCESS = 0.05  # s that an alignment may pass the end of the audio: a few frames of an aligner


def read_alignments(folder, utterances):
    """Read the alignments of utterances from a folder and the folders in it.

    TextGrid files (Praat's long or short text, UTF-8 or UTF-16) each have one utterance, by their
    name without its ending, and an interval tier "phones", "phone" or "phonemes", as the Montreal
    Forced Aligner writes them. CTM files have lines of utterance, channel, start, duration (s),
    phone and, where it is known, confidence. Phones lose their stress ("AH0") and their place in
    the word ("AH_B"); silences stay as they are.

    Arguments
    ---------
    folder : str or Path
        Holds files "*.TextGrid", "*.ctm" or both; others are passed over.
    utterances : list of dict
        A manifest's rows, of which `ID` and `duration` (s) are used.

    Returns
    -------
    dict
        By ID, in the order of `utterances`: a list of (start, stop, phone), in seconds, which ends
        with the audio where it passed its end by up to 0.05 s. Utterances without an alignment are
        not in it.

    Raises
    ------
    CorpusError
        Where the folder has an alignment of none of the utterances, a file is not as described,
        times are not in order, or an alignment is longer than its audio or comes twice; names the
        file and the line or interval.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "dev.ctm").write_text("a 1 0.00 0.25 SIL\\na 1 0.25 0.25 AH0_S\\n")
    >>> read_alignments(folder, [{"ID": "a", "duration": 0.5}, {"ID": "b", "duration": 0.7}])
    {'a': [(0.0, 0.25, 'SIL'), (0.25, 0.5, 'AH')]}
    """
    durations = {row["ID"]: row["duration"] for row in utterances}
    paths = sorted(Path(folder).rglob("*"))
    paths = [path for path in paths if path.suffix.lower() in READERS and path.is_file()]
    if not paths:
        raise CorpusError(f"{folder} holds no alignments: expected *.TextGrid or *.ctm in it.")
    found, files = {}, {}
    for path in paths:
        for utterance, intervals in READERS[path.suffix.lower()](path, durations).items():
            if utterance in found:
                raise CorpusError(
                    f"{path}: {files[utterance]} has an alignment of {utterance} too."
                )
            found[utterance] = _checked(utterance, intervals, durations[utterance], path)
            files[utterance] = path
    if not found:
        raise CorpusError(
            f"{folder} has an alignment of none of the {len(durations)} utterance(s), such as "
            f"{next(iter(durations), None)}: its {len(paths)} file(s), such as {paths[0].name}, "
            "are of others. A TextGrid's name and a CTM's first column must be utterances' IDs."
        )
    return {utterance: found[utterance] for utterance in durations if utterance in found}


def _checked(utterance, intervals, duration, path):
    """Return the alignment that intervals (place, start, stop, label) of a file are."""
    alignment, previous = [], 0.0
    for place, start, stop, label in intervals:
        where = f"{path}, {place}: {utterance} has {label!r} from {start} to {stop} s"
        if not previous - MAX_OVERLAP <= start <= stop:
            raise CorpusError(
                f"{where} after {previous} s: expected phones in order, which do not overlap."
            )
        if stop > duration + MAX_EXCESS:
            raise CorpusError(
                f"{where}, but its audio ends at {duration} s: is this the alignment of this audio?"
            )
        if start < duration:
            phone = STRESS.sub("", PLACE.sub("", label.strip()))
            alignment.append((start, min(stop, duration), phone))
        previous = stop
    return alignment


def _read_ctm(path, wanted):
    """Return the intervals (place, start, stop, label) of each wanted utterance of a CTM file."""
    found = {}
    for number, line in read_lines(path):
        if not line.strip() or line.startswith(";;"):
            continue
        utterance, *fields = line.split()
        if utterance not in wanted:
            continue
        try:
            _, start, duration, label, *_ = fields
            start, duration = float(start), float(duration)
        except ValueError as error:
            raise CorpusError(
                f"{path}, line {number}: {line!r} is not an utterance, a channel, a start, a "
                "duration and a phone."
            ) from error
        found.setdefault(utterance, []).append((f"line {number}", start, start + duration, label))
    return found


def _read_textgrid(path, wanted):
    """Return the intervals (place, start, stop, label) of a TextGrid's phones, if it is wanted."""
    if path.stem not in wanted:
        return {}
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")
    except (PraatioException, ValueError, LookupError, AttributeError, TypeError) as error:
        told = repr(error) if isinstance(error, (PraatioException, ValueError)) else "cut short"
        raise CorpusError(f"{path} is no TextGrid as text: {told}.") from error
    phones = [tier for tier in grid.tiers if tier.name.strip().lower() in TIERS]
    if len(phones) != 1 or not isinstance(phones[0], textgrid.IntervalTier):
        raise CorpusError(
            f"{path} has the tiers {', '.join(map(repr, grid.tierNames))}: expected one of "
            f"intervals that is named {' or '.join(TIERS)}."
        )
    intervals = [(f"interval {n}", *entry) for n, entry in enumerate(phones[0].entries, 1)]
    end = intervals[-1][2] if intervals else 0.0
    if end < grid.maxTimestamp - MAX_OVERLAP:
        raise CorpusError(
            f"{path} is cut short: its phones end at {end} s, the whole at {grid.maxTimestamp} s."
        )
    return {path.stem: intervals}


READERS = {".textgrid": _read_textgrid, ".ctm": _read_ctm}  # by how names end, in lower case


def frame_phones(alignment, num_frames):
    """Return the phone of each frame, at 50 frames a second.

    Arguments
    ---------
    alignment : list of tuple
        (start, stop, phone), in seconds, as `read_alignments` returns it.
    num_frames : int
        Frames of the utterance.

    Returns
    -------
    numpy.ndarray
        Shape (num_frames,), object: the phone, a str, in which the frame's centre, 0.0125 + 0.02 i
        s, lies; None in silences and where no phone is.

    Example
    -------
    >>> frame_phones([(0, 0.03, "SIL"), (0.03, 0.06, "AH")], 4)
    array([None, 'AH', 'AH', None], dtype=object)
    """
    phones = np.full(num_frames, None, dtype=object)
    for start, stop, phone in alignment:
        if phone.lower() not in SILENCES:
            phones[first_frame(start) : first_frame(stop)] = phone
    return phones


def write_ctm(alignments, path, comment=""):
    """Write alignments as a CTM file, with times to 0.0001 s; it is complete or as it was.

    Arguments
    ---------
    alignments : dict
        By utterance: a list of (start, stop, phone), in seconds.
    path : str or Path
        The file.
    comment : str
        What its first line says of it, after ";; ".

    Raises
    ------
    ValueError
        Where an utterance's or a phone's name is empty or has a space in it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "dev.ctm"
    >>> write_ctm({"a": [(0, 0.25, "SIL"), (0.25, 0.5, "AH")]}, path)
    >>> print(path.read_text(), end="")
    a 1 0.0000 0.2500 SIL
    a 1 0.2500 0.2500 AH
    """
    lines = [f";; {comment}\n"] if comment else []
    for utterance, alignment in alignments.items():
        for start, stop, phone in alignment:
            if len(f"({utterance}) ({phone})".split()) != 2 or not (utterance and phone):
                raise ValueError(f"A CTM file cannot hold {phone!r} of {utterance!r}.")
            # Of the rounded times, so that a phone still stops where the next one starts.
            duration = round(stop, 4) - round(start, 4)
            lines.append(f"{utterance} 1 {start:.4f} {duration:.4f} {phone}\n")
    replace_text(path, "".join(lines))
