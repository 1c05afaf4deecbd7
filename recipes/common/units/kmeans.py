"""k-means of a stream of frames, on a device, in bounded memory.

k-means++ on the first 50,000 frames, then mini-batches of 10,000 (Sculley, "Web-scale k-means
clustering", WWW 2010), as in HuBERT.
"""

import math
from contextlib import contextmanager

import torch
from torch.nn import functional as F

from lobes.targets import KMeansQuantizer

FIRST_MINIBATCH = 50_000
MINIBATCH = 10_000  # or as many as there are centres, where these are more
MEMBERSHIPS = 2**26  # of a frame to a centre, in memory at a time


def fit_kmeans(features, num_units, seed, passes=1, device="cpu"):
    """Fit k-means to a stream of features.

    The same frames give the same centres, on the same kind of device: every draw is made on the
    CPU, and no sum depends on the order in which threads get to it.

    Arguments
    ---------
    features : callable
        Each call yields tensors of shape (frames, dim), the whole stream once.
    num_units : int
        Number of centres.
    seed : int
        Seed of the fit.
    passes : int
        How often the stream is read.
    device : str or torch.device
        Where it is computed, in float32.

    Returns
    -------
    torch.Tensor
        Shape (num_units, dim), on the CPU.

    Raises
    ------
    ValueError
        Where the first frames, or those of them that differ, are fewer than centres.

    Example
    -------
    >>> frames = torch.randn(2000, 2)
    >>> frames[:1000] += 8
    >>> fit_kmeans(lambda: [frames], 2, seed=0).shape
    torch.Size([2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    centres = None
    with _one_thread():
        for _ in range(passes):
            size = max(MINIBATCH, num_units)
            first = max(FIRST_MINIBATCH, num_units) if centres is None else size
            for minibatch in _minibatches(features(), first, size):
                minibatch = minibatch.to(device).float()
                if centres is None:
                    centres = spread_centres(minibatch, num_units, generator)
                    totals = torch.zeros(num_units, dtype=torch.float64)
                # A last, small rest of a pass would move the centres by its own noise.
                elif len(minibatch) < num_units:
                    continue
                centres = _step(centres, totals, minibatch)
    return centres.cpu()


@contextmanager
def _one_thread():
    """Compute on one thread of the CPU: how a sum is shared among more changes its last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _minibatches(features, first_size, other_size):
    kept, count, size = [], 0, first_size
    for frames in features:
        kept.append(frames)
        count += len(frames)
        while count >= size:
            joined = torch.cat(kept)
            yield joined[:size]
            kept, count, size = [joined[size:]], count - size, other_size
    if count:
        yield torch.cat(kept)


def spread_centres(frames, count, generator):
    """Return some of the frames that lie apart: k-means++, the best of a few draws each time.

    Arguments
    ---------
    frames : torch.Tensor
        Shape (frames, dim).
    count : int
        How many are drawn.
    generator : torch.Generator
        Of the CPU.

    Returns
    -------
    torch.Tensor
        Shape (count, dim).

    Raises
    ------
    ValueError
        Where fewer of the frames differ.

    Example
    -------
    >>> frames = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    >>> spread_centres(frames, 2, torch.Generator().manual_seed(0)).round().abs()
    tensor([[0.],
            [9.]])
    """
    if len(frames) < count:
        raise _too_few(len(frames), count)
    draws = 2 + int(math.log(count))
    squares = frames.square().sum(1)
    chosen = [int(torch.randint(len(frames), (1,), generator=generator))]
    nearest = _distances(frames, squares, chosen)[0]
    while len(chosen) < count:
        shares = nearest.cpu().double().cumsum(0)
        if shares[-1] == 0:
            raise _too_few(len(chosen), count)
        drawn = torch.rand(draws, dtype=torch.float64, generator=generator) * shares[-1]
        candidates = torch.searchsorted(shares, drawn, right=True).clamp(max=len(frames) - 1)
        closer = _distances(frames, squares, candidates.tolist()).minimum(nearest)
        best = int(closer.sum(1).argmin())
        nearest = closer[best]
        chosen.append(int(candidates[best]))
    return frames[chosen]


def _too_few(found, needed):
    return ValueError(
        f"{found} different frames are too few for {needed} units: give more audio or ask for "
        "fewer units."
    )


def _distances(frames, squares, chosen):
    """Return the squared distance of each of some frames to all: (chosen, frames)."""
    products = frames[chosen] @ frames.T
    distances = (squares[chosen, None] + squares - 2 * products).clamp(min=0)
    distances[torch.arange(len(chosen)), chosen] = 0  # but for rounding
    return distances


def _step(centres, totals, frames):
    """Return the centres moved to the means of all frames that were ever theirs.

    `totals`, (units,) float64 on the CPU, counts these and is brought up to date.
    """
    quantizer, counts, sums = KMeansQuantizer(centres), 0, 0
    for chunk in frames.split(max(1, MEMBERSHIPS // len(centres))):
        members = F.one_hot(quantizer(chunk), len(centres)).float()
        counts, sums = counts + members.sum(0), sums + members.T @ chunk
    totals += counts.cpu().double()
    weights = totals.clamp(min=1).float().to(frames.device)
    return centres + (sums - counts[:, None] * centres) / weights[:, None]
