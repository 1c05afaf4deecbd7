"""Exported transcribers and speaker verifiers in use: known answers, long files, hostile facts."""

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly

from lobes.frame_encoder import FrameEncoder
from lobes.heads import CTCHead, SpeakerHead
from lobes.states import FbankStates, FrameStates, UtteranceStates
from lobes.tdnn import MaskedBatchNorm1d
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.__main__ import main
from pretrained.audio import AudioError
from pretrained.card import write_card
from pretrained.exported import _digest, _file_digest, load_folder, load_model, save_model
from pretrained.file_states import FileStates, make_states, split_head
from pretrained.tokenizers import PieceTokenizer, SymbolTokenizer
from pretrained.transcriber import long_logits
from pretrained.verifier import long_xvector
from recipes.common.evaluation.scoring import SCORINGS, change_embeddings, score_trials

ROOT = Path(__file__).parents[2]
RATE = 16000
LETTERS = SymbolTokenizer(["A", "B"])
LETTERS_FACTS = {"features": "fbank", "tokenizer": LETTERS.to_config()}
PLAIN = {"scoring": "plain", "threshold": 0.5, "threshold_set_on": "trials of dev-clean"}
TONES = {"A": 500, "B": 1500, " ": None}  # Hz


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "socket", refuse)


def seeded(kind, *args, seed=0, **kwargs):
    """Build a module, noise added to every parameter: none is trivially zero or one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(*args, **kwargs)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return module.eval()


def frame_encoder(seed=0):
    sizes = {"conv_channels": 32, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 64}
    return seeded(FrameEncoder, "fbank", pos_conv_kernel=16, pos_conv_groups=4, seed=seed, **sizes)


def utterance_encoder(seed=0):
    sizes = {"channels": 16, "embedding_dim": 12, "attention_channels": 8}
    return seeded(UtteranceEncoder, "tdnn", seed=seed, **sizes)


def modules_of(features, **heads):
    encoders = {"frame_encoder": frame_encoder, "utterance_encoder": utterance_encoder}
    return {name: make() for name, make in encoders.items() if name == features} | heads


def written(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture(scope="module")
def speech(make_voice):
    """Return a function: seconds, speaker -> samples of one voice."""

    def make(seconds, speaker=1):
        pieces = [make_voice(speaker, seed) for seed in range(int(seconds) + 1)]
        return np.concatenate(pieces)[: int(seconds * RATE)]

    return make


def saved(folder, modules, facts):
    save_model(folder, modules, facts)
    return folder


@pytest.fixture
def transcriber_folder(tmp_path):
    """A folder whose head hears the letters A and B of `tones`."""
    return saved(tmp_path / "transcriber", {"ctc_head": tone_head()}, LETTERS_FACTS)


@pytest.fixture
def verifier_folder(tmp_path):
    modules = modules_of("utterance_encoder")
    return saved(tmp_path / "verifier", modules, {"features": "utterance_encoder", **PLAIN})


@pytest.fixture
def encoders_folder(tmp_path):
    return saved(tmp_path / "encoders", modules_of("frame_encoder"), None)


def tones(text, rate=RATE):
    """Return 0.2 s of a tone for each letter, of faint noise for a space."""
    time = np.arange(int(0.2 * rate)) / rate
    clean = [np.sin(2 * np.pi * (TONES[c] or 0) * time) for c in text]
    noise = np.random.default_rng(0).normal(0, 1e-3, len(text) * len(time))
    return 0.3 * np.concatenate(clean) + noise


def tone_head():
    """Return a head that sums the two loudest bands of each tone, where they stand out."""
    head = CTCHead(num_symbols=3, hidden_dim=2).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        for row, letter in enumerate("AB"):
            states, _ = FbankStates()(torch.from_numpy(tones(letter)).float()[None])
            head.projection.weight[row, states[0, 5, 0, :80].topk(2).indices] = 0.5
            head.output.weight[1 + row, row] = 1.0
        head.output.bias[0] = 1.5  # deviations above the mean: quieter is blank
    return head


# ---- Transcribing


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


# ---- Verifying


@pytest.fixture(scope="module")
def voices(speech):
    """Return 1.5 s of each of six voices, (6, samples)."""
    return torch.from_numpy(np.stack([speech(1.5, speaker=number) for number in range(6)]))


def speaker_head(states, wavs, pooling):
    """Return a head whose batch norms have the statistics of these states."""
    head = seeded(SpeakerHead, states.num_layers, states.dim, 10, pooling, embedding_dim=9)
    for module in head.modules():
        if isinstance(module, MaskedBatchNorm1d):
            module.momentum = 1.0
    with torch.no_grad():
        head.train()(*states(wavs))
    return head.eval()


@pytest.mark.parametrize(
    "features", ["utterance_encoder", "frame_encoder", "fbank", "fbank_statistics"]
)
def test_a_file_and_itself_score_1(features, voices, tmp_path):
    modules = modules_of(features)
    if features in ("frame_encoder", "fbank"):
        modules["speaker_head"] = speaker_head(make_states(features, modules), voices, "xvector")
    folder = saved(tmp_path / "model", modules, {"features": features, **PLAIN})
    verifier = SpeakerVerifier.from_pretrained(folder)
    a, b = (written(tmp_path / f"{n}.wav", voices[n]) for n in (1, 2))
    same = verifier.verify_files(a, a)
    assert same.score == pytest.approx(1.0, abs=1e-12) and same.score <= 1
    assert same.same_speaker is True
    assert (same.threshold, same.set_on) == (0.5, "trials of dev-clean")
    assert verifier.verify_files(a, b).score < 0.9999
    assert verifier.verify_files(a, b).score == verifier.verify_files(b, a).score


@pytest.mark.parametrize("scoring", ["plain", "centred", "standardised"])
@pytest.mark.parametrize("pooling", [None, "mean", "xvector"])
def test_scores_are_those_of_the_recipe(scoring, pooling, voices, tmp_path):
    modules, head = modules_of("utterance_encoder"), None
    states = UtteranceStates(modules["utterance_encoder"])
    if pooling is not None:
        head = modules["speaker_head"] = speaker_head(states, voices, pooling)
    with torch.no_grad():
        rows = head(*states(voices)) if head else states(voices)[0][:, 0, 0]
    embeddings = dict(zip("abcdef", rows.numpy(), strict=True))
    for name, wav in zip("ab", voices, strict=False):
        written(tmp_path / f"{name}.wav", wav, subtype="FLOAT")
    reference = {name: embeddings[name] for name in "cdef"}
    values = np.stack(list(reference.values()))
    known = {"mean": values.mean(0).tolist(), "deviation": values.std(0).tolist()}
    changed = change_embeddings(embeddings, reference, scoring)
    expected = score_trials(changed, [(1, "a", "b")])[0]
    count = SCORINGS.index(scoring)
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": scoring}
    facts |= dict(list(known.items())[:count])
    verifier = SpeakerVerifier.from_pretrained(saved(tmp_path / "model", modules, facts))
    score = verifier.verify_files(tmp_path / "a.wav", tmp_path / "b.wav").score
    assert score == pytest.approx(expected, abs=1e-5) and expected < 0.999


def test_the_decision_is_by_the_threshold(verifier_folder, speech, tmp_path):
    a, b = (written(tmp_path / f"{n}.wav", speech(1.5, speaker=n)) for n in (1, 2))
    modules, facts = load_folder(verifier_folder)
    score = SpeakerVerifier(modules, facts).verify_files(a, b).score
    for threshold, same in ((score - 1e-6, True), (score, True), (score + 1e-6, False)):
        verifier = SpeakerVerifier(modules, {**facts, "threshold": threshold})
        assert verifier.verify_files(a, b).same_speaker is same


def test_other_weights_give_another_score(verifier_folder, speech, tmp_path):
    a, b = (written(tmp_path / f"{n}.wav", speech(1.5, speaker=n)) for n in (1, 2))
    modules, facts = load_folder(verifier_folder)
    score = SpeakerVerifier(modules, facts).verify_files(a, b).score
    other = {"utterance_encoder": utterance_encoder(seed=1)}
    assert abs(SpeakerVerifier(other, facts).verify_files(a, b).score - score) > 1e-3


def test_a_stereo_mp3_of_8_khz_is_near_its_original(speech, tmp_path):
    verifier = SpeakerVerifier({}, {"features": "fbank_statistics", **PLAIN})
    voice = speech(4)[::2]
    original = written(tmp_path / "a.wav", resample_poly(voice, 2, 1))
    mp3 = written(tmp_path / "a.mp3", np.stack([voice, 0.5 * voice], axis=1), 8000)
    too_fast = written(tmp_path / "b.wav", voice)
    near = verifier.verify_files(original, mp3).score
    assert near > 0.9
    assert near > verifier.verify_files(original, too_fast).score + 0.05


def test_an_embedding_without_direction_is_named(speech, tmp_path):
    modules = modules_of("utterance_encoder", speaker_head=SpeakerHead(1, 12, 4))
    for parameter in modules["speaker_head"].parameters():
        parameter.data.zero_()
    verifier = SpeakerVerifier(modules, {"features": "utterance_encoder", **PLAIN})
    path = written(tmp_path / "a.wav", speech(1))
    with pytest.raises(ValueError, match=f"{path}: its embedding has length 0.0"):
        verifier.verify_files(path, path)


# ---- Long files


def only_layer(states):
    return states[:, :, 0]


@pytest.mark.parametrize("features", ["fbank", "fbank_statistics", "utterance_encoder"])
@pytest.mark.parametrize("seconds", [30.01, 45])
def test_states_of_a_long_file_are_those_of_the_whole(features, seconds, speech, tmp_path):
    samples = speech(seconds)
    samples[35 * RATE :] *= 0.05  # the last window's own floor and level are others
    samples = np.ascontiguousarray(samples)
    modules = modules_of(features)
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found, found_lens = FileStates(features, modules, only_layer)(path)
    with torch.no_grad():
        whole, lens = make_states(features, modules)(torch.from_numpy(samples)[None])
        part, _ = make_states(features, modules)(torch.from_numpy(samples[: 20 * RATE])[None])
    assert found_lens.tolist() == lens.tolist() and found.shape == whole[:, :, 0].shape
    assert (found - whole[:, :, 0]).abs().max() < 1e-4
    assert (found[:, :500] - part[:, :500, 0]).abs().max() > 1e-3


def test_frames_of_a_long_file_are_those_of_its_encoding(speech, tmp_path):
    path = written(tmp_path / "a.wav", speech(40))
    modules = modules_of("frame_encoder")
    found, lens = FileStates("frame_encoder", modules, lambda states: states[:, :, -1])(path)
    expected = Learn2Diss(modules).encode_file(path)
    assert torch.equal(found, expected.frames) and torch.equal(lens, expected.frame_lens)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("lstm_layers", "tolerance"), [(0, 1e-5), (2, 1e-3)])
def test_logits_of_a_long_file_are_near_those_of_the_whole(stride, lstm_layers, tolerance):
    head = seeded(CTCHead, 3, 8, 5, hidden_dim=8, lstm_layers=lstm_layers, stride=stride)
    states = torch.randn(1, 3701, 3, 8, generator=torch.Generator().manual_seed(0))
    sum_layers, rest = split_head(head)
    with torch.no_grad():
        whole, _ = head(states, torch.tensor([3701]))
        found = long_logits(rest, sum_layers(states))
    assert found.shape == whole.shape
    assert (found - whole).abs().max() < tolerance * whole.std()


def test_the_x_vector_of_a_long_file_is_that_of_the_whole():
    head = seeded(SpeakerHead, 3, 8, 8, pooling="xvector", embedding_dim=6)
    states = torch.randn(1, 3701, 3, 8, generator=torch.Generator().manual_seed(0)).cumsum(1) / 30
    sum_layers, rest = split_head(head)
    with torch.no_grad():
        whole = head(states, torch.tensor([3701]))
        part = head(states[:, :2000], torch.tensor([2000]))
        found = long_xvector(rest, sum_layers(states))
    assert torch.allclose(found, whole, atol=1e-5) and not torch.allclose(part, whole, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "xvector"])
def test_a_long_file_has_the_embedding_of_the_whole(pooling, speech, voices, tmp_path):
    states = FbankStates()
    head = speaker_head(states, voices, pooling)
    samples = np.concatenate([speech(25), speech(20, speaker=2)])
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    with torch.no_grad():
        whole = head(*states(torch.from_numpy(samples)[None]))[0].numpy()
        part = head(*states(torch.from_numpy(samples[: 30 * RATE])[None]))[0].numpy()
    verifier = SpeakerVerifier({"speaker_head": head}, {"features": "fbank", **PLAIN})
    assert np.abs(verifier.embed_file(path) - whole).max() < 1e-4 < np.abs(part - whole).max()


def test_splitting_a_head_leaves_it_as_it_was():
    head = seeded(CTCHead, 3, 8, 5, hidden_dim=8)
    states, lens = torch.randn(1, 20, 3, 8), torch.tensor([20])
    before = head(states, lens)[0]
    sum_layers, rest = split_head(head)
    assert torch.equal(rest(sum_layers(states), lens)[0], before)
    assert torch.equal(head(states, lens)[0], before)


# ---- Bad audio and other folders


def test_the_shortest_files(transcriber_folder, verifier_folder, speech, tmp_path):
    transcriber = Transcriber.from_pretrained(transcriber_folder)
    verifier = SpeakerVerifier.from_pretrained(verifier_folder)
    for seconds in (0.025, 0.1):
        path = written(tmp_path / f"{seconds}.wav", speech(1)[: int(seconds * RATE)])
        assert transcriber.transcribe_file(path) in ("", "A", "B")
        assert verifier.verify_files(path, path).same_speaker
    short = written(tmp_path / "short.wav", speech(0.02))
    for use in (transcriber.transcribe_file, lambda path: verifier.verify_files(path, path)):
        with pytest.raises(AudioError, match=f"{short} is too short: 0.0200 s"):
            use(short)
        with pytest.raises(FileNotFoundError, match="none.wav is not a file"):
            use(tmp_path / "none.wav")


def test_folders_of_other_kinds_say_what_they_hold(
    transcriber_folder, verifier_folder, encoders_folder
):
    asr, sid = "recipes/LibriSpeech/ASR or recipes/LibriSpeech/PR", "recipes/VoxCeleb/SpeakerRec"
    encoders = r"encoders only \(frame_encoder\)"
    for load, folder, message in (
        (Transcriber, encoders_folder, f"{encoders}, no transcriber: {asr} exports one"),
        (Transcriber, verifier_folder, f"a verifier, no transcriber: {asr} exports one"),
        (SpeakerVerifier, encoders_folder, f"{encoders}, no verifier: {sid} exports one"),
        (SpeakerVerifier, transcriber_folder, f"a transcriber, no verifier: {sid} exports one"),
        (Learn2Diss, transcriber_folder, "no encoder, only a transcriber on fbank"),
    ):
        with pytest.raises(ValueError, match=f"{folder} holds {message}"):
            load.from_pretrained(folder)


def test_the_encoders_of_a_transcriber_are_encoders_too(tmp_path, capsys):
    modules = modules_of("frame_encoder", ctc_head=CTCHead(3, 32, 3))
    folder = saved(tmp_path / "model", modules, {**LETTERS_FACTS, "features": "frame_encoder"})
    assert list(load_model(folder)) == ["frame_encoder"]
    loaded, facts = load_folder(folder)
    assert list(loaded) == ["frame_encoder", "ctc_head"]
    assert facts == {**LETTERS_FACTS, "features": "frame_encoder"}
    assert Learn2Diss.from_pretrained(folder).encode(torch.randn(1, 8000)).frames.shape[2] == 32
    out = tmp_path / "out"
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "frame_encoder.ckpt",
        "hyperparams.yaml",
    ]


# ---- What does not fit


HEADS = {
    "ctc_head": lambda **sizes: CTCHead(
        **{"num_layers": 3, "in_dim": 32, "num_symbols": 3} | sizes
    ),
    "speaker_head": lambda **sizes: SpeakerHead(**{"num_layers": 3, "in_dim": 32} | sizes),
}
MEAN = {"scoring": "centred", "mean": [0.0] * 12}


@pytest.mark.parametrize("when", ["saved", "loaded"])
@pytest.mark.parametrize(
    ("head", "sizes", "facts", "message"),
    [
        ("ctc_head", {"num_layers": 4}, {}, r"num_layers is 4, and .*\(frame_encoder\) has 3"),
        ("ctc_head", {"in_dim": 31}, {}, r"in_dim is 31, and .*\(frame_encoder\) has 32"),
        ("ctc_head", {"num_symbols": 5}, {}, "num_symbols is 5, and facts.tokenizer.* has 3"),
        ("ctc_head", {}, {"features": "fbank"}, r"num_layers is 3, and .*\(fbank\) has 1"),
        ("speaker_head", {"in_dim": 31}, {}, r"in_dim is 31, and .*\(frame_encoder\) has 32"),
        ("speaker_head", {}, MEAN, "facts.mean has 12 numbers, and an embedding has 256"),
        ("speaker_head", {}, {"features": "utterance_encoder"}, "there is no utterance_encoder"),
        ("ctc_head", {}, PLAIN, "ctc_head is there, and the facts are those of a verifier"),
        ("speaker_head", {}, LETTERS_FACTS, "speaker_head is there, .* of a transcriber"),
        ("ctc_head", {}, None, "ctc_head is there, and the facts are missing"),
        (None, {}, LETTERS_FACTS, "a transcriber on 'fbank' needs a ctc_head"),
        (None, {}, PLAIN, "a verifier on 'frame_encoder' needs a speaker_head"),
    ],
)
def test_modules_that_do_not_fit(when, head, sizes, facts, message, tmp_path, monkeypatch):
    modules = {"frame_encoder": frame_encoder()}
    if head is not None:
        modules[head] = HEADS[head](**sizes)
    if facts is not None:
        own = PLAIN if head == "speaker_head" or facts is PLAIN else LETTERS_FACTS
        own = own if facts is not LETTERS_FACTS else {}
        facts = {"features": "frame_encoder"} | own | {"features": "frame_encoder"} | facts
    folder = tmp_path / "model"
    if when == "loaded":
        with monkeypatch.context() as patch:
            patch.setattr("pretrained.exported.check_modules", lambda *_: None)
            save_model(folder, modules, facts)
    with pytest.raises(ValueError, match=f"{folder}/config.json: .*{message}"):
        save_model(folder, modules, facts) if when == "saved" else load_folder(folder)
    assert folder.exists() == (when == "loaded")


def test_unknown_modules_and_no_modules_are_not_saved(tmp_path):
    for modules in ({"os": torch.nn.Linear(2, 2)}, {}):
        with pytest.raises(ValueError, match="config.json: expected frame_encoder or"):
            save_model(tmp_path / "model", modules)
    assert list(tmp_path.iterdir()) == []


def test_facts_too_long_to_load_are_not_saved(tmp_path):
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": "centred", "mean": [0.1] * 10**5}
    modules = modules_of("utterance_encoder", speaker_head=SpeakerHead(1, 12, 10**5))
    with pytest.raises(ValueError, match="characters of facts: at most 1000000 load"):
        save_model(tmp_path / "model", modules, facts)
    assert list(tmp_path.iterdir()) == []


# ---- Hostile folders


def change_config(folder, change, sign):
    """Change config.json, and with `sign` the SHA-256 in it, as anyone can."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    if sign:
        config["sha256"] = {
            "weights": _file_digest(folder / "model.safetensors"),
            "encoders": _digest(
                {k: v for k, v in config.items() if k.endswith(("_encoder", "_head"))}
            ),
        }
        if "facts" in config:
            config["sha256"]["facts"] = _digest(config["facts"])
    (folder / "config.json").write_text(json.dumps(config))


