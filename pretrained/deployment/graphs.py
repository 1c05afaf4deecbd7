"""Exported models as functions of tensors alone, the rows' lengths among them, for exporters.

Each module maps waveforms, (batch, samples) float32 at 16 kHz in [-1, 1], and lengths, (batch,)
int64, the valid samples of each row, at least 400; more than there are count as all. What follows
after a row's length has no influence on that row.
"""

import torch
from torch import nn
from torch.nn import functional as F

from lobes.signal import length_mask, num_frames
from lobes.states import FbankStates, PooledStates, UtteranceStates
from pretrained.deployment.traceable import make_traceable
from pretrained.facts import CLASSIFIER, TRANSCRIBER, kind_of


def make_graphs(modules, facts):
    """Return what a folder is for, as modules of tensors alone.

    Arguments
    ---------
    modules : dict
    facts : dict or None
        As `pretrained.exported.load_folder` returns them.

    Returns
    -------
    dict
        Of encoders `frames` and `utterance`, those that there are; of a transcriber `logits`; of a
        verifier `embedding`; of a classifier `posteriors`. Each has `outputs`, the names of what it
        returns and of the dimensions that are not constant.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4)
    >>> graphs = make_graphs({"utterance_encoder": encoder}, None)
    >>> graphs["utterance"](torch.randn(2, 16000), torch.tensor([16000, 9000])).shape
    torch.Size([2, 4])
    """
    kind = kind_of(facts)
    if kind is None:
        made = {"frames": ("frame_encoder", Frames), "utterance": ("utterance_encoder", Utterance)}
        graphs = {
            name: graph(modules[encoder])
            for name, (encoder, graph) in made.items()
            if encoder in modules
        }
    elif kind == TRANSCRIBER:
        graphs = {"logits": Logits(_base(modules, facts), modules["ctc_head"])}
    elif kind == CLASSIFIER:
        head = modules["classification_head"]
        graphs = {"posteriors": Posteriors(_base(modules, facts), head)}
    else:
        graphs = {"embedding": Embedding(_base(modules, facts), modules.get("speaker_head"), facts)}
    return {name: graph.eval() for name, graph in graphs.items()}


def _base(modules, facts):
    """Return the module whose `states` a head reads."""
    features = facts["features"]
    if features == "frame_encoder":
        return Frames(modules[features])
    if features == "utterance_encoder":
        return Utterance(modules[features])
    return Bands(pooled=features == "fbank_statistics")


class Frames(nn.Module):
    """Frames, (batch, frames, d_model) at 50 Hz, zero where padded, and the number of each row's.

    Arguments
    ---------
    encoder : FrameEncoder
    """

    outputs = {"frames": ("batch", "frames"), "frame_lens": ("batch",)}

    def __init__(self, encoder):
        super().__init__()
        if encoder.least_squares is not None:
            raise ValueError(
                "this encoder's frames lose what an utterance encoder of its own predicts of them "
                "(least_squares), of which no graph is made: such a model is for comparison. "
                "Export the one that it was made of."
            )
        self.encoder = make_traceable(encoder)

    def forward(self, waveforms, lengths):
        """Return frames and their numbers."""
        hidden, lens = self._hidden(waveforms, lengths)
        return hidden[-1], lens

    def states(self, waveforms, lengths):
        """Return all hidden states, (batch, frames, layers, d_model), and the rows' frames."""
        hidden, lens = self._hidden(waveforms, lengths)
        return torch.stack(hidden, dim=2), lens

    def _hidden(self, waveforms, lengths):
        """Do what `FrameEncoder.forward` does of a padded batch."""
        lengths = within(waveforms, lengths)
        encoder, lens = self.encoder, num_frames(lengths)
        x = encoder.feature_projection(encoder.front_end(waveforms, lengths))
        valid = length_mask(lens, x.shape[1])
        *hidden, last = encoder.transformer(x.where(valid[..., None], 0.0), valid)
        if encoder.frame_norm is not None:
            last = encoder.frame_norm(last, valid)
        if encoder.erasure is not None:
            last = encoder.erasure(last)
        return [x.where(valid[..., None], 0.0) for x in (*hidden, last)], lens


class Utterance(nn.Module):
    """The embedding of each row, (batch, E).

    Arguments
    ---------
    encoder : UtteranceEncoder
    """

    outputs = {"utterance": ("batch",)}

    def __init__(self, encoder):
        super().__init__()
        self.scaled = UtteranceStates(make_traceable(encoder))

    def forward(self, waveforms, lengths):
        """Return embeddings."""
        encoder = self.scaled.encoder
        bands, *padding = log_mel(encoder.features, waveforms, lengths)
        return encoder.backbone.embed(encoder.backbone.frames(bands, padding), padding)

    def states(self, waveforms, lengths):
        """Return embeddings as states, (batch, 1, 1, E), and ones."""
        return self.scaled.from_embeddings(self(waveforms, lengths))


