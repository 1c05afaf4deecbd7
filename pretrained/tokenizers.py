"""Tokenizers for CTC: texts to indices and back, with index 0 for the blank.

`SymbolTokenizer` splits a text into characters or phones, `PieceTokenizer` into pieces of words
that byte-pair encoding found. Each can be exported as plain values of JSON.
"""

import base64
import io
from pathlib import Path

from pretrained.plain_files import write_whole

SPACE = "|"  # the space among characters
PIECE_SPACE = "▁"  # the space in SentencePiece's pieces
MAX_SYMBOLS = 100_000
MAX_MODEL_BYTES = 10_000_000


class _Tokenizer:
    """What tokenizers share, given `pieces`: what each index adds to a text, "" for the blank.

    A space in a piece begins a word.
    """

    def __len__(self):
        return len(self.pieces)

    def decode(self, indices):
        """Return the text of indices; blanks add nothing.

        Arguments
        ---------
        indices : iterable of int
            Each from 0 to len(tokenizer) - 1.

        Returns
        -------
        str
            Words, or phones, with single spaces between them.

        Raises
        ------
        ValueError
            Where an index is none of the tokenizer's.
        """
        indices = list(indices)
        outside = [index for index in indices if not 0 <= index < len(self)]
        if outside:
            raise ValueError(f"Index {outside[0]} is not between 0 and {len(self) - 1}.")
        return _plain("".join(self.pieces[index] for index in indices))


class SymbolTokenizer(_Tokenizer):
    """Characters or phones as indices from 1; 0 is the CTC blank.

    Arguments
    ---------
    symbols : list of str
        The symbols in the order of their indices. Among characters, "|" stands for the space.
    kind : str
        "characters" of words, or "phones", which texts separate by spaces.

    Raises
    ------
    ValueError
        Where a symbol is empty, has a space, is there twice or is no single character, or the kind
        is another.

    Example
    -------
    >>> tokenizer = SymbolTokenizer(["A", "H", "I", "|"])
    >>> tokenizer.encode("HI A")
    [2, 3, 4, 1]
    >>> tokenizer.decode([2, 3, 4, 1])
    'HI A'
    >>> len(tokenizer)
    5
    """

    KINDS = ("characters", "phones")

    def __init__(self, symbols, kind="characters"):
        if kind not in self.KINDS:
            raise ValueError(f"kind is {kind!r}, expected {' or '.join(self.KINDS)}.")
        _check_symbols(symbols, kind)
        self.kind = kind
        self.symbols = list(symbols)
        words = kind == "phones"  # each symbol is one
        texts = (f" {symbol}" if words else symbol.replace(SPACE, " ") for symbol in symbols)
        self.pieces = ["", *texts]
        self._indices = {symbol: index for index, symbol in enumerate(self.symbols, 1)}

    @classmethod
    def from_texts(cls, texts, kind):
        """Return the tokenizer of the symbols in texts, in sorted order.

        Arguments
        ---------
        texts : iterable of str
            The transcripts of the training split.
        kind : str
            "characters" or "phones".

        Raises
        ------
        ValueError
            Where the texts have no symbol, or "|" among characters.

        Example
        -------
        >>> SymbolTokenizer.from_texts(["HH AY", "AY"], "phones").symbols
        ['AY', 'HH']
        """
        return cls(sorted({symbol for text in texts for symbol in _split(text, kind)}), kind)

    def encode(self, text):
        """Return the indices of a text.

        Raises
        ------
        ValueError
            Where a symbol of the text is none of the tokenizer's; names the symbol.
        """
        symbols = _split(text, self.kind)
        unknown = [symbol for symbol in symbols if symbol not in self._indices]
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} in {text!r} is none of the tokenizer's {len(self) - 1} symbols."
            )
        return [self._indices[symbol] for symbol in symbols]

    def drop_unknown(self, text):
        """Return a text without the symbols that are none of the tokenizer's.

        Example
        -------
        >>> SymbolTokenizer(["A", "H", "I", "|"]).drop_unknown("HI, ÀA")
        'HI A'
        """
        return self.decode(self._indices.get(symbol, 0) for symbol in _split(text, self.kind))

    def to_config(self):
        """Return the tokenizer as plain values, which `tokenizer_from_config` takes."""
        return {"kind": self.kind, "symbols": list(self.symbols)}