def assert_refused(load, folder, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{folder}/(.|\n)*{message}"):
        load.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def edit(key, value):
    """Return a change of config.json: set one of the facts."""
    return lambda config: config["facts"].update({key: value})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = "must be a list of finite numbers"
THRESHOLD = "facts.threshold must be a number between -1 and 1"


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(facts=[]), r"facts must be an object of values, not \[\]"),
        (lambda c: c.update(facts=None), "facts must be an object of values, not None"),
        (lambda c: c.update(facts=nested(500)), "facts must be an object of values"),
        (lambda c: c.update(facts={}), "facts.scoring must be one of"),
        (edit("class", "os.system"), "config.json: facts must be .*; found 'class'"),
        (edit("mean", [0.0] * 12), "; found 'mean'"),
        (lambda c: c["facts"].pop("threshold"), "'threshold' is missing"),
        (edit("features", "../other"), "facts.features must be one of .*, not '../other'"),
        (edit("features", ["fbank"]), "facts.features must be one of"),
        (edit("scoring", "centred"), "'mean' is missing"),
        (edit("scoring", {"a": 1}), "facts.scoring must be one of"),
        (edit("threshold", float("nan")), f"{THRESHOLD}, not nan"),
        (edit("threshold", float("inf")), THRESHOLD),
        (edit("threshold", 1.5), THRESHOLD),
        (edit("threshold", 10**400), THRESHOLD),
        (edit("threshold", "0.5"), THRESHOLD),
        (edit("threshold", True), THRESHOLD),
        (edit("threshold", None), THRESHOLD),
        (edit("threshold_set_on", 5), "facts.threshold_set_on must be a line"),
        (edit("threshold_set_on", ""), "facts.threshold_set_on must be a line"),
        (edit("threshold_set_on", "a\x1b[2J"), "facts.threshold_set_on must be a line"),
        (
            edit("threshold_set_on", "a" * 2000),
            "facts.threshold_set_on must be a line of 1 to 1000",
        ),
    ],
)
def test_facts_of_a_verifier_that_are_refused(verifier_folder, sign, change, message):
    change_config(verifier_folder, change, sign)
    assert_refused(SpeakerVerifier, verifier_folder, message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", 0.0, NUMBERS),
        ("mean", [], NUMBERS),
        ("mean", ["0"] * 12, NUMBERS),
        ("mean", [0.0] * 11 + [float("nan")], NUMBERS),
        ("mean", [0.0] * 11 + [10**400], NUMBERS),
        ("mean", [[0.0]] * 12, NUMBERS),
        ("mean", [0.0] * 11, "facts.mean has 11 numbers, and an embedding has 12"),
        ("mean", [0] * 150_000, "facts.mean has 150000 numbers, and an embedding has 12"),
        ("deviation", [1.0] * 13, "facts.deviation has 13 numbers, and an embedding has 12"),
        ("deviation", [1.0] * 11 + [0.0], "facts.deviation must be positive"),
        ("deviation", [1.0] * 11 + [-1.0], "facts.deviation must be positive"),
        ("deviation", [1.0] * 11 + [float("inf")], NUMBERS),
    ],
)
def test_statistics_that_are_refused(key, value, message, tmp_path):
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": "standardised"}
    facts |= {"mean": [0.0] * 12, "deviation": [1.0] * 12}
    folder = saved(tmp_path / "model", modules_of("utterance_encoder"), facts)
    assert SpeakerVerifier.from_pretrained(folder).facts == facts
    change_config(folder, edit(key, value), sign=True)
    assert_refused(SpeakerVerifier, folder, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            edit("features", "utterance_encoder"),
            "facts.features must be one of frame_encoder, fbank",
        ),
        (edit("features", "frame_encoder"), "there is no frame_encoder"),
        (edit("tokenizer", None), "facts.tokenizer: "),
        (edit("tokenizer", {"kind": "os.system"}), "facts.tokenizer: kind must be"),
        (edit("tokenizer", {"kind": "characters", "symbols": ["A"] * 10**5}), "is there twice"),
        (edit("tokenizer", {"kind": "characters", "symbols": nested(500)}), "facts.tokenizer: "),
        (edit("tokenizer", nested(500)), "facts.tokenizer: "),
        (edit("tokenizer", {"kind": "pieces", "model": "gASVAAAA"}), "not a SentencePiece model"),
        (edit("tokenizer", {"kind": "characters", "symbols": ["A"]}), "num_symbols is 3, .* has 2"),
        (edit("language", "en"), "; found 'language'"),
    ],
)
def test_facts_of_a_transcriber_that_are_refused(transcriber_folder, change, message):
    change_config(transcriber_folder, change, sign=True)
    assert_refused(Transcriber, transcriber_folder, message)


