"""Preparation of VoxCeleb1 and 2 (Nagrani et al., Interspeech 2017; Chung et al., 2018).

The layout is wav/SPEAKER/SESSION/NUMBER.wav. In meta/ are lists of verification trials, NAME.txt:
lines of LABEL ENROL TEST, the label 1 for one speaker and 0 for two, then two paths below wav; and
VoxCeleb1's split for identification, iden_split.txt: lines of PART PATH, the part 1 for training, 2
for validation and 3 for the test. VoxCeleb2 comes as aac/SPEAKER/SESSION/NUMBER.m4a and has to be
converted.

The lists are published at https://www.robots.ox.ac.uk/~vgg/data/voxceleb, under CC BY 4.0. Audio
has to be asked for, at https://mm.kaist.ac.kr/datasets/voxceleb; its copyright stays with the
owners of the videos.
"""

import shlex
from pathlib import Path, PurePosixPath

from speechbrain.utils.logger import get_logger

from pretrained.plain_files import is_of_macos
from recipes.common.corpora.downloads import Download, fetch_file
from recipes.common.corpora.preparation import prepare_splits
from recipes.common.data.files import CorpusError, read_lines

logger = get_logger(__name__)

ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta"
# Bytes and SHA-256 as TensorFlow Datasets has them (url_checksums/voxceleb.txt); MD5 as
# PaddleSpeech has them.
PUBLISHED = {
    "iden_split": (4912512, "3c1d792d4058861cd476a27cc942c824f7e9df812864115a7c2b12df97edfbbf"),
    "veri_test2": (None, "b73110731c9223c1461fe49cb48dddfc"),
    "list_test_hard2": (None, "857790e09d579a68eb2e339a090343c8"),
    "list_test_all2": (None, "a53e059deb562ffcfc092bf5d90d9f3a"),
}
TRAIN = "train"
IDENTIFICATION = {"iden_train": "1", "iden_valid": "2", "iden_test": "3"}
M4A_FOLDERS = ("wav", "aac", "*/aac")  # VoxCeleb2's archives unpack to aac and dev/aac
# Run in the data folder. A wav appears under its name when it is complete.
CONVERT = """find . -path '*/*/*/*.m4a' ! -name '._*' -print0 | xargs -0 -n 100 -P 8 sh -c '
    for m4a do
        wav=wav${m4a#"${m4a%/*/*/*}"}; wav=${wav%.m4a}.wav
        [ -e "$wav" ] || { mkdir -p "${wav%/*}" && ffmpeg -nostdin -loglevel error -y -i "$m4a" \\
            -ac 1 -ar 16000 -f wav "$wav.part" && mv "$wav.part" "$wav"; }
    done' convert"""


