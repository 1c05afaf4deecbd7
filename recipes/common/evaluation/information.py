"""How much frames and utterance embeddings tell of each other, in nats and bits.

Fresh critics are fitted and read as in `leakage`. In addition z and u are whitened, and critics are
calibrated on speakers set apart, so that the figures of models compare.
"""

import itertools

import numpy as np
import torch

from lobes.critics.club import CLUB
from lobes.critics.infonce import InfoNCE
from recipes.common.data.seeding import derive_rng, derive_seed
from recipes.common.evaluation import leakage
from recipes.common.evaluation.bootstrap import bootstrap_groups, label_scores
from recipes.common.evaluation.probe_fitting import principal_axes

INFORMATION_BATCH = 512
GAUSSIAN_RATE, CONTRAST_RATE = 1e-2, 1e-3  # the former has to learn what is exact
SHARES = np.linspace(0, 1, 11)
WIDENINGS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
UNITS = {"InfoNCE": "nats", "CLUB": "nats", "likelihood gain": "bits per dimension"}


def measure_information(parts, hidden_dim, seeds, steps=2000):
    """Measure what frames z and utterance embeddings u tell of each other, by fresh critics.

    z and u are whitened by the critics' fitting part (see `whiten`): a linear map of either changes
    next to nothing, and the units of models compare. One critic of each kind is fitted for each
    seed, calibrated on the part "stop" (`score_scale`, `CalibratedCLUB`), and read on the part
    "read", where each speaker counts alike. Beside it the same is measured, with critics of the
    first seed fitted afresh, of independent pairs (u of another speaker's utterance, in all parts)
    and of identical ones (u in the place of z): the two ends of the scale.

    Arguments
    ---------
    parts : dict
        "fit", "stop" and "read", each as `encode_pairs` returns it: `z`, a tensor (utterances,
        frames, d), `u`, a tensor (utterances, E), `speakers`, an array (utterances,). "fit" and
        "stop" as `split_utterances` divides the training speakers; "read" of speakers that no
        encoder saw. The same utterances in the same order for all models.
    hidden_dim : int
        Hidden units of the critics.
    seeds : list of int
        One critic of each kind for each, the same for all models.
    steps : int
        Most steps of a critic's fit, at least 100.

    Returns
    -------
    dict
        By measure: "InfoNCE", a lower bound, nats; "CLUB", an estimate that is no bound where the
        critic is poor, nats; "likelihood gain" of the critic over a Gaussian marginal, bits for
        each dimension of u that whitening keeps. Each a dict: `unit`; `value`, the mean over
        speakers and seeds; `interval`, its 95 % interval over both; `values`, of each seed;
        `seeds`; `group_names`, the speakers; `group_scores`, (seeds, speakers), which paired tests
        compare; `independent`, `identical`: dicts of `value`, `interval` and `values`.

    Raises
    ------
    ValueError
        Where one speaker has more than half of a part's utterances, which leaves too few others;
        names the part.

    Example
    -------
    >>> u = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    >>> part = {"z": u[:, None].repeat(1, 4, 1), "u": u, "speakers": np.arange(60) // 2}
    >>> information = measure_information(dict.fromkeys(("fit", "stop", "read"), part), 8, [1], 100)
    >>> information["InfoNCE"]["independent"]["value"] < 0.2 < information["InfoNCE"]["value"]
    True
    """
    for name, part in parts.items():
        most = np.unique(part["speakers"], return_counts=True)[1].max()
        if 2 * most > len(part["speakers"]):
            raise ValueError(
                f"In the part {name!r} one speaker has {most} of the {len(part['speakers'])} "
                "utterances: expected at most half, so that each can be paired with another "
                "speaker's."
            )
    white = whiten(parts)
    others = {name: _with_others_u(part, name) for name, part in white.items()}
    same = {name: {**part, "z": part["u"][:, None]} for name, part in white.items()}
    speakers = white["read"]["speakers"]
    read = {
        "measured": _read_pairs(white, hidden_dim, seeds, steps),
        "independent": _read_pairs(others, hidden_dim, seeds[:1], steps),
        "identical": _read_pairs(same, hidden_dim, seeds[:1], steps),
    }
    shared = {"seeds": list(seeds), "group_names": np.unique(speakers)}
    results = {}
    for measure, unit in UNITS.items():
        told = {kind: _tell(own[measure], speakers, seeds) for kind, own in read.items()}
        results[measure] = {"unit": unit, **told.pop("measured"), **told, **shared}
    return results


def whiten(parts):
    """Whiten z and u by the part "fit": uncorrelated, mean 0 and variance 1.

    Features are scaled to variance 1, and of the eigenvalues of their covariance those below 1e-10
    of the largest are dropped with their directions, as rounding and too few utterances leave
    nothing there. No other is: what a model hides in directions of little variance would go first.
    In units of what is kept, the critic's gain does not depend on the scales that a model chose.

    Arguments
    ---------
    parts : dict
        As `measure_information` takes them.

    Returns
    -------
    dict
        The same with z, (utterances, frames, dimensions kept), and u, (utterances, dimensions
        kept).
    """
    white = {name: dict(part) for name, part in parts.items()}
    for key in ("z", "u"):
        project, variances = principal_axes(parts["fit"][key].flatten(0, -2).double().numpy())
        scales = torch.from_numpy(variances**-0.5)
        for name, part in parts.items():
            rows = project(part[key].flatten(0, -2)) * scales
            white[name][key] = rows.float().view(*part[key].shape[:-1], -1)
    return white


