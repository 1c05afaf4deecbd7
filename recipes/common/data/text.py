"""Text for CTC recipes: the lexicon, checks of transcripts, greedy and beam search decoding.

The tokenizers themselves are in `pretrained.tokenizers`.
"""

import gzip
import math
import re
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

from speechbrain.decoders.ctc import CTCBeamSearcher
from speechbrain.utils.logger import get_logger

from recipes.common.data.manifest import CorpusError, read_text

logger = get_logger(__name__)

MAX_LISTED = 10  # problems that an error spells out
STRESS = re.compile(r"(?<=\D)[012]$")
ALTERNATE = re.compile(r".\(\d+\)$")  # WORD(2)
COMMENT = ";;;"  # as in CMUdict
# Natural logarithm of the least probability of a frame's symbol that beam search goes on with.
# Lower ones take time (-10: 3 to 20 times as much) and gain next to nothing.
MIN_LOG_PROB = -7.0


def read_lexicon(path):
    """Read a pronunciation lexicon, such as LibriSpeech's or CMUdict.

    Arguments
    ---------
    path : str or Path
        Lines of a word and its phones, with tabs or spaces between them. The first line of a word
        counts; later ones do not, nor lines such as those of "READ(2)", nor comments after ";;;".

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
    for number, line in enumerate(read_text(path).splitlines(), 1):
        word, *phones = line.split() or [COMMENT]
        if word.startswith(COMMENT):
            continue
        if not phones:
            raise CorpusError(f"{path}, line {number}: {word} has no phones.")
        if not ALTERNATE.search(word):
            lexicon.setdefault(word, [STRESS.sub("", phone) for phone in phones])
    if not lexicon:
        raise CorpusError(f"{path} has no word: expected lines such as 'HELLO HH AH0 L OW1'.")
    return lexicon


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
        raise CorpusError(_describe_missing(places, path))
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


def _describe_missing(places, path):
    """Say which words have no pronunciation, the most frequent first."""
    words = sorted(places, key=lambda word: (-len(places[word]), word))
    lines = []
    for word in words[:MAX_LISTED]:
        splits = " and ".join(dict.fromkeys(split for split, _ in places[word]))
        first = places[word][0][1]
        lines.append(f"  {word}: {len(places[word])} time(s) in {splits}, first in {first}")
    if len(words) > MAX_LISTED:
        lines.append(f"  and {len(words) - MAX_LISTED} more")
    return (
        f"{path} has no pronunciation of {len(words)} word(s):\n"
        + "\n".join(lines)
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
    recipes.common.data.manifest.CorpusError: dev-clean: 1 utterance(s) have no transcript: b.
    """
    empty = [name for name, text in texts.items() if not text.strip()]
    if empty:
        more = ", ..." if len(empty) > MAX_LISTED else ""
        raise CorpusError(
            f"{where}: {len(empty)} utterance(s) have no transcript: "
            f"{', '.join(empty[:MAX_LISTED])}{more}."
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


def greedy_decode(log_probs, lens, tokenizer):
    """Return the text of the best path: in each frame the best symbol.

    Arguments
    ---------
    log_probs : torch.Tensor
        Shape (batch, time, len(tokenizer)), natural logarithms; index 0 is the blank.
    lens : torch.Tensor
        Shape (batch,), int64, frames of each utterance.
    tokenizer : SymbolTokenizer or PieceTokenizer

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        Where the shapes do not fit.

    Example
    -------
    >>> import torch
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> path = torch.tensor([[1, 1, 0, 1, 2, 2]])
    >>> log_probs = torch.nn.functional.one_hot(path, 3).double().log()
    >>> greedy_decode(log_probs, torch.tensor([5]), SymbolTokenizer(["A", "B"]))
    ['AAB']
    """
    _check_shapes(log_probs, lens, tokenizer)
    paths = log_probs.argmax(-1).cpu()
    best = [path[:frames].unique_consecutive() for path, frames in zip(paths, lens, strict=True)]
    return [tokenizer.decode(indices.tolist()) for indices in best]


class BeamDecoder:
    """CTC beam search for the best text, with an n-gram model of words where there is one.

    A text's score is the natural logarithm of its probability, over all alignments and all ways to
    write it in the tokenizer's symbols; with a language model also

        lm_weight * ln P(words and sentence end) + word_score * number of words,

    where a word that the model does not know costs another 23 * lm_weight. SpeechBrain's
    `CTCBeamSearcher` does the search. Meant for trained models: where most symbols are likely in
    most frames, it takes minutes.

    Arguments
    ---------
    tokenizer : SymbolTokenizer or PieceTokenizer
        With phones, the language model is one of phones.
    beam_size : int
        Hypotheses that are kept after each frame.
    lm_path : str or Path, optional
        The language model: an n-gram model of two words or more as ARPA text, or that text in gzip
        (".gz").
    lm_weight : float
        Weight of the language model.
    word_score : float
        Added for each word where there is a language model.

    Raises
    ------
    FileNotFoundError
        Where the language model is missing.
    ValueError
        Where it is no ARPA file, or the beam size is below 1.
    ImportError
        Where there is a language model and kenlm, which reads it, is not installed.

    Example
    -------
    >>> import torch
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> tokenizer = SymbolTokenizer(["A", "B"])
    >>> log_probs = torch.tensor([[[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]]).log()
    >>> greedy_decode(log_probs, torch.tensor([2]), tokenizer)
    ['']
    >>> BeamDecoder(tokenizer, beam_size=10)(log_probs, torch.tensor([2]))
    ['A']
    """

    def __init__(self, tokenizer, beam_size, lm_path=None, lm_weight=0.5, word_score=1.5):
        if beam_size < 1:
            raise ValueError(f"beam_size is {beam_size}, expected at least 1.")
        self.tokenizer = tokenizer
        self.end_weight = lm_weight * math.log(10)
        self.lm = None
        self.searcher = CTCBeamSearcher(
            blank_index=0,
            vocab_list=tokenizer.pieces,
            spm_token=" ",
            beam_size=beam_size,
            topk=beam_size,
            token_prune_min_logp=MIN_LOG_PROB,
            beam_prune_logp=-math.inf,
            prune_history=False,
        )
        if lm_path is not None:
            self.lm, scorer = _load_lm(Path(lm_path))
            self.searcher.lm = scorer(alpha=lm_weight, beta=word_score)

    def __call__(self, log_probs, lens):
        """Return the text of each utterance; arguments as those of `greedy_decode`."""
        _check_shapes(log_probs, lens, self.tokenizer)
        # Each by itself: the searcher would round down relative lengths.
        rows = log_probs.detach().double().cpu().numpy()
        beams = [
            self.searcher.decode_log_probs(row, frames)
            for row, frames in zip(rows, lens.tolist(), strict=True)
        ]
        return [max(beam, key=self._score).text for beam in beams]

    def _score(self, hypothesis):
        """Return the score of a whole text: the searcher leaves out the sentence's end."""
        if self.lm is None:
            return hypothesis.score
        whole = self.lm.score(hypothesis.text, bos=True, eos=True)
        end = whole - self.lm.score(hypothesis.text, bos=True, eos=False)
        return hypothesis.lm_score + self.end_weight * end


def _check_shapes(log_probs, lens, tokenizer):
    if log_probs.ndim != 3 or log_probs.shape[-1] != len(tokenizer):
        raise ValueError(
            f"Log probabilities have shape {tuple(log_probs.shape)}, expected (batch, time, "
            f"{len(tokenizer)}), the last for the tokenizer's symbols and the blank."
        )
    if lens.is_floating_point() or lens.shape != log_probs.shape[:1]:
        raise ValueError(f"lens must give each utterance's frames as an integer, not {lens}.")
    if len(lens) and not 0 <= lens.min() <= lens.max() <= log_probs.shape[1]:
        raise ValueError(f"lens must be between 0 and {log_probs.shape[1]} frames, not {lens}.")


def _load_lm(path):
    """Return a language model of kenlm and what makes SpeechBrain's scorer of it."""
    words = _read_arpa_words(path)
    try:
        import kenlm
        from speechbrain.integrations.decoders.kenlm_scorer import KenlmScorer
    except ImportError as error:
        raise ImportError(
            f"Decoding with {path} needs kenlm and pygtrie: pip install kenlm pygtrie (a C++ "
            "compiler and CMake build it). Without a language model neither is needed."
        ) from error
    options = kenlm.Config()
    options.show_progress = False
    options.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        model = kenlm.Model(str(path), options)
    except OSError as error:
        raise ValueError(
            f"{path} is no n-gram model as ARPA text that kenlm reads: {error}."
        ) from error
    return model, partial(KenlmScorer, model, words)


def _read_arpa_words(path):
    """Return the words of an ARPA file.

    SpeechBrain's own reader takes only words that have a back-off weight; the others would count
    as unknown.
    """
    if not path.is_file():
        raise FileNotFoundError(f"The language model {path} is missing.")
    words, section = set(), ""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    section = line.strip()
                elif section == "\\1-grams:" and len(line.split()) > 1:
                    words.add(line.split()[1])
                elif words and section != "\\1-grams:":
                    break
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no n-gram model as ARPA text: {error}.") from error
    if not words:
        raise ValueError(f"{path} is no n-gram model as ARPA text: no word in \\1-grams.")
    return words
