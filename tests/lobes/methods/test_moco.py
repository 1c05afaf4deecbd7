"""MoCo."""

import pytest
import torch
from torch.nn import functional as F

from lobes.methods.moco import MoCo
from lobes.utterance_encoder import UtteranceEncoder
from tests.lobes.methods.test_simclr import views_of


def small_encoder(**changes):
    """Return an encoder without a projection."""
    sizes = {"channels": 8, "embedding_dim": 6, "attention_channels": 4, "projection_dim": 0}
    return UtteranceEncoder("tdnn", **{**sizes, **changes})


def slow_loss(queries, keys, queue, temperature):
    """Return InfoNCE by a loop over the queries."""
    rows, losses = len(queries) // 2, []
    for place, query in enumerate(queries):
        positive = keys[(place + rows) % (2 * rows)]
        scores = [F.cosine_similarity(query, key, dim=0) for key in (positive, *queue)]
        scores = torch.stack(scores) / temperature
        losses.append(torch.logsumexp(scores, 0) - scores[0])
    return torch.stack(losses).mean()


def test_the_loss_equals_the_slow_reference_and_reaches_the_queries_alone():
    method = MoCo(small_encoder(), queue_size=7, temperature=0.2)
    queries = torch.randn(8, 6, requires_grad=True)
    keys = F.normalize(torch.randn(8, 6), dim=1)
    queue = method.memory.keys.clone()
    loss = method(views_of(queries, taught=keys))
    torch.testing.assert_close(loss, slow_loss(queries, keys, queue, 0.2))
    loss.backward()
    assert queries.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in method.parameters())


def test_training_fills_the_queue_with_keys_and_evaluation_does_not():
    method = MoCo(small_encoder(), queue_size=6)
    keys = F.normalize(torch.randn(4, 6), dim=1)
    before = method.memory.keys.clone()
    method.eval()(views_of(torch.randn(4, 6), taught=keys))
    assert torch.equal(method.memory.keys, before)
    method.train()(views_of(torch.randn(4, 6), taught=keys))
    rows = {tuple(row) for row in method.memory.keys[:4].tolist()}
    assert rows == {tuple(row) for row in keys.tolist()}


def test_keys_are_of_the_teacher_which_follows_the_encoder():
    encoder = small_encoder()
    method = MoCo(encoder, queue_size=6, momentum=0.5)
    crops = torch.randn(4, 16000), torch.ones(4)
    keys = method.eval().teach(encoder, crops, None)
    with torch.no_grad():
        own = F.normalize(encoder.eval()(*crops), dim=1)
        torch.testing.assert_close(keys, own)
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn_like(p))
    assert torch.equal(method.teach(encoder, crops, None), keys)
    method.follow(encoder, 0.5)
    assert not torch.equal(method.teach(encoder, crops, None), keys)


def test_what_is_no_momentum_is_refused():
    with pytest.raises(ValueError, match="momentum is 1.5: expected a number, 0 to 1"):
        MoCo(small_encoder(), momentum=1.5)