def _with_others_u(part, name):
    """Return a part in which each utterance has the u of an utterance of another speaker."""
    rng, speakers = derive_rng("independent", name), part["speakers"]
    order = rng.permutation(len(speakers))
    while (own := np.flatnonzero(speakers[order] == speakers)).size:
        swapped = rng.integers(len(speakers))
        order[own[0]], order[swapped] = order[swapped], order[own[0]]
    return {**part, "u": part["u"][torch.from_numpy(order)]}


def _read_pairs(parts, hidden_dim, seeds, steps):
    """Return what critics read of the part "read": arrays (seeds, utterances) by measure."""
    fit, stop, read = (parts[name] for name in ("fit", "stop", "read"))
    dims = fit["z"].shape[2], fit["u"].shape[1], hidden_dim
    results = {measure: [] for measure in UNITS}
    for seed in seeds:
        torch.manual_seed(derive_seed(seed, "critics"))
        gaussian, contrast = CalibratedCLUB(*dims), InfoNCE(*dims)
        for critic, rate in ((gaussian, GAUSSIAN_RATE), (contrast, CONTRAST_RATE)):
            leakage.fit_critic(critic, fit, stop, seed, steps, rate, INFORMATION_BATCH)
        marginal = gaussian.calibrate(stop)
        scale = leakage.score_scale(contrast, stop)
        results["InfoNCE"].append(leakage.info_nce(contrast, read, scale))
        results["CLUB"].append(club(gaussian, read, marginal))
        nats = leakage.likelihood_gain(gaussian, read, marginal)
        results["likelihood gain"].append(nats / (np.log(2) * dims[1]))
    return {measure: np.stack(values) for measure, values in results.items()}


def _tell(scores, speakers, seeds):
    """Return figures of the scores of utterances, (seeds, utterances), by their speakers."""
    _, by_speaker = label_scores(scores, speakers)
    return {
        "value": float(by_speaker.mean()),
        "interval": bootstrap_groups(by_speaker, seeds[0], paired_use=1.0),
        "values": by_speaker.mean(1).tolist(),
        "group_scores": by_speaker,
    }


class CalibratedCLUB(CLUB):
    """CLUB whose q(y|x) can be widened and drawn towards the marginal: see `calibrate`.

    What a critic learned of some speakers makes it too sure of others, and its likelihood falls far
    below the marginal's however much it knows.
    """

    weight, rest = 1.0, 0.0  # of q's precision; the precision that is added

    def _conditional(self, x):
        return self._soften(*super()._conditional(x))

    def _soften(self, mean, log_variance):
        own = self.weight * (-log_variance).exp()
        precision = self.rest + own
        return mean * own / precision, -precision.log()

    @torch.no_grad()
    def calibrate(self, held):
        """Soften q as is best on speakers set apart.

        q(y|x) becomes q_k(y|x)^s N(y; 0, v)^(1 - s), normalised: q_k is q with its variance times
        k, v the variance of y on the speakers set apart. With s = 0 it is the marginal.

        Arguments
        ---------
        held : dict
            As `encode_pairs` returns it.

        Returns
        -------
        tuple of torch.Tensor
            Mean and variance of the marginal of y, as `likelihood_gain` takes it.
        """
        x, y, _ = leakage.all_pairs(held)
        y = self.standardise_y(y)
        variance = y.square().mean().item()
        outputs = super()._conditional(self.standardise_x(x))

        def fit(setting):
            self.weight, self.rest = setting
            mean, log_variance = self._soften(*outputs)
            error = (y - mean).square() * (-log_variance).exp()
            return -(error + log_variance).sum(1).mean().item()

        settings = [(s / k, (1 - s) / variance) for s, k in itertools.product(SHARES, WIDENINGS)]
        self.weight, self.rest = max(settings, key=fit)
        return self.standardise_y.running_mean, variance * self.standardise_y.running_var


def club(critic, encoded, marginal):
    """Return each utterance's CLUB estimate, nats: (utterances,).

    The mean over frames of log q(u|z), less that over the u of all utterances of other speakers.
    """
    u, speakers = encoded["u"].double(), torch.from_numpy(encoded["speakers"])
    mean, deviation = torch.empty_like(u), torch.empty_like(u)
    for speaker in speakers.unique():
        own = speakers == speaker
        mean[own], deviation[own] = u[~own].mean(0), u[~own].std(0, correction=0)
    # log q is quadratic in each dimension of u: its mean over others is that over two points which
    # have their mean and variance.
    values = [
        leakage.likelihood_gain(critic, {**encoded, "u": v.float()}, marginal)
        - ((v - marginal[0]).square() / marginal[1]).sum(1).numpy() / 2
        for v in (u, mean + deviation, mean - deviation)
    ]
    return values[0] - (values[1] + values[2]) / 2
