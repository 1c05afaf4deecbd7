"""What the k-means units of frames tell of phones."""

import numpy as np
import torch

from lobes.targets import KMeansQuantizer
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.units.kmeans import fit_kmeans
from recipes.common.units.unit_purity import PHONE_MEASURES, unit_quality

PASSES = 20  # over the few frames that are drawn


def read_units(train, read, phones, speakers, num_units, seeds):
    """Return how well units of k-means tell phones: PNMI, phone purity and cluster purity.

    k-means is fitted for each seed on training frames, and names the units of frames of other
    speakers. The control is the same units, with the phones dealt out at random.

    Arguments
    ---------
    train, read : numpy.ndarray
        Frames, (frames, dim): those that k-means is fitted on, and those whose phones are known.
    phones, speakers : array_like
        Shape (frames,), of `read`.
    num_units : int
        How many centres.
    seeds : list of int
        One k-means for each.

    Returns
    -------
    list of dict or str
        A reading of each measure, see `recipes.common.report.measures`, or why there is none.

    Example
    -------
    >>> phones = np.arange(400) % 4
    >>> frames = np.eye(4)[phones] + 0.1 * np.random.default_rng(0).normal(size=(400, 4))
    >>> readings = read_units(frames, frames, phones, phones, 8, seeds=[1])
    >>> [(reading["measure"], reading["value"] > 0.9) for reading in readings]
    [('PNMI', True), ('phone purity', True), ('cluster purity', False)]
    """
    train, read = (torch.from_numpy(np.asarray(x, np.float32)) for x in (train, read))
    phones, found = np.asarray(phones), {"values": [], "controls": []}
    try:
        for seed in seeds:
            fit_seed = derive_seed(seed, "k-means")
            centres = fit_kmeans(lambda: [train], num_units, fit_seed, PASSES)
            units = KMeansQuantizer(centres)(read).numpy()
            dealt = derive_rng(seed, "dealt phones").permutation(phones)
            found["values"].append(unit_quality(units, phones))
            found["controls"].append(unit_quality(units, dealt))
    except ValueError as error:
        return str(error)
    told = {"unit": "%", "seeds": list(seeds), "speakers": len(np.unique(speakers)), "evidence": {}}
    return [{"measure": name, **told, **_told(name, **found)} for name in PHONE_MEASURES]


def _told(name, values, controls):
    """Return the figures of a measure, from those of each seed."""
    values, controls = ([own[name] for own in part] for part in (values, controls))
    value, control = float(np.mean(values)), float(np.mean(controls))
    return {"value": value, "values": values, "control": control, "selectivity": value - control}
