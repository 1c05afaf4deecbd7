"""Decoding of CTC: greedy and by beam search, with an n-gram language model where there is one."""

import gzip
import logging
import math
import warnings
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torchaudio

from lobes.heads import BLANK

# Natural logarithm of the least probability of a frame's symbol that beam search goes on with.
# Lower ones take time (-10: 3 to 20 times as much) and gain next to nothing.
MIN_LOG_PROB = -7.0
GZIP_MAGIC = b"\x1f\x8b"
MARKS = {"<s>", "</s>", "<unk>"}  # among the words of a language model


def greedy_decode(log_probs, lens, tokenizer, blank_penalty=0.0):
    """Return the text of the best path: in each frame the best symbol.

    A small head that is not sure of a symbol says blank, although the symbol is somewhere near, and
    the best path leaves out half of a text. A penalty on the blank brings these symbols back.

    Arguments
    ---------
    log_probs : torch.Tensor
        Shape (batch, time, len(tokenizer)), natural logarithms; index 0 is the blank.
    lens : torch.Tensor
        Shape (batch,), int64, frames of each utterance.
    tokenizer : SymbolTokenizer or PieceTokenizer
    blank_penalty : float
        Taken off the blank's logarithm.

    Returns
    -------
    list of str

    Example
    -------
    >>> import torch
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> path = torch.tensor([[1, 1, 0, 1, 2, 2]])
    >>> log_probs = torch.nn.functional.one_hot(path, 3).double().log()
    >>> greedy_decode(log_probs, torch.tensor([5]), SymbolTokenizer(["A", "B"]))
    ['AAB']
    """
    penalties = log_probs.new_zeros(log_probs.shape[-1])
    penalties[BLANK] = blank_penalty
    paths = (log_probs - penalties).argmax(-1).cpu()
    rows = zip(paths, lens.tolist(), strict=True)
    best = [path[:frames].unique_consecutive() for path, frames in rows]
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
        The language model: an n-gram model of two words or more as ARPA text, or that text in gzip.
    lm_weight : float
        Weight of the language model, at least 0.
    word_score : float
        Added for each word where there is a language model.

    Raises
    ------
    OSError
        Where the language model is missing, or kenlm, which reads it, is not installed.
    ValueError
        Where it is no ARPA file, none of its words can be written in the tokenizer's symbols, the
        beam size is below 1, or a weight is out of range.

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
        from speechbrain.decoders.ctc import CTCBeamSearcher

        if beam_size < 1:
            raise ValueError(f"beam_size is {beam_size}, expected at least 1.")
        if not 0 <= lm_weight < math.inf:
            raise ValueError(f"lm_weight is {lm_weight}, expected a number of at least 0.")
        if not math.isfinite(word_score):
            raise ValueError(f"word_score is {word_score}, expected a number.")
        self.end_weight = lm_weight * math.log(10)
        self.lm = None
        with _without_hints():
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
                self.lm, scorer = _load_lm(Path(lm_path), tokenizer)
                self.searcher.lm = scorer(alpha=lm_weight, beta=word_score)

    def __call__(self, log_probs, lens):
        """Return the text of each utterance; arguments as those of `greedy_decode`."""
        # Each by itself: the searcher would round down relative lengths.
        rows = zip(log_probs, lens.tolist(), strict=True)
        return [self._best(row[:frames]).text for row, frames in rows]

    def _best(self, log_probs):
        """Return the hypothesis with the best score."""
        rows = log_probs.detach().cpu().double().numpy()
        return max(self.searcher.decode_log_probs(rows, len(rows)), key=self._score)

    def _score(self, hypothesis):
        """Return the score of a whole text: the searcher leaves out the sentence's end."""
        if self.lm is None:
            return hypothesis.score
        whole = self.lm.score(hypothesis.text, bos=True, eos=True)
        end = whole - self.lm.score(hypothesis.text, bos=True, eos=False)
        return hypothesis.lm_score + self.end_weight * end


