"""Tokenizers: symbols and pieces to indices and back, and as plain values."""

import base64
import io
import json
import os
import random

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer, tokenizer_from_config

WORDS = ["ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "DON'T"]


def make_texts(seed, count):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "pieces.model"
    return PieceTokenizer.train(make_texts(seed=0, count=50), path, vocab_size=30)


@pytest.fixture(params=["characters", "phones", "pieces"])
def tokenizer(request, pieces):
    if request.param == "pieces":
        return pieces
    return SymbolTokenizer.from_texts(make_texts(seed=0, count=50), request.param)


def foreign_model(**options):
    """Return a SentencePiece model that another program may have trained."""
    model = io.BytesIO()
    texts = iter(make_texts(seed=0, count=50))
    SentencePieceTrainer.train(
        sentence_iterator=texts, model_writer=model, vocab_size=25, minloglevel=2, **options
    )
    return model.getvalue()


# All kinds


def test_texts_come_back(tokenizer):
    for text in make_texts(seed=1, count=50):
        indices = tokenizer.encode(text)
        assert tokenizer.decode(indices) == text
        assert all(1 <= index < len(tokenizer) for index in indices)


def test_spaces_are_those_between_words(tokenizer):
    assert tokenizer.encode("  ONE \t TWO\n") == tokenizer.encode("ONE TWO")


def test_no_text_has_no_index(tokenizer):
    assert tokenizer.encode(" ") == []
    assert tokenizer.decode([]) == ""


def test_blanks_add_nothing(tokenizer):
    indices = tokenizer.encode("NINE DON'T")
    with_blanks = [i for index in indices for i in (0, index, 0)]
    assert tokenizer.decode(with_blanks) == "NINE DON'T"


@pytest.mark.parametrize("index", [-1, 1000])
def test_an_index_outside_is_refused(index, tokenizer):
    with pytest.raises(ValueError, match=f"Index {index} is not between 0 and"):
        tokenizer.decode([1, index])


def test_plain_values_of_json_give_the_same_tokenizer(tokenizer):
    config = json.loads(json.dumps(tokenizer.to_config()))
    again = tokenizer_from_config(config)
    assert type(again) is type(tokenizer) and again.pieces == tokenizer.pieces
    assert again.encode("FIVE SIX") == tokenizer.encode("FIVE SIX")
    assert again.to_config() == tokenizer.to_config()


# Symbols


def test_characters_are_numbered_in_sorted_order_from_one():
    tokenizer = SymbolTokenizer.from_texts(["BE A", "A B"], "characters")
    assert tokenizer.symbols == ["A", "B", "E", "|"]
    assert tokenizer.encode("BE A") == [2, 3, 4, 1]
    assert tokenizer.decode([2, 3, 4, 4, 1, 4]) == "BE A"
    assert len(tokenizer) == 5


def test_phones_are_whole_symbols():
    tokenizer = SymbolTokenizer.from_texts(["HH AY", "AY HH AH"], "phones")
    assert tokenizer.encode("AH HH AY") == [1, 3, 2]
    assert tokenizer.decode([1, 3, 2]) == "AH HH AY"


@pytest.mark.parametrize(
    ("kind", "text", "symbol"), [("characters", "ABBÉ", "'É'"), ("phones", "A C B", "'C'")]
)
def test_an_unknown_symbol_is_named(kind, text, symbol):
    with pytest.raises(ValueError, match=f"{symbol} in '{text}' is none of the .* 2 symbols"):
        SymbolTokenizer(["A", "B"], kind).encode(text)


def test_the_sign_of_the_space_is_no_character():
    with pytest.raises(ValueError, match=r"'\|' in 'A\|B' cannot be encoded"):
        SymbolTokenizer.from_texts(["A|B"], "characters")
    with pytest.raises(ValueError, match=r"'\|' in 'A\|B' cannot be encoded"):
        SymbolTokenizer(["A", "B", "|"]).encode("A|B")


def test_texts_without_a_symbol_make_no_tokenizer():
    with pytest.raises(ValueError, match="symbols must be a list of 1 to"):
        SymbolTokenizer.from_texts(["", " "], "characters")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'words', expected characters or phones"):
        SymbolTokenizer(["A"], "words")


# Pieces


def test_pieces_are_those_of_sentencepiece(pieces):
    reference = SentencePieceProcessor(model_proto=pieces.model)
    assert len(pieces) == len(reference) == 31
    for text in make_texts(seed=2, count=20):
        assert pieces.encode(text) == reference.encode(text)
    rng = random.Random(0)
    for _ in range(200):
        indices = rng.choices(range(1, 31), k=6)
        assert pieces.decode(indices) == " ".join(reference.decode(indices).split())


def test_frequent_words_become_single_pieces(tmp_path):
    tokenizer = PieceTokenizer.train(["ONE TWO ONE", "TWO ONE"], tmp_path / "m", vocab_size=17)
    assert len(tokenizer.encode("TWO ONE TWO")) == 3


def test_the_same_texts_in_any_order_give_the_same_file(tmp_path):
    texts = make_texts(seed=0, count=50)
    PieceTokenizer.train(texts, tmp_path / "a", vocab_size=30)
    PieceTokenizer.train(iter(texts[::-1]), tmp_path / "b", vocab_size=30)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert PieceTokenizer(tmp_path / "a").pieces == PieceTokenizer(str(tmp_path / "b")).pieces


@pytest.mark.parametrize("vocab_size", [18, 1000])
def test_too_many_pieces_are_refused_with_the_largest_number(vocab_size, tmp_path):
    texts = ["ONE TWO ONE", "TWO ONE"]
    message = f"vocab_size {vocab_size} is too large for 2 .*: the largest possible is 17"
    with pytest.raises(ValueError, match=message):
        PieceTokenizer.train(texts, tmp_path / "m", vocab_size)
    assert not any(tmp_path.iterdir())
    assert len(PieceTokenizer.train(texts, tmp_path / "m", 17)) == 18


def test_too_few_pieces_are_refused_with_the_smallest_number(tmp_path):
    with pytest.raises(ValueError, match="have 5 characters, which with the space take 6 pieces"):
        PieceTokenizer.train(["ONE TWO"], tmp_path / "m", vocab_size=5)
    assert len(PieceTokenizer.train(["ONE TWO"], tmp_path / "m", vocab_size=6)) == 7


@pytest.mark.parametrize("texts", [[], ["", " "]])
def test_pieces_need_words(texts, tmp_path):
    with pytest.raises(ValueError, match="there is no word"):
        PieceTokenizer.train(texts, tmp_path / "m", vocab_size=10)


def test_characters_stay_as_they_are(tmp_path):
    text = "ﬁne ½ Ａ A e\u0301"  # each of which Unicode's compatibility form would change
    tokenizer = PieceTokenizer.train([text], tmp_path / "m", vocab_size=12)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_long_text_counts_too(tmp_path):
    tokenizer = PieceTokenizer.train(["AB " * 3000, "C"], tmp_path / "m", vocab_size=5)
    assert len(tokenizer.encode("AB AB C")) < 8


def test_training_prints_nothing(tmp_path, capfd):
    PieceTokenizer.train(["ONE TWO"], tmp_path / "m", vocab_size=6)
    with pytest.raises(ValueError, match="is too large"):
        PieceTokenizer.train(["ONE TWO"], tmp_path / "m", vocab_size=100)
    assert capfd.readouterr() == ("", "")


def test_a_write_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    PieceTokenizer.train(["ONE TWO"], tmp_path / "m", vocab_size=6)
    before = (tmp_path / "m").read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        PieceTokenizer.train(["THREE FOUR"], tmp_path / "m", vocab_size=12)
    assert (tmp_path / "m").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "symbol"), [("ONE ÇA TWO", "Ç"), ("ONE\tQQ", "Q"), ("<unk>", "<"), ("one", "o")]
)
def test_a_character_in_no_piece_is_named(text, symbol, pieces):
    with pytest.raises(ValueError, match=f"'{symbol}' in '.*' is in none of the .* 30 pieces"):
        pieces.encode(text)


