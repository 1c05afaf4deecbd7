"""A bigram of words as ARPA text, for the beam search of recognition."""

import math
from collections import Counter
from pathlib import Path

from recipes.common.data.files import replace_text

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 of the probability of what only begins a sentence


def write_bigram(texts, path):
    """Estimate a bigram of words by interpolated Kneser-Ney smoothing and write it as ARPA text.

    Arguments
    ---------
    texts : iterable of str
        Sentences: words with spaces between them.
    path : str or Path
        The file to write. Its folder is made where it is missing.

    Raises
    ------
    ValueError
        Where the texts hold no word.

    Notes
    -----
    As Chen and Goodman have it (Computer Speech and Language 13, 1999), with one discount at each
    order, n1 / (n1 + 2 n2) (Ney, Essen and Kneser, 1994). What the unigrams are discounted by is
    shared equally among all words and the unknown one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "bigram.arpa"
    >>> write_bigram(["A B", "A C"], path)
    >>> path.read_text().partition("2-grams:")[2].split()[:6]
    ['-0.1395', '<s>', 'A', '-0.5467', 'A', 'B']
    """
    pairs = Counter()
    for text in texts:
        words = [BEGIN, *text.split(), END]
        pairs.update(zip(words[:-1], words[1:], strict=True))
    if set(pairs) <= {(BEGIN, END)}:
        raise ValueError("The training transcripts hold no word: no bigram can be made of them.")
    unigrams = _unigrams(pairs)
    followers = Counter(first for first, _ in pairs)
    totals = Counter()
    for (first, _), count in pairs.items():
        totals[first] += count
    discount = _discount(pairs)
    kept = {first: discount * followers[first] / totals[first] for first in totals}
    bigrams = {
        (first, second): (count - discount) / totals[first] + kept[first] * unigrams[second]
        for (first, second), count in pairs.items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, _to_arpa(unigrams, kept, bigrams))


def _unigrams(pairs):
    """Return each word's probability by how many different words it follows."""
    precede = Counter(second for _, second in pairs)
    discount = _discount(precede)
    share = discount * len(precede) / len(pairs) / (len(precede) + 1)
    unigrams = {word: (count - discount) / len(pairs) + share for word, count in precede.items()}
    return {**unigrams, UNKNOWN: share}


def _discount(counts):
    """Return Ney's discount of counts; a half where none of them is 1 or all are."""
    once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
    return once / (once + 2 * twice) if once and twice else 0.5


def _to_arpa(unigrams, kept, bigrams):
    """Return the model as ARPA text: logarithms to the base 10, and back-off weights."""
    lines = ["\\data\\", f"ngram 1={len(unigrams) + 1}", f"ngram 2={len(bigrams)}", ""]
    lines += ["\\1-grams:", f"{NEVER}\t{BEGIN}\t{math.log10(kept[BEGIN]):.4f}"]
    for word, probability in sorted(unigrams.items()):
        backoff = f"\t{math.log10(kept[word]):.4f}" if word in kept else ""
        lines.append(f"{math.log10(probability):.4f}\t{word}{backoff}")
    lines += ["", "\\2-grams:"]
    lines += [f"{math.log10(p):.4f}\t{' '.join(pair)}" for pair, p in sorted(bigrams.items())]
    return "\n".join([*lines, "", "\\end\\", ""])
