"""Preparation of VoxLingua107 (Valk and Alumäe, SLT 2021): a manifest for each split.

The layout is LANGUAGE/VIDEO__U__SEGMENT.wav, to train on, and dev/LANGUAGE/*.wav, which is tested;
any number of the languages may be there. The corpus is published at
https://bark.phon.ioc.ee/voxlingua107 under CC BY 4.0.
"""

from pathlib import Path

from speechbrain.utils.logger import get_logger

from recipes.common.corpora.preparation import check_splits, draw_splits, prepare_splits
from recipes.common.data.files import CorpusError, find_files

logger = get_logger(__name__)
DEV = "dev"  # the folder of what is tested
VALID = 0.05  # of the videos of each language
AFTER_VIDEO = "__U__"  # in a file's name


def prepare_voxlingua107(data_folder, save_folder, splits, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test".

    "test" is the published development set, as far as its languages are there to train on. Of each
    language, one in twenty videos, drawn by a hash of their names, is "valid". `label` is the
    language's code. Speakers are not known: a video counts as one. Safe to repeat: what is there
    and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder that holds the languages' folders, and `dev`.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where languages are missing or have too few videos, or audio cannot be used. Nothing is
        written then.

    Example
    -------
    >>> prepare_voxlingua107("nowhere", "manifest", ["train"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    check_splits(splits)
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split):
    """Return a split's rows, with video and language, and its problems; `wav` is a Path."""
    trained = list_languages(data_folder)
    if len(trained) < 2:
        raise CorpusError(
            f"{data_folder} has audio of {len(trained)} language(s): expected two or more folders "
            "such as en/ and de/, with *.wav in them."
        )
    if split == "test":
        tested = list_languages(Path(data_folder) / DEV)
        return list_tested(tested, trained, Path(data_folder) / DEV), []
    rows, problems = [], []
    for language, wavs in trained.items():
        own = [make_row(language, wav) for wav in wavs]
        try:
            drawn = draw_splits([row["spk_id"] for row in own], {"valid": VALID})
        except CorpusError as error:
            problems.append(f"{wavs[0].parent}: {error} Here, a video stands for a speaker.")
        else:
            rows += [row for row in own if drawn[row["spk_id"]] == split]
    return rows, problems


def list_tested(tested, trained, folder):
    """Return the rows of the languages that are both tested and trained on."""
    if not tested.keys() & trained.keys():
        raise CorpusError(
            f"{folder} has no audio of the languages that are there to train on, "
            f"{', '.join(trained)}: expected folders of these names in it, with *.wav in them."
        )
    left_out = sorted(tested.keys() - trained.keys())
    if left_out:
        logger.warning(f"Not tested, as not there to train on: {', '.join(left_out)}")
    return [
        make_row(language, wav, f"{DEV}-")
        for language, wavs in tested.items()
        if language in trained
        for wav in wavs
    ]


def list_languages(folder):
    """Return the audio of each language, a folder of that name, as far as it has any."""
    folders = sorted(path for path in Path(folder).glob("*/") if path.name != DEV)
    found = {path.name: find_files(path, "*.wav") for path in folders}
    return {language: wavs for language, wavs in found.items() if wavs}


def make_row(language, wav, prefix=""):
    """Return the row of a segment.

    Example
    -------
    >>> row = make_row("en", Path("en/a1__U__S2---0001.000-0009.000.wav"))
    >>> row["ID"], row["spk_id"], row["label"]
    ('en-a1__U__S2---0001.000-0009.000', 'en-a1', 'en')
    """
    video = wav.stem.partition(AFTER_VIDEO)[0]
    return {
        "ID": f"{prefix}{language}-{wav.stem}",
        "wav": wav,
        "spk_id": f"{language}-{video}",
        "label": language,
    }
