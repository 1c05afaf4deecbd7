"""Decoding of CTC, against all alignments."""

import gzip
import itertools
import math
import sys
from collections import defaultdict

import pytest
import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from torch.nn.functional import ctc_loss

from pretrained.decoding import BeamDecoder, align, greedy_decode
from pretrained.tokenizers import SymbolTokenizer

ARPA = r"""
\data\
ngram 1=6
ngram 2=3

\1-grams:
-2.0	<unk>
-99	<s>	-0.3
-0.9	</s>
-0.7	A	-0.2
-0.8	AB	-0.3
-1.1	B

\2-grams:
-0.2	<s> AB
-0.3	A </s>
-1.5	AB </s>

\end\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "bigram.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def draw_log_probs(seed, frames, tokenizer, sharpness=1.5):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(frames, len(tokenizer), generator=generator)
    return logits.double().log_softmax(-1)


def score_texts(log_probs, tokenizer):
    """Return the log probability of every text: the sum over all alignments that spell it."""
    frames, size = log_probs.shape
    totals = defaultdict(float)
    for path in itertools.product(range(size), repeat=frames):
        collapsed = [index for index, _ in itertools.groupby(path)]
        chance = math.exp(sum(log_probs[t, index].item() for t, index in enumerate(path)))
        totals[tokenizer.decode(collapsed)] += chance
    return {text: math.log(total) for text, total in totals.items()}


# The best path


def test_greedy_decoding_is_speechbrains(tokenizer):
    log_probs = torch.stack([draw_log_probs(seed, 20, tokenizer) for seed in range(8)])
    lens = torch.tensor([20, 19, 13, 8, 5, 2, 1, 20])
    expected = ctc_greedy_decode(log_probs, lens / 20, blank_id=0)
    texts = greedy_decode(log_probs, lens, tokenizer)
    assert texts == [tokenizer.decode(indices) for indices in expected]
    assert len(set(texts)) == 8


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_frames_behind_the_end_do_not_count(decoder, tokenizer):
    log_probs = draw_log_probs(0, 12, tokenizer)
    padded = torch.stack([log_probs, log_probs, log_probs])
    lens = torch.tensor([7, 12, 0])
    decode = (
        BeamDecoder(tokenizer, beam_size=20)
        if decoder == "beam"
        else lambda *inputs: greedy_decode(*inputs, tokenizer)
    )
    expected = [decode(log_probs[None, :n], torch.tensor([n]))[0] for n in (7, 12)]
    assert decode(padded, lens) == [*expected, ""]
    assert expected[0] != expected[1]


# Beam search


@pytest.mark.long
def test_beam_search_finds_the_best_of_all_texts(tokenizer):
    decoder = BeamDecoder(tokenizer, beam_size=500)
    changed = 0
    for seed in range(12):
        log_probs = draw_log_probs(seed, 5, tokenizer)
        scores = score_texts(log_probs, tokenizer)
        assert math.isclose(sum(map(math.exp, scores.values())), 1)
        batch, lens = log_probs[None], torch.tensor([5])
        best = max(scores, key=scores.get)
        assert decoder(batch, lens) == [best]
        changed += greedy_decode(batch, lens, tokenizer) != [best]
    assert changed >= 2


def test_a_narrow_beam_finds_a_likelier_text_than_the_best_path():
    tokenizer = SymbolTokenizer([f"P{number}" for number in range(10)], "phones")
    decoder, lens = BeamDecoder(tokenizer, beam_size=10), torch.tensor([40])

    def log_likelihood(log_probs, text):
        indices = torch.tensor(tokenizer.encode(text))
        return -ctc_loss(log_probs, indices, lens, torch.tensor([len(indices)]), reduction="sum")

    gains = []
    for seed in range(10):
        log_probs = draw_log_probs(seed, 40, tokenizer)
        (found,) = decoder(log_probs[None], lens)
        (greedy,) = greedy_decode(log_probs[None], lens, tokenizer)
        gains.append(log_likelihood(log_probs, found) - log_likelihood(log_probs, greedy))
    assert min(gains) >= -1e-9
    assert max(gains) > 0.5


def test_signs_of_other_conventions_are_characters_like_any():
    tokenizer = SymbolTokenizer(["#", "<", "_", "|", "▁"])
    log_probs = torch.full((1, 9, 6), -9.0)
    for frame, index in enumerate([5, 1, 0, 1, 4, 2, 3, 5, 0]):
        log_probs[0, frame, index] = -0.01
    assert BeamDecoder(tokenizer, beam_size=5)(log_probs, torch.tensor([9])) == ["▁## <_▁"]


def test_a_beam_of_none_is_refused():
    with pytest.raises(ValueError, match="beam_size is 0"):
        BeamDecoder(SymbolTokenizer(["A"]), beam_size=0)


# The language model


@pytest.mark.parametrize(("weight", "word_score"), [(0.5, 1.5), (1.5, -0.5), (0.0, 3.0)])
def test_a_language_model_adds_what_the_documentation_says(
    weight, word_score, tokenizer, arpa, kenlm
):
    decoder = BeamDecoder(tokenizer, 500, arpa, weight, word_score)
    model = kenlm.Model(str(arpa))
    changed = 0
    for seed in range(12):
        log_probs = draw_log_probs(seed, 5, tokenizer)
        scores = score_texts(log_probs, tokenizer)
        plain = max(scores, key=scores.get)
        for text in scores:
            words = text.split()
            unknown = sum(word not in ("A", "AB", "B") for word in words)
            chance = model.score(text, bos=True, eos=True) - 10 * unknown
            scores[text] += weight * math.log(10) * chance + word_score * len(words)
        best = max(scores, key=scores.get)
        assert decoder(log_probs[None], torch.tensor([5])) == [best]
        changed += best != plain
    assert changed >= 2


def test_the_words_of_a_language_model_need_no_back_off(arpa, kenlm):
    tokenizer = SymbolTokenizer(["A", "B", "C", "|"])
    log_probs = torch.tensor([[[0.01, 0.01, 0.47, 0.5, 0.01]]]).log()
    assert BeamDecoder(tokenizer, 50)(log_probs, torch.tensor([1])) == ["C"]
    assert BeamDecoder(tokenizer, 50, arpa)(log_probs, torch.tensor([1])) == ["B"]


def test_a_language_model_may_be_in_gzip(arpa, tokenizer, kenlm):
    packed = arpa.with_name("bigram.gz.of.another.name")
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    log_probs = torch.stack([draw_log_probs(seed, 9, tokenizer) for seed in range(4)])
    lens = torch.tensor([9] * 4)
    plain, from_gzip = (BeamDecoder(tokenizer, 20, path, 1.0) for path in (arpa, packed))
    assert from_gzip(log_probs, lens) == plain(log_probs, lens)


def test_a_missing_language_model_is_named(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.arpa is missing"):
        BeamDecoder(tokenizer, 5, tmp_path / "none.arpa")
    with pytest.raises(FileNotFoundError, match="is no file"):
        BeamDecoder(tokenizer, 5, tmp_path)


@pytest.mark.parametrize("change", [str.lower, lambda text: text.replace("A", "C")])
def test_a_language_model_of_other_words_is_refused(change, tokenizer, tmp_path):
    path = tmp_path / "other.arpa"
    head, grams = ARPA.split("\\1-grams:", 1)
    path.write_text(head + "\\1-grams:" + change(grams.replace("\tB", "\tC")))
    with pytest.raises(ValueError, match="None of the words of .*other.arpa, such as"):
        BeamDecoder(tokenizer, 5, path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"lm_weight": math.nan}, "lm_weight is nan, expected a number of at least 0"),
        ({"lm_weight": -0.1}, "lm_weight is -0.1"),
        ({"lm_weight": math.inf}, "lm_weight is inf"),
        ({"word_score": math.nan}, "word_score is nan, expected a number"),
        ({"word_score": -math.inf}, "word_score is -inf"),
    ],
)
def test_weights_that_are_out_of_range_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        BeamDecoder(SymbolTokenizer(["A"]), 5, **weights)


def test_hints_of_the_searcher_are_kept_back(arpa, kenlm, caplog):
    BeamDecoder(SymbolTokenizer(["A", "AB", "B"], "phones"), 5, arpa)
    assert not caplog.records


# Alignment


@pytest.mark.parametrize("indices", [[1], [1, 1], [2, 1], [1, 2, 2], []])
def test_the_path_of_a_text_is_the_most_probable_of_all(indices, tokenizer):
    for seed in range(5):
        log_probs = draw_log_probs(seed, 5, tokenizer)
        paths = itertools.product(range(len(tokenizer)), repeat=5)
        spelled = [p for p in paths if [k for k, _ in itertools.groupby(p) if k] == indices]
        best = max(spelled, key=lambda p: sum(log_probs[t, k].item() for t, k in enumerate(p)))
        assert align(log_probs, indices).tolist() == list(best)


def test_no_path_spells_a_text_in_too_few_frames():
    log_probs = torch.zeros(3, 2).log_softmax(-1)
    assert align(log_probs, [1, 1]) is not None
    assert align(log_probs[:2], [1, 1]) is None and align(log_probs, [1, 1, 1]) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.arpa", b""),
        ("a.arpa", b"ONE TWO\n"),
        ("a.arpa", b"mmap lm \x80\xff\n"),
        ("a.arpa.gz", gzip.compress(ARPA.encode(), mtime=0)[:80]),
    ],
)
def test_a_file_that_is_no_arpa_is_named(name, content, tokenizer, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is no n-gram model as ARPA text"):
        BeamDecoder(tokenizer, 5, tmp_path / name)


@pytest.mark.parametrize("change", [("-0.8", "x"), ("1=6", "1=7"), ("\\end\\", "")])
def test_a_damaged_arpa_is_named(change, arpa, tokenizer, kenlm):
    arpa.write_text(ARPA.replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match="bigram.arpa is no n-gram model as ARPA text"):
        BeamDecoder(tokenizer, 5, arpa)


@pytest.mark.parametrize("package", ["kenlm", "pygtrie"])
def test_without_kenlm_the_error_says_how_to_install_it(package, arpa, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "speechbrain.integrations.decoders.kenlm_scorer", False)
    with pytest.raises(OSError, match="pip install kenlm pygtrie"):
        BeamDecoder(tokenizer, 5, arpa)
