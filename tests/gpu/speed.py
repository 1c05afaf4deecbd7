"""Seconds of a training step, its share of the card's arithmetic and its memory, beside others'.

Ours is the recipe's Brain with its YAML, all of a step: schedule, clipping and meters too. The
others' is forward, backward and AdamW, on the same batch, under bf16. No layer is passed by, so
that all steps are alike. Arithmetic is that of the forward, as torch counts it, three times:
torch's count of the backward of grouped convolutions is too high. Of codes and Spin it is not told,
as their forward has parts without a backward.
"""

import statistics
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from recipes.common.training.brain import seconds_of
from recipes.common.training.hparams import read_tree
from tests.gpu import made_up
from tests.peers import HAS_TRANSFORMERS, hugging_face_hubert, torchaudio_hubert

LONGEST = {"utterance": 4.0}  # row of a batch, s
LONGEST |= dict.fromkeys(("frame", "joint", "codes", "spin"), 12.5)
SHORT = 2.0  # where a CPU rehearses
PEERS = {"torchaudio": torchaudio_hubert}
if HAS_TRANSFORMERS:
    PEERS["transformers"] = hugging_face_hubert
BLOCKS = 5
BLOCK_SECONDS = {"cuda": 0.2, "cpu": 0.0}
LARGEST_BLOCK = 10  # steps
WARM_UP = {"cuda": 3, "cpu": 0}
MATRIX = {"cuda": (8192, torch.bfloat16), "cpu": (1024, torch.float32)}


@dataclass(frozen=True)
class Case:
    """What is timed.

    Arguments
    ---------
    stage : str
        Of `made_up.STAGES` or `made_up.OTHERS`.
    who : str
        "ours" or one of `PEERS`.
    size : str, optional
        Ours, in the place of the run's.
    front_end : str, optional
        Of the frame encoder, in the place of the size's own.
    padded : bool
        Whether the rows of the batch differ in length.
    compiled : bool
        By torch.compile; ours alone.
    """

    stage: str = "frame"
    who: str = "ours"
    size: str | None = None
    front_end: str | None = None
    padded: bool = True
    compiled: bool = False

    def __str__(self):
        own = filter(None, (self.size, self.front_end))
        words = "padded" if self.padded else "cut", "compiled" if self.compiled else "eager"
        return ", ".join((self.stage, self.who, *own, *words))


def eager_cases(settings):
    """Return what is not compiled, what tells most first; on a CPU, a rehearsal, each kind once."""
    stages, cut = [Case(stage) for stage in made_up.STAGES], Case(padded=False)
    peers = [Case(who=who) for who in PEERS]
    others = [Case(stage) for stage in made_up.OTHERS]
    cases = [stages[0], *peers, *stages[1:], cut, *others]
    if settings.device == "cpu":
        return cases
    cases += [replace(case, size="small") for case in stages if settings.size != "small"]
    cases += [replace(case, padded=False) for case in peers]
    cases += [Case(front_end="fbank"), Case(front_end="fbank", padded=False)]
    return [*cases, *(replace(case, padded=False) for case in stages[1:])]


def compiled_cases(device):
    """Return what is compiled: nothing on a CPU, where that takes minutes."""
    if device == "cpu":
        return []
    cases = [Case(padded=False), *map(Case, made_up.STAGES)]
    cases += [Case(front_end="fbank", padded=False), Case(size="small", padded=False)]
    return [replace(case, compiled=True) for case in cases]


def steps(settings, folder):
    """Yield the card's own rate, and each case that is not compiled."""
    yield "matrix product", partial(matrix_product, settings.device)
    yield from measurements(eager_cases(settings), settings, folder)


def compiled_steps(settings, folder):
    """Yield each case that is compiled."""
    yield from measurements(compiled_cases(settings.device), settings, folder)


def measurements(cases, settings, folder):
    """Yield each case with its measurement."""
    for case in cases:
        yield str(case), partial(measure, case, batch_seconds(case, settings), settings, folder)


def matrix_product(device):
    """Return the rate of a large product of random matrices, bf16 on a GPU, in TFLOP/s."""
    size, dtype = MATRIX[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = time_steps(lambda: a @ b, device)["step_seconds"]
    return {"size": size, "tflops": 2 * size**3 / seconds / 1e12}


def batch_seconds(case, settings):
    """Return how much audio the YAML of a case has in a batch, s; little on a CPU."""
    if settings.device == "cpu":
        return 2 * SHORT
    file = made_up.file_of(case.stage, case.size or settings.size)
    return read_tree(made_up.PRETRAIN / file)["max_batch_seconds"]


def measure(case, seconds, settings, folder):
    """Return the figures of a case on a batch of so much audio.

    Returns
    -------
    dict
        `batch_seconds`, `step_seconds` (the median of blocks of steps, and their range),
        `audio_seconds_per_second`; of most, `step_tflop` (arithmetic of a step) and `tflops` (of a
        second); on a GPU, `peak_mib`.
    """
    device = settings.device
    longest = SHORT if device == "cpu" else LONGEST[case.stage]
    batch = made_up.make_batch(made_up.row_lengths(seconds, longest, case.padded)).to(device)
    audio = seconds_of(batch.sig)
    if case.who == "ours":
        operations, step = our_step(case, batch, settings, folder)
    else:
        operations, step = peer_step(case, batch, device)
    figures = time_steps(step, device)
    figures |= {
        "batch_seconds": audio,
        "audio_seconds_per_second": audio / figures["step_seconds"],
    }
    if case.stage not in made_up.OTHERS:
        figures["step_tflop"] = operations / 1e12
        figures["tflops"] = figures["step_tflop"] / figures["step_seconds"]
    if device == "cuda":
        figures["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def our_step(case, batch, settings, folder):
    """Return the operations of a step of our Brain, and a function that takes one."""
    settings = replace(settings, size=case.size or settings.size)
    brain = made_up.make_brain(case.stage, settings, folder, case.front_end)
    if case.stage != "utterance":
        brain.modules.frame_encoder.transformer.layer_drop = 0.0
    forward = partial(made_up.one_forward, brain, batch)
    operations = count_operations(brain.modules, forward)
    made_up.make_ready(brain, case.compiled)
    return operations, partial(made_up.one_step, brain, batch)


def peer_step(case, batch, device):
    """Return the same of another toolkit's HuBERT Base, with the dropout of ours."""
    model, loss = PEERS[case.who](batch, made_up.NUM_TARGETS, dropout=0.1)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return loss()

    def step():
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    return count_operations(model, forward), step


def count_operations(module, forward):
    """Return the operations of a training step: three times those of its forward, in which no layer
    is passed by."""
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    module.train()
    return 3 * counter.get_total_flops()


def time_steps(step, device):
    """Return the median and the range of a step's seconds over blocks of steps."""
    for _ in range(WARM_UP[device]):
        step()
    once = time_block(step, 1, device)
    size = min(LARGEST_BLOCK, max(1, round(BLOCK_SECONDS[device] / once)))
    seconds = [time_block(step, size, device) for _ in range(BLOCKS if device == "cuda" else 1)]
    return {
        "step_seconds": statistics.median(seconds),
        "step_seconds_range": [min(seconds), max(seconds)],
    }


def time_block(step, size, device):
    """Return the seconds of each of so many steps; the device is waited for before and after."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(size):
        step()
    synchronize(device)
    return (time.perf_counter() - began) / size


def synchronize(device):
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
