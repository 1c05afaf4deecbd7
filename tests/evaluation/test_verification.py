"""Verification: baselines on the same trials, the choice of scoring, encoders left as they were."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from lobes.frame_encoder import FrameEncoder
from lobes.signal import SAMPLE_RATE
from lobes.states import FrameStates, UtteranceStates
from lobes.utterance_encoder import UtteranceEncoder
from recipes.common.data.manifest import write_manifest
from recipes.common.data.table import read_manifest
from recipes.common.evaluation import scoring
from recipes.common.evaluation.baselines import fbank_states, fresh
from recipes.common.evaluation.metrics import eer
from recipes.common.evaluation.scoring import SCORINGS, change_embeddings, score_trials
from recipes.common.evaluation.verification import (
    MeanState,
    embed,
    trial_figures,
    verify,
    with_baselines,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_voice):
    """Return the manifest, the trials and the folder of 6 voices of 4 utterances each."""
    root = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker, number in itertools.product(range(6), range(4)):
        audio = make_voice(speaker, seed=number)
        name = f"{speaker}-{number}"
        soundfile.write(root / f"{name}.wav", audio, SAMPLE_RATE)
        wav, seconds = f"$data_root/{name}.wav", len(audio) / SAMPLE_RATE
        rows.append({"ID": name, "duration": seconds, "wav": wav, "spk_id": str(speaker)})
    write_manifest(rows, root / "trials.csv")
    pairs = itertools.combinations(rows, 2)
    trials = [(int(a["spk_id"] == b["spk_id"]), a["ID"], b["ID"]) for a, b in pairs]
    return root / "trials.csv", trials, root


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return UtteranceEncoder("tdnn", channels=16, embedding_dim=12, attention_channels=8)


class Speaker(nn.Module):
    """An encoder that knows the speaker from the pitch."""

    def forward(self, wavs):
        spectrum = torch.fft.rfft(wavs, 16 * SAMPLE_RATE).abs()[0]
        pitches = 16 * (90 + 12 * torch.arange(6))
        found = torch.stack([spectrum[p - 80 : p + 80].square().sum() for p in pitches]).argmax()
        return torch.eye(6)[found][None] + 0.01


class Noise(nn.Module):
    """An encoder that knows nothing."""

    def forward(self, wavs):
        return torch.randn(1, 8, generator=torch.Generator().manual_seed(len(wavs[0])))


def systems_of(encoder, seed=1):
    """Return an utterance encoder and its baselines."""
    return {
        "utterance": MeanState(UtteranceStates(encoder)),
        "fbank": MeanState(fbank_states("utterance")),
        "random": MeanState(UtteranceStates(fresh(encoder, seed))),
    }


def test_embedding_is_in_eval_mode_and_leaves_the_mode(corpus, encoder):
    manifest, _, root = corpus
    rows = read_manifest(manifest)[:5]
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    for training in (True, False):
        encoder.train(training)
        embeddings = embed(encoder, rows, root)
        assert encoder.training == training == encoder.backbone.training
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert list(embeddings) == [row["ID"] for row in rows]
    wav, _ = soundfile.read(root / "0-3.wav", dtype="float32")
    expected = encoder.eval()(torch.from_numpy(wav)[None])[0]
    torch.testing.assert_close(torch.from_numpy(embeddings["0-3"]), expected)


def test_an_encoder_that_knows_the_speaker_beats_its_baselines(corpus):
    manifest, trials, root = corpus
    systems = {
        "utterance": Speaker(),
        "fbank": MeanState(fbank_states("utterance")),
        "random": Noise(),
    }
    figures, curves = verify(systems, {"test": (manifest, trials)}, root, seed=1)
    assert figures["scoring"] == dict.fromkeys(systems, "plain")
    figures = figures["test"]
    found = {name: values["eer"] for name, values in figures["systems"].items()}
    assert (figures["trials"], figures["utterances"], figures["speakers"]) == (276, 24, 6)
    assert found["utterance"] < 0.05 < found["fbank"]
    assert 0.3 < found["random"] < 0.7
    assert {name: eer(*pair) for name, pair in curves["test"].items()} == found
    assert 0.3 < figures["eer_shuffled_labels"] < 0.7
    assert set(figures["ratio"]) == {"fbank", "random"}
    ratio = figures["ratio"]["random"]
    assert ratio["value"] == found["utterance"] / found["random"]
    assert ratio["interval"][0] <= ratio["value"] <= ratio["interval"][1] < 1


def test_shuffled_labels_are_at_chance(corpus):
    manifest, trials, root = corpus
    scores = score_trials(embed(Speaker(), read_manifest(manifest), root), trials)
    labels = [label for label, _, _ in trials]
    rng = np.random.default_rng(0)
    assert eer(scores, labels) < 0.05
    shuffled = [eer(scores, rng.permutation(labels)) for _ in range(50)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.03)


@pytest.mark.long
def test_the_scoring_is_chosen_on_the_development_trials_alone(corpus, encoder):
    manifest, trials, root = corpus
    dev = [trial for trial in trials if trial[1][0] in "012" and trial[2][0] in "012"]
    test = [trial for trial in trials if trial[1][0] in "345" and trial[2][0] in "345"]

    def figures(test):
        lists = {"dev": (manifest, dev), "test": (manifest, test)}
        return verify(systems_of(encoder), lists, root, seed=1, reference=(manifest, root))[0]

    first = figures(test)
    upside_down = figures([(1 - label, *pair) for label, *pair in test])
    assert first["scoring"] == upside_down["scoring"]
    assert first["dev_eer_by_scoring"] == upside_down["dev_eer_by_scoring"]
    for system, by_scoring in first["dev_eer_by_scoring"].items():
        assert set(by_scoring) == {"plain", "centred", "standardised"}
        assert first["dev"]["systems"][system]["eer"] == min(by_scoring.values())
        assert by_scoring[first["scoring"][system]] == min(by_scoring.values())


def test_the_chosen_scoring_is_that_of_the_test_trials(corpus):
    manifest, trials, root = corpus
    lists = {"dev": (manifest, trials), "test": (manifest, trials[::2])}
    systems = {"utterance": Speaker(), "fbank": MeanState(fbank_states("utterance"))}
    figures, _ = verify(systems, lists, root, seed=1, reference=(manifest, root))
    rows = read_manifest(manifest)
    embeddings = embed(MeanState(fbank_states("utterance")), rows, root)
    rates = {}
    for name in SCORINGS:
        scores = score_trials(change_embeddings(embeddings, embeddings, name), trials[::2])
        rates[name] = eer(scores, [label for label, _, _ in trials[::2]])
    assert len(set(rates.values())) == 3
    found = figures["test"]["systems"]["fbank"]["eer"]
    assert found == pytest.approx(rates[figures["scoring"]["fbank"]])


def test_as_norm_is_against_speakers_of_the_reference_alone(corpus, encoder, tmp_path, monkeypatch):
    given = []  # error rates of few trials agree by chance: the scores themselves are compared
    as_norm = scoring.as_norm
    monkeypatch.setattr(scoring, "as_norm", lambda *a: given.append(as_norm(*a)) or given[-1])
    manifest, trials, root = corpus
    rows = read_manifest(manifest)
    known = [row for row in rows if row["spk_id"] in "012"]
    write_manifest(known, tmp_path / "reference.csv")
    tested = [trial for trial in trials if trial[1][0] in "345" and trial[2][0] in "345"]
    lists, reference = {"test": (manifest, tested)}, (tmp_path / "reference.csv", root)
    figures, _ = verify(systems_of(encoder), lists, root, 1, reference, cohort_top=2)
    system = MeanState(UtteranceStates(encoder))
    unit = {name: e / np.linalg.norm(e) for name, e in embed(system, rows, root).items()}
    cohort = [
        np.mean([unit[row["ID"]] for row in known if row["spk_id"] == speaker], axis=0)
        for speaker in "012"
    ]
    cohort = [mean / np.linalg.norm(mean) for mean in cohort]
    scores = []
    for _, *pair in tested:
        cosine, sides = unit[pair[0]] @ unit[pair[1]], []
        for name in pair:
            best = sorted(mean @ unit[name] for mean in cohort)[-2:]
            sides.append((cosine - np.mean(best)) / np.std(best))
        scores.append(np.mean(sides))
    assert any(np.allclose(scores, own, rtol=1e-3, atol=0.01) for own in given)
    expected = eer(np.array(scores), [label for label, *_ in tested])
    found = figures["test"]["systems"]["utterance"]
    assert found["as_norm"]["eer"] == pytest.approx(expected, abs=1e-9)
    assert found["as_norm"]["eer"] != found["eer"]


def test_the_random_baseline_has_none_of_the_trained_weights(encoder):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(0.123)
    random = with_baselines(encoder, "utterance", seed=1)["random"]
    for name, weight in random.named_parameters():
        assert not (weight == 0.123).any(), name
    frames = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    random = with_baselines(frames, "frames", seed=1)["random"]
    drawn = [(n, p) for n, p in random.named_parameters() if p.ndim > 1]
    own = dict(frames.named_parameters())
    for name, weight in drawn:
        trained = own[name.removeprefix("states.encoder.")]
        assert not torch.equal(weight, trained), name


@pytest.mark.long
def test_figures_follow_from_the_seed(corpus, encoder):
    manifest, trials, root = corpus
    systems, lists = systems_of(encoder), {"test": (manifest, trials)}
    first, again, other = (verify(systems, lists, root, seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    for name in systems:
        found = [figures["test"]["systems"][name]["eer"] for figures in (first, other)]
        assert found[0] == found[1]


def test_the_mean_state_of_frames_is_the_mean_of_the_encoders_output():
    torch.manual_seed(0)
    encoder = FrameEncoder("fbank", 16, d_model=16, num_layers=2, nhead=2, d_ffn=32).eval()
    wav = torch.randn(1, 9000)
    expected = encoder(wav)[0].mean(0)
    torch.testing.assert_close(MeanState(FrameStates(encoder))(wav)[0], expected)


def test_trial_figures_hold_rates_costs_and_intervals():
    rng = np.random.default_rng(0)
    speakers = rng.integers(12, size=(600, 2))
    speakers[::2, 1] = speakers[::2, 0]
    labels = speakers[:, 0] == speakers[:, 1]
    figures = trial_figures(2 * labels + rng.normal(size=600), labels, speakers, seed=1)
    assert set(figures) == {"eer", "eer_interval", "min_dcf_0.01", "min_dcf_0.05"}
    low, high = figures["eer_interval"]
    assert 0 < low < figures["eer"] < high < 0.5
    assert 0 < figures["min_dcf_0.05"] < figures["min_dcf_0.01"] <= 1


def test_too_few_trials_give_no_interval(corpus, encoder):
    manifest, _, root = corpus
    few = [(1, "0-0", "0-0"), (0, "0-0", "1-0")]
    figures = verify(systems_of(encoder), {"test": (manifest, few)}, root, seed=1)[0]["test"]
    assert figures["systems"]["fbank"]["eer"] == 0.0
    assert figures["ratio"]["fbank"] == {"value": None, "interval": None}
