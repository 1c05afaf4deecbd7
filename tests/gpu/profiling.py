"""Where the time of a training step goes, and where the host waits for the device."""

import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.gpu import made_up
from tests.gpu.speed import LONGEST, SHORT, Case, batch_seconds, synchronize, time_steps

STEPS = 3
DEAREST = 10
WAITS = (
    *("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
    *("aten::item", "aten::_local_scalar_dense", "aten::nonzero", "Memcpy DtoH"),
)


def steps(settings, folder):
    """Yield a profile of each stage, eager and padded."""
    for stage in made_up.STAGES:
        yield stage, partial(profile_stage, stage, settings, folder)


def profile_stage(stage, settings, folder):
    """Return the dearest kernels of a step, the share of it in which any runs, and the waits."""
    device = settings.device
    longest = SHORT if device == "cpu" else LONGEST[stage]
    lengths = made_up.row_lengths(batch_seconds(Case(stage), settings), longest, padded=True)
    brain, batch = made_up.make_brain(stage, settings, folder), made_up.make_batch(lengths)
    made_up.make_ready(brain)
    step = partial(made_up.one_step, brain, batch)
    seconds = time_steps(step, device)["step_seconds"]
    synchronize(device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as found:
        for _ in range(STEPS):
            step()
        synchronize(device)
    events = found.key_averages()
    kernels = kernel_rows(events, device)
    busy = sum(row["milliseconds"] for row in kernels) / 1000 / seconds
    figures = {"step_seconds": seconds, "busy_share": busy, "kernels": kernels[:DEAREST]}
    figures["waits"] = wait_rows(events)
    if device == "cuda":
        figures["places"] = places_of_waits(step)
    return figures


def kernel_rows(events, device):
    """Return name, calls and milliseconds of each kernel in a step, the dearest first."""
    rows = []
    for event in events:
        on_device = event.device_type == DeviceType.CUDA
        named = getattr(event, "is_user_annotation", False)  # a span of kernels, and none itself
        if named or event.key.startswith("Optimizer.") or on_device != (device == "cuda"):
            continue
        total = event.self_device_time_total if on_device else event.self_cpu_time_total
        rows.append(row_of(event, total))
    return sorted(rows, key=lambda row: -row["milliseconds"])


def wait_rows(events):
    """Return likewise what makes the host wait, or copies to it; the profile's own end is one."""
    found = [event for event in events if event.key.startswith(WAITS)]
    return [row_of(e, max(e.cpu_time_total, e.self_device_time_total)) for e in found]


def row_of(event, total):
    """Return the figures of an event, of which a total in microseconds is given."""
    calls, milliseconds = event.count / STEPS, total / 1000 / STEPS
    return {"name": event.key[:120], "calls": calls, "milliseconds": milliseconds}


def places_of_waits(step):
    """Return how often each line of a step makes the host wait, by file and line."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in told))
