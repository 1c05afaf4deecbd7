"""Exported models under the names and methods of `speechbrain.inference`.

`export --layout speechbrain` writes the folders; `from_hparams(source, savedir)` loads one, or a
repository of the Hub that holds one. SpeechBrain builds what hyperparams.yaml says, which can be
anything: only load folders that you trust. `from_pretrained` of this package's own classes runs
nothing.
"""

import torch
from speechbrain.decoders.ctc import ctc_greedy_decode
from speechbrain.inference.interfaces import Pretrained

from lobes.heads import BLANK
from pretrained.facts import CLASSIFIER, TRANSCRIBER, VERIFIER, check_facts, check_modules, kind_of
from pretrained.learn2diss import Learn2Diss
from pretrained.tasks.classifier import Classifier
from pretrained.tasks.transcriber import Transcriber
from pretrained.tasks.verifier import SpeakerVerifier

SOURCE = "hyperparams.yaml"


class Learn2DissInterface(Pretrained):
    """Both encoders of a folder that `pretrained.toolkits.layouts.to_speechbrain` wrote.

    Example
    -------
    >>> from speechbrain.utils.fetching import FetchConfig, LocalStrategy
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from pretrained.toolkits.layouts import to_speechbrain
    >>> folder = getfixture("tmp_path") / "speechbrain"
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=24)
    >>> to_speechbrain({"utterance_encoder": encoder}, None, folder)
    >>> model = Learn2DissInterface.from_hparams(
    ...     source=str(folder),
    ...     savedir=str(folder.parent / "collected"),
    ...     fetch_config=FetchConfig(allow_network=False),
    ...     local_strategy=LocalStrategy.COPY,
    ... )
    >>> model.encode_batch(torch.randn(2, 16000)).utterance.shape
    torch.Size([2, 24])
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = Learn2Diss(dict(self.mods.items()), self.device)

    def encode_batch(self, wavs, wav_lens=None, output_hidden_states=False):
        """Encode a batch of waveforms; see `Learn2Diss.encode`."""
        return self.model.encode(wavs, wav_lens, output_hidden_states)

    def encode_file(self, path):
        """Encode an audio file; see `Learn2Diss.encode_file`."""
        return self.model.encode_file(path)

    def forward(self, *args, **kwargs):
        """Encode a batch, as `encode_batch`."""
        return self.encode_batch(*args, **kwargs)


class WaveformEncoder(Pretrained):
    """The frames of a folder of encoders, as `speechbrain.inference.encoders.WaveformEncoder`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "frame_encoder" not in self.mods:
            raise ValueError(
                f"The model holds {', '.join(self.mods)}, no frame_encoder: load it by "
                "Learn2DissInterface, whose encodings have embeddings too."
            )
        self.model = Learn2Diss({"frame_encoder": self.mods["frame_encoder"]}, self.device)

    def encode_batch(self, wavs, wav_lens=None):
        """Return the frames of a batch, (batch, frames, d_model), zero where padded.

        Arguments and errors are those of `Learn2Diss.encode`.
        """
        return self.model.encode(wavs, wav_lens).frames

    def encode_file(self, path):
        """Return the frames of an audio file, (1, frames, d_model); see `Learn2Diss.encode_file`.

        A file has any rate and number of channels.
        """
        return self.model.encode_file(path).frames

    def forward(self, wavs, wav_lens=None):
        """Encode a batch, as `encode_batch`."""
        return self.encode_batch(wavs, wav_lens)


