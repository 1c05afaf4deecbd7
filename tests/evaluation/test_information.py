"""Information of frames and embeddings is what was put in, in units that models share."""

import numpy as np
import pytest
import torch

from lobes.critics.club import CLUB
from recipes.common.evaluation import information, leakage
from recipes.common.evaluation.information import (
    CalibratedCLUB,
    club,
    measure_information,
    whiten,
)
from recipes.common.evaluation.leakage import all_pairs, likelihood_gain

pytestmark = pytest.mark.long


def gaussian(rho, speakers, seed, dim=2, frames=6):
    """Return frames of which each dimension correlates by rho with one of the embedding."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(4 * speakers, dim, generator=generator)
    noise = torch.randn(len(u), frames, dim, generator=generator)
    z = rho * u[:, None] + (1 - rho**2) ** 0.5 * noise
    return {"z": z, "u": u, "speakers": np.repeat(np.arange(speakers), 4)}


def gaussian_parts(rho, **options):
    sizes = {"fit": (250, 1), "stop": (60, 2), "read": (60, 3)}
    return {name: gaussian(rho, *size, **options) for name, size in sizes.items()}


@pytest.fixture
def quick(monkeypatch):
    """Fit critics with smaller batches and more checks."""
    monkeypatch.setattr(information, "INFORMATION_BATCH", 256)
    monkeypatch.setattr(leakage, "CHECK_EVERY", 50)
    torch.set_num_threads(1)


def values(information):
    return {measure: reading["value"] for measure, reading in information.items()}


def test_information_of_gaussians_is_what_was_put_in(quick):
    found = measure_information(gaussian_parts(0.8), 16, [1, 2], 600)
    nats = -np.log(1 - 0.8**2)  # of both dimensions
    assert 0.75 * nats < found["InfoNCE"]["value"] < 1.05 * nats
    assert found["likelihood gain"]["value"] == pytest.approx(nats / 2 / np.log(2), abs=0.08)
    assert found["CLUB"]["value"] == pytest.approx(2 * np.expm1(nats), rel=0.2)  # not the MI
    for reading in found.values():
        low, high = reading["interval"]
        assert low < reading["value"] < high and high - low < 0.5 * reading["value"]
        assert abs(reading["independent"]["value"]) < 0.05
        assert reading["identical"]["value"] > 1.5 * reading["value"]
        assert reading["values"] == pytest.approx(reading["group_scores"].mean(1))
        assert reading["value"] == pytest.approx(np.mean(reading["values"]))
        assert reading["group_names"].tolist() == list(range(60))
        assert reading["seeds"] == [1, 2]


def test_planted_dependence_of_rising_strength_reads_as_rising(quick):
    read = [
        information._read_pairs(whiten(gaussian_parts(r)), 16, [1], 2000) for r in (0, 0.4, 0.8)
    ]
    for measure in information.UNITS:
        none, *rest = rising = [own[measure].mean() for own in read]
        assert abs(none) < 0.05 and rest[-1] > 0.5
        assert all(np.diff(rising) > 0.02), (measure, rising)


def test_a_linear_map_of_either_side_changes_nothing(quick):
    parts = gaussian_parts(0.7, dim=3)
    rng = np.random.default_rng(0)
    z_map, u_map = (torch.from_numpy(rng.normal(size=(3, 5))).float() for _ in range(2))
    mapped = {
        name: {**part, "z": 100 * part["z"] @ z_map - 7, "u": part["u"] @ u_map / 50 + 3}
        for name, part in parts.items()
    }
    plain, other = (information._read_pairs(whiten(p), 16, [1], 2000) for p in (parts, mapped))
    for measure in plain:
        assert other[measure].mean() == pytest.approx(plain[measure].mean(), rel=0.06)


def test_whitened_parts_are_white_and_without_what_does_not_vary():
    parts = gaussian_parts(0.5, dim=3)
    for part in parts.values():
        part["u"] = torch.cat(
            [1000 * part["u"], part["u"].sum(1, True), torch.ones(len(part["u"]), 1)], 1
        )
    white = whiten(parts)
    for rows in (white["fit"]["z"].flatten(0, 1), white["fit"]["u"]):
        assert torch.allclose(torch.cov(rows.T, correction=0), torch.eye(3), atol=1e-3)
        assert torch.allclose(rows.mean(0), torch.zeros(3), atol=1e-4)
    assert white["read"]["z"].shape == parts["read"]["z"].shape
    assert white["read"]["u"].shape == (240, 3) and parts["read"]["u"].shape == (240, 5)


def test_club_of_utterances_is_that_of_all_pairs():
    part = gaussian(0.5, 5, seed=1, dim=3)
    torch.manual_seed(0)
    critic = CLUB(3, 3, 8).eval()
    marginal = torch.zeros(3), torch.ones(3)
    own = club(critic, part, marginal)

    def log_q(row, u):
        mean, log_variance = critic._conditional(part["z"][row])
        return torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(u).sum(1).mean()

    slow = []
    for row, speaker in enumerate(part["speakers"]):
        others = [log_q(row, part["u"][o]) for o in np.flatnonzero(part["speakers"] != speaker)]
        slow.append(float(log_q(row, part["u"][row]) - torch.stack(others).mean()))
    assert own == pytest.approx(slow, abs=1e-3)
    with torch.no_grad():
        assert own.mean() == pytest.approx(float(critic(*all_pairs(part))), abs=1e-4)


class Line(torch.nn.Module):
    """Returns `slope` times x, and more."""

    def __init__(self, slope, more=0.0):
        super().__init__()
        self.slope, self.more = slope, more

    def forward(self, x):
        return self.slope * x + self.more


class Told(CalibratedCLUB):
    """Has u at `slope` times the frame, and its variance less than it is by `sureness`."""

    def __init__(self, slope, sureness):
        super().__init__(2, 2, 4)
        self.eval()
        self.mean = Line(slope)
        self.raw_log_variance = Line(0.0, np.log((1 - 0.8**2) / sureness))
        self.centre, self.half_width = 0.0, 1e3


@pytest.mark.parametrize(("slope", "sureness"), [(0.8, 1.0), (0.8, 50.0), (-0.8, 50.0)])
def test_a_critic_is_as_sure_as_speakers_set_apart_allow(slope, sureness):
    stop, read = (gaussian(0.8, 200, seed, frames=4) for seed in (1, 2))
    critic = Told(slope, sureness)
    plain = likelihood_gain(critic, read, (torch.zeros(2), torch.ones(2))).mean()
    calibrated = likelihood_gain(critic, read, critic.calibrate(stop)).mean()
    truth = -np.log(1 - 0.8**2) if slope > 0 else 0.0
    assert calibrated == pytest.approx(truth, abs=0.1)
    assert (plain < -10) == (sureness > 1)
    if slope < 0:
        assert calibrated == pytest.approx(0, abs=1e-6)


def test_independent_pairs_have_the_embeddings_of_other_speakers():
    speakers = np.repeat([0, 1, 2, 3], [10, 5, 3, 2])
    part = {"z": torch.arange(20.0), "u": torch.arange(20.0)[:, None], "speakers": speakers}
    other = information._with_others_u(part, "read")
    order = other["u"][:, 0].int().numpy()
    assert sorted(order) == list(range(20)) and (speakers[order] != speakers).all()
    assert other["z"] is part["z"] and other["speakers"] is speakers
    assert (information._with_others_u(part, "stop")["u"] != other["u"]).any()


def test_each_speaker_counts_alike():
    scores = np.array([[1.0, 1.0, 1.0, 4.0], [2.0, 3.0, 4.0, 5.0]])
    told = information._tell(scores, np.array([0, 0, 0, 1]), [1, 2])
    assert told["group_scores"].tolist() == [[1.0, 4.0], [3.0, 5.0]]
    assert told["values"] == [2.5, 4.0] and told["value"] == 3.25


def test_parts_that_cannot_be_measured_are_refused_by_name():
    parts = gaussian_parts(0.5)
    alone = {**parts["read"], "speakers": np.zeros(240, int)}
    with pytest.raises(ValueError, match="part 'read' one speaker has 240"):
        measure_information({**parts, "read": alone}, 8, [1])
