"""Span masks and the copying baseline."""

import numpy as np
import pytest
import torch

from recipes.common.data.crops import span_mask
from recipes.common.training.meters import nearest_visible_units


def runs_of(mask):
    """Return the lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.numpy().astype(int), [0]])))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("num_frames", [2, 3, 5, 9, 10, 11, 12, 49, 300])
@pytest.mark.parametrize("prob", [0.0, 0.08, 1.0])
def test_some_frames_are_masked_and_some_are_visible(num_frames, prob):
    for seed in range(50):
        mask = span_mask(num_frames, prob=prob, rng=np.random.default_rng(seed))
        assert mask.shape == (num_frames,) and mask.dtype == torch.bool
        assert 0 < mask.sum() < num_frames


@pytest.mark.parametrize("num_frames", [0, 1])
def test_nothing_is_masked_where_nothing_would_be_visible(num_frames):
    mask = span_mask(num_frames, rng=np.random.default_rng(0))
    assert mask.shape == (num_frames,) and not mask.any()


def test_masks_follow_their_generator():
    masks = [span_mask(400, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_spans_have_their_length_unless_the_utterance_ends():
    for seed in range(50):
        mask = span_mask(100, prob=0.01, length=7, rng=np.random.default_rng(seed))
        runs = runs_of(mask)
        assert all(run >= 7 for run in (runs[:-1] if mask[-1] else runs))


def test_each_frame_starts_a_span_with_the_given_probability():
    rng = np.random.default_rng(0)
    share = torch.stack([span_mask(500, 0.08, 10, rng) for _ in range(400)]).float().mean(0)
    # Away from the beginning, a frame is visible if none of ten frames starts a span.
    assert share[9:].mean().item() == pytest.approx(1 - 0.92**10, abs=0.01)
    assert share[0].item() == pytest.approx(0.08, abs=0.05)
    assert abs(share[9:250].mean() - share[250:].mean()) < 0.02


@pytest.mark.parametrize("min_masks", [1, 3])
def test_the_least_number_of_spans(min_masks):
    starts = [
        sum(runs_of(span_mask(10_000, 0.0, 1, np.random.default_rng(seed), min_masks)))
        for seed in range(10)
    ]
    assert starts == [min_masks] * 10


def slow_nearest(units, mask, length):
    """Copy the nearest visible unit, one frame after the other."""
    copied = [-100] * len(units)
    for t in range(length):
        visible = [s for s in range(length) if not mask[s]]
        if visible:
            copied[t] = int(units[min(visible, key=lambda s: (abs(s - t), s))])
    return copied


def test_nearest_visible_units_agree_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    lens = torch.tensor([40, 1, 0, 17, 40, 33, 2])
    units = torch.randint(0, 30, (7, 40), generator=generator)
    mask = torch.rand(7, 40, generator=generator) < 0.7
    mask[4] = True  # nothing visible
    mask[5, :30] = True  # visible at the end only
    mask[5, 30:] = False
    units[torch.arange(40) >= lens[:, None]] = -100
    expected = [slow_nearest(units[i], mask[i], int(lens[i])) for i in range(7)]
    assert nearest_visible_units(units, mask, lens).tolist() == expected


def test_a_padded_frame_is_never_copied():
    units = torch.tensor([[1, 2, 3, 9, 9, 9]])
    mask = torch.tensor([[False, True, True, False, False, False]])
    copied = nearest_visible_units(units, mask, torch.tensor([3]))
    assert copied.tolist() == [[1, 1, 1, -100, -100, -100]]


def test_of_two_equally_near_frames_the_earlier_is_copied():
    units = torch.tensor([[5, 6, 7]])
    copied = nearest_visible_units(units, torch.tensor([[False, True, False]]), torch.tensor([3]))
    assert copied.tolist() == [[5, 5, 7]]
