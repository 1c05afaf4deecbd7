"""What attackers take of an utterance's frames without training: statistics over its frames."""

import numpy as np

from recipes.common.data.seeding import derive_rng

RANDOM_FEATURES = 512


def pool_means(whole):
    """Return the mean of each utterance's frames, (utterances, dim), float32.

    Arguments
    ---------
    whole : list of numpy.ndarray
        All frames of each utterance, (frames, dim).
    """
    return np.stack([x.astype(np.float32).mean(0) for x in whole])


def pool_deviations(whole):
    """Return the deviations of each utterance's frames, (utterances, dim), float32.

    Arguments
    ---------
    whole : list of numpy.ndarray
        All frames of each utterance, (frames, dim).
    """
    return np.stack([x.astype(np.float32).std(0) for x in whole])


def pool_means_and_deviations(whole):
    """Return `pool_means` and `pool_deviations` side by side, (utterances, 2 * dim), float32."""
    return np.hstack([pool_means(whole), pool_deviations(whole)])


class RandomFeatures:
    """Means over frames of features that see more than means and deviations.

    The features are projections on 512 random directions: rectified, with a bias each (Rahimi and
    Recht, NIPS 2008), whose means tell of all moments; and squared, whose means tell of how
    dimensions vary together. A linear probe of these means is an attacker that what sets means and
    deviations alike does not stop.

    Arguments
    ---------
    whole : list of numpy.ndarray
        Frames of utterances, (frames, dim): by their mean and deviation frames are standardised.
    kinds : sequence of str
        Of "rectified" and "squared".

    Example
    -------
    >>> whole = [np.random.default_rng(n).normal(size=(20, 4)) for n in range(3)]
    >>> RandomFeatures(whole)(whole[:2]).shape
    (2, 1024)
    """

    def __init__(self, whole, kinds=("rectified", "squared")):
        self.kinds = kinds
        self.mean, self.deviation = frame_moments(whole)
        rng = derive_rng("random features")
        weights = rng.normal(size=(len(self.mean), RANDOM_FEATURES)) / np.sqrt(len(self.mean))
        self.weights = weights.astype("f4")
        self.bias = rng.normal(size=RANDOM_FEATURES).astype("f4")

    def __call__(self, whole):
        """Map the frames of utterances to (utterances, 512 for each kind), float32."""
        return np.stack([self._pool(x.astype(np.float32)) for x in whole])

    def _pool(self, x):
        projected = (x - self.mean) / self.deviation @ self.weights
        pooled = {
            "rectified": lambda: np.maximum(projected + self.bias, 0).mean(0),
            "squared": lambda: np.square(projected).mean(0),
        }
        return np.concatenate([pooled[kind]() for kind in self.kinds])


def frame_moments(whole):
    """Return the mean and the deviation of all frames, at least 1e-6: (dim,) each, float32.

    Arguments
    ---------
    whole : list of numpy.ndarray
        All frames of each utterance, (frames, dim).

    Example
    -------
    >>> mean, deviation = frame_moments([np.array([[0.0], [2.0]]), np.array([[4.0]])])
    >>> mean.tolist(), round(float(deviation[0]), 3)
    ([2.0], 1.633)
    """
    count = sum(len(x) for x in whole)
    mean = sum(x.sum(0, dtype=np.float64) for x in whole) / count
    variance = sum(np.square(x - mean).sum(0) for x in whole) / count
    return mean.astype("f4"), np.maximum(np.sqrt(variance), 1e-6).astype("f4")