def test_the_sign_of_the_space_is_no_character_of_pieces(pieces, tmp_path):
    with pytest.raises(ValueError, match="'▁' in 'ONE▁TWO' cannot be encoded"):
        pieces.encode("ONE▁TWO")
    with pytest.raises(ValueError, match="'▁' in 'ONE▁TWO' cannot be encoded"):
        PieceTokenizer.train(["ONE▁TWO"], tmp_path / "m", vocab_size=10)


@pytest.mark.parametrize("content", [b"", b"no model", "cut"])
def test_a_file_that_is_no_model_is_named(content, pieces, tmp_path):
    content = pieces.model[:-7] if content == "cut" else content
    (tmp_path / "pieces.model").write_bytes(content)
    with pytest.raises(ValueError, match="pieces.model is not a SentencePiece model"):
        PieceTokenizer(tmp_path / "pieces.model")


def test_a_model_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="pieces.model"):
        PieceTokenizer(tmp_path / "pieces.model")


def test_unigram_models_of_others_will_do():
    tokenizer = PieceTokenizer(foreign_model(bos_id=-1, eos_id=-1))
    assert tokenizer.decode(tokenizer.encode("ONE TWO")) == "ONE TWO"


@pytest.mark.parametrize(
    ("options", "named"),
    [({}, "<s>, </s>"), ({"unk_id": 3, "bos_id": -1, "eos_id": -1, "pad_id": 0}, "<pad>, <unk>")],
)
def test_models_with_pieces_that_are_no_text_are_refused(options, named):
    with pytest.raises(ValueError, match=f"{named} are no text"):
        PieceTokenizer(foreign_model(**options))


