"""Verification through channels: what is counted as what, what is made anew, what is refused."""

import json

import numpy as np
import pytest
import soundfile
import torch

from recipes.common.training.hparams import read_tree
from recipes.experiments import channels, compare_methods
from tests.pretrained.exports import RATE, saved, utterance_encoder

SPEAKERS = "abcdef"


@pytest.fixture
def noise(tmp_path):
    """A folder of a recording of noise."""
    (tmp_path / "noise").mkdir()
    samples = np.random.default_rng(0).normal(size=RATE) / 10
    soundfile.write(tmp_path / "noise" / "white.wav", samples, RATE)
    return tmp_path / "noise"


def made_embeddings(through, size=8, seed=0):
    """Return speakers' directions with noise, (E,) by ID; each through a channel by `through`."""
    rng = np.random.default_rng(seed)
    plain = {
        f"{name}-{number}": voice + 0.1 * rng.normal(size=size)
        for name, voice in zip(SPEAKERS, rng.normal(size=(len(SPEAKERS), size)), strict=True)
        for number in range(4)
    }
    return plain, {name: through(value) for name, value in plain.items()}


def all_trials(names):
    names = sorted(names)
    return [(int(a[0] == b[0]), a, b) for place, a in enumerate(names) for b in names[place + 1 :]]


def measured(through, threshold):
    plain, changed = made_embeddings(through)
    trials = all_trials(plain)
    embeddings = {channels.PLAIN: {"x": [plain]}, "line": {"x": [changed]}}
    return channels.measure(channels.score(embeddings, trials, "x"), [threshold], trials)["line"]


def values(figures):
    return {name: round(figure["value"], 6) for name, figure in figures.items()}


def test_a_channel_that_turns_all_embeddings_is_bad_across_and_harmless_within():
    figures = values(measured(lambda embedding: -embedding, threshold=0.8))
    assert figures["accepted_within"] > 0.9 and figures["accepted_across"] == 0
    assert figures["change_within"] == 0
    assert figures["change_across"] == -figures["accepted_within"]
    assert figures["eer_within"] < 0.1 < 0.9 < figures["eer_across"]


def test_a_channel_behind_which_all_sound_alike_is_not_taken_for_robust():
    figures = values(measured(lambda embedding: np.ones(8), threshold=0.8))
    assert figures["accepted_within"] == figures["false_within"] == 1
    assert figures["eer_within"] == 0.5


def test_figures_are_those_of_a_slow_loop_and_lie_in_their_intervals():
    noise = np.random.default_rng(1)
    threshold = 0.85
    plain, changed = made_embeddings(lambda value: value + 0.3 * noise.normal(size=8))
    trials = all_trials(plain)
    embeddings = {channels.PLAIN: {"x": [plain]}, "line": {"x": [changed]}}
    scores = channels.score(embeddings, trials, "x")
    figures = channels.measure(scores, [threshold], trials)["line"]

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for way, enrolled in (("across", plain), ("within", changed)):
        for name, label in (("accepted", 1), ("false", 0)):
            own = [(a, b) for kind, a, b in trials if kind == label]
            rate = np.mean([cosine(enrolled[a], changed[b]) >= threshold for a, b in own])
            figure = figures[f"{name}_{way}"]
            assert figure["value"] == pytest.approx(rate)
            assert figure["interval"][0] <= rate <= figure["interval"][1]


def test_of_several_runs_means_are_taken_by_their_own_thresholds():
    plain, changed = made_embeddings(lambda embedding: -embedding)
    trials = all_trials(plain)
    embeddings = {channels.PLAIN: {"x": [plain, plain]}, "line": {"x": [plain, changed]}}
    figures = channels.measure(channels.score(embeddings, trials, "x"), [-1.0, 1.1], trials)
    assert figures["line"]["accepted_within"]["value"] == 0.5
    figures = channels.measure(channels.score(embeddings, trials, "x"), [-1.0, -1.0], trials)
    assert figures["line"]["accepted_across"]["value"] == 1


