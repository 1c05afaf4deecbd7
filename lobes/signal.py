"""What is true of every signal here: its constants, its lengths, statistics over its valid part.

Everything here gives a row the same result however far it is padded.
"""

from functools import cached_property

import numpy as np
import torch

SAMPLE_RATE = 16000  # Hz
RECEPTIVE_FIELD = 400  # samples that one frame sees
HOP = 320  # samples from one frame to the next
FRAME_RATE = 50  # Hz: SAMPLE_RATE / HOP
NUM_MELS = 80
MIN_VARIANCE = 1e-12  # Bounds the slope of the square root; the value of SpeechBrain's pooling.


def num_frames(num_samples):
    """Return how many frames a number of 16 kHz samples gives, with either front end.

    Arguments
    ---------
    num_samples : int, torch.Tensor or numpy.ndarray
        Number of samples; a tensor or an array is of int64, of any shape.

    Returns
    -------
    int, torch.Tensor or numpy.ndarray
        max(0, 1 + floor((num_samples - 400) / 320)), of the argument's type.

    Example
    -------
    >>> num_frames(16000), num_frames(torch.tensor([399, 400])).tolist()
    (49, [0, 1])
    """
    # Of no negative number: ONNX rounds a division towards zero.
    frames = (num_samples + HOP - RECEPTIVE_FIELD) // HOP
    return max(0, frames) if isinstance(frames, int) else frames.clip(min=0)


class Lengths:
    """How many positions of each row of a batch are valid, known on the CPU.

    Nothing here waits for a device: what is asked of the numbers is answered on the CPU, and
    tensors are made from them on the batch's device.

    Arguments
    ---------
    counts : numpy.ndarray
        Shape (batch,), int64, valid positions of each row.
    width : int
        Positions of the batch.
    device : torch.device
        Where `lens` and `valid` are.

    Example
    -------
    >>> lengths = Lengths(np.array([1, 3]), 3, "cpu")
    >>> lengths.padded, lengths.lens.tolist(), lengths.valid.tolist()
    (True, [1, 3], [[True, False, False], [True, True, True]])
    """

    def __init__(self, counts, width, device):
        self.counts, self.width, self.device = counts, width, device

    @property
    def padded(self):
        """Whether a row is shorter than the batch."""
        return bool((self.counts < self.width).any())

    @cached_property
    def lens(self):
        """The numbers as a tensor, shape (batch,), int64."""
        return to_device(torch.from_numpy(self.counts), self.device)

    @cached_property
    def valid(self):
        """Which positions are valid, shape (batch, width), bool; None where all are."""
        return length_mask(self.lens, self.width) if self.padded else None


def to_device(x, device):
    """Return a tensor of the CPU on a device, without waiting for it."""
    return x.to(device, non_blocking=True)


def valid_samples(wavs, wav_lens=None):
    """Return how many samples of each row are valid.

    Arguments
    ---------
    wavs : torch.Tensor
        Shape (batch, samples).
    wav_lens : torch.Tensor, optional
        Shape (batch,), relative lengths in (0, 1]; None if all are full. Where they are on the
        CPU, as a loader's are, no device is waited for.

    Returns
    -------
    Lengths
        The relative length times the width, rounded, of each row; tensors on the device of `wavs`.

    Raises
    ------
    ValueError
        Where a shape does not fit or a relative length is outside (0, 1].

    Example
    -------
    >>> valid_samples(torch.zeros(2, 116800), torch.tensor([1.0, 7777 / 116800])).counts
    array([116800,   7777])
    """
    if wavs.ndim != 2:
        raise ValueError(f"wavs must be (batch, samples), not of shape {tuple(wavs.shape)}")
    rows, width = wavs.shape
    if wav_lens is None:
        return Lengths(np.full(rows, width, np.int64), width, wavs.device)
    if wav_lens.shape != wavs.shape[:1]:
        raise ValueError(
            f"wav_lens must have one value for each of the {rows} rows of wavs, "
            f"not shape {tuple(wav_lens.shape)}"
        )
    relative = np.asarray(wav_lens.cpu(), np.float64)
    if not ((relative > 0) & (relative <= 1)).all():
        raise ValueError(
            f"wav_lens must be relative lengths in (0, 1], not {relative.tolist()}; "
            "divide the numbers of samples by the width of the batch"
        )
    return Lengths(np.rint(relative * width).astype(np.int64), width, wavs.device)


def frame_lengths(samples):
    """Return how many frames of each row are valid, from the `Lengths` of its samples.

    Example
    -------
    >>> frame_lengths(valid_samples(torch.zeros(2, 16000), torch.tensor([1.0, 0.5]))).counts
    array([49, 24])
    """
    return Lengths(num_frames(samples.counts), num_frames(samples.width), samples.device)


