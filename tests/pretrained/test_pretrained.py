"""Exported models in use: encoding, files of all kinds, hostile folders, other toolkits."""

import hashlib
import json
import os
import pickle
import resource
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
import transformers
from safetensors.torch import load_file, save_file
from speechbrain.utils.fetching import FetchConfig, LocalStrategy

from lobes.frame_encoder import FrameEncoder
from lobes.signal import num_frames
from lobes.tdnn import MaskedBatchNorm1d
from lobes.utterance_encoder import UtteranceEncoder
from pretrained import Learn2Diss
from pretrained.__main__ import main
from pretrained.audio import AudioError, read_blocks, resample_blocks
from pretrained.card import write_card
from pretrained.exported import load_folder, load_model, save_model
from pretrained.interfaces import Learn2DissInterface
from pretrained.toolkits.layouts import to_huggingface, to_speechbrain, to_torchaudio
from recipes.common.training.run import finish

RATE = 16000
SIZES = {"conv_channels": 32, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 64}
SIZES |= {"pos_conv_kernel": 16, "pos_conv_groups": 4}
OFFLINE = {"fetch_config": FetchConfig(allow_network=False), "local_strategy": LocalStrategy.COPY}
every_attention = pytest.mark.parametrize("attention", ["hubert", "wavlm"])