def test_channels_keep_length_and_place_and_differ(make_voice, noise):
    wav = torch.from_numpy(make_voice(1, seed=0))
    wav += 0.02 * torch.randn(len(wav), generator=torch.Generator().manual_seed(1))
    kinds = channels.make_channels(noise)
    heard = {name: channel(wav, 1) for name, channel in kinds.items()}
    assert len({tuple(one[1000:2000].tolist()) for one in heard.values()}) == len(kinds)
    for name, one in heard.items():
        assert one.shape == wav.shape and one.dtype == torch.float32
        assert torch.equal(one, kinds[name](wav, 1))
        size = 2 * len(wav)
        spectra = [torch.fft.rfft(x, size) for x in (wav, one)]
        assert torch.fft.irfft(spectra[0].conj() * spectra[1], size).argmax() == 0
        share = spectra[1].abs().square()[int(4400 / RATE * size) :].sum()
        wide = name in (channels.PLAIN, "noise, 10 dB", "room")
        assert (share > 1e-5 * spectra[1].abs().square().sum()) == wide


@pytest.mark.long
def test_the_command_measures_resumes_and_writes(voxceleb1, noise, tmp_path, monkeypatch, capsys):
    kinds = channels.make_channels(noise)
    few = {name: kinds[name] for name in (channels.PLAIN, "8 kHz")}
    monkeypatch.setattr(channels, "make_channels", lambda folder: few)
    seen = []
    embed = channels.embed
    monkeypatch.setattr(
        channels, "embed", lambda e, *rest: seen.append(sorted(e)) or embed(e, *rest)
    )
    models = []
    for seed, name in enumerate(["before", "after", "after"]):
        encoders = {"utterance_encoder": utterance_encoder(seed=seed)}
        models.append(f"{name}={saved(tmp_path / str(seed), encoders, None)}")
    arguments = [
        "--voxceleb",
        voxceleb1,
        "--noise_folder",
        noise,
        "--output_folder",
        tmp_path / "c",
    ]
    arguments = [str(part) for part in arguments]
    channels.main([*arguments, "--models", *models[:2]])
    assert [len(one) for one in seen] == [4, 4]
    first = json.loads((tmp_path / "c" / "metrics.json").read_text())["figures"]
    channels.main([*arguments, "--test_trials", "veri_test2", "--models", *models])
    # Of the development list the new model alone, of the test list all.
    assert seen[2:4] == [[("after", 1)]] * 2
    assert [len(one) for one in seen[4:]] == [5, 5]
    again = json.loads((tmp_path / "c" / "metrics.json").read_text())["figures"]
    for name in ("before", "random weights", "log-mel"):
        assert first["parts"]["dev"][name] == again["parts"]["dev"][name]
        assert first["thresholds"][name] == again["thresholds"][name]
    assert list(again["parts"]["test"]["after"]) == list(few)
    assert len(again["thresholds"]["after"]) == 2
    results = tmp_path / "RESULTS.md"
    results.write_text("<!-- channels -->\n<!-- /channels -->\n")
    monkeypatch.setattr(channels, "RESULTS", results)
    channels.main(["--write", str(tmp_path / "c")])
    assert "| channel | model | EER, within |" in results.read_text()
    assert results.read_text().count("\n") == 4 + 2 * 4
    capsys.readouterr()


def test_models_are_those_of_the_comparison_of_methods(tmp_path):
    figures = tmp_path / "utterance" / "figures.json"
    figures.parent.mkdir()
    rows = {
        row: {"features": {"1": f"{row}/1", "2": f"{row}/2"}} for row in channels.METHODS.values()
    }
    figures.write_text(json.dumps(rows))
    found = channels.models_of(tmp_path)
    assert found == [f"{name}={row}/{n}" for name, row in channels.METHODS.items() for n in (1, 2)]
    figures.write_text("{}")
    with pytest.raises(SystemExit, match="run compare_methods.py utterance first"):
        channels.models_of(tmp_path)


def test_without_models_there_is_nothing_to_measure(capsys):
    words = "--voxceleb v --noise_folder n --output_folder o".split()
    with pytest.raises(SystemExit):
        channels.read_options(words)
    assert "expected --methods or --models" in capsys.readouterr().err


def test_the_methods_that_are_compared_are_trained():
    assert set(channels.METHODS.values()) <= set(read_tree(compare_methods.SETTINGS)["utterance"])


@pytest.mark.parametrize("given", ["before", "=folder", "before="])
def test_models_have_names(given):
    with pytest.raises(SystemExit, match="expected NAME=FOLDER"):
        channels.load_systems([given])
