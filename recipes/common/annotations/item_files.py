"""Item files of the ZeroSpeech evaluations: the triphones that an ABX test compares, with times.

A line has a file's name without folder and suffix, onset and offset in seconds, the centre phone,
the phones before and after it, and the speaker; see https://docs.cognitive-ml.fr/fastabx/items.html
and Nguyen et al., "The Zero Resource Speech Benchmark 2021" (https://arxiv.org/abs/2011.11588).
"""

import math
from fractions import Fraction

from lobes.signal import FRAME_RATE
from recipes.common.annotations.triphones import Item
from recipes.common.data.files import CorpusError, list_files, read_lines

COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
MAX_PAST = 1  # frames that an item may have after an utterance's last
NOT_AUDIO = {".txt", ".csv", ".tsv", ".json", ".item", ".md", ".ctm", ".textgrid", ".gz", ".zip"}


def read_items(path, first="0.01"):
    """Read an item file.

    Frame i of 50 a second stands for the time 0.01 + 0.02 i s, as in the evaluations of ZeroSpeech,
    so that figures compare with theirs; an item has the frames whose time is in [onset, offset].
    The frames of our encoders are centred 2.5 ms later, log-mel frames are centred at 0.02 i s.

    Arguments
    ---------
    path : str or Path
        Words separated by spaces; the first line names the columns, in any order.
    first : str
        The time that frame 0 stands for, s.

    Returns
    -------
    list of recipes.common.annotations.triphones.Item
        `utterance` is the file's name.

    Raises
    ------
    CorpusError
        Where a column is missing, or a line has other than one word for each, times that are none
        or no frame between them; names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.item"
    >>> line = "84-121123-0000 0.40 0.52 AH T S 84"
    >>> _ = path.write_text(f"{' '.join(COLUMNS)}\\n{line}\\n")
    >>> [item] = read_items(path)
    >>> item.utterance, item.context, item.phone, item.start, item.stop
    ('84-121123-0000', ('T', 'S'), 'AH', 20, 26)
    """
    lines = read_lines(path)
    names = lines[0][1].split() if lines else []
    if missing := [name for name in COLUMNS if name not in names]:
        raise CorpusError(
            f"{path}: its first line has no {', '.join(missing)}: expected an item file, which "
            f"begins with {' '.join(COLUMNS)}."
        )
    first = Fraction(first) * FRAME_RATE
    return [
        _read_item(names, line.split(), first, f"{path}, line {number}")
        for number, line in lines[1:]
    ]


def _read_item(names, words, first, where):
    if len(words) != len(names):
        raise CorpusError(f"{where}: {len(words)} words for the {len(names)} columns.")
    told = dict(zip(names, words, strict=True))
    try:
        onset, offset = (Fraction(told[name]) for name in ("onset", "offset"))
    except (ValueError, ZeroDivisionError):
        times = f"{told['onset']} and {told['offset']}"
        raise CorpusError(f"{where}: onset and offset are {times}: expected seconds.") from None
    # Exact, as times on the grid of frames are common.
    start = math.ceil(onset * FRAME_RATE - first)
    stop = math.floor(offset * FRAME_RATE - first) + 1
    if not 0 <= start < stop:
        raise CorpusError(
            f"{where}: no frame of {1 / FRAME_RATE} s has its middle between {told['onset']} and "
            f"{told['offset']} s; take the line out."
        )
    context = told["prev-phone"], told["next-phone"]
    return Item(told["#file"], told["speaker"], context, told["#phone"], start, stop)


def fit_items(items, lengths):
    """Return items that end with their utterance.

    An encoder has no frame where its window would pass the end of the audio: an item at the end may
    have one frame more, which is left out, as in Libri-light's evaluation.

    Arguments
    ---------
    items : list of recipes.common.annotations.triphones.Item
    lengths : dict
        Frames of each utterance.

    Returns
    -------
    list of Item

    Raises
    ------
    CorpusError
        Where an item passes the end by more, or has no other frame.

    Example
    -------
    >>> [item.stop for item in fit_items([Item("a", "1", ("t", "s"), "p", 5, 10)], {"a": 9})]
    [9]
    """
    fitting = []
    for item in items:
        length = lengths[item.utterance]
        if item.stop > length + MAX_PAST or item.start >= length:
            raise CorpusError(
                f"The item {item.phone} of {item.utterance} has the frames from {item.start} to "
                f"{item.stop}, but the audio has {length}: are the items of the same audio?"
            )
        fitting.append(item._replace(stop=min(item.stop, length)))
    return fitting


def find_audio(names, folder):
    """Return the audio file of each name that items give.

    Arguments
    ---------
    names : collection of str
        Without folder and suffix.
    folder : str or Path
        Searched with the folders below it.

    Returns
    -------
    dict
        Path by name.

    Raises
    ------
    CorpusError
        Where a name has no file, or several.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "a.flac").write_bytes(b""), (folder / "a.txt").write_bytes(b"")
    >>> find_audio(["a"], folder)["a"].name
    'a.flac'
    """
    found = {}
    for path in list_files(folder):
        if path.stem in names and path.suffix.lower() not in NOT_AUDIO:
            found.setdefault(path.stem, []).append(path)
    missing = sorted(set(names) - found.keys())
    if missing:
        raise CorpusError(
            f"{folder} has no audio of {len(missing)} of the {len(set(names))} files that items "
            f"name, such as {missing[0]}: give the folder that holds them, or one above it."
        )
    for name, paths in found.items():
        if len(paths) > 1:
            one, other, *_ = paths
            raise CorpusError(f"{folder} has several files of the name {name}: {one}, {other}.")
    return {name: path for name, [path] in found.items()}