def prepare_voxceleb(
    data_folder,
    save_folder,
    splits,
    held_out=("veri_dev", "veri_test2"),
    download=False,
    skip_prep=False,
    **options,
):
    """Write `<save_folder>/<split>.csv` for each split.

    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds `wav` and, for lists, `meta`.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        "train": every utterance of the speakers that no `held_out` list names. "iden_train",
        "iden_valid", "iden_test": the parts of the split for identification. Any other name is that
        of a trial list in `meta`, without ".txt": the utterances that it names.
    held_out : iterable of str
        Trial lists. The published VoxCeleb1 has "veri_test2" but no "veri_dev"; VoxCeleb2 has none.
    download : bool
        Whether to fetch the published lists that `meta` lacks. Audio is never fetched.
    skip_prep : bool
        The manifests are there already: nothing is fetched or written.
    **options
        `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a list or audio is missing or cannot be used, or audio is there as m4a only. No
        manifest is written then.

    Example
    -------
    >>> prepare_voxceleb("nowhere", "manifest", ["veri_test2"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    held_out = [held_out] if isinstance(held_out, str) else list(held_out)
    splits = [splits] if isinstance(splits, str) else list(splits)
    if download and not skip_prep:
        fetch_lists(data_folder, splits, held_out)
    options |= {"skip_prep": skip_prep, "listing": {"held_out": held_out}}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split, held_out):
    """Return the rows of a split, and what is wrong with it; `wav` is a Path."""
    if split == TRAIN:
        return list_training(data_folder, held_out)
    return list_named(data_folder, split)


def fetch_lists(data_folder, splits, held_out):
    """Fetch the published lists behind some splits that are not in `meta`.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds `wav`; its `meta` is made where it is missing.
    splits, held_out : iterable of str
        As `prepare_voxceleb` takes them.

    Raises
    ------
    CorpusError
        As `fetch_file` tells; also where there is no audio, with where to ask for it.

    Example
    -------
    >>> fetch_lists("nowhere", ["veri_test2"], [])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: nowhere holds no audio, which has to be asked for at ...
    """
    folder = Path(data_folder)
    if not any(path.is_dir() for place in M4A_FOLDERS for path in folder.glob(place)):
        raise CorpusError(
            f"{folder} holds no audio, which has to be asked for at "
            "https://mm.kaist.ac.kr/datasets/voxceleb: expected wav/SPEAKER/SESSION/NUMBER.wav in "
            "it. --download True fetches the lists alone."
        )
    names = ["iden_split" if split in IDENTIFICATION else split for split in splits]
    if TRAIN in splits:
        names += held_out
    for name in PUBLISHED.keys() & set(names):
        (folder / "meta").mkdir(exist_ok=True)
        own = Download(f"{ADDRESS}/{name}.txt", *PUBLISHED[name])
        fetch_file(own, trials_path(folder, name))


def list_training(data_folder, held_out):
    """Return the rows of all speakers that no held-out list names, and no problems."""
    held, root = _held_speakers(data_folder, held_out), data_folder / "wav"
    there = [path for path in root.glob("*/*/*.wav") if not is_of_macos(path)]
    found = sorted(path.relative_to(root) for path in there)
    wavs = [wav for wav in found if wav.parts[0] not in held]
    m4a = _without_wav(data_folder)
    wanted = [path for wav, path in m4a.items() if wav.parts[0] not in held]
    if wanted:
        raise CorpusError(_how_to_convert(data_folder, wanted))
    if not wavs:
        raise CorpusError(
            f"{root} holds no audio of a speaker to train on: expected SPEAKER/SESSION/NUMBER.wav "
            f"in it, of speakers that no held-out list ({', '.join(held_out) or 'none'}) names."
        )
    return [_row(root, wav) for wav in wavs], []


def _held_speakers(data_folder, held_out):
    """Return the speakers that the held-out lists name."""
    speakers, problems = set(), []
    there = [name for name in held_out if trials_path(data_folder, name).is_file()]
    for name in held_out:
        path = trials_path(data_folder, name)
        if name not in there:
            problems.append(
                f"{path} is missing, whose speakers are to be held out of {TRAIN}. The published "
                "VoxCeleb1 has no veri_dev, and VoxCeleb2 no list: make such a list, or do "
                f"without it (--held_out [{','.join(there)}])."
            )
            continue
        try:
            speakers |= {wav.parts[0] for _, _, *pair in _parse_trials(path) for wav in pair}
        except CorpusError as error:
            problems.append(str(error))
    if problems:
        raise CorpusError("\n".join(problems))
    return speakers


def list_named(data_folder, split):
    """Return the rows of what a split's list names, and problems; `wav` is a Path."""
    path, lines = _read_list(data_folder, split)
    root = data_folder / "wav"
    missing = {wav for wav in lines if not (root / wav).is_file()}
    m4a = _without_wav(data_folder) if missing else {}
    problems = [
        f"{path}, line {lines[wav]}: {root / wav} is missing."
        for wav in lines
        if wav in missing and wav not in m4a
    ]
    wanted = [m4a[wav] for wav in missing & m4a.keys()]
    if wanted:
        raise CorpusError("\n".join([_how_to_convert(data_folder, wanted), *problems]))
    return [_row(root, wav) for wav in sorted(lines) if wav not in missing], problems


def _read_list(data_folder, split):
    """Return the path of the list behind a split and the line of each utterance that it names."""
    if split in IDENTIFICATION:
        path = data_folder / "meta" / "iden_split.txt"
        return path, _parse_identification(path, IDENTIFICATION[split])
    path, lines = trials_path(data_folder, split), {}
    for number, _, *pair in _parse_trials(path):
        for wav in pair:
            lines.setdefault(wav, number)
    return path, lines


