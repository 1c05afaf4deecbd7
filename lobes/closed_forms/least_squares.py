"""Frames without what their utterance's embedding predicts of them, by least squares."""

import torch
from torch import nn

from lobes.closed_forms.erasure import principal_axes
from lobes.utterance_encoder import UtteranceEncoder


class LeastSquares(nn.Module):
    """eta = s - A d - b: what is left of a frame s beside a linear map of its utterance's d.

    Published as Eta-WavLM (Ruggiero et al., arXiv 2505.19273): d is a speaker embedding, reduced
    to its principal components, and A and b are fitted on the frames of many utterances. It needs
    the embedding of each utterance, so it holds the encoder that gives it, which stays as it is
    in training. In a window of a stream or of a long file it is the window's embedding. None is
    taken off before `fit`.

    Arguments
    ---------
    d_model : int
        Size of a frame.
    encoder : dict
        Arguments of the `UtteranceEncoder`.

    Example
    -------
    >>> told = LeastSquares(3, {"backbone": "tdnn", "channels": 8, "embedding_dim": 4})
    >>> lens, embeddings = torch.full((50,), 20), torch.randn(50, 4)
    >>> means = embeddings @ torch.randn(4, 3) + 1
    >>> _ = told.fit(means, lens, embeddings, components=4)
    >>> bool((told.explained(embeddings) - means).abs().max() < 1e-3)
    True
    """

    def __init__(self, d_model, encoder):
        super().__init__()
        self.encoder = UtteranceEncoder(**encoder)
        embedding_dim = self.encoder.config["embedding_dim"]
        self.register_buffer("centre", torch.zeros(embedding_dim))
        self.register_buffer("weight", torch.zeros(embedding_dim, d_model))
        self.register_buffer("bias", torch.zeros(d_model))
        self.train()

    def train(self, mode=True):
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, x, wavs, wav_lens=None):
        """Map frames (batch, frames, d_model) of waveforms to the same shape, in float32."""
        with torch.no_grad():
            embeddings = self.encoder(wavs, wav_lens)
        with torch.autocast(x.device.type, enabled=False):
            return x.float() - self.explained(embeddings.float())[:, None]

    def explained(self, embeddings):
        """Return A d + b, (batch, d_model), of embeddings (batch, E)."""
        return (embeddings - self.centre) @ self.weight + self.bias

    @torch.no_grad()
    def fit(self, means, lens, embeddings, components):
        """Solve the least squares of all frames on the embeddings of their utterances, exactly.

        d is the same for all frames of an utterance, so that the normal equations need no more of
        these than their mean and their number.

        Arguments
        ---------
        means : torch.Tensor
            Of each utterance's frames, shape (utterances, d_model).
        lens : torch.Tensor
            Shape (utterances,), int64, each utterance's frames.
        embeddings : torch.Tensor
            Shape (utterances, E).
        components : int
            How many principal components of the embeddings d has, at most.

        Returns
        -------
        LeastSquares
            Itself.
        """
        # In float64, and so on the CPU: not every device has it.
        means, lens, embeddings = (x.cpu().double() for x in (means, lens, embeddings))
        centre = embeddings.mean(0)
        axes = principal_axes(embeddings)[1][:, :components]
        weights = lens.sqrt()[:, None]
        inputs = torch.cat([(embeddings - centre) @ axes, torch.ones_like(weights)], dim=1)
        solved = torch.linalg.lstsq(weights * inputs, weights * means, driver="gelsd").solution
        for own, found in (
            (self.centre, centre),
            (self.weight, axes @ solved[:-1]),
            (self.bias, solved[-1]),
        ):
            own.copy_(found.to(own.dtype))
        return self
