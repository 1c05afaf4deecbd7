"""Another voice: formants and pitch where they are to be, and nothing moved in time."""

import numpy as np
import pytest
import torch

from lobes.signal import HOP
from recipes.common.data.voice_change import ChangeVoice, draw_equaliser, draw_ratio, move_voice

RATE = 16000
WITHIN = HOP / 2  # samples: half a frame


def vowel(pitch=120.0, formants=(600.0, 1500.0), seconds=1.0):
    """Return harmonics of a pitch under two formants, (samples,) float32."""
    time = np.arange(int(seconds * RATE)) / RATE
    harmonics = pitch * np.arange(1, int(7900 / pitch))[:, None]
    gains = sum(1 / (1 + ((harmonics - centre) / 100) ** 2) for centre in formants)
    return 0.05 * (gains * np.sin(2 * np.pi * harmonics * time)).sum(0).astype(np.float32)


def pitch_of(wav):
    """Return the fundamental frequency, Hz, by autocorrelation."""
    middle = wav[4000:12000].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle, 2**15)) ** 2
    correlation = np.fft.irfft(spectrum)
    lags = np.arange(RATE // 400, RATE // 50)
    first = lags[correlation[lags] > 0.9 * correlation[lags].max()][0]  # others are multiples
    return RATE / (first + correlation[first : first + RATE // 1000].argmax())


def centroid(wav, low=700, high=2400):
    """Return the mean frequency, Hz, between two, weighted by power."""
    power = np.abs(np.fft.rfft(wav * np.hanning(len(wav)))) ** 2
    frequencies = np.fft.rfftfreq(len(wav), 1 / RATE)
    inside = (frequencies > low) & (frequencies < high)
    return (power * frequencies)[inside].sum() / power[inside].sum()


@pytest.mark.parametrize("samples", [400, 641, 16000, 16001])
def test_nothing_moves_where_the_ratios_are_one(samples):
    wav = 0.1 * np.random.default_rng(0).normal(size=samples).astype(np.float32)
    np.testing.assert_allclose(move_voice(wav, 1.0, 1.0), wav, atol=1e-3)


@pytest.mark.parametrize("ratio", [0.5, 0.75, 1.33, 1.8])
def test_the_pitch_moves_by_its_ratio(ratio):
    wav = vowel(pitch=150.0)
    assert pitch_of(wav) == pytest.approx(150, rel=0.02)
    assert pitch_of(move_voice(wav, 1.0, ratio)) == pytest.approx(150 * ratio, rel=0.03)
    assert pitch_of(move_voice(wav, 1.3, 1.0)) == pytest.approx(150, rel=0.02)


@pytest.mark.parametrize("ratio", [0.75, 1.3])
def test_formants_move_by_their_ratio_whatever_the_pitch_does(ratio):
    wav = vowel(pitch=180.0, formants=(1500.0,))
    assert centroid(wav) == pytest.approx(1500, rel=0.03)
    for pitch in (0.6, 1.0, 1.3):
        assert centroid(move_voice(wav, ratio, pitch)) == pytest.approx(1500 * ratio, rel=0.08)
        assert centroid(move_voice(wav, 1.0, pitch)) == pytest.approx(1500, rel=0.08)


def bursts(places, samples=RATE):
    """Return short bursts of a vowel at places, in silence."""
    wav = np.zeros(samples, np.float32)
    burst = vowel(200.0)[:800] * np.hanning(800).astype(np.float32)
    for place in places:
        wav[place - 400 : place + 400] = burst
    return wav


@pytest.mark.parametrize("seed", range(8))
def test_nothing_moves_in_time(seed):
    places = np.array([1700, 4321, 9000, 13333])
    wav = torch.from_numpy(bursts(places))
    changed = ChangeVoice()(wav, seed).numpy()
    assert len(changed) == len(wav)
    for place in places:
        around = np.arange(place - 1000, place + 1000)
        found = (changed[around] ** 2 * around).sum() / (changed[around] ** 2).sum()
        assert abs(found - place) < WITHIN


def test_a_shift_by_a_frame_would_be_found():
    wav = np.roll(bursts([8000]), HOP)
    around = np.arange(7000, 9000)
    found = (wav[around] ** 2 * around).sum() / (wav[around] ** 2).sum()
    assert abs(found - 8000) > WITHIN


def test_a_voice_is_that_of_its_seed_as_loud_as_before_and_not_the_same():
    wav = torch.from_numpy(vowel())
    change_voice = ChangeVoice()
    torch.manual_seed(0)
    np.random.seed(0)
    first = change_voice(wav, 5)
    assert torch.equal(first, change_voice(wav, 5)) and first.dtype == torch.float32
    assert not torch.equal(first, change_voice(wav, 6))
    assert float(first.square().mean()) == pytest.approx(float(wav.square().mean()), rel=1e-3)
    loud = change_voice(wav / wav.abs().max(), 5)
    assert loud.abs().max() <= 1
    assert (first - wav).norm() > 0.5 * wav.norm()
    assert torch.equal(change_voice(torch.zeros(5000), 1), torch.zeros(5000))


def test_an_equaliser_has_its_bands_and_limits():
    gains = (
        20 / np.log(10) * np.stack([draw_equaliser(np.random.default_rng(n)) for n in range(50)])
    )
    assert gains.shape == (50, 257) and np.isfinite(gains).all()
    assert 4 < gains[:, 5:230].std() < 12  # dB
    assert np.abs(gains).max() < 40


def test_ratios_go_both_ways_up_to_their_limit():
    rng = np.random.default_rng(0)
    ratios = np.array([draw_ratio(rng, 1.4) for _ in range(400)])
    assert 1 / 1.4 <= ratios.min() < 0.75 and 1.35 < ratios.max() <= 1.4
    assert 0.4 < (ratios > 1).mean() < 0.6


@pytest.mark.parametrize("name", ["formant_ratio", "pitch_ratio"])
@pytest.mark.parametrize("value", [0.9, 2.1])
def test_a_ratio_out_of_its_range_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a number, 1 to 2"):
        ChangeVoice(**{name: value})
