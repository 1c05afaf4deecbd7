"""VICReg."""

import pytest
import torch

from lobes.methods.vicreg import VICReg, vicreg_terms
from tests.lobes.methods.test_moco import small_encoder
from tests.lobes.methods.test_simclr import views_of


def slow_terms(first, second):
    """Return the terms by loops over rows and dimensions, as the paper's equations read."""
    rows, dim = first.shape
    invariance = sum((first[i] - second[i]).square().sum() for i in range(rows)) / rows / dim
    variance, covariance = 0.0, 0.0
    for view in (first, second):
        for a in range(dim):
            deviation = (view[:, a].var() + 1e-4).sqrt()
            variance += max(0.0, 1 - deviation) / dim / 2
            for b in range(dim):
                if a != b:
                    products = (view[:, a] - view[:, a].mean()) * (view[:, b] - view[:, b].mean())
                    covariance += (products.sum() / (rows - 1)) ** 2 / dim
    return {"invariance": invariance, "variance": variance, "covariance": covariance}


def test_the_terms_equal_the_slow_reference():
    first, second = torch.randn(9, 4).double() * 0.7, torch.randn(9, 4).double()
    for name, expected in slow_terms(first, second).items():
        torch.testing.assert_close(vicreg_terms(first, second)[name], torch.as_tensor(expected))


def test_equal_crops_whose_dimensions_are_apart_cost_nothing():
    spread = torch.eye(4).repeat(8, 1) * 4
    spread = torch.cat([spread, -spread])
    terms = vicreg_terms(spread, spread)
    assert all(term == 0 for term in terms.values())


def test_a_collapse_costs_the_variance_and_repetition_the_covariance():
    same = torch.ones(8, 4)
    assert vicreg_terms(same, same)["variance"] == pytest.approx(0.99)
    repeated = 2 * torch.randn(8, 1).expand(8, 4)
    assert vicreg_terms(repeated, repeated)["covariance"] > 1


def test_the_loss_is_the_weighted_sum_of_the_terms_of_the_expanded():
    method = VICReg(small_encoder(), 8, 5, invariance=2.0, variance=3.0, covariance=0.5)
    views = views_of(torch.randn(10, 6))
    loss = method(views)
    weights = {"invariance": 2.0, "variance": 3.0, "covariance": 0.5}
    expected = sum(weights[name] * term for name, term in views.figures.items())
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_a_single_utterance_is_refused():
    with pytest.raises(ValueError, match="at least two utterances"):
        vicreg_terms(torch.randn(1, 4), torch.randn(1, 4))
