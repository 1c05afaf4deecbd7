"""Transcribing files: known answers, and files longer than a window."""

import numpy as np
import pytest
import soundfile
import torch

from lobes.heads import CTCHead
from lobes.states import FrameStates
from pretrained import Transcriber
from pretrained.decoding import BeamDecoder
from pretrained.exported import load_folder
from pretrained.file_states import make_states
from pretrained.tasks.transcriber import cut_at_pauses, long_logits
from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer
from tests.pretrained.exports import (
    LETTERS_FACTS,
    frame_encoder,
    modules_of,
    saved,
    seeded,
    tones,
    written,
)


@pytest.mark.parametrize("text", [" A ", "ABBA", " A A B AB ", "B" * 12])
def test_letters_of_tones_are_heard(transcriber_folder, text, tmp_path):
    path = written(tmp_path / "a.wav", tones(f" {text} "))
    found = Transcriber.from_pretrained(transcriber_folder).transcribe_file(path)
    collapsed = [c for i, c in enumerate(text) if c != " " and (i == 0 or text[i - 1] != c)]
    assert found == "".join(collapsed)


def test_other_weights_hear_other_letters(transcriber_folder, tmp_path):
    modules, facts = load_folder(transcriber_folder)
    weights = modules["ctc_head"].projection.weight
    weights.data = weights.data.flip(0)
    path = written(tmp_path / "a.wav", tones(" AB A "))
    assert Transcriber(modules, facts).transcribe_file(path) == "BAB"


def test_a_stereo_mp3_of_8_khz_is_heard_the_same(transcriber_folder, tmp_path):
    samples = tones(" AB A ", rate=8000)
    path = written(tmp_path / "a.mp3", np.stack([samples, 0.6 * samples], axis=1), 8000)
    assert Transcriber.from_pretrained(transcriber_folder).transcribe_file(path) == "ABA"


def test_a_long_file_is_heard_to_its_end(transcriber_folder, tmp_path):
    path = written(tmp_path / "a.wav", tones(" AB BA" * 75))
    found = Transcriber.from_pretrained(transcriber_folder).transcribe_file(path)
    assert found == "ABBA" * 75 and soundfile.info(path).duration > 80


def test_a_head_fitted_to_a_frame_encoder_gives_its_text(speech, tmp_path):
    tokenizer = SymbolTokenizer(["AH", "B", "K"], "phones")
    path = written(tmp_path / "a.wav", speech(0.5), subtype="FLOAT")
    encoder = frame_encoder()
    with torch.no_grad():
        states, _ = FrameStates(encoder)(torch.from_numpy(speech(0.5))[None])
    wanted = torch.eye(4)[[0, 0, 3, 3, 0, 3, 1, 1, 1, 2, 0, 0, 0, 0, 1, 1] + [0] * 8]
    head = CTCHead(3, 32, len(tokenizer), hidden_dim=32)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(32))
        head.projection.bias.zero_()
        head.output.bias.zero_()
        head.output.weight.copy_(torch.linalg.lstsq(states[0].mean(1), wanted).solution.T)
    facts = {"features": "frame_encoder", "tokenizer": tokenizer.to_config()}
    modules = {"frame_encoder": encoder, "ctc_head": head}
    folder = saved(tmp_path / "model", modules, facts)
    assert Transcriber.from_pretrained(folder).transcribe_file(path) == "K K AH B AH"


@pytest.mark.long
@pytest.mark.parametrize("features", ["frame_encoder", "fbank"])
@pytest.mark.parametrize("sizes", [{}, {"lstm_layers": 2, "stride": 2, "dropout": 0.5}])
def test_up_to_30_s_the_logits_are_those_of_a_batch(features, sizes, speech, tmp_path):
    layers, dim = {"frame_encoder": (3, 32), "fbank": (1, 240)}[features]
    head = seeded(CTCHead, layers, dim, 3, hidden_dim=8, **sizes)
    modules = modules_of(features, ctc_head=head)
    folder = saved(tmp_path / "model", modules, {**LETTERS_FACTS, "features": features})
    seconds = 30 if features == "fbank" else 2
    path = written(tmp_path / "a.wav", speech(seconds), subtype="FLOAT")
    with torch.no_grad():
        states, lens = make_states(features, modules)(torch.from_numpy(speech(seconds))[None])
        expected, _ = head(states, lens)
    found = Transcriber.from_pretrained(folder).logits(path)
    assert torch.equal(found, expected) and found.std() > 0