@pytest.mark.parametrize(
    "change",
    [
        edit("threshold", 0.4),
        edit("threshold_set_on", "other trials"),
        lambda config: config["sha256"].pop("facts"),
        lambda config: config["sha256"].update(facts=None),
        lambda config: config.pop("facts"),
    ],
)
def test_altered_facts_are_refused(verifier_folder, change):
    change_config(verifier_folder, change, sign=False)
    assert_refused(SpeakerVerifier, verifier_folder, "config.json was altered: the facts'")


def argument(name, value):
    return lambda config: config["ctc_head"].update({name: value})


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (argument("lstm_layers", -1), "ctc_head.lstm_layers must be between 0 and"),
        (argument("lstm_layers", 10**9), "ctc_head.lstm_layers must be between 0 and"),
        (argument("lstm_layers", 1), "ctc_head.lstm.* is missing"),
        (argument("stride", 0), "ctc_head.stride must be between 1"),
        (argument("stride", 2**31), "ctc_head.projection.weight has shape"),
        (argument("stride", 2), "ctc_head.projection.weight has shape"),
        (argument("hidden_dim", 10**9), "has shape"),
        (argument("num_symbols", 2**31), "has shape"),
        (argument("num_layers", True), "num_layers must be int, not True"),
        (argument("dropout", float("nan")), "dropout must be finite"),
        (argument("dropout", 2.0), "ctc_head cannot be built"),
        (argument("dropout", nested(500)), "dropout must be float"),
        (argument("class", "os.system"), "ctc_head has no argument 'class'"),
        (lambda config: config.update(ctc_head="os.system"), "must be an object of arguments"),
        (lambda config: config.update(os="system"), r"found \['os'\]"),
    ],
)
def test_heads_that_are_refused(transcriber_folder, sign, change, message):
    change_config(transcriber_folder, change, sign)
    assert_refused(Transcriber, transcriber_folder, message)


