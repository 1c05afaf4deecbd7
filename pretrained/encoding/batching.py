"""Many audio files through an exported model: read ahead by threads, encoded in batches."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import torch

from lobes.signal import SAMPLE_RATE
from pretrained.windows import encode_windows, read_windows

AHEAD = 16  # files that are read ahead, for each thread
POOL = 30  # batches whose files are sorted by length together
CPU_BATCH, BATCH = 8.0, 80.0  # seconds: a CPU is fastest where a batch stays in its caches
MOST_WAITING = 200  # results that wait to be written
MOST_BYTES = 2**27  # of these
CPU = torch.device("cpu")


def encode_all(model, files, layers=(), batch_seconds=None, num_workers=2):
    """Yield what a model makes of each of many files, or why one cannot be used.

    Files of like length make a batch, of what is read at a time. What a file gives depends on its
    batch by rounding alone. Longer files than 30 s are encoded alone, as `Learn2Diss.encode_file`
    does. Both the order and the batches depend on the files alone, not on the threads.

    Arguments
    ---------
    model : Learn2Diss
    files : iterable of str
    layers : sequence of int
        Which hidden states to return: 0 for the input of the first layer, n for the output of the
        n-th.
    batch_seconds : float, optional
        Most audio in a batch, padding included; by default 8 on a CPU, 80 elsewhere. A longer file
        is a batch of its own.
    num_workers : int
        Threads that read, from 1.

    Yields
    ------
    tuple
        A file, and either arrays by name, on the CPU, or the OSError or ValueError of reading it:
        `frames` (frames, d_model) and `utterance` (E,), where the model has such an encoder, and
        with layers `hidden_states` (layers, frames, d_model); float32.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained import Learn2Diss
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 16000), 16000)
    >>> model = Learn2Diss({"utterance_encoder": UtteranceEncoder("tdnn", 8, 4)})
    >>> found = dict(encode_all(model, [str(path), "b.wav"]))
    >>> found[str(path)]["utterance"].shape, str(found["b.wav"])
    ((4,), 'b.wav is not a file: expected an audio file.')
    """
    if batch_seconds is None:
        batch_seconds = CPU_BATCH if model.device.type == "cpu" else BATCH
    most = batch_seconds * SAMPLE_RATE
    pool, samples = [], 0
    for file, clip in read_ahead(read_clip, files, num_workers):
        if isinstance(clip, Exception):
            yield file, clip
        elif clip is None:
            yield file, _outcome(_encode_long, model, file, layers)
        else:
            pool.append((file, clip))
            samples += len(clip)
            if samples > POOL * most:
                yield from _encode_pool(model, pool, layers, most)
                pool, samples = [], 0
    yield from _encode_pool(model, pool, layers, most)


def read_ahead(read, files, num_workers):
    """Yield each file, and what reading it gives or the OSError or ValueError, in their order.

    Arguments
    ---------
    read : callable
        Takes a file.
    files : iterable of str
    num_workers : int
        Threads that read.

    Example
    -------
    >>> list(read_ahead(len, ["a", "bcd"], num_workers=2))
    [('a', 1), ('bcd', 3)]
    """
    with ThreadPoolExecutor(num_workers) as threads:
        reading = deque()
        for file in files:
            reading.append((file, threads.submit(_outcome, read, file)))
            if len(reading) > AHEAD * num_workers:
                file, future = reading.popleft()
                yield file, future.result()
        for file, future in reading:
            yield file, future.result()


def write_behind(write, results):
    """Write results in a thread, and yield for each None or what went wrong, in their order.

    Arguments
    ---------
    write : callable
        Takes a file and its arrays by name.
    results : iterable of tuple
        As `encode_all` yields them. An error there is yielded as it is.

    Example
    -------
    >>> list(write_behind(lambda file, arrays: None, [("a", {}), ("b", ValueError("bad"))]))
    [None, ValueError('bad')]
    """
    with ThreadPoolExecutor(1) as thread:
        writing, waiting = deque(), 0
        for file, found in results:
            failed = isinstance(found, Exception)
            size = 0 if failed else sum(array.nbytes for array in found.values())
            task = (lambda error: error, found) if failed else (_outcome, write, file, found)
            writing.append((size, thread.submit(*task)))
            waiting += size
            while writing and (
                len(writing) > MOST_WAITING or waiting > MOST_BYTES or writing[0][1].done()
            ):
                size, future = writing.popleft()
                waiting -= size
                yield future.result()
        for _, future in writing:
            yield future.result()


def read_clip(file):
    """Return the samples of a file at 16 kHz, (samples,), or None of one that is longer than 30 s.

    Arguments and errors are those of `Learn2Diss.encode_file`.
    """
    whole, _ = read_windows(file, CPU)
    return None if whole is None else whole[0]


def _outcome(function, *arguments):
    try:
        return function(*arguments)
    except (OSError, ValueError) as error:
        return error


def _encode_pool(model, pool, layers, most):
    """Yield files and arrays, from batches of files of like length."""
    batch = []
    for file, clip in sorted(pool, key=lambda pair: len(pair[1])):
        if batch and len(clip) * (len(batch) + 1) > most:
            yield from _encode_batch(model, batch, layers)
            batch = []
        batch.append((file, clip))
    if batch:
        yield from _encode_batch(model, batch, layers)


def _encode_batch(model, batch, layers):
    files, clips = zip(*batch, strict=True)
    encoding = model.encode(clips, output_hidden_states=len(layers) > 0)
    frames, utterance, hidden = _arrays(encoding, layers)
    lens = [] if frames is None else encoding.frame_lens.tolist()
    for row, file in enumerate(files):
        arrays = {}
        if frames is not None:
            arrays["frames"] = frames[row, : lens[row]]
        if hidden is not None:
            arrays["hidden_states"] = hidden[:, row, : lens[row]]
        if utterance is not None:
            arrays["utterance"] = utterance[row]
        yield file, arrays


def _arrays(encoding, layers):
    """Return frames, embeddings and the chosen hidden states of a batch, in the CPU's memory."""
    hidden = torch.stack([encoding.hidden_states[n] for n in layers]) if len(layers) else None
    found = (encoding.frames, encoding.utterance, hidden)
    return tuple(None if x is None else x.cpu().numpy() for x in found)


@torch.no_grad()
def _encode_long(model, file, layers):
    """Return the arrays of a file that is longer than a window."""
    _, windows = read_windows(os.fspath(file), model.device)
    encoder = model.frame_encoder

    def states(window):
        """Return the frames, and the chosen hidden states behind them, (1, frames, n, d_model)."""
        frames, hidden = encoder(window, output_hidden_states=True)
        return torch.stack([frames, *(hidden[n] for n in layers)], dim=2)

    found, utterance = encode_windows(
        None if encoder is None else states, model.utterance_encoder, windows
    )
    arrays = {}
    if found is not None:
        found = found[0].cpu().numpy()
        arrays["frames"] = found[:, 0]
        if len(layers):
            arrays["hidden_states"] = found[:, 1:].swapaxes(0, 1)
    if utterance is not None:
        arrays["utterance"] = utterance[0].cpu().numpy()
    return arrays