def test_pieces_are_joined_to_words(tmp_path):
    tokenizer = PieceTokenizer.train(["ONE TWO ONE", "TWO ONE"], tmp_path / "pieces.model", 9)
    head = CTCHead(num_symbols=len(tokenizer), hidden_dim=2, lstm_layers=1, stride=3)
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "m", {"ctc_head": head}, facts))
    pieces = [best for index in tokenizer.encode("ONE TWO") for best in (index, index, 0)]
    transcriber.logits = lambda path: torch.eye(len(tokenizer))[pieces][None]
    assert transcriber.transcribe_file("a.wav") == "ONE TWO"


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("lstm_layers", "tolerance"), [(0, 1e-5), (2, 1e-3)])
def test_logits_of_a_long_file_are_near_those_of_the_whole(stride, lstm_layers, tolerance):
    head = seeded(CTCHead, 3, 8, 5, hidden_dim=8, lstm_layers=lstm_layers, stride=stride)
    states = torch.randn(1, 3701, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, _ = head(states, torch.tensor([3701]))
        found = long_logits(head, head.weighted_sum(states))
    assert found.shape == whole.shape
    assert (found - whole).abs().max() < tolerance * whole.std()


# A beam in the place of the best symbol of each frame


class Path:
    """A transcriber's logits: the best symbol of each frame, surely."""

    def __init__(self, tokenizer, indices):
        self.found = 20.0 * torch.eye(len(tokenizer))[indices][None]

    def __call__(self, path):
        return self.found


@pytest.mark.parametrize("tokenizer", ["characters", "phones", "pieces"], indirect=True)
def test_a_beam_over_sure_frames_finds_what_the_best_path_says(tokenizer, tmp_path):
    head = CTCHead(num_symbols=len(tokenizer), hidden_dim=2, lstm_layers=0, stride=2)
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "m", {"ctc_head": head}, facts))
    rng = np.random.default_rng(0)
    # More than a beam takes at once: some 100 s, with pauses of all lengths
    said = " ".join(rng.choice(["A", "B", "AB"], 300 if tokenizer.kind == "phones" else 150))
    drawn = [
        index for symbol in tokenizer.encode(said) for index in (symbol, *[0] * rng.integers(1, 14))
    ]
    transcriber.logits = Path(tokenizer, drawn)
    text, words = transcriber.transcribe_file("a.wav"), transcriber.align_file("a.wav")
    assert text == said and words[-1].end > 70
    transcriber.beam = BeamDecoder(tokenizer, beam_size=3)
    assert transcriber.transcribe_file("a.wav") == text
    assert transcriber.align_file("a.wav") == words


def test_the_times_of_a_beam_are_those_of_the_most_probable_path(tmp_path):
    tokenizer = SymbolTokenizer(["A", "B", "C", "|"])
    head = CTCHead(num_symbols=len(tokenizer), hidden_dim=2, lstm_layers=0)
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "m", {"ctc_head": head}, facts))
    probs = torch.full((300, 5), 0.002)  # likely enough for the beam to go on with, everywhere
    for frame, index in {0: 1, 50: 4, 200: 2}.items():
        probs[frame, index] = 0.9
    probs[:, 0] = 1 - probs[:, 1:].sum(1)
    transcriber.logits = lambda path: probs.log()[None]
    transcriber.beam = BeamDecoder(tokenizer, beam_size=20)
    found = transcriber.align_file("a.wav")
    assert [(text, round(start, 3), round(end, 3)) for text, start, end in found] == [
        ("A", 0.0, 0.02),
        ("B", 4.0, 4.02),
    ]


def test_a_text_that_begins_with_the_piece_of_a_space_has_it_once(tmp_path):
    tokenizer = PieceTokenizer.train(["ONE TWO ONE", "TWO ONE"], tmp_path / "pieces.model", 9)
    head = CTCHead(num_symbols=len(tokenizer), hidden_dim=2, lstm_layers=0)
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "m", {"ctc_head": head}, facts))
    indices = tokenizer.encode("TWO")
    assert tokenizer.pieces[indices[0]] == " "
    transcriber.logits = Path(tokenizer, [*indices, *[0] * 6])
    found = transcriber.align_file("a.wav")
    transcriber.beam = BeamDecoder(tokenizer, beam_size=3)
    assert transcriber.align_file("a.wav") == found


def test_where_pieces_do_not_fit_the_frames_words_last_as_long_as_all(tmp_path):
    tokenizer = PieceTokenizer.train(["ONE TWO ONE", "TWO ONE"], tmp_path / "pieces.model", 9)
    head = CTCHead(num_symbols=len(tokenizer), hidden_dim=2, lstm_layers=0)
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    transcriber = Transcriber.from_pretrained(saved(tmp_path / "m", {"ctc_head": head}, facts))
    transcriber.logits = lambda path: torch.zeros(1, 2, len(tokenizer))
    transcriber.beam = lambda log_probs, lens: ["ONE TWO ONE TWO"]
    times = [(start, end) for _, start, end in transcriber.align_file("a.wav")]
    assert times == [(0.0, 0.04)] * 4


def test_a_beam_hears_what_one_symbol_a_frame_does_not(transcriber_folder):
    transcriber = Transcriber.from_pretrained(transcriber_folder)
    unsure = torch.tensor([0.4, 0.35, 0.25]).log().expand(1, 2, 3)
    transcriber.logits = lambda path: unsure
    assert transcriber.transcribe_file("a.wav") == ""
    transcriber.beam = BeamDecoder(transcriber.tokenizer, beam_size=10)
    assert transcriber.transcribe_file("a.wav") == "A"


@pytest.mark.parametrize("frames", [1, 751, 752, 2000, 3333])
def test_parts_of_a_recording_make_it_up_and_no_part_is_long(frames):
    log_probs = torch.randn(frames, 3, generator=torch.Generator().manual_seed(frames))
    parts = list(cut_at_pauses(log_probs, 0.04, torch.tensor([False, True, False])))
    assert torch.equal(torch.cat([part for _, part in parts]), log_probs)
    lengths = [len(part) for _, part in parts]
    assert [first for first, _ in parts] == [sum(lengths[:n]) for n in range(len(parts))]
    assert max(lengths) <= 751 and (len(parts) == 1) == (frames <= 751)