# Plain values


def b64(content):
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("characters", "must be an object"),
        ({}, "kind must be"),
        ({"kind": ["characters"], "symbols": ["A"]}, "kind must be"),
        ({"kind": "words", "symbols": ["A"]}, "kind must be"),
        ({"kind": "phones"}, r"has kind and symbols, not \['kind'\]"),
        ({"kind": "phones", "symbols": ["A"], "model": ""}, "has kind and symbols, not"),
        ({"kind": "pieces", "symbols": ["A"]}, "has kind and model, not"),
        ({"kind": "phones", "symbols": "AB"}, "symbols must be a list"),
        ({"kind": "phones", "symbols": []}, "symbols must be a list of 1"),
        ({"kind": "phones", "symbols": ["A"] * 100_001}, "symbols must be a list of 1 to 100000"),
        ({"kind": "phones", "symbols": ["A", 1]}, "symbols: 1 is not a text"),
        ({"kind": "phones", "symbols": ["A", ["B"]]}, r"symbols: \['B'\] is not a text"),
        ({"kind": "phones", "symbols": ["A", ""]}, "symbols: '' is not a text"),
        ({"kind": "phones", "symbols": ["A", "B C"]}, "symbols: 'B C' is not a text"),
        ({"kind": "phones", "symbols": ["A", "B", "A"]}, "symbols: 'A' is there twice"),
        ({"kind": "characters", "symbols": ["A", "BC"]}, "symbols: 'BC' is not a single"),
        ({"kind": "characters", "symbols": ["A", " "]}, "symbols: ' ' is not a text"),
        ({"kind": "pieces", "model": 3}, "model must be a text in base64"),
        ({"kind": "pieces", "model": "A" * 10_000_001}, "model must be .* at most 10000000"),
        ({"kind": "pieces", "model": "AAA*A"}, "model is not a text in base64"),
        ({"kind": "pieces", "model": "É"}, "model is not a text in base64"),
        ({"kind": "pieces", "model": ""}, "model is not a SentencePiece model"),
        ({"kind": "pieces", "model": b64(b"no model")}, "model is not a SentencePiece model"),
    ],
)
def test_other_values_are_refused_by_name(config, named):
    with pytest.raises(ValueError, match=named):
        tokenizer_from_config(config)


def test_altered_models_are_refused_or_encode(pieces):
    rng = random.Random(0)
    loaded = 0
    for place in range(200):
        altered = bytearray(pieces.model)
        altered[(place * 7) % len(altered)] = rng.randrange(256)
        try:
            tokenizer = tokenizer_from_config({"kind": "pieces", "model": b64(bytes(altered))})
            loaded += 1
            assert all(0 < index < len(tokenizer) for index in tokenizer.encode("ONE TWO"))
        except ValueError:
            continue
    assert 0 < loaded < 200
