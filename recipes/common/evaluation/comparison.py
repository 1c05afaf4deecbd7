"""Models against each other: paired differences, and content kept against speaker left."""

import itertools

import numpy as np

from recipes.common.evaluation import bootstrap
from recipes.common.evaluation.metrics import eer

KEY = ("representation", "factor", "measure", "probe")
CONTENT = ("balanced accuracy", "ABX error across, cosine", "phone error rate")
SPEAKER = ("balanced accuracy",)
# What of frames is asked for the speaker: an attacker that means and deviations alike do not stop
ATTACKED = "frame, pooled random features"


def compare(measures, seed):
    """Compare models measure by measure on the same speakers.

    Arguments
    ---------
    measures : dict
        By model, a list of dicts with `representation`, `factor`, `measure` and `probe` (or None),
        which say what is compared with what, and either

        - `group_names`, (speakers,), `group_scores`, (seeds, speakers), whose mean is the measure,
          and `seeds`: of `probes.leakage` where the groups are speakers, of
          `bootstrap.label_scores` where the factor is the speaker, of
          `information.measure_information`; or
        - for an EER `scores` and `labels`, (trials,), `speakers`, (trials, 2), and `seeds`.

        Others, which have no scores of speakers, are passed over. Speakers, seeds and trials are
        the same for all models.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    list of dict
        An entry for each pair, in the order of `measures`, and measure that both have: `first`,
        `second`, `representation`, `factor`, `measure`, `probe`; `difference`, the first's less the
        second's; `interval`, its 95 % interval, None where too few trials define it; `relative`,
        the difference by the second's value, None where that is not positive; `speakers`, their
        number; `seeds`.

    Raises
    ------
    ValueError
        Where there are fewer than two speakers.

    Example
    -------
    >>> key = {"representation": "frame, pooled", "factor": "speaker", "probe": "linear"}
    >>> key |= {"measure": "balanced accuracy", "group_names": ["a", "b", "c"]}
    >>> low = {**key, "group_scores": [[0.2, 0.3, 0.4]], "seeds": [1]}
    >>> high = {**key, "group_scores": [[0.7, 0.8, 0.9]], "seeds": [1]}
    >>> [entry] = compare({"joint": [low], "control": [high]}, seed=1)
    >>> round(entry["difference"], 6), entry["speakers"]
    (-0.5, 3)
    """
    entries = []
    for first, second in itertools.combinations(measures, 2):
        others = {figure_key(other): other for other in measures[second]}
        for own in measures[first]:
            other = others.get(figure_key(own), {})
            shared = own.keys() & other.keys()
            if "group_scores" in shared:
                names, test = "group_names", _compare_groups
            elif "labels" in shared:
                names, test = "speakers", _compare_trials
            else:
                continue
            speakers = len(np.unique(own[names]))
            if speakers < 2:
                raise ValueError(
                    f"{first} and {second}, {figure_name(own)}: There is one speaker: an interval "
                    "needs at least 2."
                )
            value, reference, interval = test(own, other, seed)
            entries.append(
                {
                    "first": first,
                    "second": second,
                    **{name: own[name] for name in KEY},
                    "difference": value - reference,
                    "interval": interval,
                    "relative": (value - reference) / reference if reference > 0 else None,
                    "speakers": speakers,
                    "seeds": own["seeds"],
                }
            )
    return entries


def _compare_groups(own, other, seed):
    """Return the means of two models' scores of speakers, and their difference's interval."""
    first, second = (np.asarray(entry["group_scores"], float) for entry in (own, other))
    paired_use = 1.0 if own["probe"] is None else bootstrap.DIFFERENCE_PAIRED_USE
    interval = bootstrap.bootstrap_groups(first - second, seed, paired_use)
    return float(first.mean()), float(second.mean()), list(interval)


def _compare_trials(own, other, seed):
    """Return two models' EER on the same trials, and their difference's interval."""
    labels = own["labels"]

    def difference(weights):
        return eer(own["scores"], labels, weights) - eer(other["scores"], labels, weights)

    interval = bootstrap.bootstrap_trials(difference, labels, own["speakers"], seed)
    return eer(own["scores"], labels), eer(other["scores"], labels), interval


def figure_key(entry):
    """Return what a figure is of and how it was measured, the same for all models."""
    return tuple(entry[name] for name in KEY)


def figure_name(entry):
    """Return the name of a figure, such as "utterance, speaker, EER"."""
    factor = entry["factor"] if entry["factor"] != entry["representation"] else None
    probe = entry["probe"] and f"{entry['probe']} probe"
    parts = (entry["representation"], factor, entry["measure"], probe)
    return ", ".join(part for part in parts if part)


def tradeoff(models, figures):
    """Return the content kept and the speaker left in each model's frames.

    Content is what most models have of these, the first of equally many: phone by a linear probe,
    ABX error across speakers by the cosine, phone error rate, each of the last layer. Speaker
    is told by a linear probe of `ATTACKED`.

    Arguments
    ---------
    models, figures : list of dict
        As report.json has them.

    Returns
    -------
    list of dict
        In the order of beta, models without one last: `model`, `beta`, and `content` and `speaker`,
        each with `measure`, `value` and `interval`. Models without the two measures are left out.

    Example
    -------
    >>> models = [{"name": "joint", "beta": 0.007}, {"name": "control", "beta": 0.0}]
    >>> figure = {"measure": "balanced accuracy", "value": 0.3, "interval": [0.2, 0.4]}
    >>> speaker = {**figure, "representation": ATTACKED, "factor": "speaker", "probe": "linear"}
    >>> content = {**speaker, "representation": "frame, layer 2", "factor": "phone"}
    >>> figures = [{**f, "model": m["name"]} for f in (speaker, content) for m in models]
    >>> [entry["model"] for entry in tradeoff(models, figures)]
    ['control', 'joint']
    """
    content = {measure: {} for measure in CONTENT}
    speaker = {measure: {} for measure in SPEAKER}
    for model in models:
        own = [f for f in figures if f["model"] == model["name"] and f["probe"] in (None, "linear")]
        places = {(last_layer(own), "phone"): content, (ATTACKED, "speaker"): speaker}
        for figure in own:
            found = places.get((figure["representation"], figure["factor"]), {})
            if figure["measure"] in found:
                told = {name: figure[name] for name in ("measure", "value", "interval")}
                found[figure["measure"]][model["name"]] = told
    content, speaker = (max(found.values(), key=len) for found in (content, speaker))
    entries = [
        {"model": name, "beta": m["beta"], "content": content[name], "speaker": speaker[name]}
        for m in models
        if (name := m["name"]) in content and name in speaker
    ]
    return sorted(entries, key=lambda e: float("inf") if e["beta"] is None else e["beta"])


def last_layer(entries):
    """Return the representation of the last layer of which there are entries on phones."""
    names = {e["representation"] for e in entries if e["factor"] == "phone"}
    layers = [name for name in names if name.startswith("frame, layer ")]
    return max(layers, key=lambda name: int(name.split()[-1]), default="frame, weighted sum")