class PieceTokenizer(_Tokenizer):
    """Pieces of words (SentencePiece) as indices from 1; 0 is the CTC blank.

    SentencePiece's own index 0 is its unknown piece. No text is encoded with it, so the blank has
    its place.

    Arguments
    ---------
    model : str, Path or bytes
        A model's file, as `train` writes it, or what the file holds.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is no model, or one with pieces that are no text, such as <s>.

    Example
    -------
    >>> path = getfixture("tmp_path") / "pieces.model"
    >>> tokenizer = PieceTokenizer.train(["ONE TWO ONE", "TWO ONE"], path, vocab_size=10)
    >>> tokenizer.encode("ONE ONE")
    [3, 3]
    >>> PieceTokenizer(path).decode([3, 3]), len(tokenizer)
    ('ONE ONE', 11)
    """

    kind = "pieces"

    def __init__(self, model):
        where = "model" if isinstance(model, bytes) else str(model)
        self.model = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._processor = _load_processor(self.model, where)
        pieces = self._processor.id_to_piece(list(range(1, len(self._processor))))
        self.pieces = ["", *(piece.replace(PIECE_SPACE, " ") for piece in pieces)]

    @classmethod
    def train(cls, texts, path, vocab_size):
        """Find the pieces of texts by byte-pair encoding, and write them as a model file.

        The same texts, in any order, give the same file.

        Arguments
        ---------
        texts : iterable of str
            The transcripts of the training split.
        path : str or Path
            The model's file; it is complete or as it was.
        vocab_size : int
            Number of pieces; the tokenizer has the blank besides.

        Returns
        -------
        PieceTokenizer

        Raises
        ------
        ValueError
            Where the texts are empty or have "▁", or do not have as many pieces, or need more.
        """
        texts = [_split_words(text, PIECE_SPACE) for text in texts]
        fewest = len(set("".join(texts)) - {" "}) + 1
        if fewest == 1:
            raise ValueError("Pieces need texts to be found in, and there is no word.")
        if vocab_size < fewest:
            raise ValueError(
                f"vocab_size {vocab_size} is too small: the texts have {fewest - 1} characters, "
                f"which with the space take {fewest} pieces."
            )
        tokenizer = cls(_train_model(texts, vocab_size))
        if len(tokenizer) <= vocab_size:
            raise ValueError(
                f"vocab_size {vocab_size} is too large for {len(texts)} text(s): the largest "
                f"possible is {len(tokenizer) - 1}."
            )
        write_whole(path, tokenizer.model)
        return tokenizer

    def encode(self, text):
        """Return the indices of a text.

        Raises
        ------
        ValueError
            Where a character of the text is in no piece; names the character.
        """
        text = _split_words(text, PIECE_SPACE)
        indices = self._processor.encode(text)
        if 0 in indices:
            known = set("".join(self.pieces))
            # A text may also spell out the name of the unknown piece.
            unknown = [character for character in text if character not in known] or [text]
            raise ValueError(
                f"{unknown[0]!r} in {text!r} is in none of the tokenizer's {len(self) - 1} pieces."
            )
        return indices

    def drop_unknown(self, text):
        """Return a text without the characters that are in none of the tokenizer's pieces."""
        words = _split_words(text, PIECE_SPACE)
        if 0 not in self._processor.encode(words):
            return _plain(words)  # with characters, perhaps, that the model itself replaces
        known = {*"".join(self.pieces), " "}
        return _plain("".join(character for character in words if character in known))

    def to_config(self):
        """Return the tokenizer as plain values, which `tokenizer_from_config` takes."""
        return {"kind": self.kind, "model": base64.b64encode(self.model).decode("ascii")}


