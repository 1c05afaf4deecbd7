"""The diarization error rate of who is said to speak when."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from recipes.common.data.files import CorpusError, read_lines


class DiarizationErrors(NamedTuple):
    """What is wrong of a diarization, in seconds of one speaker's speech.

    Those of several recordings are added up before the rate is taken.

    Attributes
    ----------
    missed : float
        Speech that no turn covers.
    false_alarm : float
        Turns where fewer speak than are said to.
    confusion : float
        Speech of another speaker than is said.
    total : float
        All speech that counts; speech of two at once counts twice.
    """

    missed: float
    false_alarm: float
    confusion: float
    total: float

    @property
    def rate(self):
        """The diarization error rate; over 1 where the false alarms are many."""
        return (self.missed + self.false_alarm + self.confusion) / self.total


def diarization_errors(reference, found, collar=0.25, skip_overlap=False):
    """Compare turns with those of a reference, as NIST's md-eval does (RT-09 plan, section 6).

    Speakers found are mapped one to one onto the reference's, so that they agree the longest.

    Arguments
    ---------
    reference, found : iterable of tuple
        Turns: start and end in seconds, and the speaker, of any hashable type.
    collar : float
        Seconds before and after each boundary of the reference that do not count.
    skip_overlap : bool
        Whether times at which several speak by the reference do not count.

    Returns
    -------
    DiarizationErrors

    Raises
    ------
    ValueError
        Where no speech of the reference counts.

    Example
    -------
    >>> reference = [(0.0, 4.0, "anna"), (4.0, 8.0, "ben")]
    >>> errors = diarization_errors(reference, [(0.0, 5.0, 1), (5.0, 8.0, 0)])
    >>> errors.confusion, errors.total, errors.rate
    (0.75, 7.0, 0.10714285714285714)
    """
    reference, found = list(reference), list(found)
    boundaries = np.array([time for start, end, _ in reference for time in (start, end)])
    others = [time for start, end, _ in found for time in (start, end)]
    edges = np.unique([*boundaries - collar, *boundaries, *boundaries + collar, *others])
    middles, lengths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    theirs, ours = _activity(reference, middles), _activity(found, middles)
    for boundary in boundaries:
        lengths[np.abs(middles - boundary) < collar] = 0.0
    speaking, said = theirs.sum(0), ours.sum(0)
    if skip_overlap:
        lengths[speaking > 1] = 0.0
    total = float(speaking @ lengths)
    if not total > 0:
        raise ValueError("no speech of the reference counts: it is empty, or all within collars")
    agreed = (theirs * lengths) @ ours.T
    correct = agreed[linear_sum_assignment(agreed, maximize=True)].sum()
    missed = np.maximum(speaking - said, 0) @ lengths
    false_alarm = np.maximum(said - speaking, 0) @ lengths
    confusion = np.minimum(speaking, said) @ lengths - correct
    return DiarizationErrors(float(missed), float(false_alarm), max(0.0, float(confusion)), total)


def _activity(turns, times):
    """Return which speaker is active at which time, (speakers, times), 0.0 or 1.0."""
    rows = defaultdict(lambda: np.zeros(len(times)))
    for start, end, speaker in turns:
        rows[speaker][(times > start) & (times < end)] = 1.0
    return np.stack([*rows.values()]) if rows else np.zeros((0, len(times)))


def read_rttm(path):
    """Read who speaks when, in NIST's RTTM format, as the AMI corpus' references come.

    Arguments
    ---------
    path : str or Path
        Of one recording. Lines of other types than SPEAKER are passed over.

    Returns
    -------
    list of tuple
        Start and end in seconds, and the speaker's name.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    CorpusError
        Where it is not UTF-8, or a line has no start and duration; names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.rttm"
    >>> _ = path.write_text("SPEAKER a 1 0.500 1.250 <NA> <NA> anna <NA> <NA>\\n")
    >>> read_rttm(path)
    [(0.5, 1.75, 'anna')]
    """
    turns = []
    for number, line in read_lines(path):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start, duration, speaker = float(fields[3]), float(fields[4]), fields[7]
        except (IndexError, ValueError):
            start = duration = -1.0
        if not (0 <= start < float("inf") and 0 <= duration < float("inf")):
            raise CorpusError(
                f"{path}, line {number}: expected SPEAKER, file, channel, start, duration, two "
                f"fields and the speaker, not {line!r}."
            )
        turns.append((start, start + duration, speaker))
    return turns
