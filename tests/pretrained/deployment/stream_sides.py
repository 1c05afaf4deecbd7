"""The benchmark's row of streams: what a step takes once its samples are there."""

import itertools
import math
import time
from functools import partial

import numpy as np

from lobes.signal import SAMPLE_RATE
from pretrained import Learn2Diss

CONTEXT = 8.0  # seconds, the default


def stream_step(fragment, size, step, folder, side):
    """Encode a step of a stream with all of its context; hear it.

    The time of the first is what a frame waits for beside `step + look_ahead`; the ratio is the
    real-time factor. `fragment` builds the encoder that a file of hparams/ describes.
    """
    if side == "peer":
        return partial(time.sleep, step)
    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.1, SAMPLE_RATE // 10).astype(np.float32)
    encoders = {f"{kind}_encoder": fragment(f"{kind}_{size}") for kind in ("frame", "utterance")}
    stream = Learn2Diss(encoders).stream(itertools.repeat(block), step=step, context=CONTEXT)
    for _ in range(math.ceil(CONTEXT / step)):
        next(stream)
    return partial(next, stream)
