"""An exported CTC head in use: audio files in, text out."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from lobes.heads import BLANK
from lobes.signal import HOP, SAMPLE_RATE
from pretrained.decoding import align, greedy_decode
from pretrained.exported import FromFolder
from pretrained.facts import TRANSCRIBER
from pretrained.file_states import FileStates
from pretrained.tokenizers import tokenizer_from_config
from pretrained.windows import WINDOW, map_windows


class Word(NamedTuple):
    """A word, or a phone, and when it is heard.

    Attributes
    ----------
    text : str
    start, end : float
        Seconds from the recording's beginning.
    """

    text: str
    start: float
    end: float


class Transcriber(FromFolder):
    """Speech recognition: by the best symbol of each frame, or by a beam.

    Arguments
    ---------
    modules : dict
        `ctc_head`, and the encoder that the facts name.
    facts : dict
        See `pretrained.facts`.
    device : str or torch.device
        Where to compute.

    Attributes
    ----------
    beam : pretrained.decoding.BeamDecoder or None
        Where it is set, texts and words are those of its search. It takes the `tokenizer`.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> from lobes.heads import CTCHead
    >>> from pretrained.decoding import BeamDecoder
    >>> from pretrained.exported import save_model
    >>> from pretrained.tokenizers import SymbolTokenizer
    >>> folder = getfixture("tmp_path")
    >>> tokenizer = SymbolTokenizer.from_texts(["SOME SPEECH"], "characters")
    >>> facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    >>> save_model(folder / "model", {"ctc_head": CTCHead(num_symbols=len(tokenizer))}, facts)
    >>> soundfile.write(folder / "a.wav", np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    >>> transcriber = Transcriber.from_pretrained(folder / "model")
    >>> greedy = transcriber.transcribe_file(folder / "a.wav")
    >>> transcriber.beam = BeamDecoder(transcriber.tokenizer, beam_size=5)
    >>> type(transcriber.transcribe_file(folder / "a.wav")) is type(greedy) is str
    True
    """

    kind = TRANSCRIBER
    beam = None

    def __init__(self, modules, facts, device="cpu"):
        self.tokenizer = tokenizer_from_config(facts["tokenizer"])
        self.head = modules["ctc_head"].to(device).eval()
        self.states = FileStates(facts["features"], modules, self.head.weighted_sum, device)

    def transcribe_file(self, path):
        """Transcribe an audio file of any rate, number of channels and length.

        Up to 30 s, the head sees what it saw in training. Of a longer recording, both encoder and
        head see windows of some 30 s, of which 2 s on either side are thrown away, and a beam
        begins anew between words, once in 15 to 30 s. An hour takes some 0.4 GB at the tiny size.

        Arguments
        ---------
        path : str or Path
            Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others.

        Returns
        -------
        str
            Words, or phones, with single spaces between them; empty where none is heard.

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        pretrained.audio.AudioError
            A ValueError: where the file cannot be used, as `pretrained.audio.read_blocks` tells.
        """
        logits = self.logits(path)[0]
        if self.beam is None:
            return self.text_of(logits)
        return " ".join(word.text for word in self._words_of_beam(logits))

    def text_of(self, logits):
        """Return the text of logits (frames, num_symbols), by the best symbol of each frame."""
        return greedy_decode(logits[None], torch.tensor([len(logits)]), self.tokenizer)[0]

    def align_file(self, path):
        """Transcribe an audio file and tell when each word is heard.

        The best symbol of each frame is also the most probable alignment of the text; that of a
        beam's text is found by the Viterbi algorithm. A word lasts from the first frame of its
        first symbol to the last frame of its last one. That is exact to a frame of the head, 20 ms
        times its stride, for what the head tells. What it tells is not where sounds end: training
        by CTC lets it name a symbol in a single frame, somewhere in the sound, so that words seem
        shorter than they are.

        Arguments and errors are those of `transcribe_file`.

        Returns
        -------
        list of Word
            Its words, or phones, in their order, with spaces between them what `transcribe_file`
            returns.
        """
        logits = self.logits(path)[0]
        if self.beam is not None:
            return self._words_of_beam(logits)
        return self._words_of_path(logits.argmax(-1))

    def _words_of_path(self, path, first=0):
        """Return the words of the symbols of frames, (frames,), of which the first has a number."""
        indices, counts = torch.unique_consecutive(path.cpu(), return_counts=True)
        ends = first + counts.cumsum(0)
        pieces = [self.tokenizer.pieces[index] for index in indices.tolist()]
        runs = zip(pieces, (ends - counts).tolist(), ends.tolist(), strict=True)
        return join_pieces(runs, self.head.stride * HOP / SAMPLE_RATE)

    def _words_of_beam(self, logits):
        """Return the words that the beam finds in logits (frames, num_symbols)."""
        log_probs = logits.log_softmax(-1).cpu()
        begins = torch.tensor([piece.startswith(" ") for piece in self.tokenizer.pieces])
        seconds, words = self.head.stride * HOP / SAMPLE_RATE, []
        for first, part in cut_at_pauses(log_probs, seconds, begins):
            (text,) = self.beam(part[None], torch.tensor([len(part)]))
            indices, lead = self.tokenizer.encode(text), int(part[0].argmax())
            if self.tokenizer.pieces[lead] == " " and indices[:1] != [lead]:
                indices = [lead, *indices]  # a text begins without the space before it
            path = align(part, indices)
            if path is None:  # other pieces than the tokenizer's own choice, in very few frames
                start, end = first * seconds, (first + len(part)) * seconds
                words += [Word(word, start, end) for word in text.split()]
            else:
                words += self._words_of_path(path, first)
        return words

    @torch.no_grad()
    def logits(self, path):
        """Return the logits of a file, (1, ceil(frames / stride), num_symbols).

        Arguments and errors are those of `transcribe_file`.
        """
        states, lens = self.states(path)
        if states.shape[1] <= 1 + WINDOW // HOP:  # what 30 s give
            return self.head.classify(states, lens)[0]
        return long_logits(self.head, states)


def join_pieces(pieces, seconds):
    """Return the words that pieces of text make; a space in a piece begins a word.

    Arguments
    ---------
    pieces : iterable of tuple
        The text of a piece, its first frame and the frame after its last.
    seconds : float
        From one frame to the next.

    Returns
    -------
    list of Word

    Example
    -------
    >>> join_pieces([("H", 0, 1), ("I", 2, 3), (" ", 3, 4), ("", 4, 9), ("A", 9, 10)], 0.5)
    [Word(text='HI', start=0.0, end=1.5), Word(text='A', start=4.5, end=5.0)]
    """
    words, begins = [], True
    for piece, first, end in pieces:
        for character in piece:
            if character.isspace():
                begins = True
            elif begins:
                words.append(Word(character, first * seconds, end * seconds))
                begins = False
            else:
                words[-1] = words[-1]._replace(text=words[-1].text + character, end=end * seconds)
    return words


def cut_at_pauses(log_probs, seconds, begins):
    """Cut a recording of more than 30 s between words: a beam over an hour takes gigabytes.

    Arguments
    ---------
    log_probs : torch.Tensor
        Shape (frames, num_symbols), natural logarithms.
    seconds : float
        From one frame to the next.
    begins : torch.Tensor
        Shape (num_symbols,), bool: whether a symbol begins a word.

    Yields
    ------
    tuple
        The number of a part's first frame, and its log_probs, of up to 30 s. Between 15 s and 30 s
        the next part begins with the word before which the blank is most probable for half a
        second, going by the best symbol of each frame; if there is no word, where it is.

    Example
    -------
    >>> log_probs = torch.zeros(4000, 3)
    >>> log_probs[[1100, 1200], 1] = 1.0
    >>> log_probs[1175:1200, BLANK] = 0.5
    >>> parts = cut_at_pauses(log_probs, 0.02, torch.tensor([False, True, False]))
    >>> [(first, len(part)) for first, part in parts]
    [(0, 1200), (1200, 750), (1950, 750), (2700, 1300)]
    """
    pause = max(1, round(0.5 / seconds))
    longest = round(WINDOW / SAMPLE_RATE / seconds) + 1
    padded = F.pad(log_probs[None, :, BLANK], (pause, 0))
    blank_before = F.avg_pool1d(padded, pause, 1)[0, :-1]
    best = log_probs.argmax(-1)
    word_begins = begins[best] & (best != best.roll(1))
    first = 0
    while len(log_probs) - first > longest:
        half, end = first + longest // 2, first + longest
        places = word_begins[half:end] if word_begins[half:end].any() else torch.tensor(True)
        scores = blank_before[half:end].where(places, -torch.inf)
        cut = half + int(scores.argmax())
        yield first, log_probs[first:cut]
        first = cut
    yield first, log_probs[first:]


def long_logits(head, states):
    """Return the logits of a recording, from windows of it: a long LSTM takes gigabytes an hour.

    A head without LSTM gives what it gives of the whole.

    Arguments
    ---------
    head : CTCHead
    states : torch.Tensor
        Shape (1, frames, in_dim), summed over layers.

    Returns
    -------
    torch.Tensor
        Shape (1, ceil(frames / stride), num_symbols).

    Example
    -------
    >>> from lobes.heads import CTCHead
    >>> head = CTCHead(in_dim=4, num_symbols=5, lstm_layers=1, hidden_dim=4, stride=3)
    >>> long_logits(head, torch.randn(1, 4000, 4)).shape
    torch.Size([1, 1334, 5])
    """

    def run(x):
        lens = torch.tensor([x.shape[2]], device=x.device)
        return head.classify(x.transpose(1, 2), lens)[0].transpose(1, 2)

    parts = map_windows(run, states.transpose(1, 2), HOP, head.stride)
    return torch.cat(list(parts), dim=2).transpose(1, 2)
