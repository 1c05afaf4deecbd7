"""Preparation of Google Speech Commands (Warden, arXiv 1804.03209): a manifest for each split.

The layout is WORD/SPEAKER_nohash_NUMBER.wav, with the files of two splits in validation_list.txt
and testing_list.txt, and minutes of noise in _background_noise_. The corpus is published under
CC BY 4.0.
"""

import os
import shutil
from pathlib import Path

import soundfile
from speechbrain.utils.logger import get_logger

from lobes.signal import SAMPLE_RATE
from pretrained.plain_files import is_of_macos
from recipes.common.corpora.downloads import Download, fetch_archives
from recipes.common.corpora.preparation import prepare_splits
from recipes.common.data.files import CorpusError, read_lines

logger = get_logger(__name__)
ADDRESS = "http://download.tensorflow.org/data"
# Bytes and SHA-256, as torchaudio and TensorFlow Datasets have them. Of v0.01's test set we know no
# published sum: it is taken as it comes.
PUBLISHED = {
    "speech_commands_v0.01": (
        1489096277,
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    "speech_commands_test_set_v0.01": (None, None),
    "speech_commands_v0.02": (
        2428923189,
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
    "speech_commands_test_set_v0.02": (
        112563277,
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
    ),
}
VERSIONS = ("v0.01", "v0.02")
LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}
SPLITS = ("train", *LISTS)
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ADDED = "backward"  # a word that v0.01 does not have
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE, CUTS, TEST_SET = "_background_noise_", "_silence_cuts_", "speech_commands_test_set_"
SHARES = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}  # of each noise's seconds
SPEAKER_END = "_nohash_"