def check_long_enough(samples):
    """Raise a ValueError unless each row has the valid samples of one frame.

    Arguments
    ---------
    samples : Lengths
        As `valid_samples` returns them.

    Example
    -------
    >>> check_long_enough(Lengths(np.array([16000, 399]), 16000, "cpu"))
    Traceback (most recent call last):
    ...
    ValueError: row 1 of wavs has 399 valid samples, and one frame takes 400 (25 ms): leave it out
    """
    short = np.flatnonzero(samples.counts < RECEPTIVE_FIELD)
    if len(short):
        raise ValueError(
            f"row {short[0]} of wavs has {samples.counts[short[0]]} valid samples, and one frame "
            f"takes {RECEPTIVE_FIELD} (25 ms): leave it out"
        )


def length_mask(lens, max_len):
    """Return which positions of each row are valid.

    Arguments
    ---------
    lens : torch.Tensor
        Shape (batch,), int64, valid positions of each row.
    max_len : int
        Width of the batch.

    Returns
    -------
    torch.Tensor
        Shape (batch, max_len), bool, True at the first `lens` positions of each row.

    Example
    -------
    >>> length_mask(torch.tensor([1, 3]), 3).tolist()
    [[True, False, False], [True, True, True]]
    """
    return torch.arange(max_len, device=lens.device) < lens[:, None]


def masked_mean(x, valid=None):
    """Return the mean over the valid frames of each row, in float32.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time); finite where padded.
    valid : torch.Tensor, optional
        Shape (batch, time), bool, True at frames to average; None for all.

    Returns
    -------
    torch.Tensor
        Shape (batch, channels); zero for a row without a valid frame.

    Example
    -------
    >>> masked_mean(torch.tensor([[[1.0, 3.0, 9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    x = x.float()
    if valid is None:
        return x.mean(dim=2)
    total = masked(x, valid).sum(dim=2)
    return total / valid.sum(dim=1, keepdim=True).clamp(min=1)


def masked_mean_std(x, valid=None):
    """Return the mean and the (biased) standard deviation over each row's valid frames.

    Arguments
    ---------
    x : torch.Tensor
        Shape (batch, channels, time); finite where padded.
    valid : torch.Tensor, optional
        Shape (batch, time), bool, True at frames to use; None for all.

    Returns
    -------
    tuple of torch.Tensor
        Mean and standard deviation, (batch, channels) each, float32. The deviation is at least
        1e-6.

    Example
    -------
    >>> valid = torch.tensor([[True, True, False]])
    >>> mean, std = masked_mean_std(torch.tensor([[[1.0, 3.0, 9.0]]]), valid)
    >>> mean.item(), round(std.item(), 6)
    (2.0, 1.0)
    """
    mean = masked_mean(x, valid)
    centred, count = x.float() - mean[..., None], x.shape[2]
    if valid is not None:
        centred.mul_(valid[:, None])
        count = valid.sum(dim=1, keepdim=True).clamp(min=1)
    # A norm keeps no copy of the squares.
    variance = torch.linalg.vector_norm(centred, dim=2).square() / count
    return mean, variance.clamp(min=MIN_VARIANCE).sqrt()


def mean_std_of_parts(parts):
    """Return mean and deviation over time of frames in parts, as `masked_mean_std` of the whole.

    Arguments
    ---------
    parts : iterable of torch.Tensor
        Shape (batch, channels, time) each.

    Returns
    -------
    tuple of torch.Tensor
        Mean and standard deviation, (batch, channels) each, float32.

    Example
    -------
    >>> x = torch.randn(1, 8, 50)
    >>> mean, deviation = mean_std_of_parts(x.split(20, dim=2))
    >>> bool(torch.allclose(deviation, x.std(dim=2, correction=0), atol=1e-5))
    True
    """
    sums, device = 0.0, None
    for x in parts:
        device, x = x.device, x.cpu().double()  # Apple's devices have no float64
        sums = sums + weighted_sums(x, torch.ones_like(x))
    return tuple(statistic.to(device) for statistic in mean_std_of_sums(sums))


def weighted_sums(x, weights):
    """Return the sums over time of weights, weighted values and weighted squares.

    Arguments
    ---------
    x, weights : torch.Tensor
        Shape (batch, channels, time).

    Returns
    -------
    torch.Tensor
        Shape (3, batch, channels). Those of parts add up to those of the whole.
    """
    return torch.stack([weights, weights * x, weights * x * x]).sum(-1)


def mean_std_of_sums(sums):
    """Return mean and standard deviation, (batch, channels) float32 each, from `weighted_sums`."""
    total, values, squares = sums
    mean = values / total
    variance = squares / total - mean.square()
    return mean.float(), variance.clamp(min=MIN_VARIANCE).sqrt().float()


def masked(x, valid=None):
    """Return x (batch, channels, time), or (batch, channels), zero where `valid` says False."""
    # A product is several times faster on a CPU than to fill or to choose, and as exact.
    return x if valid is None else x * valid[:, None]