class Bands(nn.Module):
    """The log-mel bands and their differences that a head stands on where there is no encoder.

    Arguments
    ---------
    pooled : bool
        Whether mean and deviation over time are taken.
    """

    def __init__(self, pooled):
        super().__init__()
        self.bands = make_traceable(FbankStates())
        self.pooled = PooledStates(self.bands) if pooled else None

    def states(self, waveforms, lengths):
        """Return states, (batch, frames, 1, 240) or (batch, 1, 1, 480), and the rows' frames."""
        bands, lens, _ = log_mel(self.bands.features, waveforms, lengths)
        states, lens = self.bands.from_bands(bands, lens)
        if self.pooled is None:
            return states, lens
        return self.pooled.pool(states, length_mask(lens, states.shape[1])), torch.ones_like(lens)


class Logits(nn.Module):
    """A recogniser's logits, (batch, ceil(frames / stride), symbols), and the number of each row's.

    Arguments
    ---------
    base : nn.Module
        With `states`.
    head : CTCHead
    """

    outputs = {"logits": ("batch", "steps"), "logit_lens": ("batch",)}

    def __init__(self, base, head):
        super().__init__()
        self.base = base
        self.head = make_traceable(head)

    def forward(self, waveforms, lengths):
        """Return logits and their numbers."""
        return self.head(*self.base.states(waveforms, lengths))


class Posteriors(nn.Module):
    """A classifier's posteriors of the classes, (batch, classes).

    Arguments
    ---------
    base : nn.Module
        With `states`.
    head : ClassificationHead
    """

    outputs = {"posteriors": ("batch",)}

    def __init__(self, base, head):
        super().__init__()
        self.base = base
        self.head = make_traceable(head)

    def forward(self, waveforms, lengths):
        """Return posteriors."""
        return self.head(*self.base.states(waveforms, lengths)).softmax(1)


class Embedding(nn.Module):
    """A verifier's embedding, (batch, E), of length 1: the score of two is their scalar product.

    Arguments
    ---------
    base : nn.Module
        With `states`.
    head : SpeakerHead or None
    facts : dict
        A verifier's.
    """

    outputs = {"embedding": ("batch",)}

    def __init__(self, base, head, facts):
        super().__init__()
        self.base = base
        self.head = None if head is None else make_traceable(head)
        self.register_buffer("mean", torch.tensor(facts.get("mean", 0.0)))
        self.register_buffer("deviation", torch.tensor(facts.get("deviation", 1.0)))

    def forward(self, waveforms, lengths):
        """Return embeddings."""
        states, lens = self.base.states(waveforms, lengths)
        embedding = states[:, 0, 0] if self.head is None else self.head(states, lens)
        return F.normalize((embedding - self.mean) / self.deviation, dim=1)


def within(waveforms, lengths):
    """Return lengths of rows, (batch,) int64, of which none is above that of the waveforms.

    Example
    -------
    >>> within(torch.zeros(2, 500), torch.tensor([450, 9000])).tolist()
    [450, 500]
    """
    return length_mask(lengths, waveforms.shape[1]).sum(dim=1)


def log_mel(features, waveforms, lengths):
    """Return what `LogMel` gives of a padded batch.

    Arguments
    ---------
    features : LogMel
    waveforms, lengths : torch.Tensor
        Shape (batch, samples) and (batch,).

    Returns
    -------
    bands : torch.Tensor
        Shape (batch, 80, frames), zero where padded.
    lens : torch.Tensor
        Shape (batch,), int64, valid frames of each row.
    valid : torch.Tensor
        Shape (batch, frames), bool, False where padded.

    Example
    -------
    >>> from lobes.utterance_encoder import LogMel
    >>> bands, lens, valid = log_mel(LogMel(), torch.randn(1, 16000), torch.tensor([9000]))
    >>> bands.shape, lens.tolist(), valid.shape
    (torch.Size([1, 80, 101]), [57], torch.Size([1, 101]))
    """
    lengths = within(waveforms, lengths)
    lens = 1 + lengths // features.hop
    valid = length_mask(lens, 1 + waveforms.shape[1] // features.hop)
    samples = length_mask(lengths, waveforms.shape[1])
    return features.padded_bands(waveforms, samples, valid), lens, valid
