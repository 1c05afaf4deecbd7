"""DINO."""

import pytest
import torch
from torch.nn import functional as F

from lobes.methods.dino import DINO, dino_loss
from tests.lobes.methods.test_moco import small_encoder
from tests.lobes.methods.test_simclr import views_of

SMALL = {"prototypes": 9, "hidden_dim": 8, "bottleneck_dim": 5}


def slow_loss(targets, logits, utterances):
    """Return the cross-entropies by loops over the pairs of a target and another crop."""
    targets, crops = targets.split(utterances), logits.split(utterances)
    total = 0.0
    for place, target in enumerate(targets):
        for other, crop in enumerate(crops):
            if other != place:
                total += -(target * F.log_softmax(crop, dim=1)).sum()
    return total / (2 * (len(crops) - 1))


@pytest.mark.parametrize("short", [0, 1, 4])
def test_the_loss_equals_the_slow_reference(short):
    targets = torch.randn(6, 9).softmax(1)
    logits = torch.randn((2 + short) * 3, 9)
    found = dino_loss(targets, logits, 2 + short)
    torch.testing.assert_close(found, slow_loss(targets, logits, 3))


def made_of(method, rows=4, short=2):
    """Return Views of random embeddings, with what the teacher's head makes of others."""
    with torch.no_grad():
        taught = method.teacher_head(torch.randn(2 * rows, 6))
    return views_of(torch.randn(2 * rows, 6), short=torch.randn(short * rows, 6), taught=taught)


def test_targets_are_centred_and_sharpened():
    method = DINO(small_encoder(), **SMALL, student_temperature=0.2, teacher_temperature=0.05)
    method.centre.copy_(torch.randn(9))
    views = made_of(method)
    centre = method.centre.clone()
    loss = method(views)
    targets = ((views.taught - centre) / 0.05).softmax(1)
    logits = method.head(torch.cat([views.projections, views.short])) / 0.2
    torch.testing.assert_close(loss, slow_loss(targets, logits, 4) / 4)
    expected = centre + 0.1 * (views.taught.mean(0) - centre)
    torch.testing.assert_close(method.centre, expected)


def test_the_gradient_reaches_the_head_and_no_teacher():
    method = DINO(small_encoder(), **SMALL)
    method(made_of(method)).backward()
    trained = {name for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in method.named_parameters() if name.startswith("head.")}


def test_evaluation_leaves_the_centre_where_it_is():
    method = DINO(small_encoder(), **SMALL).eval()
    method(made_of(method))
    assert not method.centre.any()


def test_teacher_and_head_follow_until_the_end():
    encoder = small_encoder()
    method = DINO(encoder, **SMALL, teacher_momentum=0.5)
    with torch.no_grad():
        for p in (*encoder.parameters(), *method.head.parameters()):
            p.add_(torch.ones_like(p))
    before = [p.clone() for p in (*method.teacher.parameters(), *method.teacher_head.parameters())]
    method.follow(encoder, 0.0)
    after = [*method.teacher.parameters(), *method.teacher_head.parameters()]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + 0.5)
    method.follow(encoder, 1.0)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old + 0.5)


def test_the_figures_tell_the_two_ways_to_collapse():
    method = DINO(small_encoder(), **SMALL).eval()
    views = made_of(method)
    method(views)
    sound = {name: float(value) for name, value in views.figures.items()}
    assert method.problem(sound) is None
    one = views_of(views.projections, taught=5 * F.one_hot(torch.zeros(8).long(), 9).float())
    method(one)
    assert "the teacher names 1.0" in method.problem(one.figures).lower()
    even = views_of(views.projections, taught=torch.zeros(8, 9))
    method(even)
    assert "all prototypes alike" in method.problem(even.figures)


def test_head_has_the_sizes_it_is_given():
    head = DINO(small_encoder(), **SMALL).head
    assert head.prototypes.shape == (9, 5) and head(torch.randn(3, 6)).abs().max() <= 1
    assert sum(p.numel() for p in head.parameters()) == 6 * 8 + 8 + 8 * 8 + 8 + 8 * 5 + 5 + 9 * 5
