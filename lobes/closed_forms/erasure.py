"""Erasing in closed form what frames tell, linearly, of their utterance's embedding."""

import torch
from torch import nn

FLOOR = 1e-6  # share of the largest variance: a direction that varies less is none


class Erasure(nn.Module):
    """A linear map of frames that takes a few directions off: x - (x - centre) down up.

    With all directions that tell something of the embedding it is the map of Belrose et al.
    (arXiv 2306.03819, theorem 4.3), which changes frames least among those that leave no
    covariance. The first ones, by canonical correlation, take most of it and spare the rest.

    Arguments
    ---------
    d_model : int
        Size of a frame.
    directions : int
        How many it takes off at most. None before `fit`.

    Example
    -------
    >>> frames = torch.randn(200, 50, 3)
    >>> embeddings = torch.randn(200, 1)
    >>> frames[..., 0] += embeddings
    >>> rows = frames.flatten(0, 1)
    >>> erasure = Erasure(3, 1).fit(rows.mean(0), torch.cov(rows.T), frames.mean(1), embeddings)
    >>> means = erasure(frames).mean(1)
    >>> bool(torch.corrcoef(torch.stack([means[:, 0], embeddings[:, 0]]))[0, 1].abs() < 0.01)
    True
    """

    def __init__(self, d_model, directions):
        super().__init__()
        self.register_buffer("centre", torch.zeros(d_model))
        self.register_buffer("down", torch.zeros(d_model, directions))
        self.register_buffer("up", torch.zeros(directions, d_model))

    def forward(self, x):
        """Map frames (..., d_model) to the same shape; in float32, whatever the precision."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.centre.dtype)
            return x - (x - self.centre) @ self.down @ self.up

    @torch.no_grad()
    def fit(self, mean, covariance, means, embeddings):
        """Find the directions in which frames tell most of the embeddings of their utterances.

        Arguments
        ---------
        mean : torch.Tensor
            Of all frames, shape (d_model,).
        covariance : torch.Tensor
            Of all frames, shape (d_model, d_model).
        means : torch.Tensor
            Of each utterance's frames, shape (utterances, d_model).
        embeddings : torch.Tensor
            Shape (utterances, E).

        Returns
        -------
        Erasure
            Itself.
        """
        # In float64, and so on the CPU: not every device has it.
        mean, covariance, means, embeddings = (
            x.cpu().double() for x in (mean, covariance, means, embeddings)
        )
        to_white, to_plain = _whitening(covariance)
        other = embeddings - embeddings.mean(0)
        other = other @ _whitening(other.T @ other / len(other))[0]
        correlations = ((means - mean) @ to_white).T @ other / len(means)
        told = torch.linalg.svd(correlations, full_matrices=False)[0][:, : len(self.up)]
        own = self.centre.dtype
        self.centre.copy_(mean.to(own))
        self.down[:, : told.shape[1]] = (to_white @ told).to(own)
        self.up[: told.shape[1]] = (told.T @ to_plain).to(own)
        return self


def check_directions(directions, d_model):
    """Raise ValueError unless so many directions, or none, can be erased from frames of a size."""
    if not isinstance(directions, int) or not 0 <= directions <= d_model:
        raise ValueError(
            f"erased_directions is {directions!r}: expected an integer from 0 to {d_model}, the "
            "size of a frame"
        )


def _whitening(covariance):
    """Return the maps to directions of variance 1, (dim, rank), and back, (rank, dim)."""
    variances, axes = torch.linalg.eigh(covariance)
    kept = variances > FLOOR * variances[-1]
    deviations = variances[kept].sqrt()
    return axes[:, kept] / deviations, (axes[:, kept] * deviations).T
