"""Streams: what windows give, whole recordings where the window covers them, bounded memory."""

import gc
from contextlib import suppress

import numpy as np
import pytest
import torch

from pretrained import Learn2Diss
from pretrained.deployment.running_embedding import RunningEmbedding
from pretrained.deployment.streaming import cut_steps
from tests.pretrained.deployment.stream_sides import stream_step
from tests.pretrained.exports import RATE, frame_encoder, utterance_encoder, written

SIZES = {"look_ahead": 0.2, "step": 0.5, "context": 1.1}


@pytest.fixture(scope="module")
def encoders():
    return {"frame_encoder": frame_encoder("waveform"), "utterance_encoder": utterance_encoder()}


@pytest.fixture(scope="module")
def six_seconds(recording):
    return recording(6.013)


def blocks_of(samples, sizes):
    """Yield blocks of the sizes, in turn, until there are no samples left."""
    place = number = 0
    while place < len(samples):
        yield samples[place : place + sizes[number % len(sizes)]]
        place, number = place + sizes[number % len(sizes)], number + 1


def streamed(model, samples, sizes=(1600,), **seconds):
    """Return all frames, all times and the embeddings of each step."""
    steps = list(model.stream(blocks_of(samples, sizes), **seconds))
    frames = [step.frames for step in steps if step.frames is not None]
    times = torch.cat([step.times for step in steps])
    return torch.cat(frames, 1) if frames else None, times, [step.utterance for step in steps]


@pytest.mark.parametrize("frontend", ["fbank", "waveform"])
def test_frames_are_those_of_a_window_around_each_step(frontend, six_seconds):
    model = Learn2Diss({"frame_encoder": frame_encoder(frontend)})
    frames, times, utterances = streamed(model, six_seconds, **SIZES)
    expected, place = [], 0
    while place + 0.7 * RATE <= len(six_seconds):
        begin = max(0, place - int(1.1 * RATE))
        window = six_seconds[begin : place + int(0.7 * RATE)]
        lead = (place - begin) // 320
        expected.append(model.encode(window).frames[:, lead : lead + 25])
        place += RATE // 2
    begin = place - int(1.1 * RATE)
    expected.append(model.encode(six_seconds[begin:]).frames[:, 55:])
    assert torch.equal(frames, torch.cat(expected, 1)) and set(utterances) == {None}
    assert torch.equal(times, torch.arange(frames.shape[1], dtype=torch.float64) / 50)
    whole = model.encode(six_seconds).frames
    assert frames.shape == whole.shape and (frames - whole).abs().max() > 1e-3


@pytest.mark.parametrize("sizes", [(7,), (370, 0, 5000, 1), (10**6,)])
def test_blocks_may_be_of_any_sizes_and_types(encoders, sizes, six_seconds):
    model, samples = Learn2Diss(encoders), (six_seconds[:20000] * 2**15).astype(np.int16)
    expected = streamed(model, (samples / 2**15).astype(np.float32), **SIZES)
    frames, times, utterances = streamed(model, samples, sizes, **SIZES)
    assert torch.equal(frames, expected[0]) and torch.equal(times, expected[1])
    assert len(utterances) == 3 and all(map(torch.equal, utterances, expected[2]))


@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
def test_a_window_of_all_gives_what_the_recording_gives(backbone, encoders, six_seconds):
    model = Learn2Diss({**encoders, "utterance_encoder": utterance_encoder(backbone)})
    whole = model.encode(six_seconds)
    frames, _, utterances = streamed(model, six_seconds, look_ahead=7, step=0.1, context=7)
    assert torch.equal(frames, whole.frames) and len(utterances) == 1
    assert torch.allclose(utterances[-1], whole.utterance, atol=1e-5)
    frames, _, utterances = streamed(model, six_seconds, look_ahead=0.3, step=0.3, context=7)
    assert torch.allclose(utterances[-1], whole.utterance, atol=1e-5) and len(utterances) > 15
    assert (frames - whole.frames)[:, -15:].abs().max() < 1e-5  # the last window is the recording
    assert (frames - whole.frames)[:, :15].abs().max() > 1e-3


