"""Preparation of IEMOCAP (Busso et al., 2008): a manifest for each split, four emotions.

The layout is Session1 to Session5, each with sentences/wav/DIALOG/UTTERANCE.wav and, in
dialog/EmoEvaluation/DIALOG.txt, a line with the emotion of each utterance. The corpus has to be
asked for at https://sail.usc.edu/iemocap.
"""

import re
from pathlib import Path

from recipes.common.corpora.preparation import check_splits, draw_splits, prepare_splits
from recipes.common.data.files import CorpusError, find_files, read_lines

SESSIONS = range(1, 6)
VALID = 0.2  # of the utterances that are not tested
# The annotators' codes; those without an emotion here are left out.
EMOTIONS = {
    "ang": "anger",
    "hap": "happiness",
    "exc": "happiness",  # excitement
    "neu": "neutral",
    "sad": "sadness",
    **dict.fromkeys(("fru", "fea", "sur", "dis", "oth", "xxx")),
}
# Such as "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]".
TURN = re.compile(r"\[\s*[\d.]+ - [\d.]+\]\t((Ses\d\d)\w+_([FM])\w*)\t(\w+)\t\[.*\]\s*")


def prepare_iemocap(data_folder, save_folder, splits, test_session, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test" of a fold.

    The utterances that bear one of four emotions, excitement counting as happiness, as SUPERB has
    them (Yang et al., Interspeech 2021). "test" is one session; a fifth of the utterances of the
    others, drawn by a hash of their names, is "valid", so that its speakers are those of "train".
    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder IEMOCAP_full_release.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    test_session : int
        1 to 5.
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a session, an emotion or audio is missing or cannot be used. Nothing is written then.
    ValueError
        Where there is no such session.

    Example
    -------
    >>> prepare_iemocap("nowhere", "manifest", ["test"], test_session=6)
    Traceback (most recent call last):
        ...
    ValueError: test_session is 6: expected a session, 1 to 5.
    """
    check_splits(splits)
    if test_session not in SESSIONS:
        raise ValueError(f"test_session is {test_session}: expected a session, 1 to 5.")
    options["listing"] = {"test_session": test_session}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split, test_session):
    """Return a split's rows, with speaker and label, and its problems; `wav` is a Path."""
    sessions = [n for n in SESSIONS if (n == test_session) == (split == "test")]
    listed = [list_session(Path(data_folder) / f"Session{n}") for n in sessions]
    rows, problems = (sum(parts, []) for parts in zip(*listed, strict=True))
    if split != "test" and rows:
        drawn = draw_splits([row["ID"] for row in rows], {"valid": VALID})
        rows = [row for row in rows if drawn[row["ID"]] == split]
    return rows, problems


def list_session(folder):
    """Return the rows of a session's utterances that bear one of the emotions, and problems."""
    wavs, tables = folder / "sentences" / "wav", folder / "dialog" / "EmoEvaluation"
    for place in (wavs, tables):
        if not place.is_dir():
            raise CorpusError(f"{place} is missing: expected IEMOCAP as its authors lay it out.")
    rows, problems = [], []
    for dialog in sorted(path for path in wavs.iterdir() if path.is_dir()):
        table = tables / f"{dialog.name}.txt"
        if not table.is_file():
            problems.append(f"{table} is missing: the emotions of the audio in {dialog}.")
    for table in find_files(tables, "*.txt"):
        own, wrong = list_dialog(table, wavs / table.stem)
        rows, problems = rows + own, problems + wrong
    return rows, problems


def list_dialog(table, wavs):
    """Return the rows of a dialog's utterances that bear one of the emotions, and problems.

    Arguments
    ---------
    table : Path
        Of the emotions. Of its lines those that begin with a bracket are read.
    wavs : Path
        The folder of the audio.

    Returns
    -------
    rows : list of dict
    problems : list of str
    """
    rows, problems = [], []
    for number, line in read_lines(table):
        if not line.startswith("["):
            continue
        turn = TURN.fullmatch(line)
        if not turn or turn[4] not in EMOTIONS:
            problems.append(
                f"{table}, line {number}: {line!r} is not [START - END], an utterance, one of "
                f"{', '.join(EMOTIONS)} and [V, A, D], with tabs between."
            )
            continue
        name, session, letter, code = turn.groups()
        wav, label = wavs / f"{name}.wav", EMOTIONS[code]
        if label is not None and not wav.is_file():
            problems.append(f"{table}, line {number}: {wav} is missing.")
        elif label is not None:
            rows.append({"ID": name, "wav": wav, "spk_id": session + letter, "label": label})
    return rows, problems
