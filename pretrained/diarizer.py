"""Who speaks when: utterance embeddings of short windows of speech, and which of them are alike.

Speech is told from its absence by level alone: a frame is speech where it is at most 30 dB below the
recording's loud ones. Music and noise of that level are taken for speech; a whisper beside a shout
is not. One speaker at a time: where two speak at once, one of them is missed.
"""

from typing import NamedTuple

import numpy as np
import torch

from lobes.signal import FRAME_RATE, HOP, SAMPLE_RATE
from pretrained.audio import read_blocks
from pretrained.exported import load_model

WINDOW, STEP = 75, 37  # frames: 1.5 s every 0.74 s
LOUD = 95  # percentile of the levels of frames
RANGE = 30.0  # dB below that
QUIETEST = 1e-5  # root mean square of a frame: -100 dB; digital silence has no level
BRIDGED, SHORTEST = 15, 10  # frames: gaps that belong to speech, and bursts that are none
BATCH = 32  # windows


class Turn(NamedTuple):
    """A stretch of one speaker's speech.

    Attributes
    ----------
    start, end : float
        Seconds.
    speaker : int
        Speakers are numbered from 0 in the order in which they first speak.
    """

    start: float
    end: float
    speaker: int


class Diarizer:
    """Clusters the embeddings of windows of 1.5 s by average linkage of cosine distances.

    Arguments
    ---------
    encoder : UtteranceEncoder
    threshold : float
        Speakers whose windows' mean cosine distance is below it are one, where no number is given.
    device : str or torch.device
        Where to encode.

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

    def __init__(self, encoder, threshold=0.5, device="cpu"):
        self.encoder = encoder.to(device).eval()
        self.threshold, self.device = threshold, torch.device(device)

    def diarize_file(self, path, num_speakers=None):
        audio = np.concatenate(list(read_blocks(path)))
        speech = speech_regions(audio)
        windows = [window for region in speech for window in cut_windows(*region)]
        if not windows:
            return []
        directions = self.embed(audio, windows)
        labels = cluster(directions, self.threshold, num_speakers)
        return make_turns(windows, labels)

    @torch.no_grad()
    def embed(self, audio, windows):
        """Return the unit embeddings of windows, (windows, E), float64."""
        rows = []
        for start in range(0, len(windows), BATCH):
            clips = [
                torch.from_numpy(audio[begin * HOP : end * HOP])
                for begin, end in windows[start : start + BATCH]
            ]
            lens = torch.tensor([len(clip) for clip in clips])
            wavs = torch.nn.utils.rnn.pad_sequence(clips, True).to(self.device)
            rows.append(self.encoder(wavs, lens / lens.max()).cpu().double().numpy())
        found = np.concatenate(rows)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def speech_regions(audio):
    """Return the stretches of speech as pairs of frames, (begin, end), in order."""
    frames = audio[: len(audio) // HOP * HOP].reshape(-1, HOP).astype(np.float64)
    level = 20 * np.log10(np.maximum(np.sqrt(np.mean(frames**2, axis=1)), QUIETEST))
    active = level >= np.percentile(level, LOUD) - RANGE
    regions = _runs(active)
    bridged = [list(regions[0])] if regions else []
    for begin, end in regions[1:]:
        if begin - bridged[-1][1] <= BRIDGED:
            bridged[-1][1] = end
        else:
            bridged.append([begin, end])
    return [(begin, end) for begin, end in bridged if end - begin >= SHORTEST]


def _runs(active):
    edges = np.flatnonzero(np.diff(np.r_[0, active.astype(int), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def cut_windows(begin, end):
    """Return windows of a stretch: of 75 frames, one every 37, the last up to the end."""
    starts = range(begin, max(begin + 1, end - WINDOW + STEP), STEP)
    return [(max(begin, min(start, end - WINDOW)), min(start + WINDOW, end)) for start in starts]


def cluster(directions, threshold, num_speakers=None):
    """Return the speaker of each window, by average linkage of cosine distances."""
    if len(directions) == 1:
        return np.zeros(1, int)
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(directions, "average", metric="cosine")
    if num_speakers is None:
        return fcluster(tree, threshold, "distance")
    return fcluster(tree, num_speakers, "maxclust")


def make_turns(windows, labels):
    """Return turns: each frame has the speaker of the window whose middle is nearest."""
    numbers, pieces = {}, []
    for place, ((begin, end), label) in enumerate(zip(windows, labels, strict=True)):
        speaker = numbers.setdefault(label, len(numbers))
        if place and windows[place - 1][1] > begin:
            before = windows[place - 1]
            begin = (sum(before) + begin + end) // 4
            pieces[-1][1] = begin
        if pieces and pieces[-1][1] == begin and pieces[-1][2] == speaker:
            pieces[-1][1] = end
        else:
            pieces.append([begin, end, speaker])
    return [Turn(begin / FRAME_RATE, end / FRAME_RATE, speaker) for begin, end, speaker in pieces]
