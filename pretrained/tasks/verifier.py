"""An exported speaker verifier in use: audio files in, voices, scores and decisions out."""

import json
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lobes.signal import HOP
from pretrained.exported import FromFolder, digests_of
from pretrained.facts import VERIFIER
from pretrained.file_states import FileStates
from pretrained.plain_files import read_json, write_whole
from pretrained.windows import WINDOW, map_windows

VOICE_FORMAT = "learn2diss-voice-1"
MAX_VOICE_BYTES = 1_000_000


class Voice(NamedTuple):
    """A speaker who was enrolled, for one model.

    Attributes
    ----------
    direction : numpy.ndarray
        Shape (E,), float64, of length 1: that of the mean of the recordings' unit embeddings.
    files : int
        How many recordings it was made of.
    sha256 : dict
        Of the model's `weights` and `facts`, as its config.json has them.

    Example
    -------
    >>> path = getfixture("tmp_path") / "anna.json"
    >>> Voice(np.array([0.6, 0.8]), 1, {"weights": "0" * 64, "facts": "1" * 64}).save(path)
    >>> Voice.load(path).direction.tolist()
    [0.6, 0.8]
    """

    direction: np.ndarray
    files: int
    sha256: dict

    def save(self, path):
        """Write the voice as JSON, whole or not at all; a file that is there is replaced."""
        content = {"format": VOICE_FORMAT, **self._asdict(), "direction": self.direction.tolist()}
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path):
        """Read a voice that `save` wrote.

        Arguments
        ---------
        path : str or Path

        Returns
        -------
        Voice

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        ValueError
            Where it is none that `save` wrote.
        """
        if Path(path).stat().st_size > MAX_VOICE_BYTES:
            raise ValueError(f"{path} is larger than {MAX_VOICE_BYTES} bytes: not a voice.")
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("format", None) != VOICE_FORMAT:
            raise ValueError(f"{path} is not the file of a voice ({VOICE_FORMAT}): enroll one.")
        try:
            voice = cls(**{**content, "direction": np.array(content["direction"], np.float64)})
            whole = voice.direction.ndim == 1 and abs(np.linalg.norm(voice.direction) - 1) < 1e-6
        except (KeyError, TypeError, ValueError, OverflowError):
            whole = False
        if not whole or not isinstance(voice.sha256, dict) or type(voice.files) is not int:
            raise ValueError(f"{path} is damaged: expected a unit direction, files and sha256.")
        return voice


class Verification(NamedTuple):
    """The comparison of two recordings, or of a voice and a recording.

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
        self.modules, self.facts = modules, facts
        sum_layers, self.head = _only_layer, modules.get("speaker_head")
        if self.head is not None:
            sum_layers = self.head.to(device).eval().weighted_sum
        self.states = FileStates(facts["features"], modules, sum_layers, device)

    @cached_property
    def sha256(self):
        """The SHA-256 of the model's `weights` and `facts`, as its config.json has them."""
        return digests_of(self.modules, self.facts)

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

    def enroll(self, files):
        """Make a voice of a speaker's recordings: the mean of their embeddings of unit length.

        Each recording counts the same. The threshold was set on pairs of single recordings: a voice
        of several scores higher with its speaker, and it may be too low for it.

        Arguments
        ---------
        files : sequence of str or Path
            At least one, all of the same speaker; as `verify_files` takes them.

        Returns
        -------
        Voice

        Raises
        ------
        FileNotFoundError, ValueError
            As `verify_files` tells; a ValueError also where there is no file, or the directions
            cancel.

        Example
        -------
        >>> import soundfile
        >>> folder = getfixture("tmp_path")
        >>> facts = {"features": "fbank_statistics", "scoring": "plain", "threshold": 0.5}
        >>> verifier = SpeakerVerifier({}, {**facts, "threshold_set_on": "nothing: an example"})
        >>> noise = np.random.default_rng(0).uniform(-1, 1, 8000)
        >>> soundfile.write(folder / "a.wav", noise, 16000)
        >>> voice = verifier.enroll([folder / "a.wav"])
        >>> verifier.verify(voice, folder / "a.wav").same_speaker
        True
        """
        if isinstance(files, str | Path) or not len(files):
            raise ValueError(f"files must be a list of at least one file, not {files!r}")
        mean = np.mean([self._direction(file) for file in files], axis=0)
        norm = np.linalg.norm(mean)
        if not norm > 1e-6:
            raise ValueError(f"the embeddings of {len(files)} files cancel: they are no one voice")
        return Voice(mean / norm, len(files), self.sha256)

    def verify(self, voice, file):
        """Compare a voice with an audio file.

        Arguments
        ---------
        voice : Voice
            Enrolled by this model.
        file : str or Path
            As `verify_files` takes it.

        Returns
        -------
        Verification

        Raises
        ------
        FileNotFoundError, ValueError
            As `verify_files` tells; a ValueError also where the voice is another model's.
        """
        self.check_voice(voice)
        return self._compare(voice.direction, self._direction(file))

    def check_voice(self, voice):
        """Raise a ValueError unless this model enrolled the voice."""
        for name, digest in self.sha256.items():
            if voice.sha256.get(name) != digest:
                raise ValueError(
                    f"the voice was enrolled by another model: the SHA-256 of its {name} is "
                    f"{voice.sha256.get(name)!r}, and this model's is {digest!r}. Enroll it again."
                )

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
        return embedding[0].cpu().double().numpy()

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
