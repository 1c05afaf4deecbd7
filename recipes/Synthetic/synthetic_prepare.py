"""Preparation of the synthetic corpus: made where it is missing, and a manifest for each split."""

import csv
from pathlib import Path

from recipes.common.corpora.preparation import check_splits, prepare_splits
from recipes.common.data.files import read_text
from recipes.Synthetic.corpus import SPEAKERS, make_corpus, path_of


def prepare_synthetic(
    data_folder, save_folder, splits, skip_prep=False, num_workers=None, **options
):
    """Make the corpus where it is missing and write `<save_folder>/<split>.csv`.

    Safe to repeat: what is there and still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The corpus's folder; made, or completed, where it is not there.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    skip_prep : bool
        The manifests are there already.
    num_workers : int, optional
        Processes that make and check the audio; all cores if None.
    **options
        `skip_bad`, as `prepare_splits` takes it.

    Raises
    ------
    CorpusError
        Where the folder holds something else, or eSpeak NG is needed and not installed.

    Example
    -------
    >>> prepare_synthetic(getfixture("tmp_path"), "manifest", ["dev-clean"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: No split dev-clean. There are: train, valid, test.
    """
    check_splits(splits, SPEAKERS)
    if not skip_prep:
        make_corpus(data_folder, num_workers)
    options |= {"skip_prep": skip_prep, "num_workers": num_workers}
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split):
    """Return a split's rows, with speaker, words and phones, and no problems; `wav` is a Path."""
    folder = Path(data_folder)
    phones = {}
    for line in read_text(folder / "alignments" / f"{split}.ctm").splitlines():
        utterance, _, _, _, phone = line.split()
        phones.setdefault(utterance, []).append(phone)
    table = csv.DictReader(read_text(folder / "utterances.csv").splitlines())
    rows = [
        {
            "ID": row["ID"],
            "wav": folder / "wav" / row["speaker"] / path_of(row["ID"]),
            "spk_id": row["speaker"],
            "wrd": row["words"],
            "phn": " ".join(phones[row["ID"]]),
        }
        for row in table
        if row["split"] == split
    ]
    return rows, []
