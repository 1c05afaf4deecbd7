"""Audio: what is read of any rate and container, and which files are refused."""

import io
import os
import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from speechbrain.dataio.dataio import read_audio

from lobes.signal import num_frames
from pretrained import Learn2Diss
from pretrained.audio import (
    AudioError,
    check_audio,
    check_pieces,
    read_blocks,
    read_speech,
    resample_blocks,
    resampled_length,
)
from tests.pretrained.exports import BAD_AUDIO, RATE, written


@pytest.fixture
def voice(make_voice, tmp_path):
    """Return a function (file name) -> the path of a new, good file."""

    def write(name):
        soundfile.write(tmp_path / name, make_voice(1, 2), 16000)
        return tmp_path / name

    return write


def write_bytes(path, content):
    path.write_bytes(content)
    return path


def test_a_file_that_must_not_be_read_is_told(voice, monkeypatch):
    path = voice("a.wav")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert check_audio(path) == (0.0, "cannot be read: permission denied.")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_16_khz_mono_is_what_speechbrain_reads_to_the_bit(voice, suffix):
    path = voice(f"a.{suffix}")
    found = read_speech(path)
    assert found.dtype == torch.float32 and torch.equal(found, read_audio(str(path)))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44099])
def test_another_rate_is_resampled(rate, tmp_path):
    time = np.arange(rate + 7) / rate
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), rate, subtype="FLOAT")
    found = read_speech(path)
    assert len(found) == resampled_length(len(time), rate) == -(-len(time) * 16000 // rate)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / 16000)
    assert np.abs(found.numpy() - expected)[200:-200].max() < 2e-3
    if rate != 44099:
        audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        other = torchaudio.functional.resample(audio, rate, 16000)
        assert (found - other)[200:-200].abs().max() < 2e-3


def test_what_16_khz_cannot_hold_is_filtered_out(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 11000 * np.arange(48000) / 48000), 48000)
    assert read_speech(path)[200:-200].abs().max() < 0.01