def align(log_probs, indices):
    """Return the most probable path that spells out symbols.

    Arguments
    ---------
    log_probs : torch.Tensor
        Shape (time, symbols), natural logarithms; index 0 is the blank.
    indices : list of int
        The symbols, without blanks.

    Returns
    -------
    torch.Tensor or None
        Shape (time,), int64, the symbol of each frame or the blank; None where there are too few
        frames: one is needed for each symbol, and one between two that are equal.

    Example
    -------
    >>> log_probs = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2], [0.6, 0.4]]).log()
    >>> align(log_probs, [1]).tolist(), align(log_probs, [1, 1]).tolist()
    ([1, 1, 0, 0], [1, 1, 0, 1])
    >>> align(log_probs, [1, 1, 1]) is None
    True
    """
    repeats = sum(one == other for one, other in zip(indices, indices[1:], strict=False))
    if not indices:
        return torch.full((len(log_probs),), BLANK)
    if len(indices) + repeats > len(log_probs):
        return None
    targets = torch.tensor([indices], dtype=torch.int32)
    with warnings.catch_warnings():
        # Versions 2.8 and 2.9 announce that it will go, which it does not
        warnings.filterwarnings("ignore", ".*forced_align", UserWarning)
        path, _ = torchaudio.functional.forced_align(log_probs[None], targets, blank=BLANK)
    return path[0].long()


@contextmanager
def _without_hints():
    """Keep SpeechBrain's hints back: that no symbol is a space, that a model has few words."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _load_lm(path, tokenizer):
    """Return a language model of kenlm and what makes SpeechBrain's scorer of it."""
    words = _read_arpa_words(path)
    if not any(_can_be_written(word, tokenizer) for word in words - MARKS):
        raise ValueError(
            f"None of the words of {path}, such as {min(words - MARKS, default='none')}, can be "
            f"written in the model's symbols, {tokenizer.kind} such as "
            f"{', '.join(piece.strip() for piece in tokenizer.pieces[1:4])}: expected an n-gram "
            "model of the same language, in the same case, and of phones for a model of phones."
        )
    try:
        import kenlm
        from speechbrain.integrations.decoders.kenlm_scorer import KenlmScorer
    except ImportError as error:
        raise OSError(
            f"Decoding with {path} needs kenlm and pygtrie: pip install kenlm pygtrie (a C++ "
            "compiler and CMake build it). Without a language model neither is needed."
        ) from error
    options = kenlm.Config()
    options.show_progress = False
    options.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        model = kenlm.Model(str(path), options)
    except OSError as error:
        # Behind the place in kenlm's own code
        reason = str(error).rpartition(" threw ")[2].partition(". ")[2].rstrip(".)")
        raise ValueError(
            f"{path} is no n-gram model as ARPA text that kenlm reads: {reason or error}."
        ) from error
    return model, partial(KenlmScorer, model, words)


def _can_be_written(word, tokenizer):
    try:
        return bool(tokenizer.encode(word))
    except ValueError:
        return False


def _read_arpa_words(path):
    """Return the words of an ARPA file.

    SpeechBrain's own reader takes only words that have a back-off weight; the others would count
    as unknown.
    """
    if not path.is_file():
        why = "is no file" if path.exists() else "is missing"
        raise FileNotFoundError(f"The language model {path} {why}.")
    words, section = set(), ""
    try:
        with open(path, "rb") as file:
            packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    section = line.strip()
                elif section == "\\1-grams:" and len(line.split()) > 1:
                    words.add(line.split()[1])
                elif words and section != "\\1-grams:":
                    break
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no n-gram model as ARPA text: it is not UTF-8.") from None
    except (zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no n-gram model as ARPA text: {error}.") from error
    if not words:
        raise ValueError(f"{path} is no n-gram model as ARPA text: no word in \\1-grams.")
    return words