def test_an_lstm_is_loaded_and_a_larger_one_takes_no_memory(tmp_path):
    head = seeded(CTCHead, num_symbols=3, hidden_dim=8, lstm_layers=2, stride=2)
    folder = saved(tmp_path / "model", {"ctc_head": head}, LETTERS_FACTS)
    loaded = load_folder(folder)[0]["ctc_head"]
    assert loaded.config == head.config and not loaded.training
    weights = loaded.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in head.state_dict().items())
    change_config(folder, argument("hidden_dim", 50_000), sign=True)
    assert_refused(Transcriber, folder, "ctc_head.lstm.* has shape")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pooling", "median", "speaker_head cannot be built: pooling must be 'mean' or 'xvector'"),
        ("pooling", 1, "speaker_head.pooling must be str"),
        ("pooling", "mean", "is left over"),
        ("embedding_dim", 10**9, "has shape"),
        ("hidden_dim", 10**6, "has shape"),
    ],
)
def test_speaker_heads_that_are_refused(name, value, message, tmp_path):
    head = SpeakerHead(hidden_dim=8, pooling="xvector", embedding_dim=6)
    folder = saved(tmp_path / "model", {"speaker_head": head}, {"features": "fbank", **PLAIN})
    change_config(folder, lambda config: config["speaker_head"].update({name: value}), sign=True)
    assert_refused(SpeakerVerifier, folder, message)


