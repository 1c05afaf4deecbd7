"""A report that is made up, with all parts of report.json."""

import numpy as np
from scipy.stats import norm

OPTIONAL = ("layer", "probe", "interval", "chance", "control", "selectivity", "better")
OPTIONAL += ("independent", "identical")  # fields that are None in some figures
MODELS = {"joint": 0.1, "strong": 0.3, "separate": 0.0}
CONTROLS = {"FBANK": "fbank", "random weights": "random"}


def figure_of(model, representation, group, factor, measure, unit, value, **more):
    """Return a figure with an interval about its value."""
    return {
        **dict.fromkeys(OPTIONAL),
        "model": model,
        "representation": representation,
        "group": group,
        "factor": factor,
        "measure": measure,
        "unit": unit,
        "value": value,
        "interval": [value - 0.03, value + 0.035],
        "seeds": [1, 2, 3],
        "values": [value - 0.01, value, value + 0.01],
        "speakers": 24,
        **more,
    }


def figures_of(model, rng):
    """Yield a model's figures of every group; those of frames are of three layers."""
    for name, layer in [(f"frame, layer {n}", n) for n in range(3)] + [("utterance", None)]:
        for factor, measure, unit, chance, better in (
            ("phone", "balanced accuracy", "%", 1 / 40, "low" if layer is None else "high"),
            ("age", "R2", "", 0.0, None),
        ):
            for probe in ("linear", "mlp"):
                value = chance + 0.5 * rng.random()
                more = {"layer": layer, "probe": probe, "chance": chance, "better": better}
                more |= {"control": chance + 0.01, "selectivity": value - chance - 0.01}
                yield figure_of(model, name, "leakage", factor, measure, unit, value, **more)
    chance = {"chance": 0.5, "better": "low"}
    yield figure_of(model, "utterance", "retrieval", "speaker", "EER", "%", 0.09, **chance)
    yield figure_of(model, "frame", "retrieval", "phone", "ABX error across", "%", 0.1, **chance)
    if model == "FBANK":
        return
    for measure, unit, value, ends in (
        ("InfoNCE", "nats", 0.4, (0.002, 3.9)),
        ("CLUB", "nats", 6.3, (0.05, 160.0)),
        ("likelihood gain", "bits per dimension", 0.07, (-0.002, 1.31)),
    ):
        ends = dict(zip(("independent", "identical"), ends, strict=True))
        yield figure_of(model, "z and u", "information", "z and u", measure, unit, value, **ends)


def maps_of(model, rng, count):
    """Yield a map of frames and one of utterances."""
    for representation in ("frame", "utterance"):
        yield {
            "model": model,
            "representation": representation,
            "method": "t-SNE",
            "points": rng.normal(size=(count, 2)).tolist(),
            "phone": [f"P{n:02d}" for n in rng.integers(40, size=count)],
            "speaker": [f"s{n:02d}" for n in rng.integers(24, size=count)],
        }


def det_of(model, representation, eer, trials=200):
    """Return the curve of normal scores that are apart as the equal error rate says."""
    thresholds = np.linspace(-4, 6, trials)
    accepted = norm.sf(thresholds).tolist()
    missed = norm.cdf(thresholds + 2 * norm.ppf(eer)).tolist()
    rates = {"false_acceptance": accepted, "false_rejection": missed, "eer": eer}
    return {"model": model, "representation": representation, **rates}


def comparison(second, difference, probe):
    """Return a difference between the first model and another."""
    return {
        "first": "joint",
        "second": second,
        "representation": "utterance",
        "factor": "phone",
        "measure": "balanced accuracy",
        "probe": probe,
        "difference": difference,
        "interval": [difference - 0.04, difference + 0.04],
        "relative": difference / 0.3,
        "speakers": 24,
        "seeds": [1, 2, 3],
    }


def point(model, beta, content, speaker):
    """Return a model's place in the trade-off."""
    parts = {"content": content, "speaker": speaker}
    parts = {
        name: {"measure": "balanced accuracy", "value": x, "interval": [x - 0.02, x + 0.02]}
        for name, x in parts.items()
    }
    return {"model": model, "beta": beta, **parts}


def make_report(points=60):
    """Return a report of three models and two controls, with all parts of report.json."""
    rng = np.random.default_rng(0)
    names = [*MODELS, *CONTROLS]
    unknown = {"folder": None, "beta": None, "train_seed": None, "frame_norm": None}
    models = [
        {
            "name": name,
            "kind": "model",
            "folder": f"runs/{name}",
            "beta": beta,
            "train_seed": 1,
            "frame_norm": None,
        }
        for name, beta in MODELS.items()
    ]
    notes = ("balanced accuracy", "R2", "EER", "InfoNCE", "CLUB", "likelihood gain")
    return {
        "title": "Disentanglement of joint, strong and separate",
        "corpus": "LibriSpeech: dev-clean, test-clean",
        "seeds": [1, 2, 3],
        "date": "2026-01-05T12:00:00",
        "commit": "0123abc",
        "versions": {"torch": "2.8.0", "speechbrain": "1.0.3"},
        "seconds": 1234.5,
        "data": {"rows": 480, "digest": "5f0c"},
        "read_on": {
            "splits": ["dev-clean", "test-clean"],
            "speakers": 24,
            "utterances": 480,
            "seconds": 4012.0,
            "sessions_told_apart": False,
        },
        "models": models + [{"name": n, "kind": k, **unknown} for n, k in CONTROLS.items()],
        "figures": [figure for name in names for figure in figures_of(name, rng)],
        "maps": [entry for name in MODELS for entry in maps_of(name, rng, points)],
        "det": [
            det_of(name, representation, 0.1 + 0.05 * place)
            for place, name in enumerate(names)
            for representation in ("frame, pooled", "utterance")
        ],
        "comparisons": [
            comparison(second, difference, probe)
            for second in ("strong", "separate")
            for difference, probe in ((0.06, "linear"), (-0.01, "mlp"))
        ],
        "tradeoff": [
            point(name, MODELS.get(name), 0.6 - 0.05 * n, 0.4 - 0.1 * n)
            for n, name in enumerate(names)
        ],
        "verdict": {
            "supports": False,
            "sentences": ["Joint training does not do it: a probe names 18 of 100.", "It keeps."],
            "reasons": ["Speaker from frames: \u22125.1 to 0.2 points.", "Phone from frames."],
        },
        "notes": {
            name: {"how": f"How {name} was computed.", "fails_if": f"{name} above chance."}
            for name in notes
        },
        "missing": [{"what": "session", "why": "the corpus has one session of each speaker"}],
    }
