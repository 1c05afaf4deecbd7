"""Who speaks when: embeddings of short windows of speech, and which of them are alike.

Speech is told by level alone: a frame is speech where it is at most 30 dB below the recording's
loud ones, the 95th percentile of those within 40 dB of the loudest. So music and noise that are as
loud are taken for speech, and whispers beside shouting are not. One speaks at a time: where two do,
one of them is missed.
"""

from typing import NamedTuple

import numpy as np
import torch

from lobes.signal import FRAME_RATE, HOP
from pretrained.audio import read_blocks
from pretrained.exported import load_model

LENGTH, STEP = 75, 37  # frames of a window, and from one to the next: 1.5 s every 0.74 s
LOUD, NEAR = 95, 40.0  # percentile of the levels of frames, and which: within so many dB
RANGE = 30.0  # dB below that
SILENCE = 1e-10  # root mean square: digital silence has no level
BRIDGED, SHORTEST = 15, 10  # frames: of gaps that count as speech, and of bursts that do
BATCH = 32  # windows


class Turn(NamedTuple):
    """A stretch of one speaker's speech.

    Attributes
    ----------
    start, end : float
        Seconds from the beginning of the recording, in steps of 0.02.
    speaker : int
        From 0, in the order in which speakers first speak.
    """

    start: float
    end: float
    speaker: int


