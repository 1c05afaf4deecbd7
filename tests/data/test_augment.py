"""Augmentation: the same crop for the same seed wherever it is made, and each part as described."""

import math
import pickle
import random

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from recipes.common.data.augment import (
    CODECS,
    CUTOFFS,
    TELEPHONES,
    UtteranceAugment,
    audio_files,
    channel_response,
    coloured_noise,
    seeded,
    synthetic_rirs,
)
from recipes.common.data.transmission import zero_phase

RATE = 16000
PARTS = ("noise", "reverb", "channel", "drop_freq", "drop_chunk", "gain")
LINES = ("band_limit", "telephone", "codec")
NONE = {f"{part}_prob": 0.0 for part in PARTS + LINES}


@pytest.fixture(scope="module")
def augment():
    return UtteranceAugment()


def only(part, **options):
    """Return an augmentation of one part, which always happens."""
    return UtteranceAugment(**{**NONE, f"{part}_prob": 1.0}, **options)


def tone(samples=2 * RATE, frequency=440.0):
    return 0.1 * torch.sin(2 * math.pi * frequency / RATE * torch.arange(samples))


def white(samples=2 * RATE):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(7))


def click(samples, place):
    wav = torch.zeros(samples)
    wav[place] = 0.5
    return wav


def power(wav, low, high):
    """Return the power of a waveform between two frequencies in Hz."""
    spectrum = torch.fft.rfft(wav.double()).abs().square()
    frequencies = torch.fft.rfftfreq(len(wav), 1 / RATE)
    return spectrum[(frequencies >= low) & (frequencies < high)].sum().item()


class Crops(Dataset):
    def __init__(self, augment):
        self.augment = augment

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.augment(white(), index)


@pytest.mark.long
def test_a_crop_depends_on_its_seed_alone(augment):
    first = [augment(white(), seed) for seed in range(20)]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    again = {seed: UtteranceAugment()(white(), seed) for seed in reversed(range(20))}
    assert all(torch.equal(first[seed], again[seed]) for seed in range(20))
    assert len({tuple(crop[:100].tolist()) for crop in first}) == 20


def pitch(wav):
    return torch.fft.rfft(wav.double()).abs().argmax().item() * RATE / len(wav)


def test_a_voice_is_one_of_the_speeds_and_the_seed_settles_which():
    augment = UtteranceAugment(speeds=[80, 110])
    for seed in range(10):
        first, second = (augment.change_voice(tone(n), seed) for n in (2 * RATE, RATE))
        speed = 2 * RATE / len(first)
        assert speed == pytest.approx(0.8, abs=1e-3) or speed == pytest.approx(1.1, abs=1e-3)
        assert RATE / len(second) == pytest.approx(speed, abs=1e-3)
        assert pitch(first) == pytest.approx(440 * speed, abs=2)
    lengths = {len(augment.change_voice(tone(), seed)) for seed in range(10)}
    assert len(lengths) == 2
    assert UtteranceAugment().change_voice(tone(), 1).equal(tone())


@pytest.mark.parametrize("samples", [2 * RATE, 5 * RATE])
def test_a_crop_does_not_depend_on_the_number_of_threads(augment, samples):
    threads = torch.get_num_threads()
    try:
        crops = {}
        for count in (1, 4):
            torch.set_num_threads(count)
            crops[count] = [augment(white(samples), seed) for seed in range(10)]
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(crops[1], crops[4], strict=True))