def prepare_speech_commands(
    data_folder,
    save_folder,
    splits,
    classes="all",
    version="v0.01",
    download=False,
    skip_prep=False,
    **options,
):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test".

    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder of the words' folders. With `classes` 12, the folder `_silence_cuts_` is made in
        it, of the background noise; its folder `speech_commands_test_set_v0.01`, or that of
        `version`, is the test split where it is there.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
    classes : str or int
        "all": each word is a class, whatever words there are. 12: ten keywords, `_unknown_` for all
        other words and `_silence_` (the protocol of SUPERB, arXiv 2105.01051).
    version : str
        Which version is fetched, and whose official test set is the test split: "v0.01" or "v0.02".
    download : bool
        Whether to fetch what data_folder lacks; what was interrupted goes on.
    skip_prep : bool
        The manifests are there already: nothing is fetched or written.
    **options
        `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a list or audio is missing or cannot be used, or words and official test set are of
        different versions. No manifest is written then.
    ValueError
        Where `classes` or `version` is none of those.

    Example
    -------
    >>> prepare_speech_commands("nowhere", "manifest", ["train"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    if classes not in ("all", 12):
        raise ValueError(f"classes is {classes!r}: expected all or 12.")
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}: expected {' or '.join(VERSIONS)}.")
    if download and not skip_prep:
        fetch_corpus(data_folder, version, with_test_set=classes == 12)
    if classes == 12 and not skip_prep and Path(data_folder).is_dir():
        check_keywords(Path(data_folder))
        cut_noise(Path(data_folder))
    listing = {"classes": classes, "version": version}
    options |= {"listing": listing, "skip_prep": skip_prep}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def fetch_corpus(data_folder, version, with_test_set):
    """Fetch a version of the corpus and its official test set of 12 classes, unless they are there.

    Arguments
    ---------
    data_folder : str or Path
        Made where it is missing. The test set becomes a folder in it.
    version : str
    with_test_set : bool

    Raises
    ------
    CorpusError
        As `fetch_archives` tells, or where the words that are there are of another version.
    """
    check_version(data_folder, version)
    corpus, test_set = f"speech_commands_{version}", f"{TEST_SET}{version}"
    wanted = {corpus: (NOISE, Path(data_folder))}
    if with_test_set:
        wanted[test_set] = (SILENCE, Path(data_folder) / test_set)
    for name, (last, folder) in wanted.items():
        archive = Download(f"{ADDRESS}/{name}.tar.gz", *PUBLISHED[name])
        fetch_archives({last: archive}, folder, ".")


def check_version(data_folder, version):
    """Raise CorpusError where a folder holds the words of another version.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "yes").mkdir()
    >>> check_version(folder, "v0.01")
    >>> check_version(folder, "v0.02")
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: ... holds the words of v0.01, and version is v0.02: ...
    """
    folder = Path(data_folder)
    found = "v0.02" if (folder / ADDED).is_dir() else "v0.01"
    if found != version and (folder / KEYWORDS[0]).is_dir():
        raise CorpusError(
            f"{folder} holds the words of {found}, and version is {version}: give --version "
            f"{found}, or another data_folder."
        )


def check_keywords(data_folder):
    """Raise CorpusError unless a folder has one for each of the ten keywords.

    Example
    -------
    >>> check_keywords(getfixture("tmp_path"))
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: ... has no folder yes, one of the ten keywords: ...
    """
    words = _subfolders(data_folder)
    for word in KEYWORDS:
        if word not in words:
            raise CorpusError(
                f"{data_folder} has no folder {word}, one of the ten keywords: --classes all takes "
                "whatever words there are."
            )


def cut_noise(data_folder):
    """Cut each file of the background noise into files of one second, unless that was done.

    Arguments
    ---------
    data_folder : Path
        Its folder `_silence_cuts_` receives NAME-SECOND.wav.

    Raises
    ------
    CorpusError
        Where there is no noise, it is of another rate, or the folder cannot be written.
    """
    noises, target = sorted((data_folder / NOISE).glob("*.wav")), data_folder / CUTS
    if target.is_dir():
        return
    if not noises:
        raise CorpusError(
            f"{data_folder / NOISE} holds no *.wav, of which {SILENCE} is cut: expected the "
            "corpus's background noise there, or --classes all."
        )
    partial = data_folder / f"{CUTS}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for path in noises:
            _cut_file(path, partial)
        os.replace(partial, target)
    except OSError as error:
        raise CorpusError(f"{target} cannot be written: {error.strerror}.") from error
    except soundfile.LibsndfileError as error:
        raise CorpusError(f"{path} cannot be read: {error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _cut_file(path, folder):
    """Write the whole seconds of a file, one file each, but for those in which nothing varies."""
    with soundfile.SoundFile(path) as noise:
        if noise.samplerate != SAMPLE_RATE or noise.channels != 1:
            raise CorpusError(
                f"{path} is of {noise.samplerate} Hz and {noise.channels} channels: expected "
                f"{SAMPLE_RATE} Hz and one."
            )
        for second in range(noise.frames // SAMPLE_RATE):
            samples = noise.read(SAMPLE_RATE, dtype="int16")
            if samples.min() < samples.max():  # digital silence is no audio to any recipe
                soundfile.write(folder / f"{path.stem}-{second:04d}.wav", samples, SAMPLE_RATE)


def list_utterances(data_folder, split, classes, version):
    """Return a split's rows, with speaker and label, and its problems."""
    folder = Path(data_folder)
    if split not in SPLITS:
        raise CorpusError(f"Speech Commands has no split {split}: expected {', '.join(SPLITS)}.")
    words = _subfolders(folder)
    if not words:
        raise CorpusError(f"{folder} holds no words: expected WORD/SPEAKER{SPEAKER_END}NUMBER.wav.")
    if classes == 12 and split == "test" and (test_set := _find_test_set(folder, version)):
        return _list_test_set(test_set)
    rows, problems = _list_words(folder, words, split)
    if classes == 12:
        if split == "test":
            logger.warning(
                f"{folder} has no {TEST_SET}{version}: the test split is that of {LISTS[split]}"
            )
        for row in rows:
            row["label"] = row["label"] if row["label"] in KEYWORDS else UNKNOWN
        rows += _list_cuts(folder, split)
    return rows, problems


def _list_words(folder, words, split):
    """Return the rows of a split of the words' own files, and what is wrong with them."""
    rows, problems, listed = {}, [], {}
    for word in words:
        for path in _wavs(folder / word):
            speaker, marked, _ = path.stem.partition(SPEAKER_END)
            if not marked or not speaker:
                problems.append(f"{path}: expected the name SPEAKER{SPEAKER_END}NUMBER.wav.")
            name = f"{word}/{path.name}"
            rows[name] = {
                "ID": f"{word}-{path.stem}",
                "wav": path,
                "spk_id": speaker,
                "label": word,
            }
    for own, file in LISTS.items():
        listed[own] = set()
        for number, line in read_lines(_existing_list(folder / file)):
            if line not in rows:
                problems.append(f"{folder / file}, line {number}: there is no {line}.")
            listed[own].add(line)
    if split == "train":
        kept = rows.keys() - set().union(*listed.values())
    else:
        kept = rows.keys() & listed[split]
    return [rows[name] for name in sorted(kept)], problems


def _find_test_set(data_folder, version):
    """Return the folder of a version's official test set, or None where there is none."""
    wanted = data_folder / f"{TEST_SET}{version}"
    if wanted.is_dir():
        check_version(data_folder, version)
        return wanted
    if others := [path.name for path in data_folder.glob(f"{TEST_SET}*") if path.is_dir()]:
        raise CorpusError(
            f"{data_folder} has {others[0]}, and version is {version}: give "
            f"--version {others[0].removeprefix(TEST_SET)}, or fetch {wanted.name}."
        )
    return None


def _list_test_set(folder):
    """Return the rows of the official test set, a folder for each class, and what is wrong with it.

    Some of its names end with .wav.wav, and those of unknown words begin with the word:
    bird_48a8a69d_nohash_0.wav.wav. Silence has no speaker: each file counts as one.
    """
    found, expected = _subfolders(folder), (*KEYWORDS, UNKNOWN, SILENCE)
    if set(found) != set(expected):
        raise CorpusError(f"{folder} has the folders {found}: expected {', '.join(expected)}.")
    rows = []
    for label in expected:
        for path in _wavs(folder / label):
            name = f"{folder.name}-{label}-{path.name.removesuffix('.wav').removesuffix('.wav')}"
            speaker, marked, _ = path.name.partition(SPEAKER_END)
            speaker = speaker.rpartition("_")[2] if marked else name
            rows.append({"ID": name, "wav": path, "spk_id": speaker, "label": label})
    return rows, []


def _list_cuts(folder, split):
    """Return the rows of the cuts of the noise that are a split's: one part of each file."""
    cuts, rows = {}, []
    for path in _wavs(folder / CUTS):
        cuts.setdefault(path.stem.rpartition("-")[0], []).append(path)
    low, high = SHARES[split]
    for own in cuts.values():
        for path in own[round(low * len(own)) : round(high * len(own))]:
            name = f"{SILENCE}-{path.stem}"
            rows.append({"ID": name, "wav": path, "spk_id": name, "label": SILENCE})
    return rows


def _existing_list(path):
    if not path.is_file():
        raise CorpusError(f"{path} is missing: expected a line WORD/FILE.wav for each file of it.")
    return path


def _subfolders(folder):
    """Return the names of the folders in a folder that are classes, sorted."""
    special = {NOISE, CUTS, f"{CUTS}.partial"}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [n for n in names if n not in special and not n.startswith((".", TEST_SET))]


def _wavs(folder):
    """Return the paths of the *.wav in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        kept = (entry for entry in entries if entry.name.endswith(".wav"))
        return sorted(folder / entry.name for entry in kept if not is_of_macos(entry))
