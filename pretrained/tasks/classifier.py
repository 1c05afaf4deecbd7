"""An exported classifier of utterances in use: files or waveforms in, labels and scores out."""

from typing import NamedTuple

import torch

from pretrained.exported import FromFolder
from pretrained.facts import CLASSIFIER
from pretrained.file_states import FileStates


class Classification(NamedTuple):
    """What an utterance was taken for.

    Attributes
    ----------
    label : str
        The most probable class.
    score : float
        Its posterior, in [0, 1]. Whether posteriors are calibrated, nothing here tells.
    scores : dict
        The posterior of each class by its label, the most probable first; their sum is 1.
    """

    label: str
    score: float
    scores: dict


class Classifier(FromFolder):
    """Classification of utterances by a linear head on the mean of states over time.

    One of the classes is named whatever is heard.

    Arguments
    ---------
    modules : dict
        `classification_head`, and the encoder that the facts name.
    facts : dict
        See `pretrained.facts`.
    device : str or torch.device
        Where to compute.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> from lobes.heads import ClassificationHead
    >>> from pretrained.exported import save_model
    >>> folder = getfixture("tmp_path")
    >>> facts = {"features": "fbank", "labels": ["no", "yes"]}
    >>> save_model(folder / "model", {"classification_head": ClassificationHead()}, facts)
    >>> soundfile.write(folder / "a.wav", np.random.default_rng(0).uniform(-1, 1, 8000), 16000)
    >>> found = Classifier.from_pretrained(folder / "model").classify_file(folder / "a.wav")
    >>> found.label in ("no", "yes"), found.score == max(found.scores.values())
    (True, True)
    """

    kind = CLASSIFIER

    def __init__(self, modules, facts, device="cpu"):
        self.labels = list(facts["labels"])
        self.head = modules["classification_head"].to(device).eval()
        self.states = FileStates(facts["features"], modules, self.head.weighted_sum, device)

    def classify_file(self, path):
        """Classify an audio file of any rate, number of channels and length.

        Up to 30 s the head sees what it saw in training; of longer files see
        `pretrained.file_states.FileStates`.

        Arguments
        ---------
        path : str or Path
            Of a format that soundfile reads: WAV, FLAC, OGG, MP3, AIFF and others.

        Returns
        -------
        Classification

        Raises
        ------
        FileNotFoundError
            Where there is no such file.
        pretrained.audio.AudioError
            A ValueError: where the file cannot be used, as `pretrained.audio.read_blocks` tells.
        """
        return self._name(self.log_posteriors_of_file(path))[0]

    def classify_batch(self, wavs, wav_lens=None):
        """Classify a batch of waveforms.

        Arguments
        ---------
        wavs, wav_lens : torch.Tensor
            As `log_posteriors` takes them.

        Returns
        -------
        list of Classification
            Of each row.
        """
        return self._name(self.log_posteriors(wavs, wav_lens))

    @torch.no_grad()
    def log_posteriors(self, wavs, wav_lens=None):
        """Return the natural logarithms of the posteriors of a batch, (batch, classes).

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.
        """
        states, lens = self.states.states(wavs.to(self.states.device), wav_lens)
        return self.head(states, lens).log_softmax(1)

    @torch.no_grad()
    def log_posteriors_of_file(self, path):
        """Return the natural logarithms of the posteriors of a file, (1, classes).

        Arguments and errors are those of `classify_file`.
        """
        return self.head.classify(*self.states(path)).log_softmax(1)

    def _name(self, log_posteriors):
        """Return the Classification of each row of (batch, classes)."""
        found = []
        for row in log_posteriors.double().exp().tolist():
            ranked = sorted(zip(self.labels, row, strict=True), key=lambda pair: -pair[1])
            found.append(Classification(*ranked[0], dict(ranked)))
        return found
