"""Encoding clips of mixed length by `pretrained`, beside transformers' HubertModel."""

from functools import partial

import numpy as np
import torch

from lobes.signal import SAMPLE_RATE
from pretrained import Learn2Diss
from tests.gpu import made_up
from tests.gpu.speed import time_steps
from tests.peers import HAS_TRANSFORMERS
from tests.voices import voice

BATCH_SIZE = 16
CLIPS = dict.fromkeys(("base", "small"), (64, 1.0, 20.0))  # how many, shortest and longest (s)
CLIPS["tiny"] = (8, 1.0, 2.0)
WHO = ["ours, frames", "ours, frames and embeddings"] + ["transformers, frames"] * HAS_TRANSFORMERS


def steps(settings, folder):
    """Yield each encoder with clips sorted by length or as they come, in float32 and in bf16."""
    rng = np.random.default_rng(made_up.SEED)
    count, shortest, longest = CLIPS[settings.size]
    clips = [torch.from_numpy(voice(s, rng)).float() for s in rng.uniform(shortest, longest, count)]
    cases = [("sorted", "float32"), ("as they come", "float32"), ("sorted", "bf16")]
    for order, precision in cases if settings.device == "cuda" else cases[:1]:
        ordered = sorted(clips, key=len) if order == "sorted" else clips
        batches = [ordered[i : i + BATCH_SIZE] for i in range(0, count, BATCH_SIZE)]
        for who in WHO:
            yield (
                f"{who}, {order}, {precision}",
                partial(measure, who, batches, precision == "bf16", settings, folder),
            )


@torch.no_grad()
def measure(who, batches, bf16, settings, folder):
    """Return how fast batches of clips are encoded, from the CPU's memory."""
    device = settings.device
    encode = theirs(device) if who.startswith("transformers") else ours(who, settings, folder)

    def all_batches():
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            for batch in batches:
                encode(batch)

    seconds = time_steps(all_batches, device)["step_seconds"]
    audio = sum(len(clip) for batch in batches for clip in batch) / SAMPLE_RATE
    rate = audio / seconds
    return {"audio_seconds": audio, "seconds": seconds, "audio_seconds_per_second": rate}


def ours(who, settings, folder):
    """Return our function of a list of clips."""
    stage = "joint" if who.endswith("embeddings") else "frame"
    modules = made_up.make_brain(stage, settings, folder).modules
    names = [name for name in ("frame_encoder", "utterance_encoder") if name in modules]
    return Learn2Diss({name: modules[name] for name in names}, settings.device).encode


def theirs(device):
    """Return transformers' function of a list of clips, padded and masked."""
    from transformers import HubertConfig, HubertModel

    model = HubertModel(HubertConfig()).to(device).eval()

    def encode(clips):
        wavs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
        lens = torch.tensor([len(clip) for clip in clips])
        valid = (torch.arange(wavs.shape[1]) < lens[:, None]).long()
        return model(wavs.to(device), attention_mask=valid.to(device)).last_hidden_state

    return encode
