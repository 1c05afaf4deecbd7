"""Fresh critics find what is there, and nothing where there is nothing."""

from functools import partial

import numpy as np
import pytest
import torch

from lobes.critics.club import CLUB
from recipes.common.evaluation import leakage
from recipes.common.evaluation.leakage import (
    fit_critic,
    info_nce,
    read_leakage,
    score_scale,
    split_utterances,
)

pytestmark = pytest.mark.long


def encoded(speakers, utterances, strength, seed):
    """Return frames that hold `strength` of a two-dimensional voice, which is the embedding."""
    generator = torch.Generator().manual_seed(seed)
    voices = torch.randn(speakers, 2, generator=generator).repeat_interleave(utterances, 0)
    voices = voices + 0.3 * torch.randn(len(voices), 2, generator=generator)
    frames = torch.randn(len(voices), 8, 4, generator=generator)
    frames[..., :2] += strength * voices[:, None]
    return {"z": frames, "u": voices, "speakers": np.repeat(np.arange(speakers), utterances)}


def parts(strength):
    sizes = {"fit": (60, 6, 1), "stop": (60, 2, 2), "unseen": (25, 5, 3)}
    return {name: encoded(s, u, strength, seed) for name, (s, u, seed) in sizes.items()}


def brief_reading(part):
    """Return what one critic of each kind reads, fitted with smaller batches."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "fit_critic", partial(fit_critic, batch=256))
        return read_leakage(part, 32, [1])["unseen"]


@pytest.fixture(scope="module")
def readings():
    return {strength: brief_reading(parts(strength)) for strength in (0.0, 0.5, 2.0)}


@pytest.mark.parametrize("name", ["likelihood_gain", "info_nce"])
def test_more_in_the_frames_reads_more(readings, name):
    none, some, much = (readings[strength][name].mean() for strength in (0.0, 0.5, 2.0))
    assert abs(none) < 0.15 and none + 0.1 < some and some + 0.3 < much


def test_the_gain_does_not_depend_on_the_scale_of_the_embedding():
    part = parts(1.0)
    scaled = {name: {**data, "u": 1000 * data["u"] + 7} for name, data in part.items()}
    plain, other = (brief_reading(p)["likelihood_gain"] for p in (part, scaled))
    assert np.allclose(plain, other, atol=0.02)


def test_the_gain_of_a_marginal_is_nothing():
    critic = CLUB(4, 2, 8).eval()
    for parameter in critic.parameters():
        torch.nn.init.zeros_(parameter)
    x, y = torch.randn(50, 4), torch.randn(50, 2)
    gain = critic.log_ratio(x, y, torch.zeros(2), torch.ones(2))
    assert torch.allclose(gain, torch.zeros(50), atol=1e-4)


def test_contrast_has_negatives_of_other_speakers_alone():
    class OwnSpeaker:
        """Scores any embedding of the speaker as high as the utterance's own."""

        def scores(self, x, y):
            return 50.0 * (x[:, :1] == y[:, 0]).float()

    speakers = np.array([0, 0, 0, 1, 2])
    u = torch.from_numpy(speakers)[:, None].float()
    data = {"z": u[:, None].repeat(1, 3, 1), "u": u, "speakers": speakers}
    assert np.allclose(info_nce(OwnSpeaker(), data), np.log([3, 3, 3, 5, 5]), atol=1e-4)


@pytest.mark.parametrize(("certainty", "scale"), [(1.0, 1.0), (5.0, 0.2), (-1.0, 0.0)])
def test_scores_that_are_too_sure_are_scaled_down(certainty, scale):
    class GaussianRatio:
        """log p(x|y), times `certainty`, where x is y and noise of the deviation 0.5."""

        def scores(self, x, y):
            return -certainty * 2 * (x[:, :1] - y[:, 0]).square()

    generator = torch.Generator().manual_seed(1)
    u = torch.randn(400, 1, generator=generator)
    frames = u[:, None] + 0.5 * torch.randn(400, 8, 1, generator=generator)
    data = {"z": frames, "u": u, "speakers": np.arange(400)}
    critic = GaussianRatio()
    assert score_scale(critic, data) == pytest.approx(scale, abs=0.11)
    reading = info_nce(critic, data, score_scale(critic, data)).mean()
    expected = 0.0 if certainty < 0 else 0.5 * np.log(1 + 1 / 0.25)
    assert reading == pytest.approx(expected, abs=0.1)


def test_each_utterance_has_one_part_and_critics_stop_on_other_speakers():
    rows = [{"id": f"{s}-{n}", "spk_id": str(s)} for s in range(10) for n in range(10)]
    divided = split_utterances(rows, 1)
    sizes = {"fit": 64, "stop": 20, "read": 16}
    assert {name: len(part) for name, part in divided.items()} == sizes
    assert sorted(r["id"] for p in divided.values() for r in p) == sorted(r["id"] for r in rows)
    speakers = {name: {r["spk_id"] for r in part} for name, part in divided.items()}
    assert speakers["fit"] == speakers["read"] and not speakers["fit"] & speakers["stop"]


def gaussian(rho, speakers, seed, dim=2, frames=6):
    """Return frames of which each dimension correlates by rho with one of the embedding."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(4 * speakers, dim, generator=generator)
    noise = torch.randn(len(u), frames, dim, generator=generator)
    z = rho * u[:, None] + (1 - rho**2) ** 0.5 * noise
    return {"z": z, "u": u, "speakers": np.repeat(np.arange(speakers), 4)}


def test_contrast_in_pieces_is_that_of_the_whole(monkeypatch):
    part = gaussian(0.5, 8, seed=1)
    critic = leakage.InfoNCE(2, 2, 8).eval()
    whole = info_nce(critic, part)
    monkeypatch.setattr(leakage, "UTTERANCES_AT_ONCE", 5)
    assert np.allclose(info_nce(critic, part), whole, atol=1e-5)