def test_a_crop_is_the_same_in_loader_workers(augment):
    here, there = (list(DataLoader(Crops(augment), 4, num_workers=n)) for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_global_generators_are_left_alone(augment):
    def states():
        numbers = np.random.get_state()
        return torch.get_rng_state().tolist(), numbers[1].tolist(), numbers[2], random.getstate()

    before = states()
    UtteranceAugment()
    for seed in range(10):
        augment(white(), seed)
    assert states() == before
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(1), 1 / 0
    assert states() == before


@pytest.mark.long
@pytest.mark.parametrize("samples", [400, 3989, 2 * RATE])
def test_crops_stay_audible_finite_and_bounded(samples):
    always = UtteranceAugment(**dict.fromkeys(NONE, 1.0), max_gain=40)
    original = tone(samples)
    kept = original.clone()
    for seed in range(60):
        crop = always(original, seed)
        assert crop.shape == original.shape and crop.dtype == torch.float32
        assert crop.isfinite().all() and crop.abs().max() <= 1 + 1e-6
        assert crop.abs().max() > 1e-4
    assert torch.equal(original, kept)
    assert (always(torch.zeros(samples), 1) == 0).all()


def test_parts_of_probability_zero_never_happen():
    for seed in range(20):
        torch.testing.assert_close(UtteranceAugment(**NONE)(tone(), seed), tone())


def test_parts_happen_as_often_as_asked():
    sometimes = UtteranceAugment(**{**NONE, "drop_chunk_prob": 0.3})
    crops = [sometimes(white(RATE), seed) for seed in range(400)]
    assert 0.22 < np.mean([(crop == 0).any().item() for crop in crops]) < 0.38


@pytest.mark.parametrize("snr", [0.0, 10.0, 20.0])
def test_noise_comes_at_the_ratio_asked_for(snr):
    wav, noisy = tone(frequency=4321.0), only("noise", snr_low=snr, snr_high=snr)
    for seed in range(20):
        assert measured_snr(noisy(wav, seed), wav) == pytest.approx(snr, abs=0.3)


def test_ratios_fill_their_range():
    wav, noisy = tone(frequency=4321.0), only("noise")
    ratios = [measured_snr(noisy(wav, seed), wav) for seed in range(60)]
    assert -0.5 < min(ratios) < 2 and 18 < max(ratios) < 20.5


def measured_snr(noisy, clean):
    noisy, clean = noisy.double(), clean.double()
    speech = clean * (noisy @ clean) / (clean @ clean)
    return 10 * math.log10(speech.square().sum() / (noisy - speech).square().sum())


def test_noise_runs_from_white_to_brown_and_from_steady_to_modulated():
    tilts, unsteadiness = [], []
    noise_like = UtteranceAugment().noise_like
    for seed in range(60):
        with seeded(seed):
            noise = noise_like(torch.zeros(1, 2 * RATE))[0]
        # Between 500 Hz and 4 kHz, three octaves: 0 dB an octave for white, -6 for brown noise.
        ratio = (power(noise, 3900, 4100) / power(noise, 400, 600)) ** 0.5
        tilts.append(20 * math.log10(ratio) / 3)
        frames = noise.view(-1, RATE // 20).square().mean(1)
        unsteadiness.append((frames.std() / frames.mean()).item())
    assert min(tilts) < -5 and max(tilts) > -1
    assert 15 < sum(value > 0.5 for value in unsteadiness) < 45


def test_white_noise_is_flat():
    with seeded(1):
        noise = coloured_noise(4 * RATE, max_exponent=0.0)
    assert power(noise, 200, 2200) / power(noise, 5000, 7000) == pytest.approx(1, abs=0.1)


def test_reverberation_keeps_the_direct_path_in_place_and_never_wraps_around():
    reverberant = only("reverb")
    for seed in range(30):
        early = reverberant(click(RATE, 3000), seed)
        assert early.abs().argmax() == 3000
        assert early[:3000].abs().max() < 1e-6
        assert early[3020:].abs().max() > 1e-4
        late = reverberant(click(RATE, RATE - 100), seed)
        assert late[: RATE - 100].abs().max() < 1e-6


def test_rooms_decay_by_60_db_within_their_rt60():
    rirs = synthetic_rirs(64)
    assert 0.1 * RATE <= min(map(len, rirs)) < 0.2 * RATE
    assert 0.6 * RATE < max(map(len, rirs)) <= 0.71 * RATE
    for rir in rirs:
        tail = rir[rir.abs().gt(0).nonzero()[0] :]
        tenth = len(tail) // 10
        energies = tail[: 10 * tenth].view(10, tenth).square().mean(1)
        # From the middle of the first tenth to that of the last are 0.9 RT60.
        assert 10 * math.log10(energies[0] / energies[-1]) == pytest.approx(54, abs=6)


def test_channels_differ_and_stay_within_bounds():
    frequencies = np.fft.rfftfreq(2048, 1 / RATE)
    with seeded(1):
        gains = np.stack([channel_response(frequencies) for _ in range(40)])
    decibels = 20 * np.log10(gains)
    assert decibels.min() >= -60.1 and decibels.max() < 20
    assert decibels[:, 128].std() > 2
    at_100_hz, at_1_khz = decibels[:, 13], decibels[:, 128]
    assert (at_100_hz - at_1_khz).min() < -15


def test_channel_filters_without_delay():
    coloured = only("channel")
    for seed in range(10):
        assert coloured(click(RATE, 5000), seed).abs().argmax() == 5000


def test_bands_are_those_of_speechbrain(augment):
    wav = white()[None]
    for seed in range(10):
        with seeded(seed):
            ours = zero_phase(wav, augment.band_response)
        with seeded(seed):
            theirs = augment.drop_freq(wav)
        assert (ours - theirs).square().mean() < 1e-3 * theirs.square().mean()
        assert theirs.square().mean() < 0.98 * wav.square().mean()


def test_chunks_are_silent():
    for seed in range(10):
        crop = only("drop_chunk")(white(), seed)
        assert 800 <= (crop == 0).sum() <= 3 * 2400


@pytest.mark.long
def test_gain_changes_the_level_alone():
    levels = []
    for seed in range(60):
        crop = only("gain", max_gain=6)(tone(), seed)
        levels.append(20 * math.log10(crop.norm() / tone().norm()))
        torch.testing.assert_close(crop / crop.norm(), tone() / tone().norm())
    assert -6 <= min(levels) < -5 and 5 < max(levels) <= 6


@pytest.mark.parametrize(("part", "ends"), [("band_limit", CUTOFFS), ("telephone", (3400,))])
def test_bands_end_at_each_of_their_limits(part, ends):
    line, found = only(part), set()
    for seed in range(20):
        crop = line(white(RATE), seed)
        share = [power(crop, 0.97 * end, end) > 1e-3 * power(crop, 0, end) for end in CUTOFFS]
        end = CUTOFFS[sum(share) - 1]
        found.add(end)
        assert power(crop, 1.1 * end, RATE) < 1e-3 * power(crop, 0, RATE)
        assert power(crop, 2900, 3300) == pytest.approx(power(crop, 1500, 1900), rel=0.3)
        assert (power(crop, 0, 200) < 1e-3 * power(crop, 0, RATE)) == (part == "telephone")
    assert found == set(ends)


@pytest.mark.parametrize("part", ["telephone", "codec"])
def test_a_line_has_one_of_its_codecs(part):
    line = only(part)
    heard = {tuple(line(tone(8000), seed)[2000:2100].tolist()) for seed in range(16)}
    assert len(heard) == {"telephone": len(TELEPHONES), "codec": len(CODECS)}[part]


def test_lines_happen_as_often_as_asked():
    sometimes = UtteranceAugment(**{**NONE, "band_limit_prob": 0.2, "telephone_prob": 0.1})
    crops = [sometimes(white(4000), seed) for seed in range(500)]
    narrow = [power(crop, 7800, RATE) < 0.005 * power(crop, 0, RATE) for crop in crops]
    assert np.mean(narrow) == pytest.approx(0.28, abs=0.06)


def test_an_augmentation_reaches_workers_that_are_spawned():
    made = UtteranceAugment(**dict.fromkeys(NONE, 0.5))
    again = pickle.loads(pickle.dumps(made))
    assert all(torch.equal(made(tone(8000), seed), again(tone(8000), seed)) for seed in range(4))


@pytest.mark.parametrize(
    ("suffix", "kind"), [("flac", {}), ("opus", {"format": "OGG", "subtype": "OPUS"})]
)
def test_noise_files_are_resampled_and_repeated(tmp_path, suffix, kind):
    (tmp_path / "deeper").mkdir()
    time = np.arange(4000) / 8000
    stereo = np.stack([np.sin(2 * np.pi * 1000 * time), np.zeros(4000)], axis=1)
    soundfile.write(tmp_path / "deeper" / f"hum.{suffix}", 0.3 * stereo, 8000, **kind)
    noise_like = UtteranceAugment(noise_folder=str(tmp_path)).noise_like
    with seeded(1):
        noise = noise_like(torch.zeros(1, 2 * RATE))
    assert noise.shape == (1, 2 * RATE)
    assert power(noise[0], 950, 1050) > 0.95 * power(noise[0], 0, RATE)


def test_every_noise_file_and_every_stretch_is_used(tmp_path):
    for number in range(3):
        ramp = np.linspace(0.2 * number, 0.2 * number + 0.1, 3 * RATE)
        soundfile.write(tmp_path / f"{number}.wav", ramp, RATE, subtype="FLOAT")
    noise_like = UtteranceAugment(noise_folder=str(tmp_path)).noise_like
    starts = set()
    for seed in range(40):
        with seeded(seed):
            starts.add(round(noise_like(torch.zeros(1, RATE))[0, 0].item(), 4))
    assert {int(start / 0.2 + 1e-6) for start in starts} == {0, 1, 2}
    assert len(starts) > 30


def test_impulse_response_files_are_aligned_to_their_direct_path(tmp_path):
    rir = np.zeros(1000)
    rir[300], rir[500] = 0.8, 0.4
    soundfile.write(tmp_path / "room.wav", rir, RATE, subtype="FLOAT")
    reverberant = only("reverb", rir_folder=str(tmp_path))
    crop = reverberant(click(RATE, 5000), 1)
    assert crop.abs().argmax() == 5000
    assert (crop[5200] / crop[5000]).item() == pytest.approx(0.5, abs=1e-3)
    shorter_than_the_delay = reverberant(click(250, 100), 1)
    assert shorter_than_the_delay.abs().argmax() == 100


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
@pytest.mark.parametrize("name", NONE)
def test_a_probability_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a probability"):
        UtteranceAugment(**{name: value})


@pytest.mark.parametrize("option", ["noise_folder", "rir_folder"])
@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_audio_is_named(tmp_path, option, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.txt").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match=f"{folder}: no audio found"):
        UtteranceAugment(**{option: str(tmp_path / folder)})


def test_what_macos_leaves_is_no_noise_and_links_are_followed(tmp_path):
    (tmp_path / "musan").mkdir()
    for name in ("a.wav", "._a.wav"):
        (tmp_path / "musan" / name).write_bytes(b"")
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "link").symlink_to(tmp_path / "musan")
    found = audio_files(str(tmp_path / "noise"))
    assert found == [str(tmp_path / "noise" / "link" / "a.wav")]