def _row(root, wav):
    return {"ID": utterance_id(wav), "wav": root / wav, "spk_id": wav.parts[0]}


def _without_wav(data_folder):
    """Return the m4a file of each utterance that has no wav file."""
    found = {}
    for folder in M4A_FOLDERS:
        for path in data_folder.glob(f"{folder}/*/*/*.m4a"):
            wav = PurePosixPath(*path.parts[-3:]).with_suffix(".wav")
            if not is_of_macos(path) and not (data_folder / "wav" / wav).is_file():
                found[wav] = path
    return found


def _how_to_convert(data_folder, paths):
    """Say that m4a files cannot be read, and by which command they become wav files."""
    return (
        f"{len(paths)} utterance(s) are there as m4a only, which libsndfile cannot read, such as "
        f"{min(paths)}. This converts all of {data_folder} to wav, with ffmpeg; remove m4a files "
        f"that it refuses.\n(cd {shlex.quote(str(data_folder.absolute()))} && {CONVERT})"
    )


def _parse_identification(path, part):
    """Return the line of each utterance of a part of the split for identification."""
    if not path.is_file():
        raise CorpusError(f"{path} is missing: VoxCeleb1's split for identification.")
    lines, named, problems = {}, {}, []
    expected = "not of the split: expected 1, 2 or 3 and a path"
    for number, own, wav in _parse_list(path, IDENTIFICATION.values(), 1, expected):
        if lines.setdefault(wav, number) != number:
            problems.append(f"{path}, line {number}: {wav} is in line {lines[wav]} already.")
        elif own == part:
            named[wav] = number
    if problems or not named:
        raise CorpusError("\n".join(problems) or f"{path} has no utterance of part {part}.")
    return named


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


def read_trials(path, known_ids=None, skip_bad=False, short=None):
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
    short : dict, optional
        Seconds of utterances that are shorter than `min_seconds`, by ID, for the message.

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
            why = "not in the manifest"
            if short and unknown[0] in short:
                why = f"{short[unknown[0]]} s long, which is less than min_seconds"
            problems.append(f"{path}, line {number}: {unknown[0]} is {why}.")
        else:
            trials.append((int(label), *ids))
    if problems and not skip_bad:
        raise CorpusError("\n".join(problems))
    if not trials:
        raise CorpusError(f"{path}: none of the {len(problems)} trials has both its utterances.")
    if problems:
        logger.warning(f"{path}: {len(problems)} of {len(problems) + len(trials)} trials left out")
    return trials


def count_left_out_trials(paths, used):
    """Return how many trials of some lists are not among those that are used.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 a/a/1.wav a/b/2.wav\\n0 a/a/1.wav b/b/2.wav")
    >>> count_left_out_trials([path], read_trials(path, {"a-a-1", "a-b-2"}, skip_bad=True))
    1
    """
    return sum(len(_parse_trials(Path(path))) for path in paths) - len(used)


def _parse_trials(path):
    """Return (line number, label, enrolment path, test path) of each trial."""
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("veri*.txt"))
        raise CorpusError(
            f"{path} is missing. Trial lists in {path.parent}: {', '.join(there) or 'none'}."
        )
    trials = _parse_list(path, ("0", "1"), 2, "no trial: expected 0 or 1 and two paths")
    if not trials:
        raise CorpusError(f"{path} holds no trial.")
    return trials


def _parse_list(path, labels, wavs, expected):
    """Return (line number, label, path, ...) of each line: a label and so many paths."""
    found, problems = [], []
    for number, line in read_lines(path):
        label, *fields = line.split()
        if label in labels and len(fields) == wavs and all(map(_is_wav, fields)):
            found.append((number, label, *map(PurePosixPath, fields)))
        else:
            problems.append(
                f"{path}, line {number}: {line!r} is {expected} SPEAKER/SESSION/NUMBER.wav."
            )
    if problems:
        raise CorpusError("\n".join(problems))
    return found


def _is_wav(field):
    path = PurePosixPath(field)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and len(path.parts) == 3 and path.suffix == ".wav"
