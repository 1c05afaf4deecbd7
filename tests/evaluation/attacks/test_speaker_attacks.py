"""Attackers find a planted speaker where they must, and nowhere where they cannot."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from recipes.common.evaluation import probe_fitting
from recipes.common.evaluation.attacks import speaker_attacks as attacks
from recipes.common.evaluation.attacks import xvector_attacker
from recipes.common.evaluation.attacks.backend import fit_backend
from recipes.common.evaluation.attacks.pooling import RandomFeatures, frame_moments

DIM, FRAMES = 4, 150
FOUND_BY = {  # the attackers that find a speaker who is heard in one place alone
    "means": set(attacks.ATTACKERS),
    "deviations": set(attacks.ATTACKERS) - {"means"},
    "correlations": {"second moments", "random features", "x-vector"},
    "third moment": {"random features", "x-vector"},
    "order": {"x-vector"},
    "nowhere": set(),
}


@pytest.fixture
def small(monkeypatch):
    """Make attackers and probes small enough for a few seconds."""
    for name, value in {"CHANNELS": 16, "BATCH": 32, "MAX_STEPS": 75, "CHECK_EVERY": 25}.items():
        monkeypatch.setattr(xvector_attacker, name, value)
    monkeypatch.setattr(probe_fitting, "MAX_STEPS", 60)


def frames_of(voice, place, rng):
    """Return frames of a voice, (FRAMES, DIM), in which it is heard in one place alone."""
    x = rng.normal(size=(FRAMES, DIM))
    if place == "third moment":
        x = x + voice * np.square(x)
    if place == "correlations":
        x = x @ np.linalg.cholesky(np.eye(DIM) + mix(voice)).T
    if place == "order":
        memory = 0.8 * np.tanh(voice)
        for time in range(1, FRAMES):
            x[time] = memory * x[time - 1] + np.sqrt(1 - memory**2) * x[time]
    x = (x - x.mean(0)) / x.std(0)
    if place == "means":
        x = x + voice
    if place == "deviations":
        x = x * np.exp(voice / 2)
        x = x - x.mean(0)
    return x.astype(np.float16)


def mix(voice):
    """Return correlations of a voice, (DIM, DIM), zero on the diagonal."""
    signs = np.tanh(2 * voice)
    return 0.9 * (np.outer(signs, signs) - np.diag(signs**2))


def part(name, place, speakers, each):
    """Return utterances of speakers of a part, whose voices are planted in a place."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows, whole = [], []
    for speaker in range(speakers):
        voice = rng.normal(size=DIM)
        for number in range(each):
            rows.append({"ID": f"{name}-{speaker}-{number}", "spk_id": f"{name}-{speaker}"})
            whole.append(frames_of(voice, place, rng))
    return attacks.Part(rows, whole)


@pytest.mark.long
@pytest.mark.parametrize("place", FOUND_BY)
def test_each_attacker_finds_what_it_sees_and_nothing_else(place, small):
    train, dev = part("train", place, 40, 6), part("dev", place, 10, 6)
    test = part("test", place, 12, 8)
    held = xvector_attacker.Held(dev.whole, dev.ids, dev.trials(1))
    for name in attacks.ATTACKERS:
        attacker = attacks.train_attacker(name, train, held, seed=1)
        features = attacker.features(test.whole)
        embeddings = dict(zip(test.ids, attacker.embed(features), strict=True))
        trials = test.trials(1)
        scores = attacks.score_trials(embeddings, trials)
        rate = attacks.eer(scores, [label for label, *_ in trials])
        if name in FOUND_BY[place]:
            assert rate < 0.25, (place, name)
        else:
            assert rate > 0.38, (place, name)


