"""Audio as it comes in: frames a step at a time, and the embedding of all that was heard.

The Transformer attends to all that it is given, so each step is encoded in a window: `context`
before it, `look_ahead` after it. A step's frames are what the frame encoder gives of that window.
Where nothing lies outside the window, they are what it gives of the whole recording.

A frame comes out at most `step + look_ahead` after it began, and the time to encode a window later;
encoding keeps pace where that is less than `step`. What is held is a window and the bands of the
embedding, however long the stream is.
"""

from typing import NamedTuple

import torch

from lobes.signal import FRAME_RATE, HOP, RECEPTIVE_FIELD, SAMPLE_RATE
from pretrained.deployment.running_embedding import RunningEmbedding

EDGE = 2  # frames that the band of a step may see before it; one frame follows it always


class StreamStep(NamedTuple):
    """What a stream yields: a step of frames, and the embedding of all up to the step's end.

    Attributes
    ----------
    frames : torch.Tensor or None
        Shape (1, frames, d_model), 50 Hz, those that follow on the last step's; None without a
        frame encoder.
    times : torch.Tensor
        Shape (frames,), float64, seconds from the beginning of the stream to that of each frame.
    utterance : torch.Tensor or None
        Shape (1, E); None without an utterance encoder.
    """

    frames: torch.Tensor | None
    times: torch.Tensor
    utterance: torch.Tensor | None


def to_frames(name, seconds):
    """Return a time as a whole number of frames, at least one.

    Example
    -------
    >>> to_frames("look_ahead", 0.32)
    16
    """
    if not isinstance(seconds, int | float) or not 1 / FRAME_RATE <= seconds < float("inf"):
        raise ValueError(
            f"{name} must be a number of seconds, at least {1 / FRAME_RATE} (a frame), "
            f"not {seconds!r}"
        )
    return round(seconds * FRAME_RATE)


def cut_steps(blocks, look_ahead, step, context):
    """Cut a stream into steps, each in its window.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        Shape (samples,) each, 16 kHz, of any lengths.
    look_ahead, step, context : int
        In frames, at least 1 each.

    Yields
    ------
    window : torch.Tensor
        Shape (1, samples): at most `context`, the step and `look_ahead`. The last holds what is
        left.
    lead : int
        Frames of the window before the step.
    last : bool
        Whether the stream ends with it.

    Example
    -------
    >>> steps = cut_steps([torch.zeros(20000)], look_ahead=10, step=25, context=30)
    >>> [(window.shape[1] / HOP, lead, last) for window, lead, last in steps]
    [(35.0, 0, False), (60.0, 25, False), (42.5, 30, True)]
    """
    held, lead = torch.empty(0), 0
    for block in blocks:
        held = torch.cat([held, block])
        while len(held) >= (lead + step + look_ahead) * HOP:
            yield held[None, : (lead + step + look_ahead) * HOP], lead, False
            start = max(0, lead + step - context)
            held, lead = held[start * HOP :], lead + step - start
    yield held[None], lead, True


class StreamEncoder:
    """Both encoders on the steps of one stream.

    Arguments
    ---------
    frame_encoder : FrameEncoder or None
    utterance_encoder : UtteranceEncoder or None
        Both in evaluation mode.
    look_ahead, step, context : float
        Seconds; see `Learn2Diss.stream`.

    Raises
    ------
    ValueError
        Where a time is less than a frame.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=2, nhead=4, d_ffn=64).eval()
    >>> stream = StreamEncoder(encoder, None, look_ahead=0.2, step=0.5, context=0.6)
    >>> steps = list(stream.encode([torch.randn(20000)], "cpu"))
    >>> [step.frames.shape[1] for step in steps], round(steps[-1].times[0].item(), 6)
    ([25, 25, 12], 1.0)
    """

    def __init__(self, frame_encoder, utterance_encoder, look_ahead, step, context):
        seconds = {"look_ahead": look_ahead, "step": step, "context": context}
        self.frames = {name: to_frames(name, value) for name, value in seconds.items()}
        self.frame_encoder, self.running = frame_encoder, None
        if utterance_encoder is not None:
            self.features = utterance_encoder.features
            self.running = RunningEmbedding(utterance_encoder, context)

    @torch.no_grad()
    def encode(self, blocks, device):
        """Yield a `StreamStep` for each step of a stream, once; see `cut_steps` for its blocks."""
        first = 0
        for window, lead, last in cut_steps(blocks, **self.frames):
            if last and window.shape[1] < RECEPTIVE_FIELD:
                raise ValueError(
                    f"the stream ended after {window.shape[1]} samples, and one frame takes "
                    f"{RECEPTIVE_FIELD} ({RECEPTIVE_FIELD / SAMPLE_RATE} s)"
                )
            window = window.to(device)
            end = None if last else lead + self.frames["step"]
            yield self._encode_step(window, lead, end, first)
            first += self.frames["step"]

    def _encode_step(self, window, lead, end, first):
        frames = utterance = None
        count = (window.shape[1] - RECEPTIVE_FIELD) // HOP + 1 if end is None else end
        if self.frame_encoder is not None:
            frames = self.frame_encoder(window)[:, lead:end]
        if self.running is not None:
            utterance = self.running.add(self._bands(window, lead, end))
        times = (first + torch.arange(count - lead, dtype=torch.float64)) / FRAME_RATE
        return StreamStep(frames, times, utterance)

    def _bands(self, window, lead, end):
        """Return the log-mel bands of a step, (1, bands, 80), from as much as they see."""
        before = min(lead, EDGE)
        part = window[:, (lead - before) * HOP : None if end is None else (end + 1) * HOP]
        each = HOP // self.features.hop
        kept = slice(before * each, None if end is None else (before + end - lead) * each)
        return self.features.decibels(self.features.power(part)[:, kept])
