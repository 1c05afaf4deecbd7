"""An exported speaker verifier in use: two audio files in, a score and a decision out."""

from typing import NamedTuple

import numpy as np
import torch

from lobes.signal import HOP
from pretrained.exported import FromFolder
from pretrained.facts import VERIFIER
from pretrained.file_states import FileStates
from pretrained.windows import WINDOW, map_windows


class Verification(NamedTuple):
    """The comparison of two recordings.

    Attributes
    ----------
    score : float
        Cosine of the two embeddings, in [-1, 1], higher where the voices are more alike.
    same_speaker : bool
        Whether the score is at least the threshold.
    threshold : float
        The folder's.
    set_on : str
        What the threshold was set on. On other recordings it has other rates of error.
    """

    score: float
    same_speaker: bool
    threshold: float
    set_on: str


class SpeakerVerifier(FromFolder):
    """Speaker verification by the cosine of two embeddings.

    Arguments
    ---------
    modules : dict
        `speaker_head`, where there is one, and the encoder that the facts name.
    facts : dict
        See `pretrained.facts`.
    device : str or torch.device
        Where to compute.

    Example
    -------
    >>> import soundfile
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path")
    >>> facts = {"features": "fbank_statistics", "scoring": "plain", "threshold": 0.5}
    >>> save_model(folder / "model", {}, {**facts, "threshold_set_on": "nothing: an example"})
    >>> noise = np.random.default_rng(0).uniform(-1, 1, 8000)
    >>> soundfile.write(folder / "a.wav", noise, 16000)
    >>> verifier = SpeakerVerifier.from_pretrained(folder / "model")
    >>> verification = verifier.verify_files(folder / "a.wav", folder / "a.wav")
    >>> round(verification.score, 6), verification.same_speaker
    (1.0, True)
    """

    kind = VERIFIER

    def __init__(self, modules, facts, device="cpu"):
        self.facts = facts
        sum_layers, self.head = _only_layer, modules.get("speaker_head")
        if self.head is not None:
            sum_layers = self.head.to(device).eval().weighted_sum
        self.states = FileStates(facts["features"], modules, sum_layers, device)

    def verify_files(self, a, b):
        """Compare the voices of two audio files of any rate, number of channels and length.

        Arguments
        ---------
        a, b : str or Path
            Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others.

        Returns
        -------
        Verification

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        pretrained.audio.AudioError
            A ValueError: where a file cannot be used, as `pretrained.audio.read_blocks` tells.
        ValueError
            Where an embedding has no direction.
        """
        return self._compare(self._direction(a), self._direction(b))

    def verify_trials(self, trials):
        """Compare the voices of many pairs of audio files; each file is read once.

        Arguments
        ---------
        trials : iterable of tuple
            Two files each, as `verify_files` takes them. Their embeddings stay in memory.

        Yields
        ------
        Verification or list of Exception
            Of each pair, in their order; where a file cannot be used, the OSError or ValueError of
            each such file, the same object in each pair that has it.
        """
        directions = {}
        for pair in trials:
            for path in pair:
                if path not in directions:
                    directions[path] = self._direction_or_error(path)
            found = [directions[path] for path in pair]
            errors = [each for each in found if isinstance(each, Exception)]
            yield errors or self._compare(*found)

    def _compare(self, a, b):
        score = float(np.clip(a @ b, -1, 1))
        threshold = self.facts["threshold"]
        return Verification(score, score >= threshold, threshold, self.facts["threshold_set_on"])

    @torch.no_grad()
    def embed_file(self, path):
        """Return the embedding of a file, before centring: float64 of shape (E,).

        Up to 30 s it is what the modules give of the samples; of longer files see
        `pretrained.file_states.FileStates`. An hour takes up to 0.8 GB with a head of usual size.

        Arguments and errors are those of `verify_files`.
        """
        states, lens = self.states(path)
        if self.head is None:
            embedding = states[:, 0]
        elif states.shape[1] <= WINDOW // HOP or self.head.config["pooling"] == "mean":
            embedding = self.head.embed(states, lens)
        else:
            embedding = long_xvector(self.head, states)
        return embedding[0].double().cpu().numpy()

    def _direction_or_error(self, path):
        try:
            return self._direction(path)
        except (OSError, ValueError) as error:
            return error

    def _direction(self, path):
        embedding = self.embed_file(path) - np.asarray(self.facts.get("mean", 0.0))
        embedding = embedding / np.asarray(self.facts.get("deviation", 1.0))
        norm = np.linalg.norm(embedding)
        if not (np.isfinite(norm) and norm > 0):
            raise ValueError(f"{path}: its embedding has length {norm}: no cosine is defined.")
        return embedding / norm


def long_xvector(head, states):
    """Return what an x-vector head gives of a recording, from windows of it: it sees 7 frames far.

    Arguments
    ---------
    head : SpeakerHead
        With pooling "xvector".
    states : torch.Tensor
        Shape (1, frames, in_dim), summed over layers.

    Returns
    -------
    torch.Tensor
        Shape (1, embedding_dim).

    Example
    -------
    >>> from lobes.heads import SpeakerHead
    >>> head = SpeakerHead(in_dim=4, hidden_dim=4, pooling="xvector", embedding_dim=6).eval()
    >>> long_xvector(head, torch.randn(1, 4000, 4)).shape
    torch.Size([1, 6])
    """

    parts = map_windows(lambda x: head.frames(x.transpose(1, 2)), states.transpose(1, 2), HOP)
    return head.embed_parts(parts)


def _only_layer(states):
    return states[:, :, 0]
