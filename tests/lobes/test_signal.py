"""Masks, pooling and batch normalisation over valid frames."""

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import AttentiveStatisticsPooling as SpeechBrainPooling
from torch import nn

from lobes.signal import length_mask, masked_mean, masked_mean_std, valid_samples
from lobes.tdnn import AttentiveStatisticsPooling, MaskedBatchNorm1d

LENS = torch.tensor([50, 7, 31, 1])
VALID = length_mask(LENS, 50)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def noisy_batch(channels=6):
    """Return rows of different means whose padding is far from anything valid."""
    x = torch.randn(4, channels, 50) + torch.arange(4.0)[:, None, None]
    return x.masked_fill(~VALID[:, None], 1e3)


def valid_frames(x):
    return x.transpose(1, 2)[VALID]


def test_valid_samples_are_rounded():
    lens = torch.tensor([7777 / 116800, 1.0])
    found = valid_samples(torch.zeros(2, 116800), lens)
    assert found.counts.tolist() == found.lens.tolist() == [7777, 116800]
    assert found.padded and found.valid.sum(1).tolist() == [7777, 116800]
    full = valid_samples(torch.zeros(2, 9))
    assert full.counts.tolist() == [9, 9] and not full.padded and full.valid is None


@pytest.mark.parametrize(
    "lens, message",
    [([1.0], "one value for each"), ([1.0, 0.0], r"\(0, 1\]"), ([160.0, 100.0], r"\(0, 1\]")],
)
def test_valid_samples_refuses_wrong_lengths(lens, message):
    with pytest.raises(ValueError, match=message):
        valid_samples(torch.zeros(2, 160), torch.tensor(lens))


def test_masked_mean_and_std_equal_those_of_each_row_alone():
    x = noisy_batch()
    mean, std = masked_mean_std(x, VALID)
    for row, n in enumerate(LENS.tolist()):
        alone = x[row, :, :n]
        torch.testing.assert_close(mean[row], alone.mean(1))
        expected = alone.std(1, unbiased=False).clamp(min=1e-6)
        torch.testing.assert_close(std[row], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masked_mean(x, VALID), mean)


def test_masked_std_of_a_constant_has_a_finite_gradient():
    x = torch.ones(1, 2, 5, requires_grad=True)
    masked_mean_std(x)[1].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(4, 6, 50), (9, 6)])
def test_batch_norm_equals_torchs_where_nothing_is_padded(shape):
    ours, theirs = MaskedBatchNorm1d(6), nn.BatchNorm1d(6)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        x = 3 * torch.randn(shape) + 5
        inputs = [x.clone().requires_grad_() for _ in range(3)]
        everything = None if len(shape) == 2 else torch.ones(shape[0], shape[2], dtype=torch.bool)
        expected = theirs(inputs[0])
        weights = torch.randn_like(expected)
        (expected * weights).sum().backward()
        before = {k: v.clone() for k, v in ours.state_dict().items()}
        for x, valid in zip(inputs[1:], (None, everything), strict=True):
            ours.load_state_dict(before)
            out = ours(x, valid)
            (out * weights).sum().backward()
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(x.grad, inputs[0].grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_uses_valid_frames_only():
    ours, theirs = MaskedBatchNorm1d(6), nn.BatchNorm1d(6)
    x = noisy_batch().requires_grad_()
    out = ours(x, VALID)
    torch.testing.assert_close(valid_frames(out), theirs(valid_frames(x)), atol=1e-5, rtol=1e-5)
    assert (out.transpose(1, 2)[~VALID] == 0).all()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-5, rtol=1e-5)
    (out * torch.randn_like(out)).sum().backward()
    assert (x.grad.transpose(1, 2)[~VALID] == 0).all()
    ours.eval(), theirs.eval()
    torch.testing.assert_close(valid_frames(ours(x, VALID)), theirs(valid_frames(x)))


def test_batch_norm_keeps_precision_far_from_zero():
    x = torch.randn(4, 6, 50, dtype=torch.float64) + 1e3
    expected = nn.BatchNorm1d(6).double()(x).float()
    out = MaskedBatchNorm1d(6)(x.float(), torch.ones(4, 50, dtype=torch.bool))
    torch.testing.assert_close(out, expected, atol=2e-3, rtol=0)


def test_batch_norm_refuses_a_single_value_in_training():
    norm = MaskedBatchNorm1d(6)
    for x, valid in [(torch.randn(1, 6), None), (torch.randn(1, 6, 9), torch.arange(9)[None] < 1)]:
        with pytest.raises(ValueError, match="at least two valid"):
            norm(x, valid)
    assert norm.num_batches_tracked == 0 and norm.running_var.eq(1).all()
    assert norm.eval()(torch.randn(1, 6)).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_attentive_pooling_equals_speechbrains(training):
    theirs = SpeechBrainPooling(6, attention_channels=8).train(training)
    nn.init.normal_(theirs.tdnn.norm.norm.bias)
    ours = AttentiveStatisticsPooling(6, attention_channels=8).train(training)
    renamed = {
        ".".join((p := k.split("."))[:-2] + p[-1:]): v for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)
    x = torch.randn(4, 6, 50)
    torch.testing.assert_close(ours(x), theirs(x).squeeze(2), atol=1e-5, rtol=1e-4)


def test_attentive_pooling_ignores_padding():
    pooling = AttentiveStatisticsPooling(6, attention_channels=8).eval()
    x = noisy_batch().requires_grad_()
    pooled = pooling(x, VALID)
    for row, n in enumerate(LENS.tolist()):
        alone = pooling(x[row : row + 1, :, :n])[0]
        torch.testing.assert_close(pooled[row], alone, atol=1e-5, rtol=1e-5)
    pooled.sum().backward()
    assert (x.grad.transpose(1, 2)[~VALID] == 0).all()


def test_attentive_pooling_trains_on_valid_frames_only():
    pooling = AttentiveStatisticsPooling(6, attention_channels=8)
    x = noisy_batch()
    further = nn.functional.pad(x, (0, 30), value=-1e3)
    expected = pooling(x, VALID)
    torch.testing.assert_close(pooling(further, nn.functional.pad(VALID, (0, 30))), expected)
