"""Preparation of VoxCeleb1 (Nagrani et al., Interspeech 2017): the utterances of each trial list.

The layout is wav/SPEAKER/SESSION/NUMBER.wav, with lists of verification trials in meta/NAME.txt:
lines of LABEL ENROL TEST, the label 1 for one speaker and 0 for two, then two paths below wav.
"""

from pathlib import Path, PurePosixPath

from speechbrain.utils.logger import get_logger

from recipes.common.manifest import CorpusError, prepare_splits, read_text

logger = get_logger(__name__)


def prepare_voxceleb1(
    data_folder,
    save_folder,
    trials=("veri_dev", "veri_test2"),
    skip_prep=False,
    skip_bad=False,
    num_workers=None,
):
    """Write `<save_folder>/<trials>.csv` for each trial list: the utterances that it names.

    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds `wav` and `meta`.
    save_folder : str or Path
        Receives the manifests.
    trials : iterable of str
        Lists in `meta`, without ".txt". The published corpus has "veri_test2" but no "veri_dev".
    skip_prep : bool
        The manifests are there already.
    skip_bad : bool
        Leave out audio that cannot be used, instead of stopping.
    num_workers : int, optional
        Processes that check the audio; all cores if None.

    Raises
    ------
    CorpusError
        Where a trial list or audio is missing or cannot be used. Nothing is written then.

    Example
    -------
    >>> prepare_voxceleb1("nowhere", "manifest", ["veri_test2"])
    Traceback (most recent call last):
        ...
    recipes.common.manifest.CorpusError: data_folder nowhere is missing or empty.
    """
    options = {"skip_prep": skip_prep, "skip_bad": skip_bad, "num_workers": num_workers}
    prepare_splits(list_utterances, data_folder, save_folder, trials, options)


def list_utterances(data_folder, name):
    """Return the rows of the utterances that a trial list names, and problems; `wav` is a Path."""
    path, root = trials_path(data_folder, name), Path(data_folder) / "wav"
    lines = {}
    for number, _, *pair in _parse_trials(path):
        for wav in pair:
            lines.setdefault(wav, number)
    problems = [
        f"{path}, line {number}: {root / wav} is missing."
        for wav, number in lines.items()
        if not (root / wav).is_file()
    ]
    rows = [
        {"ID": utterance_id(wav), "wav": root / wav, "spk_id": wav.parts[0]}
        for wav in sorted(lines)
        if (root / wav).is_file()
    ]
    return rows, problems


def trials_path(data_folder, name):
    """Return the path of a trial list.

    Example
    -------
    >>> trials_path("voxceleb1", "veri_test2").as_posix()
    'voxceleb1/meta/veri_test2.txt'
    """
    return Path(data_folder) / "meta" / f"{name}.txt"


def utterance_id(wav):
    """Return the ID of the utterance at a path below `wav`.

    Example
    -------
    >>> utterance_id("id10270/x6uYqmx31kE/00001.wav")
    'id10270-x6uYqmx31kE-00001'
    """
    return "-".join(PurePosixPath(wav).with_suffix("").parts)


def read_trials(path, known_ids=None, skip_bad=False):
    """Read a list of verification trials.

    Arguments
    ---------
    path : str or Path
        The list.
    known_ids : collection of str, optional
        IDs of the manifest; a trial may name no other.
    skip_bad : bool
        Leave out the trials of other utterances, with a warning that counts them, instead of
        stopping: for a manifest that was made with `skip_bad`. What is measured on the rest cannot
        be compared with what others measured on all.

    Returns
    -------
    list of tuple
        (label, enrolment ID, test ID) of each trial; the label is 1 for one speaker, 0 for two.

    Raises
    ------
    CorpusError
        Where the list is missing, a line is malformed or names another utterance, or no trial is
        left; names the lines.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 id1/a/00001.wav id1/b/00002.wav")
    >>> read_trials(path)
    [(1, 'id1-a-00001', 'id1-b-00002')]
    """
    trials, problems = [], []
    for number, label, *pair in _parse_trials(Path(path)):
        ids = [utterance_id(wav) for wav in pair]
        unknown = [name for name in ids if known_ids is not None and name not in known_ids]
        if unknown:
            problems.append(f"{path}, line {number}: {unknown[0]} is not in the manifest.")
        else:
            trials.append((label, *ids))
    if problems and not skip_bad:
        raise CorpusError("\n".join(problems))
    if not trials:
        raise CorpusError(f"{path}: none of the {len(problems)} trials has both its utterances.")
    if problems:
        logger.warning(f"{path}: {len(problems)} of {len(problems) + len(trials)} trials left out")
    return trials


def _parse_trials(path):
    """Return (line number, label, enrolment path, test path) of each trial."""
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("veri*.txt"))
        raise CorpusError(
            f"{path} is missing. Trial lists in {path.parent}: {', '.join(there) or 'none'}."
        )
    trials, problems = [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        if len(fields) == 3 and fields[0] in ("0", "1") and all(map(_is_wav, fields[1:])):
            trials.append((number, int(fields[0]), *map(PurePosixPath, fields[1:])))
        else:
            problems.append(
                f"{path}, line {number}: {line!r} is no trial: expected 0 or 1 and two paths "
                "SPEAKER/SESSION/NUMBER.wav."
            )
    if problems or not trials:
        raise CorpusError("\n".join(problems) or f"{path} holds no trial.")
    return trials


def _is_wav(field):
    path = PurePosixPath(field)
    return len(path.parts) == 3 and path.suffix == ".wav" and ".." not in path.parts
