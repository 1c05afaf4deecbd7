"""Lines: bands that end where they should, G.711 as the standard has it, codecs without delay."""

import numpy as np
import pytest
import scipy.signal
import torch

from recipes.common.data import transmission
from recipes.common.data.transmission import A_LAW, MU_LAW, Codec, code, transmit

RATE = 16000
CODECS = {name: codec for name, codec in vars(transmission).items() if isinstance(codec, Codec)}


def mu_law(magnitude):
    """Return what 14-bit magnitudes are decoded to, by G.711's table 2: 8 segments of 16 steps."""
    biased = np.minimum(magnitude, 8158) + 33
    segment = np.floor(np.log2(biased)).astype(int) - 5
    step = (biased >> (segment + 1)) & 15
    return ((2 * step + 33) << segment) - 33


def a_law(magnitude):
    """Return what 13-bit magnitudes, below 4096, are decoded to: the middle of their interval."""
    segment = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(int) - 4, 1)
    return ((magnitude >> segment) << segment) + (1 << segment) // 2


@pytest.mark.parametrize(
    ("codec", "reference", "levels"), [(MU_LAW, mu_law, 8192), (A_LAW, a_law, 2048)]
)
def test_companding_is_that_of_the_standard(codec, reference, levels):
    # libsndfile takes 1 for 32767: a float of each whole level, of either sign
    scale = 32768 // levels
    magnitudes = np.arange(levels)
    expected = reference(magnitudes if codec is MU_LAW else 2 * magnitudes)
    expected = expected * (scale if codec is MU_LAW else scale // 2)
    for sign in (1, -1):
        wav = (sign * magnitudes * scale / 32767).astype(np.float32)
        found = code(wav, codec) * 32768
        np.testing.assert_array_equal(found[1:], sign * expected[1:])
    assert len(np.unique(expected)) == 128


def speechlike(samples=2 * RATE):
    rng = np.random.default_rng(3)
    wav = scipy.signal.lfilter([1], [1, -0.9], rng.normal(size=samples))
    return torch.from_numpy(0.04 * wav).float()[None]


def power(wav, low, high):
    spectrum = torch.fft.rfft(wav[0].double()).abs().square()
    frequencies = torch.fft.rfftfreq(wav.shape[1], 1 / RATE)
    return spectrum[(frequencies >= low) & (frequencies < high)].sum().item()


@pytest.mark.parametrize("cutoff", [3400, 4000, 5500, 7000])
def test_a_band_ends_a_tenth_above_its_limit(cutoff):
    wav = speechlike()
    limited = transmission.limit_band(wav, cutoff)
    # What little there is comes from the sudden ends of the crop.
    assert power(limited, 1.1 * cutoff, RATE) < 1e-3 * power(wav, 1.1 * cutoff, RATE)
    for low, high in ((0, 300), (0.9 * cutoff, cutoff)):
        assert power(limited, low, high) == pytest.approx(power(wav, low, high), rel=0.01)


@pytest.mark.parametrize(("codec", "reference"), [(MU_LAW, mu_law), (A_LAW, a_law)])
def test_a_telephone_is_a_band_of_8_khz_companded(codec, reference):
    wav = speechlike()
    taps = scipy.signal.firwin(1201, (255, 3570), pass_zero=False, fs=RATE)
    band = scipy.signal.fftconvolve(wav[0].double().numpy(), taps, "same")[::2]
    top = {MU_LAW: 8192, A_LAW: 4096}[codec]
    level = 0.5 * top / np.abs(band).max()
    companded = np.sign(band) * reference(np.round(np.abs(band) * level).astype(int))
    expected = scipy.signal.resample_poly(companded / top, 2, 1)
    heard = transmit(wav, codec)[0].double().numpy()
    # The slopes of the two bands differ; what lies between them does not.
    inner = scipy.signal.firwin(1201, (500, 3200), pass_zero=False, fs=RATE)
    a, b = (scipy.signal.fftconvolve(x, inner, "valid") for x in (expected, heard))
    a *= (a @ b) / (a @ a)
    assert np.square(a - b).mean() < 1e-3 * np.square(b).mean()
    whole = torch.from_numpy(heard)[None]
    for low, high in ((0, 150), (3900, RATE)):
        assert power(whole, low, high) < 1e-3 * power(whole, 0, RATE)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_length_place_and_voice_whatever_the_level(name):
    wav = speechlike(2 * RATE - 7)
    heard = transmit(wav, CODECS[name])
    assert heard.shape == wav.shape and heard.dtype == torch.float32
    size = 2 * wav.shape[1]
    spectra = [torch.fft.rfft(x[0], size) for x in (wav, heard)]
    assert torch.fft.irfft(spectra[0].conj() * spectra[1], size).argmax() == 0
    band = [transmission.halve(x) for x in (wav, heard)]
    assert 0.6 < torch.cosine_similarity(*band).item() < 0.9999
    assert torch.equal(transmit(wav, CODECS[name]), heard)
    torch.testing.assert_close(transmit(64 * wav, CODECS[name]), heard)


@pytest.mark.parametrize("name", CODECS)
def test_codecs_take_crops_of_any_length_and_silence(name):
    for samples in (1, 400, 4001):
        heard = transmit(speechlike(samples), CODECS[name])
        assert heard.shape == (1, samples) and heard.isfinite().all()
        assert transmit(torch.zeros(1, samples), CODECS[name]).equal(torch.zeros(1, samples))
