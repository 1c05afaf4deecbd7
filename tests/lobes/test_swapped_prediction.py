"""Swapped prediction: the loss and its targets, against loops and closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from lobes.swapped_prediction import Codebook, balanced_targets, swapped_prediction


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def made_scores(frames=9, codes=5, views=2):
    """Return cosines of frames with prototypes, which differ between the views."""
    return (2 * torch.rand(views, frames, codes) - 1).requires_grad_()


def slow_targets(scores, epsilon, iterations):
    """Sinkhorn and Knopp's iterations by loops over numbers, with their sums as published."""
    frames, codes = scores.shape
    q = [[math.exp(x / epsilon) for x in row] for row in scores.tolist()]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        for k in range(codes):
            column = sum(row[k] for row in q)
            for row in q:
                row[k] /= column * codes
        for row in q:
            one = sum(row)
            row[:] = [x / (one * frames) for x in row]
    return torch.tensor([[x * frames for x in row] for row in q])


def slow_loss(first, second, temperature, epsilon, iterations):
    loss = 0.0
    for own, other in ((first, second), (second, first)):
        targets = slow_targets(own, epsilon, iterations)
        for target, scores in zip(targets, other.tolist(), strict=True):
            norm = math.log(sum(math.exp(x / temperature) for x in scores))
            loss -= sum(
                q * (x / temperature - norm) for q, x in zip(target.tolist(), scores, strict=True)
            )
    return loss / (2 * len(first))


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.02, 3), (0.05, 1), (0.5, 10)])
def test_targets_and_loss_are_those_of_loops(epsilon, iterations):
    scores = made_scores()
    for view, targets in zip(scores, balanced_targets(scores, epsilon, iterations), strict=True):
        expected = slow_targets(view, epsilon, iterations)
        torch.testing.assert_close(targets, expected, rtol=1e-4, atol=1e-7)
    loss = swapped_prediction(*scores, 0.1, epsilon, iterations)
    assert loss.item() == pytest.approx(slow_loss(*scores, 0.1, epsilon, iterations), rel=1e-5)


def test_many_iterations_balance_the_targets():
    targets = balanced_targets(made_scores(frames=40), 0.2, 200)
    torch.testing.assert_close(targets.sum(1), torch.full((2, 5), 8.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(targets.sum(2), torch.ones(2, 40))
    one_sided = made_scores(frames=40).detach()
    one_sided[..., 0] += 1.5  # every frame is nearest the first prototype
    assert (one_sided.argmax(-1) == 0).float().mean() > 0.8
    assert balanced_targets(one_sided, 0.2, 200)[..., 0].sum() < 17


def test_extreme_cosines_keep_the_targets_finite():
    scores = torch.ones(1, 3000, 4)
    scores[..., 1:] = -1.0
    assert torch.isfinite(balanced_targets(scores, epsilon=0.015)).all()


def test_the_loss_is_the_same_when_views_or_codes_change_places():
    first, second = made_scores()
    loss = swapped_prediction(first, second)
    order = torch.randperm(first.shape[1])
    frames = torch.randperm(len(first))
    for other in (
        (second, first),
        (first[:, order], second[:, order]),
        (first[frames], second[frames]),
    ):
        torch.testing.assert_close(swapped_prediction(*other), loss)
    assert not torch.isclose(swapped_prediction(first, second[frames]), loss, rtol=1e-3)


def test_no_gradient_flows_through_the_targets():
    scores = made_scores()
    swapped_prediction(*scores).backward()
    targets = balanced_targets(scores)
    probs = (scores / 0.1).softmax(-1).detach()
    expected = (probs - targets.flip(0)) / (0.1 * 2 * scores.shape[1])
    torch.testing.assert_close(scores.grad, expected, rtol=1e-4, atol=1e-6)


def test_views_that_agree_have_the_lower_loss():
    codebook = Codebook(8, 6, 4)
    frames = torch.randn(60, 8)
    same = swapped_prediction(codebook(frames), codebook(frames))
    apart = swapped_prediction(codebook(frames), codebook(torch.randn(60, 8)))
    equal = swapped_prediction(*codebook(torch.ones(2, 60, 8)))
    assert same < apart - 0.5
    assert equal >= math.log(6) - 1e-5  # frames that are all the same gain nothing


def test_the_codebook_compares_directions():
    codebook = Codebook(8, 6, 4)
    frames = torch.randn(3, 8)
    expected = F.normalize(codebook.projection(frames)) @ F.normalize(codebook.prototypes).T
    torch.testing.assert_close(codebook(frames), expected)
    assert torch.allclose(codebook.prototypes.norm(dim=1), torch.ones(6))
    with torch.no_grad():
        codebook.prototypes.mul_(torch.rand(6, 1) + 0.5)
    torch.testing.assert_close(codebook(frames), expected)
    assert sum(p.numel() for p in Codebook(768, 2048).parameters()) == 769 * 256 + 2048 * 256


def test_the_loss_is_float32_under_bfloat16():
    codebook, frames = Codebook(8, 6, 4), torch.randn(2, 20, 8)
    with torch.autocast("cpu", torch.bfloat16):
        scores = codebook(frames)
        loss = swapped_prediction(*scores)
    assert scores.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(loss, swapped_prediction(*codebook(frames)), rtol=0.05, atol=0)


def test_views_of_other_shapes_are_refused():
    for first, second in ((torch.ones(3, 4), torch.ones(2, 4)), (torch.ones(3), torch.ones(3))):
        with pytest.raises(ValueError, match=r"must be \(frames, prototypes\) alike"):
            swapped_prediction(first, second)
