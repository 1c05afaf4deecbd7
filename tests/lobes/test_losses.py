"""The losses against slow references, with padding and over two ranks."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lobes.losses import nt_xent, prediction_loss, retrieval_accuracy
from lobes.signal import length_mask
from lobes.tdnn import MaskedBatchNorm1d
from recipes.common.training.run import leave_together


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def prediction_batch(frames=20, classes=7):
    return torch.randn(frames, classes), torch.randint(classes, (frames,))


def slow_nt_xent(first, second, temperature):
    views = [(row, x) for view in (first, second) for row, x in enumerate(view)]
    losses = []
    for i, (row, anchor) in enumerate(views):
        others = [j for j in range(len(views)) if j != i]
        scores = {j: torch.cosine_similarity(anchor, views[j][1], dim=0) for j in others}
        positive = next(j for j in others if views[j][0] == row)
        total = sum(torch.exp(s / temperature) for s in scores.values())
        losses.append(-torch.log(torch.exp(scores[positive] / temperature) / total))
    return torch.stack(losses).mean()


def test_prediction_loss_is_the_mean_cross_entropy():
    logits, units = prediction_batch()
    slow = [-row.log_softmax(0)[unit] for row, unit in zip(logits, units, strict=True)]
    torch.testing.assert_close(prediction_loss(logits, units), torch.stack(slow).mean())
    torch.testing.assert_close(prediction_loss(logits, units, 40), torch.stack(slow).mean() / 2)


def test_prediction_loss_without_a_frame_is_zero():
    logits = torch.randn(0, 7, requires_grad=True)
    loss = prediction_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and logits.grad.shape == (0, 7)


def test_prediction_loss_is_float32_under_bfloat16():
    logits, units = prediction_batch()
    assert prediction_loss(logits.bfloat16(), units).dtype == torch.float32


def test_prediction_loss_refuses_other_shapes():
    logits, units = prediction_batch()
    with pytest.raises(ValueError, match="must be"):
        prediction_loss(logits, units[1:])


@pytest.mark.parametrize("temperature", [0.03, 0.1, 1.0])
def test_nt_xent_equals_the_slow_reference(temperature):
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    expected = slow_nt_xent(first.double(), second.double(), temperature).float()
    torch.testing.assert_close(nt_xent(first, second, temperature), expected)


def test_nt_xent_extremes():
    equal = torch.ones(6, 4)
    assert nt_xent(equal, equal).item() == pytest.approx(math.log(11), abs=1e-5)
    assert nt_xent(torch.eye(6), torch.eye(6), 0.01).item() == pytest.approx(0, abs=1e-5)
    x = torch.randn(6, 4)
    torch.testing.assert_close(nt_xent(x, 3 * x + 0.0), nt_xent(x, x))


def test_nt_xent_refuses_one_utterance_and_other_shapes():
    with pytest.raises(ValueError, match="at least two utterances"):
        nt_xent(torch.randn(1, 4), torch.randn(1, 4))
    with pytest.raises(ValueError, match="alike"):
        nt_xent(torch.randn(3, 4), torch.randn(2, 4))


def test_retrieval_accuracy():
    x = torch.randn(8, 16)
    assert retrieval_accuracy(x, 2 * x).item() == 1
    assert retrieval_accuracy(x, x.roll(1, 0)).item() == 0
    assert retrieval_accuracy(torch.ones(8, 4), torch.ones(8, 4)).item() == pytest.approx(1 / 8)


def batch_of(rows):
    """Return the inputs of these rows of one fixed global batch of five."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 20, 7, generator=generator)
    valid = length_mask(torch.tensor([20, 3, 11, 8, 15]), 20)
    units = torch.randint(7, (5, 20), generator=generator)
    mask = (torch.rand(5, 20, generator=generator) < 0.5) & valid
    return [t[rows] for t in (x, valid, units, mask)]


def all_losses(model, rows):
    """Normalise frames, predict units, normalise row means and contrast them."""
    x, valid, units, mask = batch_of(rows)
    frames = model["frame_norm"](x.transpose(1, 2), valid)
    logits = model["linear"](frames.transpose(1, 2))
    pooled = model["row_norm"](logits.mean(1))
    loss = prediction_loss(logits[mask], units[mask])
    return loss + nt_xent(pooled, model["linear"](pooled) + pooled, 0.5)


def small_model():
    torch.manual_seed(1)
    model = torch.nn.ModuleDict(
        {
            "frame_norm": MaskedBatchNorm1d(7),
            "linear": torch.nn.Linear(7, 7),
            "row_norm": MaskedBatchNorm1d(7),
        }
    )
    # Without a scale of its own per channel, the gradient of a normalised sum would vanish.
    torch.nn.init.normal_(model["frame_norm"].weight)
    return model


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = small_model()
    loss = all_losses(model, slice(0, 1) if rank == 0 else slice(1, 5))
    loss.backward()
    for tensor in [loss.data, *(p.grad for p in model.parameters())]:
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        grads = {name: p.grad for name, p in model.named_parameters()}
        torch.save((loss.data, grads, model.state_dict()), folder / "rank0.pt")
    leave_together()


@pytest.mark.long
def test_two_ranks_with_unequal_rows_equal_one_process(tmp_path):
    mp.spawn(run_rank, (tmp_path,), nprocs=2)
    loss, grads, state = torch.load(tmp_path / "rank0.pt")
    model = small_model()
    expected = all_losses(model, slice(0, 5))
    expected.backward()
    torch.testing.assert_close(loss, expected.data)
    largest = max(p.grad.abs().max() for p in model.parameters())
    for name, p in model.named_parameters():
        assert (grads[name] - p.grad).abs().max() <= 1e-5 * largest, name
    torch.testing.assert_close(state, model.state_dict())