def test_altered_weights_of_a_head_are_refused(transcriber_folder):
    path = transcriber_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["ctc_head.output.bias"] += 1
    save_file(tensors, path)
    assert_refused(Transcriber, transcriber_folder, "model.safetensors was altered")


# ---- The command line


def test_transcribe_prints_a_line_for_each_file(transcriber_folder, tmp_path, capsys):
    files = [written(tmp_path / f"{n}.wav", tones(t)) for n, t in enumerate((" AB ", " B ", "  "))]
    assert main(["transcribe", *map(str, files), "--model", str(transcriber_folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{files[0]}\tAB\n{files[1]}\tB\n{files[2]}\t\n" and not printed.err


def test_a_bad_file_does_not_stop_the_others(transcriber_folder, tmp_path, capsys):
    good = [written(tmp_path / name, tones(" A ")) for name in ("first.wav", "last.wav")]
    bad = [tmp_path / "none.wav", written(tmp_path / "short.wav", tones("A")[:320])]
    files = map(str, [good[0], *bad, good[1]])
    assert main(["transcribe", *files, "--model", str(transcriber_folder)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "".join(f"{path}\tA\n" for path in good)
    lines = printed.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "none.wav is not a file" in lines[0] and "short.wav is too short" in lines[1]


def test_what_could_steer_a_terminal_is_not_printed(tmp_path, capsys):
    tokenizer = SymbolTokenizer(["\x1b", "B"])
    facts = {"features": "fbank", "tokenizer": tokenizer.to_config()}
    folder = saved(tmp_path / "model", {"ctc_head": tone_head()}, facts)
    path = written(tmp_path / "a.wav", tones(" BAB "))
    assert main(["transcribe", str(path), "--model", str(folder)]) == 0
    assert capsys.readouterr().out == f"{path}\tB B\n"


def test_verify_prints_score_threshold_and_decision(verifier_folder, speech, tmp_path, capsys):
    a, b = (str(written(tmp_path / f"{n}.wav", speech(1.5, speaker=n))) for n in (1, 2))
    assert main(["verify", a, a, "--model", str(verifier_folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "score\t1.000000",
        "threshold\t0.500000",
        "threshold set on\ttrials of dev-clean",
        "decision\tsame speaker",
    ]
    modules, facts = load_folder(verifier_folder)
    folder = saved(tmp_path / "strict", modules, {**facts, "threshold": 1})
    assert main(["verify", a, b, "--model", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "decision\tdifferent speakers"


def test_errors_are_one_line(verifier_folder, encoders_folder, speech, tmp_path, capsys):
    a = str(written(tmp_path / "a.wav", speech(1)))
    for command, message in (
        (["verify", a, "none.wav", "--model", str(verifier_folder)], "none.wav is not a file"),
        (["verify", a, a, "--model", str(encoders_folder)], "holds encoders only"),
        (["verify", a, a, "--model", str(tmp_path / "none")], "none is not a folder"),
        (["transcribe", a, "--model", str(verifier_folder)], "a verifier, no transcriber"),
        (["transcribe", a, "--model", str(tmp_path / "none")], "none is not a folder"),
    ):
        assert main(command) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and len(printed.err.splitlines()) == 1
        assert printed.err.startswith("error: ") and message in printed.err


@pytest.mark.long
def test_a_folder_stands_alone_outside_the_repository(transcriber_folder, tmp_path):
    written(tmp_path / "a.wav", tones(" AB "))
    command = [sys.executable, "-m", "pretrained", "transcribe", "a.wav", "none.wav"]
    done = subprocess.run(
        [*command, "--model", transcriber_folder.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "a.wav\tAB\n"
    assert "error: none.wav is not a file" in done.stderr and "Traceback" not in done.stderr


# ---- The model card


METRICS = {"figures": {"test": {"error": 0.25}}, "seed": 7}


def test_cards_tell_what_a_folder_is(transcriber_folder, verifier_folder, encoders_folder):
    texts = []
    for folder in (transcriber_folder, verifier_folder, encoders_folder):
        write_card(folder, METRICS)
        texts.append((folder / "README.md").read_text())
        assert "| test.error | 0.25 |" in texts[-1] and "| seed | 7 |" in texts[-1]
        assert "{" not in texts[-1] and "withdrew" in texts[-1]
        load_folder(folder)
    transcriber, verifier, encoders = texts
    assert (
        transcriber.startswith("# Transcriber\n") and "Transcriber.from_pretrained" in transcriber
    )
    assert "a CTC head on log-mel bands" in transcriber and "characters" in transcriber
    assert "| ctc_head.num_symbols | 3 |" in transcriber
    assert verifier.startswith("# Speaker verifier\n")
    assert "SpeakerVerifier.from_pretrained" in verifier and "embeddings of the utt" in verifier
    assert "the threshold, 0.5." in verifier and "set on: trials of dev-clean." in verifier
    assert encoders.startswith("# Frame encoder\n") and "Learn2Diss.from_pretrained" in encoders
