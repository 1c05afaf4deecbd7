"""Made-up scores of speakers, and figures of two models as report.json has them."""

import numpy as np

from recipes.common.evaluation.comparison import ATTACKED

KEY = {"representation": "frame, pooled", "factor": "speaker", "measure": "x", "probe": None}


def scored(scores, **fields):
    scores = np.atleast_2d(scores)
    names = [f"speaker {n}" for n in range(scores.shape[1])]
    seeds = list(range(len(scores)))
    return {**KEY, "group_names": names, "group_scores": scores, "seeds": seeds, **fields}


LAYERS = ("frame, layer 0", "frame, layer 3")
# Figures of a control and by how much the joint model's are higher, all as its claim has it.
GOOD = {
    (ATTACKED, "speaker", "balanced accuracy", "linear"): (0.45, -0.14),
    (ATTACKED, "speaker", "balanced accuracy", "mlp"): (0.48, -0.15),
    ("utterance", "phone", "R2", "linear"): (0.30, -0.10),
    ("z and u", "z and u", "InfoNCE", None): (1.60, -0.66),
    ("z and u", "z and u", "likelihood gain", None): (0.20, -0.10),
    ("z and u", "z and u", "CLUB", None): (5.0, 9.0),
    ("frame, layer 0", "phone", "balanced accuracy", "linear"): (0.40, -0.30),
    ("frame, layer 3", "phone", "balanced accuracy", "linear"): (0.60, -0.005),
    ("frame, layer 3", "phone", "ABX error across, cosine", None): (0.10, 0.003),
    ("utterance", "speaker", "EER", None): (0.08, 0.001),
}
MODELS = [
    {
        "name": "joint",
        "kind": "model",
        "folder": None,
        "beta": 0.007,
        "train_seed": 1,
        "frame_norm": "mean_std",
    },
    {
        "name": "beta0",
        "kind": "model",
        "folder": None,
        "beta": 0.0,
        "train_seed": 1,
        "frame_norm": "none",
    },
    {
        "name": "FBANK",
        "kind": "fbank",
        "folder": None,
        "beta": None,
        "train_seed": None,
        "frame_norm": None,
    },
]


def figures_of(table, joint="joint", control="beta0", flip=False, half=0.01):
    """Return figures and comparisons with intervals of `half` on each side of a difference."""
    figures, comparisons = [], []
    for key, (value, difference) in table.items():
        head = dict(zip(("representation", "factor", "measure", "probe"), key, strict=True))
        for name, own in ((joint, value + difference), (control, value)):
            figure = {"model": name, **head, "value": own, "interval": [own - half, own + half]}
            chance = 0.5 if key[2] == "EER" else None
            figures.append({**figure, "chance": chance, "independent": 0.0})
        names = (control, joint) if flip else (joint, control)
        shown = -difference if flip else difference
        ends = [shown - half, shown + half]
        entry = {"first": names[0], "second": names[1], **head, "difference": shown}
        comparisons.append(
            {**entry, "interval": ends, "relative": None, "speakers": 30, "seeds": [1]}
        )
    return figures, comparisons
