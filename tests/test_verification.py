"""Verification: cosine scores, baselines on the same trials, and encoders left as they were."""

import csv
import itertools
import math

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from lobes.utterance_encoder import UtteranceEncoder
from recipes.common.manifest import read_manifest, write_manifest
from recipes.common.metrics import eer
from recipes.common.verification import (
    FbankStatistics,
    embed,
    score_trials,
    standardise,
    verify,
)
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb1, read_trials, trials_path

RATE = 16000


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_voice):
    """Return the manifest, the trials and the folder of 6 voices of 4 utterances each."""
    root = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker, number in itertools.product(range(6), range(4)):
        audio = make_voice(speaker, seed=number)
        name = f"{speaker}-{number}"
        soundfile.write(root / f"{name}.wav", audio, RATE)
        wav, seconds = f"$data_root/{name}.wav", len(audio) / RATE
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
    """An encoder that knows the speaker from the pitch, or nothing where its weight is random."""

    def __init__(self, known=False):
        super().__init__()
        self.config = {}
        self.direction = nn.Parameter(torch.randn(6, 8))
        self.known = known

    def forward(self, wavs):
        if not self.known:
            return torch.randn(1, 8)
        spectrum = torch.fft.rfft(wavs, 16 * RATE).abs()[0]
        pitches = 16 * (90 + 12 * torch.arange(6))
        found = torch.stack([spectrum[p - 80 : p + 80].square().sum() for p in pitches]).argmax()
        return torch.eye(6)[found][None] + 0.01


def test_scores_are_cosines_whatever_the_level():
    rng = np.random.default_rng(0)
    embeddings = {name: rng.normal(size=5).astype(np.float32) for name in "abc"}
    trials = [(1, "a", "b"), (0, "b", "c"), (1, "a", "a")]
    scores = score_trials(embeddings, trials)
    for score, (_, x, y) in zip(scores, trials, strict=True):
        x, y = torch.tensor(embeddings[x]), torch.tensor(embeddings[y])
        assert score == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), abs=1e-6)
    louder = {name: 3 * value for name, value in embeddings.items()}
    np.testing.assert_allclose(score_trials(louder, trials), scores, atol=1e-6)


def test_scores_name_what_is_wrong():
    embeddings = {"a": np.ones(2), "b": np.zeros(2), "c": np.array([1.0, np.nan])}
    with pytest.raises(ValueError, match="embedding of b"):
        score_trials({name: embeddings[name] for name in "ab"}, [(1, "a", "b")])
    with pytest.raises(ValueError, match="embedding of c"):
        score_trials({name: embeddings[name] for name in "ac"}, [(1, "a", "c")])
    with pytest.raises(ValueError, match="1 utterance.* d first"):
        score_trials({"a": np.ones(2)}, [(1, "a", "d")])


def test_fbank_statistics_are_the_mean_and_deviation_over_time():
    statistics = FbankStatistics()
    wav = torch.randn(1, RATE)
    bands = statistics.fbank(wav)[0]
    expected = torch.cat([bands.mean(0), (bands - bands.mean(0)).square().mean(0).sqrt()])
    torch.testing.assert_close(statistics(wav)[0], expected, rtol=0.01, atol=0.01)
    louder = statistics(10 * wav)[0] - statistics(wav)[0]
    torch.testing.assert_close(louder, torch.cat([torch.full((80,), 20.0), torch.zeros(80)]))


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


def test_standardised_data_has_mean_0_and_deviation_1():
    rng = np.random.default_rng(0)
    data = {str(i): np.append(rng.normal(3, 2, size=4), 7.0) for i in range(50)}
    values = np.stack(list(standardise(data, data).values()))
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(values.std(0), [1, 1, 1, 1, 0], atol=1e-9)


def test_an_encoder_that_knows_the_speaker_beats_its_baselines(corpus):
    manifest, trials, root = corpus
    torch.manual_seed(0)
    figures = verify(Speaker(known=True), manifest, trials, root, seed=1)
    assert (figures["trials"], figures["utterances"], figures["speakers"]) == (276, 24, 6)
    assert figures["eer"]["utterance"] < 0.05 < figures["eer"]["fbank"]
    assert 0.3 < figures["eer"]["random"] < 0.7
    assert set(figures["ratio"]) == {"fbank", "random"}
    ratio = figures["ratio"]["random"]
    assert ratio["value"] == figures["eer"]["utterance"] / figures["eer"]["random"]
    assert ratio["interval"][0] <= ratio["value"] <= ratio["interval"][1] < 1


def test_shuffled_labels_are_at_chance(corpus):
    manifest, trials, root = corpus
    scores = score_trials(embed(Speaker(known=True), read_manifest(manifest), root), trials)
    labels = [label for label, _, _ in trials]
    rng = np.random.default_rng(0)
    assert eer(scores, labels) < 0.05
    shuffled = [eer(scores, rng.permutation(labels)) for _ in range(50)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.03)


def test_baselines_follow_from_the_seed_and_leave_the_generator(corpus, encoder):
    manifest, trials, root = corpus
    state = torch.get_rng_state()
    reference = (manifest, root)
    first, again, other = (
        verify(encoder, manifest, trials, root, seed, reference) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first["eer"]["random"] != other["eer"]["random"]
    for name in ("utterance", "fbank"):
        assert first["eer"][name] == other["eer"][name]
        assert f"{name}_standardised" in first["eer"]
    assert set(first["ratio"]) == {
        "fbank",
        "fbank_standardised",
        "random",
        "random_standardised",
    }


def test_too_few_trials_give_no_interval(corpus, encoder):
    manifest, trials, root = corpus
    few = [(1, "0-0", "0-0"), (0, "0-0", "1-0")]
    figures = verify(encoder, manifest, few, root, seed=1)
    assert figures["eer"]["fbank"] == 0.0
    assert figures["ratio"]["fbank"] == {"value": None, "interval": None}


def test_trials_of_voxceleb(voxceleb1, tmp_path, encoder):
    prepare_voxceleb1(voxceleb1, tmp_path, ["veri_dev"], num_workers=1)
    trials = read_trials(trials_path(voxceleb1, "veri_dev"))
    figures = verify(encoder, tmp_path / "veri_dev.csv", trials, voxceleb1, seed=1)
    assert figures["trials"] == len(trials)
    assert all(math.isfinite(value) for value in figures["eer"].values())
    with open(tmp_path / "veri_dev.csv", newline="") as file:
        assert figures["utterances"] == len(list(csv.DictReader(file)))


def test_fbank_statistics_on_real_speech(real_speech, tmp_path):
    """Log-mel statistics tell speakers of one session each apart far better than chance."""
    root = real_speech / "voxceleb1"
    prepare_voxceleb1(root, tmp_path, ["veri_dev"])
    trials = read_trials(trials_path(root, "veri_dev"))
    rows = read_manifest(tmp_path / "veri_dev.csv")
    scores = score_trials(embed(FbankStatistics(), rows, root), trials)
    assert 0.05 < eer(scores, [label for label, _, _ in trials]) < 0.2
