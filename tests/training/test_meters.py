"""Meters: the copying baseline, and figures against loops over frames."""

import numpy as np
import pytest
import torch

from lobes.signal import length_mask
from recipes.common.data.crops import SpeechBatch
from recipes.common.training.meters import FrameMeter, UtteranceMeter, nearest_visible_units


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


def test_figures_of_frames_agree_with_a_loop_over_valid_frames():
    generator = torch.Generator().manual_seed(0)
    lens = torch.tensor([9, 5])
    units = torch.randint(4, (2, 9), generator=generator)
    units[~length_mask(lens, 9)] = -100
    mask = (torch.rand(2, 9, generator=generator) < 0.4) & length_mask(lens, 9)
    frames = torch.randn(2, 9, 3, generator=generator)
    logits = torch.randn(2, 9, 4, generator=generator)
    meter = FrameMeter()
    for row, length in enumerate(lens.tolist()):
        own = {"id": str(row), "units": units[row, :length], "mask": mask[row, :length]}
        batch = SpeechBatch([own])
        at = torch.cat([batch.hidden, batch.visible])
        meter.update(frames[row : row + 1, :length], logits[row, :length][at], batch)

    places = [(row, place) for row in range(2) for place in range(int(lens[row]))]
    hidden = [place for place in places if mask[place]]
    right = [logits[place].argmax() == units[place] for place in hidden]
    rows = np.array([frames[place].numpy() for place in places], np.float64)
    shares = np.bincount([int(units[place]) for place in hidden], minlength=4) / len(hidden)
    found = meter.figures()
    assert found["masked_accuracy"] == pytest.approx(np.mean(right))
    assert found["majority_accuracy"] == pytest.approx(shares.max())
    entropy = -sum(share * np.log(share) for share in shares if share)
    assert found["true_perplexity"] == pytest.approx(np.exp(entropy))
    assert found["frame_deviation"] == pytest.approx(rows.std(0).mean())


def test_figures_of_embeddings_agree_with_numpy():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(12, 5, generator=generator)
    first, second = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    meter = UtteranceMeter()
    meter.update(embeddings[:8], first[:4], second[:4])
    meter.update(embeddings[8:], first[4:], second[4:])
    unit = embeddings.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    found = meter.figures()
    assert found["embedding_deviation"] == pytest.approx(unit.std(0).mean() * 5**0.5)
    assert found["retrieval_chance"] == pytest.approx(2 / 6)
