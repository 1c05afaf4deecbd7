"""Triphones of aligned speech: the items that an ABX test compares.

An item is a stretch of frames that realises a triphone: a centre phone with the phones before and
after it.
"""

import math
from typing import NamedTuple

from lobes.signal import HOP, RECEPTIVE_FIELD, SAMPLE_RATE, num_frames

SILENCES = ("", "sil", "sp", "spn")  # in lower case
MAX_GAP = 0.02  # s without a phone, above which it is a silence
MAX_OVERLAP = 0.001  # s, of times that were rounded


class Item(NamedTuple):
    """A triphone in an utterance.

    Arguments
    ---------
    utterance, speaker : str
    context : tuple of str
        The phones before and after.
    phone : str
        The centre phone.
    start, stop : int
        Its frames are [start, stop): those of all three phones.
    """

    utterance: str
    speaker: str
    context: tuple
    phone: str
    start: int
    stop: int


def triphones(alignments):
    """Return the triphones of aligned utterances, at 50 frames a second.

    An item has the frames whose centre, 0.0125 + 0.02 i s, lies in the three phones. Frames whose
    window passes the end of the alignment are left out, as the encoders have none there. A silence
    ("", SIL, sp, spn, in any case), or more than 0.02 s without a phone, is no part of a triphone.

    Arguments
    ---------
    alignments : iterable of tuple
        (utterance, speaker, phones): each utterance once, with its phones in order as (start, stop,
        phone), in seconds.

    Returns
    -------
    list of Item
        Those with at least one frame.

    Example
    -------
    >>> phones = [(0, 0.1, "SIL"), (0.1, 0.2, "k"), (0.2, 0.3, "ae"), (0.3, 0.4, "t")]
    >>> [item] = triphones([("a", "1", phones)])
    >>> item.context, item.phone, item.start, item.stop
    (('k', 't'), 'ae', 5, 19)
    """
    items = []
    for utterance, speaker, phones in alignments:
        frames = num_frames(round(phones[-1][1] * SAMPLE_RATE)) if phones else 0
        for before, centre, after in zip(phones, phones[1:], phones[2:], strict=False):
            start, stop = first_frame(before[0]), min(first_frame(after[1]), frames)
            if start < stop and _is_unbroken(before, centre, after):
                context = (before[2], after[2])
                items.append(Item(utterance, speaker, context, centre[2], start, stop))
    return items


def _is_unbroken(*phones):
    gaps = [after[0] - before[1] for before, after in zip(phones, phones[1:], strict=False)]
    silent = any(phone.lower() in SILENCES for _, _, phone in phones)
    return not silent and max(gaps) <= MAX_GAP


def first_frame(seconds):
    """Return the first frame whose centre is not before a time.

    Arguments
    ---------
    seconds : float
        From the start of the utterance.

    Returns
    -------
    int
        Of frames at 50 Hz, the first of which is centred on 12.5 ms.

    Example
    -------
    >>> first_frame(0.5)
    25
    """
    # Less a nanosecond's share: a centre at the time itself counts, however both are rounded.
    return math.ceil((seconds * SAMPLE_RATE - RECEPTIVE_FIELD / 2) / HOP - 1e-6)
