"""Erasing directions of frames in closed form: those that tell of embeddings or of speakers."""

import torch
from torch import nn

FLOOR = 1e-6  # share of the largest variance: a direction that varies less is none


class Erasure(nn.Module):
    """A linear map of frames that takes a few directions off: x - (x - centre) down up.

    `fit` finds those that tell of embeddings, and needs no speakers. With all of them it is LEACE,
    the map of Belrose et al. (arXiv 2306.03819, theorem 4.3), which changes frames least among
    those that leave no covariance. The first ones, by canonical correlation, take most of it and
    spare the rest. `collapse` finds those in which the means of speakers differ most (Liu, Tang and
    Goldwater, arXiv 2305.12464), or those of utterances where no speakers are known.

    Arguments
    ---------
    d_model : int
        Size of a frame.
    directions : int
        How many it takes off at most. None before `fit` or `collapse`.

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
        return self._take_off(mean, to_white @ told, told.T @ to_plain)

    @torch.no_grad()
    def collapse(self, means):
        """Find the principal directions of the means of speakers, or of utterances.

        Arguments
        ---------
        means : torch.Tensor
            Of all frames of each speaker, see `speaker_means`, shape (speakers, d_model). Of n
            speakers there are n - 1 directions.

        Returns
        -------
        Erasure
            Itself.
        """
        variances, axes = principal_axes(means)
        axes = axes[:, : min(len(self.up), len(variances))]
        return self._take_off(means.cpu().double().mean(0), axes, axes.T)

    def _take_off(self, centre, down, up):
        own = self.centre.dtype
        self.centre.copy_(centre.to(own))
        self.down[:, : down.shape[1]] = down.to(own)
        self.up[: len(up)] = up.to(own)
        return self


def speaker_means(means, lens, speakers):
    """Return the mean over all frames of each speaker, (speakers, d_model), in float64.

    Arguments
    ---------
    means : torch.Tensor
        Of each utterance's frames, shape (utterances, d_model).
    lens : torch.Tensor
        Shape (utterances,), int64, each utterance's frames.
    speakers : list of str
        Of each utterance.

    Example
    -------
    >>> means, lens = torch.tensor([[1.0], [4.0], [9.0]]), torch.tensor([20, 10, 5])
    >>> speaker_means(means, lens, ["a", "a", "b"]).tolist()
    [[2.0], [9.0]]
    """
    numbers = {name: number for number, name in enumerate(sorted(set(speakers)))}
    places = torch.tensor([numbers[name] for name in speakers])
    lens = lens.cpu().double()[:, None]
    sums = torch.zeros(len(numbers), 1 + means.shape[1], dtype=torch.float64)
    sums.index_add_(0, places, torch.cat([lens, lens * means.cpu().double()], dim=1))
    return sums[:, 1:] / sums[:, :1]


def directions_of_share(means, share):
    """Return how many principal directions of means hold a share of their variance.

    Arguments
    ---------
    means : torch.Tensor
        As `Erasure.collapse` takes them.
    share : float
        Above 0, at most 1.

    Returns
    -------
    int

    Example
    -------
    >>> directions_of_share(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 0.8)
    1
    """
    variances, _ = principal_axes(means)
    shares = variances.cumsum(0) / variances.sum()
    return min(int((shares < share).sum()) + 1, len(variances))


def principal_axes(x):
    """Return the variances of vectors along their principal axes, falling, and the axes.

    Arguments
    ---------
    x : torch.Tensor
        Shape (items, dim).

    Returns
    -------
    variances : torch.Tensor
        Shape (rank,), float64, on the CPU. Directions that hardly vary are left out.
    axes : torch.Tensor
        Shape (dim, rank), likewise, orthonormal.

    Example
    -------
    >>> variances, axes = principal_axes(torch.tensor([[0.0, 4.0], [0.0, -4.0]]))
    >>> variances.tolist(), axes.abs().T.tolist()
    ([16.0], [[0.0, 1.0]])
    """
    centred = x.cpu().double() - x.cpu().double().mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = (variances > FLOOR * variances[-1]).flip(0)
    return variances.flip(0)[kept], axes.flip(1)[:, kept]


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