class Diarizer:
    """Clusters windows of 1.5 s by average linkage of the cosine distances of their embeddings.

    Arguments
    ---------
    encoder : UtteranceEncoder
    threshold : float
        Where no number of speakers is given, clusters are joined up to this mean distance, in
        (0, 2). The default is the tiny encoder's, set on made-up conversations
        (recipes/experiments/inference/who_speaks.py, which finds another encoder's).
    device : str or torch.device
        Where to compute.

    Example
    -------
    >>> import soundfile
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> noise = np.random.default_rng(0).normal(0, 0.1, 48000)
    >>> noise[16000:32000] *= 1e-3
    >>> soundfile.write(path, noise, 16000)
    >>> diarizer = Diarizer(UtteranceEncoder("tdnn", channels=8, embedding_dim=4))
    >>> diarizer.diarize_file(path, num_speakers=1)
    [Turn(start=0.0, end=1.0, speaker=0), Turn(start=2.0, end=3.0, speaker=0)]
    """

    def __init__(self, encoder, threshold=0.6, device="cpu"):
        if not 0 < threshold < 2:
            raise ValueError(f"threshold must be a cosine distance in (0, 2), not {threshold!r}")
        self.threshold, self.device = threshold, torch.device(device)
        self.encoder = encoder.to(self.device).eval()

    @classmethod
    def from_pretrained(cls, model, threshold=0.6, device="cpu", revision=None):
        """Load an exported model; see `pretrained.exported.load_model`, and for what it raises.

        Arguments
        ---------
        model : str or Path
            With an utterance encoder: a local folder, or the name of a model on the Hub.
        threshold : float
            See `Diarizer`.
        device : str or torch.device
            Where to compute.
        revision : str, optional
            As `load_model` takes it.

        Raises
        ------
        ValueError
            Also where the model holds no utterance encoder.
        """
        encoders = load_model(model, revision)
        if "utterance_encoder" not in encoders:
            raise ValueError(f"{model} holds no utterance encoder, which tells speakers apart.")
        return cls(encoders["utterance_encoder"], threshold, device)

    def diarize_file(self, path, num_speakers=None):
        """Return who speaks when in an audio file of any rate, number of channels and length.

        An hour takes its samples, 230 MB, and the distances of some 4800 windows, 180 MB.

        Arguments
        ---------
        path : str or Path
            Of a format that soundfile reads.
        num_speakers : int, optional
            How many speak, at least 1; None where the threshold is to tell.

        Returns
        -------
        list of Turn
            In order, without overlap.

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        ValueError
            Where the number is below 1; a pretrained.audio.AudioError where the file cannot be
            used, as `pretrained.audio.read_blocks` tells.
        """
        if num_speakers is not None and num_speakers < 1:
            raise ValueError(f"num_speakers must be at least 1, not {num_speakers}")
        audio = np.concatenate(list(read_blocks(path)))
        windows = speech_windows(audio)
        if not windows:
            return []
        labels = cluster(self.embed(audio, windows), self.threshold, num_speakers)
        return make_turns(windows, labels)

    @torch.no_grad()
    def embed(self, audio, windows):
        """Return the unit embeddings of windows, (windows, E), float64.

        Arguments
        ---------
        audio : numpy.ndarray
            Shape (samples,), float32, 16 kHz.
        windows : list of tuple
            As `speech_windows` returns them.
        """
        rows = []
        for first in range(0, len(windows), BATCH):
            part = windows[first : first + BATCH]
            clips = [torch.from_numpy(audio[begin * HOP : end * HOP]) for begin, end in part]
            lens = torch.tensor([len(clip) for clip in clips])
            wavs = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).to(self.device)
            rows.append(self.encoder(wavs, lens / lens.max()).cpu().double().numpy())
        found = np.concatenate(rows)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def speech_regions(audio):
    """Return the stretches of speech as pairs of frames of 20 ms, (begin, end), in order.

    Example
    -------
    >>> audio = np.repeat([0.1, 0.001, 0.1, 0.001], 16000)
    >>> speech_regions(audio)
    [(0, 50), (100, 150)]
    """
    if len(audio) < HOP:
        return []
    frames = audio[: len(audio) // HOP * HOP].reshape(-1, HOP).astype(np.float64)
    level = 20 * np.log10(np.maximum(np.sqrt(np.mean(frames**2, axis=1)), SILENCE))
    active = level >= np.percentile(level[level >= level.max() - NEAR], LOUD) - RANGE
    edges = np.flatnonzero(np.diff(np.r_[False, active, False].astype(int))).tolist()
    regions = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if regions and begin - regions[-1][1] <= BRIDGED:
            begin, _ = regions.pop()
        regions.append((begin, end))
    return [(begin, end) for begin, end in regions if end - begin >= SHORTEST]


def speech_windows(audio):
    """Return the windows of all speech of a recording, as pairs of frames, in order.

    Each is of 75 frames, 37 after the one before, but that a stretch ends with a window that ends
    with it; a shorter stretch is a window.

    Example
    -------
    >>> speech_windows(np.repeat([0.1, 0.001, 0.1], [32000, 16000, 16000]))
    [(0, 75), (25, 100), (150, 200)]
    """
    windows = []
    for begin, end in speech_regions(audio):
        last = max(begin, end - LENGTH)
        starts = [*range(begin, last, STEP), last]
        windows += [(start, min(start + LENGTH, end)) for start in starts]
    return windows


def cluster(directions, threshold, num_speakers=None):
    """Return the cluster of each of some unit embeddings, by average linkage.

    Arguments
    ---------
    directions : numpy.ndarray
        Shape (windows, E), of length 1.
    threshold : float
        Mean cosine distance up to which clusters are joined.
    num_speakers : int, optional
        How many clusters to make, at most, instead.

    Returns
    -------
    numpy.ndarray
        Shape (windows,), int.

    Example
    -------
    >>> cluster(np.eye(3)[[0, 0, 1, 0]], threshold=0.5).tolist()
    [1, 1, 2, 1]
    """
    if len(directions) == 1:
        return np.ones(1, int)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(directions, "average", metric="cosine")
    tree[:, 2] = tree[:, 2].clip(min=0)  # that of like windows can round below zero
    if num_speakers is None:
        return fcluster(tree, threshold, "distance")
    return fcluster(tree, num_speakers, "maxclust")


def make_turns(windows, labels):
    """Return turns: where windows overlap, the boundary is halfway between their middles.

    Arguments
    ---------
    windows : list of tuple
        As `speech_windows` returns them.
    labels : sequence
        The cluster of each.

    Returns
    -------
    list of Turn

    Example
    -------
    >>> for turn in make_turns([(0, 75), (25, 100), (150, 200)], [2, 1, 1]):
    ...     print(*turn)
    0.0 1.0 0
    1.0 2.0 1
    3.0 4.0 1
    """
    numbers, pieces, before = {}, [], (0, 0)
    for (begin, end), label in zip(windows, labels, strict=True):
        speaker, place = numbers.setdefault(label, len(numbers)), begin
        if begin < before[1]:
            place = pieces[-1][1] = (sum(before) + begin + end) // 4
        if pieces and pieces[-1][1:] == [place, speaker]:
            pieces[-1][1] = end
        else:
            pieces.append([place, end, speaker])
        before = begin, end
    return [Turn(begin / FRAME_RATE, end / FRAME_RATE, speaker) for begin, end, speaker in pieces]


def to_rttm(name, turns):
    """Return turns as text in NIST's RTTM format, a line each.

    Arguments
    ---------
    name : str
        Of the recording; blanks in it become "_".
    turns : list of Turn

    Returns
    -------
    str

    Example
    -------
    >>> print(to_rttm("a b", [Turn(0.5, 2.0, 1)]), end="")
    SPEAKER a_b 1 0.500 1.500 <NA> <NA> speaker1 <NA> <NA>
    """
    name = "_".join(name.split())
    return "".join(
        f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> speaker{speaker} <NA> <NA>\n"
        for start, end, speaker in turns
    )