class EncoderASR(Pretrained):
    """A transcriber, as `speechbrain.inference.ASR.EncoderASR`: the best symbol of each frame."""

    HPARAMS_NEEDED = ["facts"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _check(self, TRANSCRIBER)
        self.transcriber = Transcriber(dict(self.mods.items()), self.hparams.facts, self.device)

    @torch.no_grad()
    def encode_batch(self, wavs, wav_lens=None):
        """Return logits (batch, frames, symbols) and the relative lengths of their rows, (batch,).

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.
        """
        states, lens = self.transcriber.states.states(wavs.to(self.device), wav_lens)
        logits, lens = self.transcriber.head(states, lens)
        return logits, lens / logits.shape[1]

    def transcribe_batch(self, wavs, wav_lens=None):
        """Transcribe a batch of waveforms.

        Arguments are those of `encode_batch`.

        Returns
        -------
        texts : list of str
        tokens : list of list of int
            The symbols' indices; 0 is the blank, which is left out.
        """
        logits, lens = self.encode_batch(wavs, wav_lens)
        tokens = ctc_greedy_decode(logits, lens, blank_id=BLANK)
        return [self.transcriber.tokenizer.decode(row) for row in tokens], tokens

    def transcribe_file(self, path):
        """Return the text of an audio file; see `Transcriber.transcribe_file`."""
        return self.transcriber.transcribe_file(path)

    def forward(self, wavs, wav_lens=None):
        """Transcribe a batch, as `transcribe_batch`."""
        return self.transcribe_batch(wavs, wav_lens)


class SpeakerRecognition(Pretrained):
    """A speaker verifier, as `speechbrain.inference.speaker.SpeakerRecognition`.

    The threshold is the folder's own.
    """

    HPARAMS_NEEDED = ["facts"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _check(self, VERIFIER)
        self.verifier = SpeakerVerifier(dict(self.mods.items()), self.hparams.facts, self.device)

    @torch.no_grad()
    def encode_batch(self, wavs, wav_lens=None):
        """Return the embeddings whose cosines are scores, centred: (batch, 1, E).

        Arguments
        ---------
        wavs : torch.Tensor
            Shape (batch, samples), 16 kHz, in [-1, 1].
        wav_lens : torch.Tensor, optional
            Shape (batch,), relative lengths in (0, 1]; None if all are full.
        """
        states, lens = self.verifier.states.states(wavs.to(self.device), wav_lens)
        head, facts = self.verifier.head, self.hparams.facts
        embeddings = states[:, 0, 0] if head is None else head(states, lens)
        mean, deviation = (
            embeddings.new_tensor(facts.get(key, default))
            for key, default in (("mean", 0.0), ("deviation", 1.0))
        )
        return ((embeddings - mean) / deviation)[:, None]

    def verify_batch(self, wavs1, wavs2, wav1_lens=None, wav2_lens=None, threshold=None):
        """Compare the voices of two batches, row by row.

        Arguments
        ---------
        wavs1, wavs2, wav1_lens, wav2_lens : torch.Tensor
            As `encode_batch` takes them.
        threshold : float, optional
            The lowest score of a same speaker; None for the folder's.

        Returns
        -------
        tuple of torch.Tensor
            Scores in [-1, 1] and decisions, bool: (batch, 1) each.
        """
        pair = (self.encode_batch(wavs1, wav1_lens), self.encode_batch(wavs2, wav2_lens))
        scores = torch.cosine_similarity(*pair, dim=-1)
        return scores, scores >= (
            self.hparams.facts["threshold"] if threshold is None else threshold
        )

    def verify_files(self, path_x, path_y):
        """Compare the voices of two audio files; see `SpeakerVerifier.verify_files`.

        Returns
        -------
        tuple of torch.Tensor
            The score and the decision, bool: (1,) each.
        """
        found = self.verifier.verify_files(path_x, path_y)
        return torch.tensor([found.score]), torch.tensor([found.same_speaker])

    def forward(self, *args, **kwargs):
        """Compare two batches, as `verify_batch`."""
        return self.verify_batch(*args, **kwargs)


class EncoderClassifier(Pretrained):
    """A classifier, as `speechbrain.inference.classifiers.EncoderClassifier`."""

    HPARAMS_NEEDED = ["facts"]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _check(self, CLASSIFIER)
        self.classifier = Classifier(dict(self.mods.items()), self.hparams.facts, self.device)

    def classify_batch(self, wavs, wav_lens=None):
        """Classify a batch of waveforms.

        Arguments are those of `Classifier.log_posteriors`.

        Returns
        -------
        log_posteriors : torch.Tensor
            Shape (batch, classes), natural logarithms.
        scores : torch.Tensor
            Shape (batch,), that of the most probable class.
        indices : torch.Tensor
            Shape (batch,), int64, its number.
        labels : list of str
            Its name.
        """
        return self._decide(self.classifier.log_posteriors(wavs, wav_lens))

    def classify_file(self, path):
        """Classify an audio file; see `Classifier.classify_file`. Returns a batch of one."""
        return self._decide(self.classifier.log_posteriors_of_file(path))

    def _decide(self, log_posteriors):
        scores, indices = log_posteriors.max(1)
        labels = [self.classifier.labels[index] for index in indices.tolist()]
        return log_posteriors, scores, indices, labels

    def forward(self, wavs, wav_lens=None):
        """Classify a batch, as `classify_batch`."""
        return self.classify_batch(wavs, wav_lens)


def _check(interface, kind):
    """Raise a ValueError unless modules and facts are those of a kind of model."""
    facts = interface.hparams.facts
    check_facts(facts, SOURCE)
    if kind_of(facts) != kind:
        raise ValueError(f"{SOURCE}: the model is a {kind_of(facts)}, no {kind}.")
    check_modules(dict(interface.mods.items()), facts, SOURCE)


def load_strictly(module, path):
    """Load a state dict into a module; SpeechBrain's own hook only warns of keys that are missing.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or Path
        A file of tensors by name.

    Raises
    ------
    RuntimeError
        Where a tensor is missing, left over or of another shape; it is named.
    """
    module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