@pytest.mark.long
def test_the_windows_of_files_are_a_stream_of_large_steps(recording, tmp_path):
    samples, model = recording(75.3), Learn2Diss({"frame_encoder": frame_encoder()})
    path = written(tmp_path / "a.wav", samples, subtype="FLOAT")
    frames, _, _ = streamed(model, samples[2 * RATE :], look_ahead=2, step=26, context=2)
    assert torch.equal(frames[:, 1300:], model.encode_file(path).frames[:, 1400:])


@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
def test_the_embedding_is_of_all_bands_so_far(backbone, six_seconds):
    encoder = utterance_encoder(backbone)
    model, features = Learn2Diss({"utterance_encoder": encoder}), encoder.features
    frames, _, utterances = streamed(model, six_seconds, look_ahead=0.2, step=0.5, context=7)
    with torch.no_grad():
        power = features.power(torch.from_numpy(six_seconds)[None])
        for number, found in enumerate(utterances[:-1], 1):
            so_far = power[:, : number * RATE // 2 // features.hop]
            part = features.join([features.decibels(so_far)])
            expected = encoder.backbone.embed(encoder.backbone.frames(part))
            assert torch.allclose(found, expected, atol=1e-5)
    assert frames is None and (utterances[0] - utterances[-1]).abs().max() > 1e-2


class Foreseeing(RunningEmbedding):
    """With the statistics of the whole recording, known from the beginning."""

    def __init__(self, encoder, seconds, bands):
        super().__init__(encoder, seconds)
        self.loudest = bands.max()
        floored = self.features.floored(bands.transpose(1, 2), self.loudest)
        self.mean = floored.mean(2)
        x = self.backbone.frames(self.features.without_mean(floored, self.mean))
        self.mean_std = x.mean(2), x.std(2, correction=0)

    def _mean(self, floored):
        self.found_mean = super()._mean(floored)
        return self.mean

    def _mean_std(self, x):
        self.found_mean_std = super()._mean_std(x)
        return self.mean_std


@torch.no_grad()
def test_what_has_left_counts_as_if_it_were_held(recording):
    encoder, samples = utterance_encoder(), torch.from_numpy(recording(20))[None]
    bands = encoder.features.decibels(encoder.features.power(samples))
    running = Foreseeing(encoder, 1.0, bands)
    for part in bands.split(40, dim=1):
        embedding = running.add(part)
    assert running.count > 17 * 50 and running.held.shape[2] <= 3 * 50
    assert torch.allclose(embedding, encoder(samples), atol=1e-5)
    assert torch.allclose(running.found_mean, running.mean, atol=1e-4)
    for found, expected in zip(running.found_mean_std, running.mean_std, strict=True):
        assert torch.allclose(found, expected, atol=1e-4)


def test_a_long_recording_has_nearly_its_embedding(recording):
    model = Learn2Diss({"utterance_encoder": utterance_encoder()})
    samples = recording(30)
    whole, part = model.encode(samples).utterance, model.encode(samples[-8 * RATE :]).utterance
    found = streamed(model, samples, step=1.0)[2][-1]
    distance = 1 - torch.cosine_similarity(found, whole)
    assert 1e-7 < distance < 0.2 * (1 - torch.cosine_similarity(part, whole))


def test_a_step_comes_as_soon_as_its_samples_are_there(encoders, six_seconds):
    taken = 0

    def blocks():
        nonlocal taken
        for block in blocks_of(six_seconds, (100,)):
            taken += len(block)
            yield block

    for number, step in enumerate(Learn2Diss(encoders).stream(blocks(), **SIZES), 1):
        needed = (number * 0.5 + 0.2) * RATE
        assert taken == min(100 * np.ceil(needed / 100), len(six_seconds))
        assert step.times[0] == (number - 1) * 0.5


def test_what_is_held_does_not_grow_with_an_hour():
    longest, samples = 0, 0
    hour = (torch.zeros(RATE) for _ in range(3600))
    for window, lead, _ in cut_steps(hour, look_ahead=16, step=50, context=400):
        longest, samples = max(longest, window.shape[1]), samples + window.shape[1] - lead * 320
        assert window.untyped_storage().nbytes() <= 4 * (466 * 320 + RATE)
    assert longest == 466 * 320 and samples >= 3600 * RATE


@pytest.mark.long
def test_memory_is_bounded_over_an_hour():
    small = {"conv_channels": 8, "d_model": 8, "num_layers": 1, "nhead": 1, "d_ffn": 8}
    encoders = {"frame_encoder": frame_encoder(**small), "utterance_encoder": utterance_encoder()}
    rng, sizes = np.random.default_rng(0), []
    hour = (rng.normal(0, 0.1, RATE).astype(np.float32) for _ in range(3600))
    frames = 0
    stream = Learn2Diss(encoders).stream(hour, look_ahead=1, step=20, context=2)
    for number, step in enumerate(stream):
        frames += step.frames.shape[1]
        if number % 30 == 20:
            sizes.append(tensor_bytes())
    assert frames == 3600 * 50 - 1 and len(sizes) == 6
    assert max(sizes) - min(sizes) < 4 * RATE  # a second of samples; an hour's bands are 58 MB


def tensor_bytes():
    """Return the size of what all tensors of this process hold."""
    gc.collect()
    sizes = {}
    for x in gc.get_objects():
        if type(x) is torch.Tensor:
            with suppress(RuntimeError, NotImplementedError):  # of those without a storage
                sizes[x.data_ptr()] = x.untyped_storage().nbytes()
    return sum(sizes.values())


@pytest.mark.parametrize("name", ["look_ahead", "step", "context"])
@pytest.mark.parametrize("value", [0.0, -1, float("nan"), float("inf"), "1"])
def test_a_time_below_a_frame_is_refused_at_once(name, value, encoders):
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds, at least 0.02"):
        Learn2Diss(encoders).stream([], **{name: value})


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ([np.zeros(9), np.zeros((2, 9))], ValueError, r"block 1 must be \(samples,\), one channel"),
        ([np.zeros(9), np.array([0, np.nan])], ValueError, "block 1 holds NaN or infinity"),
        ([np.zeros(9, np.uint8)], TypeError, "must be floating point, int16 or int32"),
        (["speech"], TypeError, "a block must be a tensor, an array"),
        ([], ValueError, "the stream ended after 0 samples, and one frame takes 400"),
        ([np.zeros(399)], ValueError, "the stream ended after 399 samples"),
    ],
)
def test_bad_blocks_are_named(blocks, error, message, encoders):
    with pytest.raises(error, match=message):
        list(Learn2Diss(encoders).stream(blocks))


def test_the_shortest_stream_and_an_end_without_frames(encoders, six_seconds):
    model = Learn2Diss(encoders)
    for samples in (400, 16 * 640):  # a frame; two whole windows of a look-ahead of a frame
        frames, _, utterances = streamed(
            model, six_seconds[:samples], look_ahead=0.02, step=0.3, context=9
        )
        whole = model.encode(six_seconds[:samples])
        assert frames.shape == whole.frames.shape
        assert torch.allclose(utterances[-1], whole.utterance, atol=1e-5)


def test_the_step_of_the_benchmark_has_all_of_its_context(encoders):
    made = {
        "frame_tiny": encoders["frame_encoder"],
        "utterance_tiny": encoders["utterance_encoder"],
    }
    run = stream_step(made.get, "tiny", 2.0, None, "ours")
    for start in (8.0, 10.0):
        step = run()
        assert step.times[0] == start and step.frames.shape[1] == 100