def tokenizer_from_config(config):
    """Return the tokenizer that plain values describe. Nothing in them is run.

    Arguments
    ---------
    config : dict
        `kind` is "characters" or "phones", with `symbols`, a list of str; or "pieces", with
        `model`, a SentencePiece model in base64.

    Returns
    -------
    SymbolTokenizer or PieceTokenizer

    Raises
    ------
    ValueError
        Where a value is missing, left over or not as described; names its key.

    Example
    -------
    >>> config = SymbolTokenizer(["AH", "B"], "phones").to_config()
    >>> tokenizer_from_config(config).encode("B AH")
    [2, 1]
    """
    if not isinstance(config, dict):
        raise ValueError(f"A tokenizer must be an object of values, not {config!r}.")
    kind = config.get("kind")
    if kind not in (*SymbolTokenizer.KINDS, PieceTokenizer.kind):
        raise ValueError(f"kind must be characters, phones or pieces, not {kind!r}.")
    key = "model" if kind == PieceTokenizer.kind else "symbols"
    if config.keys() != {"kind", key}:
        raise ValueError(f"A tokenizer of {kind} has kind and {key}, not {sorted(config)}.")
    if key == "symbols":
        return SymbolTokenizer(config["symbols"], kind)
    text = config["model"]
    if not isinstance(text, str) or len(text) > MAX_MODEL_BYTES:
        raise ValueError(f"model must be a text in base64 of at most {MAX_MODEL_BYTES} characters.")
    try:
        model = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"model is not a text in base64: {error}.") from error
    return PieceTokenizer(model)


def _check_symbols(symbols, kind):
    if not isinstance(symbols, (list, tuple)) or not 0 < len(symbols) <= MAX_SYMBOLS:
        raise ValueError(f"symbols must be a list of 1 to {MAX_SYMBOLS} texts.")
    for symbol in symbols:
        if not isinstance(symbol, str) or symbol.split() != [symbol]:
            raise ValueError(f"symbols: {symbol!r} is not a text without spaces.")
        if kind == "characters" and len(symbol) != 1:
            raise ValueError(f"symbols: {symbol!r} is not a single character.")
    if len(set(symbols)) < len(symbols):
        twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
        raise ValueError(f"symbols: {twice!r} is there twice.")


def _plain(text):
    """Return a text with single spaces between its words."""
    return " ".join(text.split())


def _split(text, kind):
    """Return the symbols of a text."""
    if kind == "characters":
        return list(_split_words(text, SPACE).replace(" ", SPACE))
    return text.split()


def _split_words(text, reserved):
    """Return a text with single spaces; a ValueError where it has the sign that replaces them."""
    if reserved in text:
        raise ValueError(f"{reserved!r} in {text!r} cannot be encoded: it stands for the space.")
    return _plain(text)


def _train_model(texts, vocab_size):
    """Return a SentencePiece model of at most vocab_size pieces, besides the unknown one."""
    from sentencepiece import SentencePieceTrainer  # characters and phones do without

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size + 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        normalization_rule_name="identity",
        # SentencePiece leaves out longer texts without a word.
        max_sentence_length=2**30,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _load_processor(model, where):
    """Return SentencePiece's processor of a model whose pieces are text, but for the first."""
    from sentencepiece import SentencePieceProcessor

    try:
        # Of no bytes, SentencePiece makes a processor that fails later.
        processor = SentencePieceProcessor(model_proto=model or b"\0")
    except RuntimeError as error:
        raise ValueError(f"{where} is not a SentencePiece model: {error}.") from error
    tests = (processor.is_unknown, processor.is_control, processor.is_unused, processor.is_byte)
    special = [i for i in range(len(processor)) if any(test(i) for test in tests)]
    if special != [0] or not processor.is_unknown(0) or len(processor) < 2:
        names = ", ".join(processor.id_to_piece(i) for i in special)
        raise ValueError(
            f"{where} has {len(processor)} pieces, of which {names} are no text: expected the "
            "unknown piece first and only text after it, as PieceTokenizer.train makes it."
        )
    return processor
