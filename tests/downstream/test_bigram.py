"""The bigram of the training transcripts: against its definition, and as a beam reads it."""

import itertools
import math

import pytest
import torch

from pretrained.tokenizers import SymbolTokenizer
from recipes.common.downstream.bigram import write_bigram
from recipes.LibriSpeech.ASR.train import make_beam

SENTENCES = ["A B A", "A B", "C A", "C", "B A D", "A A A", "A B"]
WORDS = ["A", "B", "C", "D", "</s>", "<unk>"]


def smooth_slowly(sentences, first, second):
    """Return P(second | first) by interpolated Kneser-Ney smoothing, from lists of pairs."""
    pairs = [pair for s in sentences for pair in itertools.pairwise(["<s>", *s.split(), "</s>"])]
    kinds = set(pairs)

    def discount(counts):
        counts = list(counts)
        return counts.count(1) / (counts.count(1) + 2 * counts.count(2))

    seconds = {b for _, b in kinds}
    before = {b: len({a for a, other in kinds if other == b}) for b in seconds}
    unigram_discount = discount(before.values())
    left = unigram_discount * len(seconds) / len(kinds)
    unigram = max(before.get(second, 0) - unigram_discount, 0) / len(kinds)
    unigram += left / (len(seconds) + 1)
    of_first = [b for a, b in pairs if a == first]
    if not of_first:
        return unigram
    own = discount(pairs.count(pair) for pair in kinds)
    found = max(of_first.count(second) - own, 0) / len(of_first)
    return found + own * len(set(of_first)) / len(of_first) * unigram


def read_back(path):
    """Return a function of two words: P(second | first) of an ARPA bigram with back-off."""
    ones, twos = path.read_text().partition("\\2-grams:")[::2]
    unigrams, backoff = {}, {}
    for line in ones.partition("\\1-grams:\n")[2].splitlines():
        if line:
            value, word, *weight = line.split("\t")
            unigrams[word], backoff[word] = float(value), float(weight[0]) if weight else 0.0
    bigrams = {}
    for line in twos.splitlines()[1:-2]:
        value, words = line.split("\t")
        bigrams[tuple(words.split())] = float(value)

    def probability(first, second):
        lower = unigrams[second] + backoff.get(first, 0.0)
        return 10 ** bigrams.get((first, second), lower)

    return probability


def test_the_bigram_is_that_of_its_definition(tmp_path):
    write_bigram(SENTENCES, tmp_path / "new" / "bigram.arpa")
    probability = read_back(tmp_path / "new" / "bigram.arpa")
    for first in ["<s>", *WORDS]:
        if first == "</s>":
            continue
        for second in WORDS:
            expected = smooth_slowly(SENTENCES, first, second)
            assert probability(first, second) == pytest.approx(expected, rel=3e-4)
        assert sum(probability(first, word) for word in WORDS) == pytest.approx(1, rel=3e-4)


def test_kenlm_reads_the_bigram_as_it_is_meant(tmp_path, kenlm):
    write_bigram(SENTENCES, tmp_path / "bigram.arpa")
    path = tmp_path / "bigram.arpa"
    probability, model = read_back(path), kenlm.Model(str(path))
    for text in ("A B", "C", "D E A"):
        words = ["<s>", *(word if word in WORDS else "<unk>" for word in text.split()), "</s>"]
        expected = math.prod(probability(*pair) for pair in itertools.pairwise(words))
        assert 10 ** model.score(text) == pytest.approx(expected, rel=1e-3)


def test_transcripts_without_a_word_make_no_bigram(tmp_path):
    with pytest.raises(ValueError, match="hold no word"):
        write_bigram(["", " "], tmp_path / "bigram.arpa")
    assert not (tmp_path / "bigram.arpa").exists()


def test_the_recipe_s_beam_prefers_what_the_training_transcripts_say(tmp_path, kenlm):
    settings = {"beam_size": 20, "lm_file": "transcripts", "lm_weight": 2.0, "word_score": 0.0}
    settings["output_folder"] = tmp_path
    tokenizer = SymbolTokenizer(["A", "B", "|"])
    heard = torch.tensor([[[0.02, 0.5, 0.46, 0.02], [0.96, 0.02, 0.01, 0.01]]]).log()
    lens = torch.tensor([2])
    for text in ("A", "B"):
        assert make_beam(settings, [text] * 3, tokenizer)(heard, lens) == [text]
    without = make_beam({**settings, "lm_file": None}, ["B"], tokenizer)
    assert without(heard, lens) == ["A"]
    assert make_beam({**settings, "beam_size": 0}, ["B"], tokenizer) is None
