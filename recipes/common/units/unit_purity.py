"""How well units tell phones: HuBERT's measures of a clustering."""

import numpy as np
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

PHONE_MEASURES = ("PNMI", "phone purity", "cluster purity")


def unit_quality(units, phones):
    """Return how well the units of frames tell their phones.

    HuBERT (https://arxiv.org/abs/2106.07447), section IV-B, of the shares of frames p(phone, unit):
    the phone purity is how many frames have the commonest phone of their unit; the cluster purity,
    how many have the commonest unit of their phone; the phone-normalised mutual information (PNMI),
    I(phone; unit) / H(phone), what share of the uncertainty about the phone the unit takes away.
    More units raise phone purity and PNMI and lower cluster purity: of a unit for each frame, the
    former are 1. Few frames raise all three, whatever the units tell: compare with phones that are
    dealt out at random.

    Arguments
    ---------
    units, phones : array_like
        Shape (frames,), of any kind.

    Returns
    -------
    dict
        "PNMI", "phone purity" and "cluster purity", each in [0, 1].

    Raises
    ------
    ValueError
        Where all frames have one phone, about which there is no uncertainty, or there is none.

    Example
    -------
    >>> quality = unit_quality([0, 0, 1, 2], ["a", "a", "b", "b"])
    >>> {name: round(value, 6) for name, value in quality.items()}
    {'PNMI': 1.0, 'phone purity': 1.0, 'cluster purity': 0.75}
    """
    phones = np.asarray(phones)
    if len(np.unique(phones)) < 2:
        raise ValueError(f"{len(phones)} frames of fewer than two phones: units can tell nothing.")
    frames = contingency_matrix(phones, units)
    entropy = mutual_info_score(phones, phones)
    values = (
        mutual_info_score(None, None, contingency=frames) / entropy,
        frames.max(0).sum() / frames.sum(),
        frames.max(1).sum() / frames.sum(),
    )
    return dict(zip(PHONE_MEASURES, np.clip(values, 0, 1).tolist(), strict=True))
