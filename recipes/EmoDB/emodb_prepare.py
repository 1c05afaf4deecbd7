"""Preparation of Emo-DB (Burkhardt et al., Interspeech 2005): a manifest for each split of a fold.

The layout is wav/SSTTTEV.wav: two digits of the speaker, three characters of the text, a letter of
the emotion, and one of the version where there are several. The corpus is published at
http://emodb.bilderbar.info.
"""

import re
from pathlib import Path

from recipes.common.corpora.preparation import check_splits, prepare_splits
from recipes.common.data.files import CorpusError, find_files

NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])[a-z]?")
EMOTIONS = {  # by the first letter of the German word
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
FOLDS = {  # a man and a woman are tested in each
    1: ("03", "08"),
    2: ("10", "09"),
    3: ("11", "13"),
    4: ("12", "14"),
    5: ("15", "16"),
}


def prepare_emodb(data_folder, save_folder, splits, test_fold, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test" of a fold.

    A fold tests two speakers, validates with the two that the next fold tests (the first follows
    the last) and trains with the other six. Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds `wav`.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    test_fold : int
        1 to 5.
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a speaker or the corpus is missing, or a file's name or audio cannot be used. Nothing
        is written then.
    ValueError
        Where there is no such fold.

    Example
    -------
    >>> prepare_emodb("nowhere", "manifest", ["test"], test_fold=0)
    Traceback (most recent call last):
        ...
    ValueError: test_fold is 0: expected a fold, 1 to 5.
    """
    check_splits(splits)
    if test_fold not in FOLDS:
        raise ValueError(f"test_fold is {test_fold}: expected a fold, 1 to {len(FOLDS)}.")
    options["listing"] = {"test_fold": test_fold}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split, test_fold):
    """Return a split's rows, with speaker and label, and its problems; `wav` is a Path."""
    folder, rows, problems = Path(data_folder) / "wav", [], []
    wavs = find_files(folder, "*.wav")
    if not wavs:
        raise CorpusError(f"{folder} holds no *.wav: expected Emo-DB as its authors lay it out.")
    speakers = speakers_of(split, test_fold)
    known = {name for pair in FOLDS.values() for name in pair}
    for wav in wavs:
        name = NAME.fullmatch(wav.stem)
        if not name or name[1] not in known:
            problems.append(
                f"{wav}: expected a name such as 03a01Fa.wav, of a speaker "
                f"({', '.join(sorted(known))}), a text, an emotion ({', '.join(EMOTIONS)}) and a "
                "version."
            )
        elif name[1] in speakers:
            label = EMOTIONS[name[3]]
            rows.append({"ID": wav.stem, "wav": wav, "spk_id": name[1], "label": label})
    absent = sorted(speakers - {row["spk_id"] for row in rows})
    if absent:
        problems.append(f"{folder} has no utterance of speaker {', '.join(absent)}.")
    return rows, problems


def speakers_of(split, test_fold):
    """Return the speakers of a split of a fold.

    Example
    -------
    >>> sorted(speakers_of("test", 5)), sorted(speakers_of("valid", 5))
    (['15', '16'], ['03', '08'])
    """
    own = {"test": test_fold, "valid": test_fold % len(FOLDS) + 1}
    if split in own:
        return set(FOLDS[own[split]])
    rest = FOLDS.keys() - own.values()
    return {name for fold in rest for name in FOLDS[fold]}