def halves(name, place):
    """Return utterances of 6 dims, whose speaker is in the means of one half of the dims."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows = [{"ID": f"{name}{i}", "spk_id": f"{name}{i // 6}"} for i in range(36)]
    voices = np.zeros((6, 6))
    voices[:, place] = 5 * rng.normal(size=(6, 3))
    whole = [rng.normal(size=(20, 6)) + voices[i // 6] for i in range(36)]
    return attacks.Part(rows, whole)


def test_the_strongest_is_chosen_on_development_speakers(small, monkeypatch):
    first, second = slice(0, 3), slice(3, 6)
    seen = {"first": first, "second": second}

    def train_attacker(name, train, held, seed):
        pool = attacks.pool_means
        return attacks.Attacker(lambda whole: pool(whole)[:, seen[name]], lambda x: x)

    monkeypatch.setattr(attacks, "ATTACKERS", tuple(seen))
    monkeypatch.setattr(attacks, "train_attacker", train_attacker)
    parts = halves("a", first), halves("b", first), halves("c", second)
    found = attacks.speaker_attacks(*parts, seed=1)
    assert found["best"] == {"accuracy": "first", "eer": "first"}
    own, other = (found["attackers"][name]["test"] for name in seen)
    assert own["accuracy"]["value"] < 0.5 < 0.9 < other["accuracy"]["value"]
    assert own["eer"]["value"] > 0.3 > 0.05 > other["eer"]["value"]


def test_the_control_of_an_attack_is_at_chance(small):
    heard = halves("a", slice(0, 3))
    reading = attacks.read_names(attacks.pool_means(heard.whole), heard, seed=1)
    assert reading["value"] > 0.8 and reading["control"] < 0.4
    assert reading["chance"] == pytest.approx(1 / 6)


def test_parts_that_share_a_speaker_are_refused():
    one = part("a", "nowhere", 2, 2)
    with pytest.raises(ValueError, match="speaker a-0 is in train and in test"):
        attacks.speaker_attacks(one, part("b", "nowhere", 2, 2), one, seed=1)


def test_training_an_x_vector_twice_gives_the_same_bits(small, monkeypatch):
    monkeypatch.setattr(xvector_attacker, "MAX_STEPS", 25)
    train, dev = part("train", "means", 5, 3), part("dev", "means", 4, 3)
    held = xvector_attacker.Held(dev.whole, dev.ids, dev.trials(1))
    torch.manual_seed(0)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    made = [
        xvector_attacker.train_xvector(train.whole, train.speakers, held, seed)(dev.whole)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), drawn), "the global generator was used"
    assert np.array_equal(made[0], made[1]) and not np.allclose(made[0], made[2])


def test_an_x_vector_is_kept_as_it_was_best_and_ends_when_it_waits(small, monkeypatch):
    rates, states = iter([0.4, 0.2, 0.3, 0.3, 0.1]), []

    def look(attacker, held):
        states.append(copy.deepcopy(attacker.head.state_dict()))
        return next(rates)

    monkeypatch.setattr(xvector_attacker, "_error_rate", look)
    monkeypatch.setattr(xvector_attacker, "CHECK_EVERY", 1)
    train = part("train", "means", 5, 3)
    attacker = xvector_attacker.train_xvector(train.whole, train.speakers, None, seed=1)
    assert len(states) == 4
    kept = attacker.head.state_dict()
    assert all(torch.equal(kept[name], states[1][name]) for name in kept)
    assert not all(torch.equal(kept[name], states[2][name]) for name in kept)


def test_short_utterances_are_padded_without_a_trace(small):
    whole = [np.random.default_rng(0).normal(size=(n, DIM)).astype("f2") for n in (20, 150, 100)]
    crops, lens = xvector_attacker._crops(whole, np.random.default_rng(1))
    assert crops.shape == (3, 100, DIM) and lens.tolist() == [20, 100, 100]
    attacker = xvector_attacker.XVectorAttacker(DIM, frame_moments(whole))
    made = attacker(whole[:1])[0]
    with torch.no_grad():
        assert np.allclose(attacker.embeddings(crops, lens)[0], made, atol=1e-5)


def test_the_backend_compares_as_the_likelihood_ratio_does():
    rng = np.random.default_rng(0)
    speakers = np.arange(400).repeat(20)
    mixing = rng.normal(size=(3, 3))
    x = (rng.normal(size=(400, 3)) * [3, 1, 0.5])[speakers] + rng.normal(size=(8000, 3))
    x = x @ mixing + 7
    means = x.reshape(400, 20, 3).mean(1)
    within = np.cov((x - means[speakers]).T) * 20 / 19
    between = np.cov(means.T) - within / 20
    both = np.block([[between + within, between], [between, between + within]])
    alike = multivariate_normal(np.zeros(6), both).logpdf
    first, second = (x[place] - x.mean(0) for place in ([0, 1, 2], [50, 3, 700]))
    cross = (alike(np.hstack([first, second])) - alike(np.hstack([first, -second]))) / 2
    embed = fit_backend(x, speakers)
    mine = (embed(first + x.mean(0)) * embed(second + x.mean(0))).sum(1)
    assert np.allclose(mine, cross, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("speakers", [["a"] * 4, ["a", "b", "c", "d"]])
def test_a_backend_needs_speakers_with_several_utterances(speakers):
    with pytest.raises(ValueError, match="two utterances of some"):
        fit_backend(np.random.default_rng(0).normal(size=(4, 2)), speakers)


def test_random_features_are_standardised_by_training_frames_alone():
    rng = np.random.default_rng(0)
    train, test = ([rng.normal(size=(30, DIM)) + shift for _ in range(5)] for shift in (0, 3))
    features = RandomFeatures(train)
    assert np.array_equal(features(test)[:1], features(test[:1]))
    both = np.concatenate(train)
    assert np.allclose(features.mean, both.mean(0), atol=1e-6)
    assert np.allclose(features.deviation, both.std(0), atol=1e-6)