def shaken(encoder, seed=0):
    """Add noise to every weight and statistic, so that none is trivially zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for module in encoder.modules():
            if isinstance(module, MaskedBatchNorm1d):
                module.running_mean.normal_(0.0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder.eval()


def frame_encoder(frontend="fbank", **changes):
    return shaken(FrameEncoder(frontend, **(SIZES | changes)))


def utterance_encoder(backbone="tdnn"):
    sizes = {"channels": 16, "embedding_dim": 12, "attention_channels": 8, "se_channels": 8}
    return shaken(UtteranceEncoder(backbone, res2net_scale=4, **sizes))


@pytest.fixture(scope="module")
def encoders():
    return {"frame_encoder": frame_encoder(), "utterance_encoder": utterance_encoder()}


@pytest.fixture
def folder(encoders, tmp_path):
    save_model(tmp_path / "model", encoders)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def speech(make_voice):
    """Return a function: seconds -> samples, of voices of changing loudness, with a silence."""

    def make(seconds):
        pieces, length = [], 0
        while length < seconds * RATE:
            number = len(pieces)
            voice = make_voice(number % 4, seed=number) * (0.1, 1.0, 0.4)[number % 3]
            pieces += [voice, np.zeros(RATE // 4, np.float32)]
            length += len(voice) + RATE // 4
        return np.concatenate(pieces)[: int(seconds * RATE)]

    return make


def written(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return path


# ---- Batches


def test_encode_is_what_the_encoders_give(encoders, folder):
    model = Learn2Diss.from_pretrained(folder)
    wavs, lens = 0.1 * torch.randn(3, 8000), torch.tensor([1.0, 0.5, 0.81])
    encoding = model.encode(wavs, lens, output_hidden_states=True)
    frames, hidden = encoders["frame_encoder"](wavs, lens, output_hidden_states=True)
    assert torch.equal(encoding.frames, frames)
    assert all(map(torch.equal, encoding.hidden_states, hidden)) and len(hidden) == 3
    assert encoding.frame_lens.tolist() == [num_frames(n) for n in (8000, 4000, 6480)]
    assert encoding.frame_lens.dtype == torch.int64
    assert torch.equal(encoding.utterance, encoders["utterance_encoder"](wavs, lens))
    assert not encoding.frames.requires_grad and not encoding.utterance.requires_grad
    assert model.encode(wavs).hidden_states is None
    assert not any(module.training for module in model.frame_encoder.modules())


@pytest.mark.parametrize("seconds", [1, 40])
@pytest.mark.parametrize("name", ["frame_encoder", "utterance_encoder"])
def test_a_missing_encoder_gives_none(encoders, name, seconds, speech, tmp_path):
    save_model(tmp_path, {name: encoders[name]})
    model = Learn2Diss.from_pretrained(tmp_path)
    encoding = model.encode_file(written(tmp_path / "a.wav", speech(seconds)))
    alone = name == "utterance_encoder"
    assert (model.frame_encoder is None, model.utterance_encoder is None) == (alone, not alone)
    assert (encoding.frames is None, encoding.frame_lens is None) == (alone, alone)
    assert (encoding.utterance is None) == (not alone)


@pytest.mark.parametrize(
    ("wavs", "lens", "message"),
    [
        (torch.zeros(16000), None, r"must be \(batch, samples\)"),
        (torch.zeros(1, 16000, dtype=torch.int16), None, "floating point"),
        (torch.zeros(1, 399), None, "row 0 of wavs has 399 valid samples"),
        (torch.ones(2, 16000), torch.tensor([1.0, 0.02]), "row 1 of wavs has 320"),
        (torch.full((1, 16000), torch.nan), None, "row 0 of wavs holds NaN"),
        (torch.ones(2, 16000), torch.ones(3), "one value for each of the 2 rows"),
    ],
)
def test_batches_that_cannot_be_encoded(encoders, wavs, lens, message):
    with pytest.raises(ValueError, match=message):
        Learn2Diss(encoders).encode(wavs, lens)


def test_padding_may_hold_anything(encoders):
    wavs = 0.1 * torch.randn(2, 16000)
    wavs[1, 8000:] = torch.nan
    encoding = Learn2Diss(encoders).encode(wavs, torch.tensor([1.0, 0.5]))
    assert encoding.frames.isfinite().all() and encoding.utterance.isfinite().all()


# ---- Long files


def test_a_file_of_one_window_is_encoded_as_it_is(encoders, speech, tmp_path):
    samples = speech(30)
    model = Learn2Diss(encoders)
    encoding = model.encode_file(written(tmp_path / "a.wav", samples, subtype="FLOAT"))
    expected = model.encode(torch.from_numpy(samples)[None])
    assert torch.equal(encoding.frames, expected.frames)
    assert torch.equal(encoding.utterance, expected.utterance)
    assert encoding.frame_lens.tolist() == [1499]


@pytest.mark.parametrize("seconds", [30.02, 56, 82.7])
def test_windows_make_up_the_grid_of_the_whole(encoders, seconds, speech, tmp_path):
    samples = speech(seconds)
    model = Learn2Diss(encoders)
    encoding = model.encode_file(written(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert encoding.frames.shape[1] == num_frames(len(samples)) == int(encoding.frame_lens)
    for start in range(0, len(samples) - 4 * RATE, 26 * RATE):
        window = torch.from_numpy(samples[start : start + 30 * RATE])[None]
        alone = model.encode(window).frames
        lead = 100 if start else 0
        last = start + 30 * RATE >= len(samples)
        own = alone[:, lead : None if last else 1400]
        place = start // 320 + lead
        assert torch.equal(encoding.frames[:, place : place + own.shape[1]], own)


def test_the_tdnn_gives_what_the_whole_gives(speech, tmp_path):
    samples = speech(95)
    encoder = utterance_encoder()
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found = Learn2Diss({"utterance_encoder": encoder}).encode_file(path).utterance
    with torch.no_grad():
        whole = encoder(torch.from_numpy(samples)[None])
        part = encoder(torch.from_numpy(samples[: 30 * RATE])[None])
    assert (found - whole).abs().max() < 1e-5 * whole.abs().max()
    assert (part - whole).abs().max() > 1e-3


def test_ecapa_is_near_to_what_the_whole_gives(speech, tmp_path):
    samples = speech(70)
    encoder = utterance_encoder("ecapa")
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    found = Learn2Diss({"utterance_encoder": encoder}).encode_file(path).utterance
    with torch.no_grad():
        whole = encoder(torch.from_numpy(samples)[None])
    assert torch.cosine_similarity(found, whole) > 0.999


def test_files_are_read_in_blocks(tmp_path):
    rate = 44100
    path = written(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 35 * rate), rate)
    lengths = [len(block) for block in read_blocks(path)]
    assert sum(lengths) == 35 * RATE and max(lengths) <= 10 * RATE


# ---- Rates, channels and containers


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 15999, 96000])
def test_blocks_are_resampled_as_the_whole_is(rate):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=int(1.7 * rate)).astype(np.float32)
    whole = np.concatenate(list(resample_blocks([samples], rate)))
    cuts = np.sort(rng.integers(0, len(samples), 6))
    blocks = np.concatenate(list(resample_blocks(np.split(samples, cuts), rate)))
    assert len(blocks) == -(-len(samples) * RATE // rate)
    assert blocks.dtype == np.float32
    np.testing.assert_allclose(blocks, whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 15999, 16000, 44100])
def test_half_a_spectrum_is_told_of(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(rate)), rate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(read_blocks(tmp_path / "a.wav"))
    expected = [f"a.wav is sampled at {rate} Hz, so it holds nothing above {rate // 2} Hz"]
    told = [str(warning.message) for warning in caught]
    assert len(told) == (rate < RATE)
    assert all(text in message for text, message in zip(expected, told, strict=False))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_tones_are_kept_and_aliases_are_not(rate):
    blocks = [np.arange(start, start + rate // 2) / rate for start in range(0, 2 * rate, rate // 2)]
    time = np.arange(2 * RATE) / RATE
    inner = slice(200, -200)
    tones = (np.sin(2 * np.pi * 1000 * block).astype(np.float32) for block in blocks)
    resampled = np.concatenate(list(resample_blocks(tones, rate)))
    assert np.abs(resampled - np.sin(2 * np.pi * 1000 * time))[inner].max() < 2e-3
    if rate > 2 * 10000:
        tones = (np.sin(2 * np.pi * 10000 * block).astype(np.float32) for block in blocks)
        assert np.abs(np.concatenate(list(resample_blocks(tones, rate))))[inner].max() < 1e-2
    theirs = torchaudio.functional.resample(
        torch.from_numpy(np.sin(2 * np.pi * 1000 * np.concatenate(blocks))), rate, RATE
    )
    assert np.abs(resampled - theirs.numpy())[inner].max() < 2e-3


@pytest.mark.parametrize(
    ("name", "rate", "channels", "tolerance"),
    [
        ("a.wav", 8000, 2, 0.02),
        ("a.flac", 48000, 1, 0.02),
        ("a.ogg", 32000, 2, 0.3),
        ("a.mp3", 44100, 1, 0.3),
    ],
)
def test_rates_channels_and_containers(encoders, name, rate, channels, tolerance, tmp_path):
    time = np.arange(int(1.5 * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 500 * time) * np.sin(np.pi * time) ** 2
    weights = [1.5, 0.5] if channels == 2 else [1.0]
    path = written(tmp_path / name, np.stack([w * tone for w in weights], axis=1), rate)
    samples = np.concatenate(list(read_blocks(path)))
    time = np.arange(int(1.5 * RATE)) / RATE
    expected = 0.5 * np.sin(2 * np.pi * 500 * time) * np.sin(np.pi * time) ** 2
    assert abs(len(samples) - len(expected)) <= 1
    error = samples[: len(expected)] - expected[: len(samples)]
    assert np.linalg.norm(error) < tolerance * np.linalg.norm(expected)
    encoding = Learn2Diss(encoders).encode_file(path)
    assert encoding.frames.shape == (1, num_frames(len(samples)), 32)


# ---- Bad audio


@pytest.fixture
def bad_audio(tmp_path):
    """Return a function: what is wrong -> the path of such a file."""

    def make(problem):
        path = tmp_path / f"{problem}.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
        if problem == "nan":
            noise[8000] = np.nan
        samples = {"empty": noise[:0], "short": noise[:320], "zeros": 0 * noise, "nan": noise}
        if problem == "text":
            path.write_text("This is not audio. " * 100)
        elif problem == "rate":
            written(path, noise, 900)
        elif problem in samples:
            written(path, samples[problem], subtype="FLOAT")
        return path

    return make


BAD_AUDIO = {
    "empty": "too short: 0.0000 s, and one frame takes 0.025 s",
    "short": "too short: 0.0200 s, and one frame takes 0.025 s",
    "zeros": "silent: every sample is zero",
    "nan": "NaN or infinity, first at 0.500 s",
    "text": "cannot be read as audio: Format not recognised",
    "rate": "sampling rate is 900 Hz, expected 1000 to 768000 Hz",
    "missing": "is not a file",
}


@pytest.mark.parametrize("problem", BAD_AUDIO)
def test_bad_audio_is_named(encoders, bad_audio, problem):
    path = bad_audio(problem)
    kind = FileNotFoundError if problem == "missing" else AudioError
    with pytest.raises(kind, match=f"{path}.* {BAD_AUDIO[problem]}"):
        Learn2Diss(encoders).encode_file(path)


def test_damage_far_into_a_long_file_is_found(encoders, tmp_path):
    samples = np.full(45 * RATE, 0.1, np.float32)
    samples[40 * RATE] = np.inf
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match="first at 40.000 s"):
        Learn2Diss(encoders).encode_file(path)


def test_a_folder_is_not_an_audio_file(encoders, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        Learn2Diss(encoders).encode_file(tmp_path)


# ---- The command line


def test_encode_writes_what_there_is(encoders, folder, speech, tmp_path, capsys):
    files = [written(tmp_path / name, speech(1)) for name in ("a.wav", "b.flac")]
    out = tmp_path / "new" / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.npz", "b.npz"]
    with np.load(out / "b.npz") as arrays:
        expected = Learn2Diss(encoders).encode_file(files[1])
        assert sorted(arrays) == ["frames", "utterance"]
        np.testing.assert_array_equal(arrays["frames"], expected.frames[0])
        np.testing.assert_array_equal(arrays["utterance"], expected.utterance[0])
    assert "2/2" in capsys.readouterr().err


def test_bad_files_do_not_stop_good_ones(folder, bad_audio, speech, tmp_path, capsys):
    good = [written(tmp_path / name, speech(1)) for name in ("first.wav", "last.wav")]
    files = [good[0], *map(bad_audio, BAD_AUDIO), good[1]]
    out = tmp_path / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 2
    assert sorted(path.name for path in out.iterdir()) == ["first.npz", "last.npz"]
    text = capsys.readouterr().err
    errors = [line for line in text.replace("\r", "\n").splitlines() if "error: " in line]
    assert len(errors) == len(BAD_AUDIO) and "Traceback" not in text
    for line, (problem, message) in zip(errors, BAD_AUDIO.items(), strict=True):
        assert f"{problem}.wav" in line and message in line


def test_a_warning_is_one_line(folder, speech, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", speech(1)[::2], 8000)
    command = ["encode", str(tmp_path / "a.wav"), "--model", str(folder), "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    [line] = [line for line in lines if "8000 Hz" in line]
    assert line.startswith(f"warning: {tmp_path / 'a.wav'} is sampled at 8000 Hz")


def test_names_that_collide_are_refused_before_anything_is_written(
    folder, speech, tmp_path, capsys
):
    files = [written(tmp_path / name, speech(1)) for name in ("x.wav", "a.wav", "a.flac")]
    out = tmp_path / "out"
    assert main(["encode", *map(str, files), "--model", str(folder), "--out", str(out)]) == 2
    assert not out.exists() and "2 files would be written to" in capsys.readouterr().err


def test_a_write_that_fails_leaves_nothing(folder, speech, tmp_path, monkeypatch, capsys):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    file, out = written(tmp_path / "a.wav", speech(1)), tmp_path / "out"
    assert main(["encode", str(file), "--model", str(folder), "--out", str(out)]) == 2
    assert list(out.iterdir()) == [] and "No space left" in capsys.readouterr().err


def test_a_bad_model_is_one_line(tmp_path, capsys):
    command = ["encode", "a.wav", "--model", str(tmp_path / "none"), "--out", str(tmp_path)]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/none is not a folder: expected one that holds config.json.\n"
    )
    with pytest.raises(SystemExit) as caught:
        main(["encode", "a.wav", "--out", str(tmp_path)])
    assert caught.value.code == 2


def test_export_command(folder, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", out]) == 0
    assert (tmp_path / "out" / "hyperparams.yaml").is_file()
    assert main(["export", str(folder), "--layout", "speechbrain", "--out", out]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["export", str(folder), "--layout", "huggingface", "--out", out + "2"]) == 2
    assert "frontend='waveform'" in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()


# ---- The exported folder


@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
@pytest.mark.parametrize(
    "changes", [{}, {"frontend": "waveform", "attention": "wavlm", "head": "linear"}]
)
def test_what_is_saved_is_loaded(backbone, changes, tmp_path):
    saved = {
        "frame_encoder": frame_encoder(**changes),
        "utterance_encoder": utterance_encoder(backbone),
    }
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    for name, encoder in saved.items():
        assert loaded[name].config == encoder.config and not loaded[name].training
        theirs = loaded[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())


def test_a_folder_of_encoders_is_as_it_always_was(encoders, folder):
    config = json.loads((folder / "config.json").read_text())
    arguments = {name: encoder.config for name, encoder in encoders.items()}
    text = json.dumps(arguments, sort_keys=True).encode()
    digests = {"encoders": hashlib.sha256(text).hexdigest()}
    weights = (folder / "model.safetensors").read_bytes()
    digests["weights"] = hashlib.sha256(weights).hexdigest()
    assert config == {"format": "learn2diss-1", "sha256": digests, **arguments}
    modules, facts = load_folder(folder)
    assert list(modules) == list(encoders) and facts is None


def test_the_model_card(folder):
    figures = {"test": {"loss": 1.23456789}, "parameters": {"frame_encoder": 1234}}
    metrics = {"figures": figures, "seed": 77, "data": "abc|def", "versions": {"torch": "2.1"}}
    write_card(folder, metrics)
    text = (folder / "README.md").read_text()
    for row in (
        "| test.loss | 1.23457 |",
        "| parameters.frame_encoder | 1234 |",
        "| seed | 77 |",
        "| data | abc\\|def |",
        "| versions.torch | 2.1 |",
        "| frame_encoder.d_model | 32 |",
    ):
        assert row in text.splitlines()
    assert "Learn2Diss.from_pretrained" in text and "do not tell" in text
    assert set(load_model(folder)) == {"frame_encoder", "utterance_encoder"}


def test_a_run_leaves_a_folder_that_stands_alone(encoders, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").write_text(
        '{"epoch": 1, "train": {"loss": 9.0}, "valid": {"loss": 8.0}}\n'
        '{"epoch": 2, "train": {"loss": 3.0}, "valid": {"loss": 4.0}}\n'
    )
    (tmp_path / "some.csv").write_text("ID,duration\na,1.0\n")
    brain = SimpleNamespace(
        modules=encoders,
        architecture=lambda: list(encoders),
        optimizer_step=12,
        test_figures={"loss": 5.5},
    )
    hparams = {"output_folder": str(tmp_path / "run"), "manifest_folder": str(tmp_path), "seed": 3}
    hparams |= {"train_splits": ["some"], "valid_splits": [], "test_splits": []}
    finish(brain, hparams, began=0.0)
    folder = (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    text = (folder / "README.md").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, value in {"test.loss": 5.5, "valid.loss": 4, "epochs": 2, "seed": 3}.items():
        assert f"| {name} | {value} |" in text
    assert metrics["versions"]["torch"] in text and "| data" in text
    model = Learn2Diss.from_pretrained(folder)
    assert model.encode(wavs_of()).utterance.shape == (1, 12)


# ---- Hostile folders


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def assert_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        Learn2Diss.from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_a_pickle_for_weights_runs_nothing(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(folder / "ran")))
    assert_refused(folder, "model.safetensors is not a complete safetensors file")
    torch.save({"x": Payload(folder / "ran")}, folder / "model.safetensors")
    assert_refused(folder, "model.safetensors is not a complete safetensors file")


HOSTILE_YAML = "{tag} ['mkdir {folder}/ran']\n"
TAGS = ["a: !apply:os.system", "a: !!python/object/apply:os.system", "a: !new:os.system"]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_run_nothing(folder, tag):
    text = HOSTILE_YAML.format(tag=tag, folder=folder)
    (folder / "hyperparams.yaml").write_text(text)
    (folder / "custom.py").write_text(f"import os; os.mkdir('{folder}/ran')")
    torch.save({"x": Payload(folder / "ran")}, folder / "pytorch_model.bin")
    assert load_model(folder) and not (folder / "ran").exists()
    (folder / "config.json").write_text(text)
    assert_refused(folder, "config.json cannot be read as JSON")
    (folder / "config.json").unlink()
    assert_refused(folder, "config.json is missing")


def edit(*path, value):
    """Return a change of config.json: set what the path leads to."""

    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("format", value="other"), "is not the configuration of an exported model"),
        (edit("format", value=["learn2diss-2"]), "is not the configuration of an exported model"),
        (edit("class", value="os.system"), r"found \['class'\]"),
        (edit("os.system", value={"command": "true"}), r"found \['os.system'\]"),
        (edit("frame_encoder", "class", value="os.system"), "has no argument 'class'"),
        (edit("frame_encoder", value="../other"), "must be an object of arguments"),
        (edit("frame_encoder", "frontend", value="../other"), "frontend must be one of"),
        (edit("frame_encoder", "frontend", value=["fbank"]), "frontend must be str"),
        (edit("frame_encoder", "d_model", value="32"), "d_model must be int, not '32'"),
        (edit("frame_encoder", "d_model", value=32.0), "d_model must be int"),
        (edit("frame_encoder", "num_layers", value=True), "num_layers must be int"),
        (edit("frame_encoder", "dropout", value=None), "dropout must be float"),
        (edit("frame_encoder", "dropout", value=float("nan")), "dropout must be finite"),
        (edit("frame_encoder", "dropout", value=7.0), "cannot be built: dropout"),
        (edit("frame_encoder", "nhead", value=0), "nhead must be between 1"),
        (edit("frame_encoder", "d_model", value=10**9), "config.json.*cannot be built"),
        (edit("frame_encoder", "d_model", value=10**6), "has shape"),
        (edit("frame_encoder", "d_ffn", value=2 * 10**9), "has shape"),
        (edit("frame_encoder", "d_model", value=10**30), "d_model must be between 1"),
        (edit("frame_encoder", "num_layers", value=10**9), "num_layers must be between 1"),
        (edit("utterance_encoder", "channels", value=2 * 10**9), "cannot be built: .*overflow"),
        (edit("utterance_encoder", "channels", value=10**8), "has shape"),
        (edit("frame_encoder", "num_layers", value=1), "layers.1.*is left over"),
        (edit("frame_encoder", "num_layers", value=3), "layers.2.* is missing"),
        (edit("frame_encoder", "nhead", value=8), "config.json was altered"),
        (edit("frame_encoder", "temperature", value=0.2), "config.json was altered"),
        (edit("sha256", "weights", value="0"), "model.safetensors was altered"),
        (edit("sha256", "encoders", value=None), "config.json was altered"),
        (edit("sha256", value=None), "sha256 must give"),
        (lambda config: config.pop("utterance_encoder"), "config.json has no module for"),
    ],
)
def test_configurations_that_do_not_fit(folder, change, message):
    change_config(folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(folder, f"{folder}/(.|\n)*{message}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"format": ' + "9" * 10_000 + "}", "cannot be read as JSON"),
        ("[]", "is not the configuration"),
        ("null", "is not the configuration"),
        ('"learn2diss-2"', "is not the configuration"),
        (" " * 1_000_001, "is larger than"),
    ],
)
def test_configurations_of_other_types(folder, text, message):
    (folder / "config.json").write_text(text)
    assert_refused(folder, f"config.json {message}")


def test_altered_and_truncated_weights(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert_refused(folder, "model.safetensors was altered")
    for size in (len(content) - 100, 100, 4, 0):
        weights.write_bytes(content[:size])
        assert_refused(folder, "model.safetensors is not a complete safetensors file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"frame_encoder.mask_embedding": torch.ones(31)}), r"shape \(31,\)"),
        (lambda w: w.update({"frame_encoder.mask_embedding": torch.ones(32).half()}), "of F16"),
        (lambda w: w.pop("frame_encoder.mask_embedding"), "mask_embedding is missing"),
        (lambda w: w.update({"frame_encoder.x": torch.ones(2)}), "frame_encoder.x is left over"),
        (lambda w: w.update({"other.x": torch.ones(2)}), "other.x, which config.json has no"),
    ],
)
def test_tensors_that_do_not_fit(folder, change, message):
    change_weights(folder, change)
    assert_refused(folder, f"model.safetensors(.*){message}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert_refused(folder, f"{name} is a link out of the folder")
    (folder / name).unlink()
    assert_refused(folder, f"{name} is missing")
    (folder / name).mkdir()
    assert_refused(folder, f"{name} is missing")


def test_names_of_hubs_are_not_looked_up():
    with pytest.raises(FileNotFoundError, match="someone/learn2diss is not a folder"):
        Learn2Diss.from_pretrained("someone/learn2diss")


# ---- Other toolkits


def wavs_of(samples=16000):
    return 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(2))


def from_speechbrain(folder):
    savedir = folder.parent / "collected"
    return Learn2DissInterface.from_hparams(source=str(folder), savedir=str(savedir), **OFFLINE)


@pytest.mark.parametrize("names", [("frame_encoder", "utterance_encoder"), ("utterance_encoder",)])
def test_speechbrain_loads_its_layout(encoders, names, speech, tmp_path):
    chosen = {name: encoders[name] for name in names}
    to_speechbrain(chosen, tmp_path / "model")
    model = from_speechbrain(tmp_path / "model")
    for name, encoder in chosen.items():
        theirs = model.mods[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    wavs, lens = wavs_of().repeat(2, 1), torch.tensor([1.0, 0.5])
    expected = Learn2Diss(chosen).encode(wavs, lens)
    for found in (model.encode_batch(wavs, lens), model(wavs, lens)):
        assert torch.equal(found.utterance, expected.utterance)
        assert (found.frames is None) == (len(names) == 1)
    path = written(tmp_path / "a.wav", speech(1))
    assert model.encode_file(path).utterance.shape == (1, 12)


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_speechbrain_does_not_load_half_a_model(encoders, change, tmp_path):
    to_speechbrain(encoders, tmp_path / "model")
    path = tmp_path / "model" / "utterance_encoder.ckpt"
    tensors = torch.load(path, weights_only=True)
    if change == "missing":
        del tensors["backbone.fc.bias"]
    else:
        tensors["backbone.other"] = torch.ones(2)
    torch.save(tensors, path)
    with pytest.raises(RuntimeError, match="backbone.(fc.bias|other)"):
        from_speechbrain(tmp_path / "model")


def assert_agrees_with_hugging_face(encoder, folder):
    to_huggingface({"frame_encoder": encoder}, folder)
    kind = {"hubert": transformers.HubertModel, "wavlm": transformers.WavLMModel}
    model, info = kind[encoder.config["attention"]].from_pretrained(
        folder, output_loading_info=True, local_files_only=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model(wavs_of(), output_hidden_states=True).hidden_states
        ours = encoder(wavs_of(), output_hidden_states=True)[1]
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() <= 1e-4 and own.std() > 0.1


@every_attention
def test_transformers_loads_its_layout(attention, tmp_path):
    assert_agrees_with_hugging_face(frame_encoder("waveform", attention=attention), tmp_path)


@pytest.mark.long
def test_transformers_loads_the_base_size(tmp_path):
    assert_agrees_with_hugging_face(FrameEncoder().eval(), tmp_path)


@every_attention
def test_torchaudio_loads_its_layout(attention, tmp_path):
    encoder = frame_encoder("waveform", attention=attention)
    to_torchaudio({"frame_encoder": encoder}, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    model = getattr(torchaudio.models, config["function"])(**config["arguments"]).eval()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    with torch.no_grad():
        theirs, _ = model.extract_features(wavs_of())
        ours = encoder(wavs_of(), output_hidden_states=True)[1][1:]
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() <= 1e-4 and own.std() > 0.1


@pytest.mark.parametrize("write", [to_huggingface, to_torchaudio])
def test_only_waveform_frame_encoders_have_these_layouts(encoders, write, tmp_path):
    with pytest.raises(ValueError, match="frontend='waveform'"):
        write(encoders, tmp_path / "out")
    with pytest.raises(ValueError, match="the model holds utterance_encoder"):
        write({"utterance_encoder": encoders["utterance_encoder"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