def test_channels_are_averaged(make_voice, tmp_path):
    left, right = make_voice(1, 2)[:16000], make_voice(2, 3)[:16000]
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    assert np.allclose(read_speech(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


def test_the_number_of_threads_does_not_change_a_sample(make_voice, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.tile(make_voice(1, 2), 20), 44100)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(read_speech(tmp_path / "a.wav"))
    torch.set_num_threads(1)
    with ThreadPoolExecutor(3) as pool:
        found += pool.map(read_speech, [tmp_path / "a.wav"] * 6)
    assert all(torch.equal(found[0], other) for other in found)


def test_inference_reads_the_same_samples(make_voice, tmp_path):
    stereo = np.stack([np.tile(make_voice(speaker, 2)[:19200], 40) for speaker in (1, 2)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, 44100)
    blocks = np.concatenate(list(read_blocks(tmp_path / "a.wav")))
    assert np.array_equal(blocks, read_speech(tmp_path / "a.wav"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such name")
def test_a_file_whose_name_is_no_text_is_read(tmp_path):
    path = written(tmp_path / "a.wav", np.sin(np.arange(16000)))
    odd = os.fsdecode(os.fsencode(tmp_path / "b") + b"\xff.wav")
    os.rename(path, odd)
    assert check_audio(odd) == (1.0, None) and len(read_speech(odd)) == 16000


def test_files_are_read_in_blocks(tmp_path):
    rate = 44100
    path = written(tmp_path / "a.wav", np.random.default_rng(0).uniform(-1, 1, 35 * rate), rate)
    lengths = [len(block) for block in read_blocks(path)]
    assert sum(lengths) == 35 * RATE and max(lengths) <= 10 * RATE


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 15999, 96000])
def test_blocks_are_resampled_as_the_whole_is(rate):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=int(1.7 * rate)).astype(np.float32)
    whole = np.concatenate(list(resample_blocks([samples], rate)))
    cuts = np.sort(rng.integers(0, len(samples), 6))
    blocks = np.concatenate(list(resample_blocks(np.split(samples, cuts), rate)))
    assert len(blocks) == -(-len(samples) * RATE // rate)
    assert blocks.dtype == np.float32
    np.testing.assert_allclose(blocks, whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 15999, 16000, 44100])
def test_half_a_spectrum_is_told_of(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(rate)), rate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(read_blocks(tmp_path / "a.wav"))
    expected = [f"a.wav is sampled at {rate} Hz, so it holds nothing above {rate // 2} Hz"]
    told = [str(warning.message) for warning in caught]
    assert len(told) == (rate < RATE)
    assert all(text in message for text, message in zip(expected, told, strict=False))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_tones_are_kept_and_aliases_are_not(rate):
    blocks = [np.arange(start, start + rate // 2) / rate for start in range(0, 2 * rate, rate // 2)]
    time = np.arange(2 * RATE) / RATE
    inner = slice(200, -200)
    tones = (np.sin(2 * np.pi * 1000 * block).astype(np.float32) for block in blocks)
    resampled = np.concatenate(list(resample_blocks(tones, rate)))
    assert np.abs(resampled - np.sin(2 * np.pi * 1000 * time))[inner].max() < 2e-3
    if rate > 2 * 10000:
        tones = (np.sin(2 * np.pi * 10000 * block).astype(np.float32) for block in blocks)
        assert np.abs(np.concatenate(list(resample_blocks(tones, rate))))[inner].max() < 1e-2
    theirs = torchaudio.functional.resample(
        torch.from_numpy(np.sin(2 * np.pi * 1000 * np.concatenate(blocks))), rate, RATE
    )
    assert np.abs(resampled - theirs.numpy())[inner].max() < 2e-3


@pytest.mark.parametrize(
    ("name", "rate", "channels", "tolerance"),
    [
        ("a.wav", 8000, 2, 0.02),
        ("a.flac", 48000, 1, 0.02),
        ("a.ogg", 32000, 2, 0.3),
        ("a.mp3", 44100, 1, 0.3),
    ],
)
def test_rates_channels_and_containers(encoders, name, rate, channels, tolerance, tmp_path):
    time = np.arange(int(1.5 * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * 500 * time) * np.sin(np.pi * time) ** 2
    weights = [1.5, 0.5] if channels == 2 else [1.0]
    path = written(tmp_path / name, np.stack([w * tone for w in weights], axis=1), rate)
    samples = np.concatenate(list(read_blocks(path)))
    time = np.arange(int(1.5 * RATE)) / RATE
    expected = 0.5 * np.sin(2 * np.pi * 500 * time) * np.sin(np.pi * time) ** 2
    assert abs(len(samples) - len(expected)) <= 1
    error = samples[: len(expected)] - expected[: len(samples)]
    assert np.linalg.norm(error) < tolerance * np.linalg.norm(expected)
    encoding = Learn2Diss(encoders).encode_file(path)
    assert encoding.frames.shape == (1, num_frames(len(samples)), 32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "aiff"])
@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_the_duration_is_that_of_what_is_read(suffix, rate, make_voice, tmp_path):
    path = tmp_path / f"a.{suffix}"
    for samples in (16000, 16001, 16319):
        soundfile.write(path, np.stack([make_voice(1, 2)[:samples]] * 2, axis=1), rate)
        duration, problem = check_audio(path, any_rate=True)
        assert problem is None and round(duration * 16000) == len(read_speech(path))
        assert "2 channel" in check_audio(path)[1]


def test_an_mp3_without_a_length_of_its_own_passes_with_what_is_decoded(make_voice, tmp_path):
    path = tmp_path / "a.mp3"
    settings = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    soundfile.write(path, np.tile(make_voice(1, 2), 5), 44100, **settings)
    content = path.read_bytes()
    write_bytes(path, content[content.index(content[:2], 10) :])
    decoded = len(soundfile.read(path)[0])
    assert soundfile.info(path).frames > decoded
    duration, problem = check_audio(path, any_rate=True)
    assert problem is None
    assert round(duration * 16000) == len(read_speech(path)) == resampled_length(decoded, 44100)


def test_an_mp3_that_holds_more_than_its_header_tells_is_refused(tmp_path):
    """libsndfile reads the first of two MP3 that were joined, and no error tells of the other."""
    tone = 0.3 * np.sin(np.arange(RATE * 6) / 9)
    path = written(tmp_path / "a.mp3", tone, RATE)
    content = path.read_bytes()
    for tag in (b"TAG" + bytes(125), b"APETAGEX" + bytes(9000)):
        assert check_audio(write_bytes(path, content + tag)) == (6.0, None)
    joined = write_bytes(path, 2 * content)
    assert len(soundfile.read(joined)[0]) == 6 * RATE
    expected = "6.0 s can be read, and some 6 s more are there. Convert it"
    duration, problem = check_audio(joined)
    assert duration == 0 and expected in problem
    for source in (joined, io.BytesIO(joined.read_bytes())):
        with pytest.raises(AudioError, match="holds more than its header tells"):
            list(read_blocks(source))


def test_channels_that_cancel_are_silent(make_voice, tmp_path):
    audio = make_voice(1, 2)
    soundfile.write(tmp_path / "a.wav", np.stack([audio, -audio], 1), 16000, subtype="FLOAT")
    assert "silent" in check_audio(tmp_path / "a.wav", any_rate=True)[1]


@pytest.mark.parametrize("rate", [500, 1_000_000])
def test_a_rate_that_no_speech_has_is_refused(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(1000)), rate)
    assert f"{rate} Hz" in check_audio(tmp_path / "a.wav", any_rate=True)[1]


def test_good_audio_has_its_duration(voice, make_voice):
    seconds = len(make_voice(1, 2)) / 16000
    assert check_audio(voice("a.wav")) == (seconds, None)
    assert check_audio(voice("a.flac")) == (seconds, None)


def test_what_is_passed_is_what_speechbrain_reads(voice):
    path = voice("a.flac")
    assert check_audio(path)[0] * 16000 == len(read_audio(str(path)))


# FLAC fails while it decodes. A cut WAV decodes to the samples that are left, and libsndfile
# corrects the header's count: only the header's own bytes tell.
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("keep", [lambda n: n - 2, lambda n: n // 2, lambda n: 60])
def test_cut_audio_is_found(voice, suffix, keep):
    path = voice(f"a{suffix}")
    content = path.read_bytes()
    write_bytes(path, content[: keep(len(content))])
    duration, problem = check_audio(path)
    assert duration == 0 and ("cut short" in problem or "cannot be decoded" in problem)


def test_a_cut_mp3_is_found(voice):
    path = voice("a.mp3")
    assert check_audio(path)[1] is None
    content = path.read_bytes()
    assert "cut short" in check_audio(write_bytes(path, content[: len(content) // 2]))[1]


def test_a_corrupt_flac_is_found(voice):
    path = voice("a.flac")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    assert "cannot be decoded" in check_audio(write_bytes(path, content))[1]


def test_a_wav_from_a_pipe_is_good(voice):
    path = voice("a.wav")
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert check_audio(write_bytes(path, content))[1] is None


def test_a_wav_with_chunks_after_its_samples_is_judged_by_its_samples(voice):
    path = voice("a.wav")
    content = path.read_bytes()
    assert check_audio(write_bytes(path, content + b"LIST\x04\0\0\0INFO"))[1] is None


def test_a_flac_that_does_not_know_its_length_is_refused(voice):
    path = voice("a.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert "its header tells no length" in check_audio(write_bytes(path, content))[1]
    with pytest.raises(AudioError, match="a.flac cannot be used: its header tells no length"):
        list(read_blocks(path))


CONTENTS = {
    "empty": (np.zeros(0), 16000, "empty"),
    "zeros": (np.zeros(1600), 16000, "silent"),
    "constant": (np.full(1600, 0.25), 16000, "silent"),
    "one NaN": (np.where(np.arange(1600) == 800, np.nan, 0.1), 16000, "not finite"),
    "one infinity": (np.where(np.arange(1600) == 800, np.inf, 0.1), 16000, "not finite"),
    "8 kHz": (np.sin(np.arange(1600)), 8000, "8000 Hz.*16000 Hz"),
    "stereo": (np.sin(np.arange(3200)).reshape(-1, 2), 16000, "2 channel"),
}


@pytest.mark.parametrize("samples, rate, message", CONTENTS.values(), ids=CONTENTS)
def test_what_a_recipe_cannot_use_is_found(samples, rate, message, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, rate, subtype="FLOAT")
    duration, problem = check_audio(path)
    assert duration == 0
    pytest.raises(ValueError, _raise, problem).match(message)


def _raise(message):
    raise ValueError(message)


def test_text_named_wav_and_no_file_are_found(tmp_path):
    path = tmp_path / "a.wav"
    path.write_text("not audio at all\n" * 9)
    assert "cannot be decoded" in check_audio(path)[1]
    assert "cannot be decoded" in check_audio(tmp_path / "gone.wav")[1]


@pytest.mark.parametrize("problem", BAD_AUDIO)
def test_bad_audio_is_named(encoders, bad_audio, problem):
    path = bad_audio(problem)
    kind = FileNotFoundError if problem == "missing" else AudioError
    with pytest.raises(kind, match=f"{path}.* {BAD_AUDIO[problem]}"):
        Learn2Diss(encoders).encode_file(path)


def test_damage_far_into_a_long_file_is_found(encoders, tmp_path):
    samples = np.full(45 * RATE, 0.1, np.float32)
    samples[40 * RATE] = np.inf
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match="first at 40.000 s"):
        Learn2Diss(encoders).encode_file(path)


def test_a_folder_is_not_an_audio_file(encoders, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        Learn2Diss(encoders).encode_file(tmp_path)


# Preparation and inference


def cancelling(noise):
    return np.stack([noise, -noise], axis=1)


def one_nan(samples, place):
    samples = samples.copy()
    samples[place] = np.nan
    return samples


NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 25 * RATE).astype(np.float32)
ODD_FILES = {  # samples, rate, bytes kept of the file, whether it can be used
    "good": (NOISE, RATE, None, True),
    "8 kHz": (NOISE, 8000, None, True),
    "stereo": (NOISE.reshape(-1, 2), 44100, None, True),
    "400 samples": (NOISE[:400], RATE, None, True),
    "399 samples": (NOISE[:399], RATE, None, False),
    "300 samples": (NOISE[:300], RATE, None, False),
    "200 samples of 8 kHz": (NOISE[:200], 8000, None, True),
    "empty": (NOISE[:0], RATE, None, False),
    "zeros": (0 * NOISE, RATE, None, False),
    "constant": (np.full(RATE, 0.25), RATE, None, False),
    "constant to the last sample": (np.append(np.full(11 * RATE, 0.25), 0.3), RATE, None, True),
    "constant of 8 kHz": (np.full(RATE, 0.25), 8000, None, False),
    "stereo that cancels": (cancelling(NOISE), RATE, None, False),
    "stereo of 48 kHz that cancels": (cancelling(NOISE), 48000, None, False),
    "NaN": (one_nan(NOISE, 0), RATE, None, False),
    "NaN late": (one_nan(NOISE, -1), RATE, None, False),
    "NaN in one channel": (one_nan(NOISE, -1).reshape(-1, 2), RATE, None, False),
    "cut": (NOISE, RATE, 90_000, False),
    "header only": (NOISE, RATE, 44, False),
    "half a header": (NOISE, RATE, 20, False),
    "900 Hz": (NOISE, 900, None, False),
}


@pytest.mark.parametrize("kind", ODD_FILES)
def test_the_check_and_inference_agree(kind, tmp_path):
    samples, rate, size, usable = ODD_FILES[kind]
    path = written(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:size])
    duration, problem = check_audio(path, any_rate=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a rate below 16 kHz
            blocks = np.concatenate(list(read_blocks(path)))
    except AudioError as error:
        assert not usable and duration == 0
        assert error.problem == problem and str(error) == f"{path} {problem}"
    else:
        assert usable and problem is None
        assert len(blocks) == round(duration * RATE) == len(read_speech(path))


@pytest.mark.parametrize("suffix", ["flac", "mp3", "ogg"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_the_check_and_inference_agree_on_cut_containers(suffix, share, tmp_path):
    path = written(tmp_path / f"a.{suffix}", NOISE, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    _, problem = check_audio(path)
    if problem is None:
        blocks = np.concatenate(list(read_blocks(path)))
        np.testing.assert_allclose(blocks, read_speech(path), atol=1e-6)
    else:
        with pytest.raises(AudioError) as caught:
            list(read_blocks(path))
        assert caught.value.problem == problem
    assert share < 1 or problem is None


KINDS_WRITTEN = [
    (kind, subtype)
    for kind in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(kind)
    if kind not in ("RAW", "SD2") and soundfile.check_format(kind, subtype)
]
ANNOUNCE_NOTHING = {"PAF", "PVF", "IRCAM", "XI"}  # a file that ends early is like one that is short
NARROW = {"G721_32", "G723_24", "G723_40", "GSM610", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"}


@pytest.mark.parametrize(("kind", "subtype"), KINDS_WRITTEN)
def test_a_file_of_each_kind_is_whole_or_found_to_be_cut_at_ten_places(kind, subtype, tmp_path):
    rate = 8000 if subtype in NARROW or kind == "WVE" else 44100 if kind == "XI" else RATE
    path = tmp_path / f"whole.{kind.lower()}"
    try:
        soundfile.write(path, NOISE[: 3 * rate], rate, format=kind, subtype=subtype)
        with soundfile.SoundFile(path) as file:
            file.read(100)
    except soundfile.SoundFileError as error:
        pytest.skip(f"libsndfile cannot write and read it: {error}")
    duration, problem = check_audio(path, any_rate=True)
    assert problem is None and duration == pytest.approx(3, abs=0.1)
    assert len(read_speech(path)) == round(duration * RATE)
    content, cut = path.read_bytes(), path.with_stem("cut")
    # The length of an MP3 file is known to two of its frames, 0.14 s.
    for share in (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.94, 0.94 if kind == "MP3" else 0.99):
        cut.write_bytes(content[: int(share * len(content))])
        duration, problem = check_audio(cut, any_rate=True)
        assert problem is not None or kind in ANNOUNCE_NOTHING, share


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_big_endian_and_damaged_ogg_files_are_found_to_be_cut(share, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, NOISE[: 3 * RATE], RATE, endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX" and check_audio(path)[1] is None
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert check_audio(path)[1] is not None
    path = tmp_path / "a.ogg"
    soundfile.write(path, NOISE[: 9 * RATE], RATE)
    content = path.read_bytes()
    pages = [place for place in range(len(content)) if content[place : place + 4] == b"OggS"]
    path.write_bytes(content[: pages[max(3, int(share * len(pages)))]])  # between two pages
    assert "cut short" in check_audio(path)[1]


PIECES = (  # kind, subtype, rate, most difference of samples that are not at an end
    ("flac", None, 16000, 0),
    ("wav", None, 44100, 1e-6),
    ("mp3", None, 16000, 1e-6),
    ("mp3", None, 22050, 1e-3),
    ("ogg", "VORBIS", 44100, 1e-6),
    ("opus", "OPUS", 48000, 1e-6),
    ("wav", "GSM610", 8000, 0.02),  # cannot be sought in
)


@pytest.mark.filterwarnings("ignore:.* is sampled at 8000 Hz")
@pytest.mark.parametrize(("kind", "subtype", "rate", "most"), PIECES)
def test_a_piece_is_what_a_recording_has_there(kind, subtype, rate, most, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, rate * 9 + 5).cumsum() / 60
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, noise, rate, format="OGG" if kind == "opus" else None, subtype=subtype)
    whole = read_speech(path)
    for mark, start, stop in (("#t=2,5", 2, 5), ("#t=0,1.5", 0, 1.5), ("#t=6", 6, None)):
        place = slice(start * RATE, None if stop is None else round(stop * RATE))
        piece, expected = read_speech(f"{path}{mark}"), whole[place]
        blocks = np.concatenate(list(read_blocks(f"{path}{mark}")))
        assert check_audio(f"{path}{mark}", any_rate=True) == (len(expected) / RATE, None)
        assert len(piece) == len(blocks) == len(expected)
        inside = slice(300, -300)  # its ends are resampled as if there were silence around it
        np.testing.assert_allclose(piece[inside], expected[inside], atol=most)
        np.testing.assert_allclose(piece, blocks, atol=1e-5)


def test_a_piece_that_a_recording_does_not_have_is_told(voice, tmp_path):
    path = written(tmp_path / "a.wav", NOISE, RATE)
    seconds = len(NOISE) / RATE
    marks = (f"#t={seconds}", "#t=0.5,0.5", "#t=0.5,0.25", f"#t=0,{seconds + 0.6}")
    for mark in (*marks, f"#t={seconds + 0.1},{seconds + 0.4}", "#t=999999999,999999999.5"):
        duration, problem = check_audio(f"{path}{mark}")
        assert duration == 0 and f"the recording, which has {seconds:.2f} s" in problem, mark
        with pytest.raises(AudioError, match="expected #t=START,STOP in seconds"):
            read_speech(f"{path}{mark}")
    assert check_audio(f"{path}#t=0.25,{seconds + 0.4}") == (seconds - 0.25, None)  # is rounded
    assert check_audio(f"{tmp_path}/gone.wav#t=0,1")[1] == (
        "cannot be decoded: there is no such file."
    )
    for mark in ("#t=0:1,0:2", "#t=,", "#t=" + "9" * 400):
        with pytest.raises(FileNotFoundError, match=r"or one with #t=START,STOP \(s\) behind it"):
            next(read_blocks(f"{path}{mark}"))


def test_silent_pieces_are_counted_and_all_others_are_not(tmp_path):
    loud = np.sin(np.arange(RATE))
    audio = np.concatenate([loud, 0 * loud, loud, 0 * loud + 0.5, 0 * loud[:9]])
    path = written(tmp_path / "a.wav", audio, RATE)
    assert check_pieces(path, 1) == (len(audio) / RATE, None, [1, 3, 4])


def test_an_audio_error_passes_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("a.wav", "is silent")))
    assert str(error) == "a.wav is silent" and error.problem == "is silent"
