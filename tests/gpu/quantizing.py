"""Units: features, labels and the fit of k-means, in frames a second."""

import time
from functools import partial

import numpy as np
import torch

from lobes.signal import SAMPLE_RATE
from lobes.targets import KMeansQuantizer, mfcc
from recipes.common.units.kmeans import fit_kmeans
from tests.gpu import made_up
from tests.gpu.speed import time_steps
from tests.voices import voice

FRAMES = {"base": 200_000, "small": 200_000, "tiny": 5_000}
CLIPS = {"base": (32, 12.5), "small": (32, 12.5), "tiny": (2, 4.0)}  # how many, of what length (s)
CHUNK = 50_000  # frames that are labelled at a time


def steps(settings, folder):
    """Yield what is done with MFCC and with a hidden layer of the frame encoder."""
    rng, (count, seconds) = np.random.default_rng(made_up.SEED), CLIPS[settings.size]
    clips = [torch.from_numpy(voice(seconds, rng)).float() for _ in range(count)]
    makers = {"MFCC": lambda: mfcc_of(clips), "a hidden layer": layer_of(clips, settings, folder)}
    for name, make in makers.items():
        yield f"{name}: features", partial(features_rate, make, settings.device)
        frames = many(make(), FRAMES[settings.size])
        yield f"{name}: labels", partial(labels_rate, frames, settings.device)
        yield f"{name}: k-means fit", partial(fit_rate, frames, settings.device)


def mfcc_of(clips):
    """Return the MFCC of clips, (frames, 39), which the CPU computes."""
    return torch.cat([mfcc(clip) for clip in clips])


def layer_of(clips, settings, folder):
    """Return a function that computes the middle hidden layer of clips, (frames, d_model)."""
    encoder = made_up.make_brain("frame", settings, folder).modules.frame_encoder.eval()
    layer, wavs = encoder.config["num_layers"] // 2, torch.stack(clips)
    batches = wavs.split(8)

    @torch.no_grad()
    def make():
        states = [
            encoder(batch.to(settings.device), output_hidden_states=True)[1][layer]
            for batch in batches
        ]
        return torch.cat(states).flatten(0, 1)

    return make


def many(features, count):
    """Return so many frames of the CPU like those that are given, but for a little noise."""
    generator = torch.Generator().manual_seed(made_up.SEED)
    places = torch.randint(len(features), (count,), generator=generator)
    found = features.float().cpu()[places]
    return found + 0.1 * torch.randn(found.shape, generator=generator)


def features_rate(make, device):
    """Return how fast features are computed from audio."""
    frames = len(make())
    seconds = time_steps(make, device)["step_seconds"]
    rate = frames / seconds
    return {"frames_per_second": rate, "audio_seconds_per_second": rate * 320 / SAMPLE_RATE}


def labels_rate(frames, device):
    """Return how fast frames on the device are labelled, and how well that agrees with the CPU."""
    quantizer = KMeansQuantizer(frames[: made_up.NUM_TARGETS])
    expected = quantizer(frames[:CHUNK])
    chunks, quantizer = frames.to(device).split(CHUNK), quantizer.to(device)
    agree = (quantizer(chunks[0]).cpu() == expected).float().mean()
    seconds = time_steps(lambda: [quantizer(chunk) for chunk in chunks], device)["step_seconds"]
    return {"frames_per_second": len(frames) / seconds, "agree_with_cpu": float(agree)}


def fit_rate(frames, device):
    """Return how fast k-means is fitted."""
    began = time.perf_counter()
    fit(frames, device)
    return {"frames_per_second": len(frames) / (time.perf_counter() - began)}


def fit(frames, device):
    """Fit k-means as the recipes do."""
    return fit_kmeans(lambda: frames.split(2000), 100, made_up.SEED, device=device)
