"""What an attacker learns of speakers from statistics of utterances: a two-covariance model."""

import numpy as np
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf

from recipes.common.evaluation.probe_fitting import principal_axes

# Half way between standardised and whitened features, in which covariances are estimated: fully
# whitened, directions of little variance outweigh the rest where speakers are few.
WHITENING = 0.5
LEAST_BETWEEN = 1e-3  # variance between speakers by that within: no direction weighs nothing


def fit_backend(x, speakers):
    """Return a map of features to embeddings whose cosines tell speakers apart.

    Features are whitened by half, and turned to the directions in which speakers differ most, as
    measured by how much utterances of one speaker differ (linear discriminant analysis; the
    covariance within speakers is shrunk as by Ledoit and Wolf, 2004). Each direction is weighted so
    that the inner product of two embeddings is the cross term of the log-likelihood ratio of the
    two-covariance model (Brummer and de Villiers, Odyssey 2010): with variance b between speakers
    and 1 within, its weight is the root of b / (1 + 2 b).

    Arguments
    ---------
    x : numpy.ndarray
        Shape (utterances, features), of training speakers.
    speakers : array_like
        Names, (utterances,).

    Returns
    -------
    callable
        Maps (utterances, features) to (utterances, rank), float64.

    Raises
    ------
    ValueError
        Where there are fewer than two speakers, none has two utterances, or no feature varies.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = np.arange(200) // 10
    >>> x = rng.normal(size=(200, 3)) * [9, 1, 1]
    >>> x[:, 1] += 10 * rng.normal(size=20)[speakers]
    >>> embed = fit_backend(x, speakers)
    >>> int(np.abs(embed(np.eye(3)) - embed(np.zeros((1, 3)))).max(1).argmax())
    1
    """
    names, owners = np.unique(np.asarray(speakers), return_inverse=True)
    counts = np.bincount(owners)
    if len(names) < 2 or counts.max() < 2:
        raise ValueError(
            f"An attacker was given {len(x)} utterances of {len(names)} speakers: expected two "
            "speakers or more, and two utterances of some of them."
        )
    project, variances = principal_axes(np.asarray(x, float))
    scales = variances ** (-WHITENING / 2)
    z = project(x).double().numpy() * scales
    means = np.stack([np.bincount(owners, column) for column in z.T], axis=1) / counts[:, None]
    within = ledoit_wolf(z - means[owners], assume_centered=True)[0]
    within *= len(z) / (len(z) - len(names))
    between = np.cov(means.T, bias=True).reshape(within.shape) - within * (1 / counts).mean()
    ratios, axes = eigh(between, within)
    ratios = np.maximum(ratios, LEAST_BETWEEN)
    axes = axes * np.sqrt(ratios / (1 + 2 * ratios)) * scales[:, None]

    def embed(features):
        return project(features).double().numpy() @ axes

    return embed
