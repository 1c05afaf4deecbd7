"""Preparation of any folder of audio, without labels: the splits are drawn by a hash of the names.

Audio may be of any rate, number of channels and container that soundfile reads.
"""

from collections import Counter

from pretrained.audio_files import SUFFIXES
from recipes.common.corpora.preparation import draw_splits, prepare_splits, utterance_id
from recipes.common.data.files import CorpusError, list_files

HELD = {"valid": 0.05, "test": 0.05}  # the rest is "train"


def prepare_audio_folder(data_folder, save_folder, splits, speakers_from_folders=False, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test".

    A recording of 30 s or more becomes an utterance for each 15 s, which are read by themselves.
    Safe to repeat: what is there and still holds is kept. A file that comes or goes may move others
    to another split.

    Arguments
    ---------
    data_folder : str or Path
        Any folder, searched with its subfolders for audio by suffix.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    speakers_from_folders : bool
        Each folder in `data_folder` holds a speaker, who is in one split alone. Without it each
        file counts as a speaker, so that a speaker of several files may be in several splits.
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where there are too few files, or audio cannot be used. Nothing is written then.

    Example
    -------
    >>> prepare_audio_folder("nowhere", "manifest", ["train"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    listing = {"speakers_from_folders": speakers_from_folders}
    options |= {"listing": listing, "any_rate": True, "in_pieces": True}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(folder, split, speakers_from_folders):
    """Return the rows of a split, and what is wrong with the folder; `wav` is a Path."""
    rows, problems = list_audio(folder, speakers_from_folders)
    drawn = draw_splits([row["spk_id"] for row in rows], HELD)
    return [row for row in rows if drawn[row["spk_id"]] == split], problems


def list_audio(folder, speakers_from_folders):
    """Return a row of each audio file of a folder, and what is wrong; `wav` is a Path."""
    files, rows, problems = list_files(folder), [], []
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            continue
        place = path.relative_to(folder)
        name = utterance_id(place)
        rows.append({"ID": name, "wav": path, "spk_id": name})
        if speakers_from_folders:
            rows[-1]["spk_id"] = place.parts[0]
            if len(place.parts) == 1:
                problems.append(f"{path} is in no speaker's folder.")
    if not rows:
        others = Counter(path.suffix for path in files).most_common(3)
        raise CorpusError(
            f"{folder} holds no audio: expected files named {' '.join(SUFFIXES)}; most files are "
            f"{', '.join(f'*{suffix} ({count})' for suffix, count in others) or 'not there'}."
        )
    return rows, problems
