"""The facts of transcribers and verifiers: what does not fit, and what is refused."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from lobes.heads import CTCHead, SpeakerHead
from pretrained import Learn2Diss, SpeakerVerifier, Transcriber
from pretrained.__main__ import main
from pretrained.exported import _digest, load_folder, load_model, save_model
from pretrained.plain_files import digest_file
from tests.pretrained.exports import (
    LETTERS_FACTS,
    PLAIN,
    frame_encoder,
    modules_of,
    saved,
    seeded,
)


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
        "ctc_head.ckpt",
        "frame_encoder.ckpt",
        "hyperparams.yaml",
    ]


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


def change_config(folder, change, sign):
    """Change config.json, and with `sign` the SHA-256 in it, as anyone can."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    if sign:
        config["sha256"] = {
            "weights": digest_file(folder / "model.safetensors"),
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
