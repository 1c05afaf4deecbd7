"""Preparation of speechocean762 (Zhang et al., Interspeech 2021): a manifest for each split.

The layout is WAVE/SPEAKERxxxx/*, with the tables wav.scp, utt2spk and text in train/ and test/ and
the phones of all words in resource/text-phone. Tables have an ID and its value in each line. The
corpus is published at https://www.openslr.org/101 under CC BY 4.0.
"""

import re
from pathlib import Path

from recipes.common.corpora.preparation import draw_splits, prepare_splits
from recipes.common.data.files import CorpusError, read_lines

PHONE = re.compile(r"([A-Z]+)[0-2]?(?:_[BIES])?")  # ARPAbet, stress, place in the word


def prepare_speechocean762(data_folder, save_folder, splits, **options):
    """Write `<save_folder>/<split>.csv` for any of "train", "valid" and "test".

    15 % of the speakers of the corpus's `train` are "valid". "test" is the corpus's own; where
    that is not there, another 15 % of the speakers of `train`. Safe to repeat: what is there and
    still holds is kept.

    Arguments
    ---------
    data_folder : str or Path
        The folder speechocean762.
    save_folder : str or Path
        Receives the manifests.
    splits : iterable of str
        Of "train", "valid" and "test".
    **options
        `skip_prep`, `skip_bad` and `num_workers`, as `prepare_splits` takes them.

    Raises
    ------
    CorpusError
        Where a table, audio, words or phones are missing or cannot be used. Nothing is written
        then.

    Example
    -------
    >>> prepare_speechocean762("nowhere", "manifest", ["train"])
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: data_folder nowhere is missing or empty: ...
    """
    prepare_splits(list_utterances, data_folder, save_folder, splits, **options)


def list_utterances(data_folder, split):
    """Return a split's rows, with speaker, words and phones, and its problems; `wav` is a Path.

    Phones are ARPAbet without stress and without their place in the word.
    """
    own_test = (Path(data_folder) / "test").is_dir()
    tables = Path(data_folder) / ("test" if own_test and split == "test" else "train")
    wavs, speakers, words = (read_table(tables / name) for name in ("wav.scp", "utt2spk", "text"))
    phones = read_phones(Path(data_folder) / "resource" / "text-phone")
    held = {"valid": 0.15} if own_test else {"valid": 0.15, "test": 0.15}
    try:
        drawn = draw_splits(list(speakers.values()), held) if tables.name == "train" else {}
    except CorpusError as error:
        raise CorpusError(f"{tables / 'utt2spk'}: {error}") from None
    rows, problems = [], []
    for name, wav in wavs.items():
        if drawn.get(speakers.get(name), split) != split:
            continue
        path = Path(data_folder) / wav
        missing = [
            f"no {what}"
            for what, found in (
                ("audio " + wav, path.is_file()),
                ("speaker in utt2spk", name in speakers),
                ("words in text", name in words),
                ("phones in resource/text-phone", name in phones),
            )
            if not found
        ]
        if missing:
            problems.append(f"{tables / 'wav.scp'}: {name} has {', '.join(missing)}.")
            continue
        given = {"spk_id": speakers[name], "wrd": words[name], "phn": phones[name]}
        rows.append({"ID": name, "wav": path, **given})
    return rows, problems


def read_table(path):
    """Return the value of each ID of a table; a CorpusError names a line that is none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "text"
    >>> _ = path.write_text("000010011\\tWE CALL IT BEAR\\n")
    >>> read_table(path)
    {'000010011': 'WE CALL IT BEAR'}
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing: expected speechocean762 as its authors lay it out.")
    table = {}
    for number, line in read_lines(path):
        name, *value = line.split(maxsplit=1)
        if not value or name in table:
            raise CorpusError(f"{path}, line {number}: {line!r} is not a new ID and its value.")
        table[name] = value[0].strip()
    if not table:
        raise CorpusError(f"{path} is empty.")
    return table


def read_phones(path):
    """Return the phones of each utterance, joined by spaces.

    Example
    -------
    >>> path = getfixture("tmp_path") / "text-phone"
    >>> _ = path.write_text("000010011.0\\tW_B IY0_E\\n000010011.1\\tK_B AO0_I L_E\\n")
    >>> read_phones(path)
    {'000010011': 'W IY K AO L'}
    """
    words = {}
    for place, phones in read_table(path).items():
        found = [PHONE.fullmatch(phone) for phone in phones.split()]
        utterance, _, number = place.rpartition(".")
        if None in found or not (utterance and number.isdigit()):
            raise CorpusError(f"{path}: {place} {phones} is not UTTERANCE.WORD and its phones.")
        words.setdefault(utterance, {})[int(number)] = " ".join(match[1] for match in found)
    return {
        utterance: " ".join(phones for _, phones in sorted(own.items()))
        for utterance, own in words.items()
    }
