"""The pronunciation lexicon, and checks of transcripts."""

import re
from collections import Counter, defaultdict
from itertools import dropwhile, takewhile
from pathlib import Path

from speechbrain.utils.logger import get_logger

from pretrained.plain_files import first_few
from recipes.common.data.files import CorpusError, read_lines

logger = get_logger(__name__)

MAX_LISTED = 10  # problems that an error spells out
STRESS = re.compile(r"(?<=\D)[012]$")
PROBABILITY = re.compile(r"\d*\.\d+(e-?\d+)?$")
ALTERNATE = re.compile(r".\(\d+\)$")  # WORD(2)
COMMENT = ";;;"  # as in CMUdict, whose newer form has comments after "#" at the end of lines


def read_lexicon(path):
    """Read a pronunciation lexicon, such as LibriSpeech's, CMUdict, or those of Kaldi and MFA.

    Arguments
    ---------
    path : str or Path
        Lines of a word and its phones, with tabs or spaces between them. The first line of a word
        counts; later ones do not, nor lines such as those of "READ(2)", nor comments: lines of
        ";;;", and what follows a "#" that begins a phone. Probabilities before the phones, numbers
        with a decimal point, are passed over.

    Returns
    -------
    dict
        Word: list of phones, without stress (0, 1 or 2 at a phone's end).

    Raises
    ------
    CorpusError
        Where the file is missing, empty or not UTF-8, or a word has no phones; names the line.

    Example
    -------
    >>> path = getfixture("tmp_path") / "lexicon.txt"
    >>> _ = path.write_text("READ  R EH1 D\\nREAD(2)  R IY1 D\\n")
    >>> read_lexicon(path)
    {'READ': ['R', 'EH', 'D']}
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"The lexicon {path} is missing.")
    lexicon = {}
    for number, line in read_lines(path):
        word, *phones = line.split() or [COMMENT]
        if word.startswith(COMMENT):
            continue
        phones = list(dropwhile(PROBABILITY.match, takewhile(_is_no_comment, phones)))
        if not phones:
            raise CorpusError(f"{path}, line {number}: {word} has no phones.")
        if not ALTERNATE.search(word):
            lexicon.setdefault(word, [STRESS.sub("", phone) for phone in phones])
    if not lexicon:
        raise CorpusError(f"{path} has no word: expected lines such as 'HELLO HH AH0 L OW1'.")
    return lexicon


def _is_no_comment(phone):
    return not phone.startswith("#")


def transcribe_phones(texts, lexicon):
    """Return the phones of texts, by the lexicon.

    Arguments
    ---------
    texts : iterable of str
        Words of each utterance.
    lexicon : dict
        As `read_lexicon` returns it.

    Returns
    -------
    phones : list
        For each text a str of phones, separated by spaces; None where a word is not in the lexicon.
    missing : Counter
        How often each word that is not in the lexicon occurs.

    Example
    -------
    >>> transcribe_phones(["A B", "A"], {"A": ["AH"]})
    ([None, 'AH'], Counter({'B': 1}))
    """
    phones, missing = [], Counter()
    for text in texts:
        unknown = _unknown_words(text, lexicon)
        missing.update(unknown)
        known = [phone for word in text.split() for phone in lexicon.get(word, [])]
        phones.append(None if unknown else " ".join(known))
    return phones, missing


def check_words(texts, lexicon, path, skip_bad):
    """Return the utterances to leave out because a word of theirs has no pronunciation.

    Arguments
    ---------
    texts : dict
        By split: a dict of each utterance's words by its ID.
    lexicon : dict
        As `read_lexicon` returns it.
    path : str or Path
        The lexicon's file, for messages.
    skip_bad : bool
        Leave such utterances out, with a warning, instead of stopping.

    Returns
    -------
    set of str
        IDs.

    Raises
    ------
    CorpusError
        Where a word has no pronunciation, unless `skip_bad`; where `skip_bad` would leave out the
        whole of a split.

    Example
    -------
    >>> texts = {"train": {"a": "ONE", "b": "ONE TWO"}}
    >>> check_words(texts, {"ONE": ["W", "AH", "N"]}, "lexicon.txt", skip_bad=True)
    {'b'}
    """
    places, left_out = defaultdict(list), defaultdict(dict)
    for split, words in texts.items():
        for name, text in words.items():
            for word in _unknown_words(text, lexicon):
                places[word].append((split, name))
                left_out[split][name] = text
    if places and not skip_bad:
        raise CorpusError(_describe_missing(places, lexicon, path))
    for split, names in left_out.items():
        logger.warning(
            f"{split}: {len(names)} of {len(texts[split])} utterance(s) are left out: they have "
            f"words without a pronunciation in {path}."
        )
        if len(names) == len(texts[split]):
            raise CorpusError(f"{path}: no utterance of {split} has a pronunciation of each word.")
    return {name for names in left_out.values() for name in names}


def _unknown_words(text, lexicon):
    return [word for word in text.split() if word not in lexicon]


def _describe_missing(places, lexicon, path):
    """Say which words have no pronunciation, the most frequent first."""
    words = sorted(places, key=lambda word: (-len(places[word]), word))
    lines = []
    for word in words:
        splits = " and ".join(dict.fromkeys(split for split, _ in places[word]))
        first = places[word][0][1]
        lines.append(f"{word}: {len(places[word])} time(s) in {splits}, first in {first}")
    folded = {word.casefold() for word in lexicon}
    cased = sum(word.casefold() in folded for word in words)
    hint = f"\n{cased} of them are there in another case: give the lexicon that of the transcripts,"
    return (
        f"{path} has no pronunciation of {len(words)} word(s):\n  "
        + "\n  ".join(first_few(lines, MAX_LISTED))
        + (hint if cased else "")
        + "\nadd them to the lexicon, or leave these utterances out with --skip_bad True."
    )


def check_transcripts(texts, where):
    """Raise a CorpusError where a transcript is empty.

    Arguments
    ---------
    texts : dict
        Each utterance's words by its ID.
    where : str
        The split, for the message.

    Example
    -------
    >>> check_transcripts({"a": "ONE", "b": " "}, "dev-clean")
    Traceback (most recent call last):
        ...
    recipes.common.data.files.CorpusError: dev-clean: 1 utterance(s) have no transcript: b.
    """
    empty = [name for name, text in texts.items() if not text.strip()]
    if empty:
        raise CorpusError(
            f"{where}: {len(empty)} utterance(s) have no transcript: "
            f"{', '.join(first_few(empty, MAX_LISTED))}."
        )


def check_vocabulary(tokenizer, texts, where):
    """Raise a CorpusError where a transcript has a symbol that the tokenizer lacks.

    Arguments
    ---------
    tokenizer : SymbolTokenizer or PieceTokenizer
    texts : dict
        Each utterance's words, or phones, by its ID.
    where : str
        The split, for the message.

    Example
    -------
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> check_vocabulary(SymbolTokenizer(["A", "B"]), {"a": "AB"}, "dev-clean")
    """
    for name, text in texts.items():
        try:
            tokenizer.encode(text)
        except ValueError as error:
            raise CorpusError(
                f"{where}: {name}: {error} This is a tokenizer of another vocabulary: use the one "
                "of this corpus's training transcripts, or mend the transcript."
            ) from error


def drop_unknown(tokenizer, texts, where):
    """Return transcripts without the symbols that the tokenizer lacks, and warn of these.

    Arguments
    ---------
    tokenizer : SymbolTokenizer or PieceTokenizer
    texts : dict
        Each utterance's words, or phones, by its ID.
    where : str
        The split, for messages.

    Returns
    -------
    dict
        Likewise.

    Raises
    ------
    CorpusError
        Where nothing is left of any transcript, as with a tokenizer of another vocabulary.

    Example
    -------
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> drop_unknown(SymbolTokenizer(["A", "B"]), {"a": "AB"}, "dev-clean")
    {'a': 'AB'}
    """
    known, changed = {}, []
    for name, text in texts.items():
        try:
            known[name] = tokenizer.drop_unknown(text)
        except ValueError as error:
            raise CorpusError(f"{where}: {name}: {error}") from error
        if known[name] != " ".join(text.split()):
            changed.append(name)
    if not any(known.values()):
        check_vocabulary(tokenizer, texts, where)
    if changed:
        logger.warning(
            f"{where}: {len(changed)} transcript(s) have a symbol that no training transcript has, "
            f"first {changed[0]}: {texts[changed[0]]!r}. It cannot be recognised and counts as an "
            "error."
        )
    return known
