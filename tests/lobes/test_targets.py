"""Features and quantizers of units."""

import pytest
import torch

from lobes import targets
from lobes.targets import KMeansQuantizer, RandomProjectionQuantizer, mfcc


def test_the_nearest_centre_names_the_unit():
    centres, frames = torch.randn(9, 5), torch.randn(2, 30, 5)
    expected = torch.cdist(frames, centres[None]).argmin(-1)
    assert torch.equal(KMeansQuantizer(centres)(frames), expected)


def test_random_projection_spreads_over_its_units_and_repeats():
    frames = torch.randn(3000, 39)
    first, second = (RandomProjectionQuantizer(39, 32, seed=s)(frames) for s in (0, 0))
    assert torch.equal(first, second) and len(first.unique()) > 25
    assert not torch.equal(first, RandomProjectionQuantizer(39, 32, seed=1)(frames))


@pytest.mark.parametrize("frame", [1, 2, 17, 40, 47])
@pytest.mark.parametrize("offset", [130, 200, 270])
def test_a_click_shows_in_the_frame_whose_samples_hold_it(frame, offset):
    wav = 1e-4 * torch.randn(16000, generator=torch.Generator().manual_seed(frame))
    wav[320 * frame + offset] = 0.5
    energy = mfcc(wav)[:, 0]
    assert energy.argmax() == frame
    assert energy.topk(2).values.diff().abs() > 1


def test_cepstra_of_long_recordings_are_taken_in_parts(monkeypatch):
    wav = torch.randn(16000 * 3 + 77, generator=torch.Generator().manual_seed(0))
    whole = mfcc(wav)
    for at_once in (1, 7, 100, 298, 299):
        monkeypatch.setattr(targets, "AT_ONCE", at_once)
        torch.testing.assert_close(mfcc(wav), whole, atol=1e-4, rtol=1e-4)
