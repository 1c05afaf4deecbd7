"""What the settings of a run may be: whole numbers, ranges, words, and which is the larger."""

import math

from lobes.frame_encoder import FRAME_NORMS

NO_END = math.inf
WHOLE = {  # lowest and highest
    "seed": (0, 2**32 - 1),
    "number_of_epochs": (1, NO_END),
    "num_workers": (0, NO_END),
    "log_steps": (1, NO_END),
    "num_targets": (2, 2**15),
    "num_units": (2, 2**15),
    "num_codebooks": (1, NO_END),
    "kmeans_passes": (1, NO_END),
    "teacher_layer": (0, NO_END),
    "mask_length": (1, NO_END),
    "codebook_size": (2, NO_END),
    "sinkhorn_iterations": (1, NO_END),
    "trained_layers": (1, NO_END),
    "critic_steps": (1, NO_END),
    "pairs_per_utterance": (1, NO_END),
    "frames_per_pair": (1, NO_END),
    "critic_projections": (0, NO_END),
    "frozen_steps": (0, NO_END),
    "last_layers": (0, NO_END),
    "vocab_size": (1, NO_END),
    "beam_size": (0, NO_END),
    "cohort_top": (1, NO_END),
    "read_utterances": (2, NO_END),
    "train_utterances": (2, NO_END),
    "frames_per_utterance": (1, NO_END),
    "trials": (1, NO_END),
    "max_items": (1, NO_END),
    "max_speakers": (1, NO_END),
    "hidden_dim": (1, NO_END),
    "crop_draws": (1, NO_END),
    "short_crops": (0, NO_END),
    "projection_dim": (0, NO_END),
    "line_directions": (0, NO_END),
}
RANGES = {
    "warmup": (0, 1),
    "lr": (0, NO_END),
    "upstream_lr": (0, NO_END),
    "max_grad_norm": (1e-12, NO_END),
    "max_batch_seconds": (0.1, NO_END),
    "min_seconds": (0, NO_END),
    "max_seconds": (0.1, NO_END),
    "kmeans_seconds": (1, NO_END),
    "mask_prob": (0, 1),
    "temperature": (1e-6, NO_END),
    "sinkhorn_epsilon": (0.015, NO_END),
    "min_crop_seconds": (0.1, NO_END),
    "short_crop_seconds": (0.1, NO_END),
    "reference_seconds": (0, NO_END),
    "visible_weight": (0, NO_END),
    "plain_weight": (0, NO_END),
    "alpha": (0, NO_END),
    "beta": (0, NO_END),
    "beta_starts": (0, 1),
    "beta_reached": (0, 1),
    "critic_momentum": (0, 1),
    "critic_ridge": (0, NO_END),
    "critic_lr": (0, NO_END),
    "codebook_decay": (0, 1),
    "teacher_decay": (0, 1),
    "teacher_timescale": (1e-6, NO_END),
}
MAY_BE_NULL = {"num_workers", "frames_per_pair", "read_utterances", "train_utterances"}
WORDS = {
    "quantizer": ("kmeans", "random_projection"),
    "tokenizer": ("characters", "pieces"),
    "frontend": ("waveform", "fbank"),
    "predict_from": ("same_layer", "last"),
    "frame_norm": FRAME_NORMS,
}
LISTS = (
    "train_splits",
    "valid_splits",
    "test_splits",
    "read_splits",
    "models",
    "seeds",
    "critic_seeds",
)
CHOSEN = {"probes": ("linear", "mlp")}  # of which a list is to have some
RISING = (
    ("min_seconds", "max_seconds"),
    ("min_crop_seconds", "max_crop_seconds"),
    ("beta_starts", "beta_reached"),
)


def check_limits(hparams):
    """Raise ValueError where a setting is none that makes sense.

    Arguments
    ---------
    hparams : dict
        Of any recipe.

    Example
    -------
    >>> check_limits({"mask_prob": 80})
    Traceback (most recent call last):
        ...
    ValueError: mask_prob is 80: expected a number, 0 to 1.
    """
    for name in WHOLE.keys() & hparams.keys():
        _check_number(name, hparams[name], int, "a whole number", *WHOLE[name])
    for name in RANGES.keys() & hparams.keys():
        _check_number(name, hparams[name], (int, float), "a number", *RANGES[name])
    for name in WORDS.keys() & hparams.keys():
        if hparams[name] not in WORDS[name]:
            raise ValueError(f"{name} is {hparams[name]!r}, not {' or '.join(WORDS[name])}.")
    for name in LISTS:
        value = hparams.get(name, [name])
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name} is {value!r}: expected a list, such as [a, b].")
    for name in CHOSEN.keys() & hparams.keys():
        value, words = hparams[name], CHOSEN[name]
        if not isinstance(value, list) or not value or any(word not in words for word in value):
            raise ValueError(f"{name} is {value!r}: expected a list of {' or '.join(words)}.")
    for low, high in RISING:
        if hparams.get(high, NO_END) < hparams.get(low, 0):
            raise ValueError(f"{high} is {hparams[high]}, less than {low}, {hparams[low]}.")


def check_used(hparams, given, used_by):
    """Raise ValueError where an option is given that the value of another leaves without use.

    Arguments
    ---------
    hparams : dict
    given : collection of str
        The names of what was given.
    used_by : dict
        By option, the name of a setting and its value with which the option is of no use.

    Example
    -------
    >>> hparams = {"upstream": "frozen", "upstream_lr": 0.1}
    >>> check_used(hparams, ["upstream_lr"], {"upstream_lr": ("upstream", "frozen")})
    Traceback (most recent call last):
        ...
    ValueError: upstream_lr is 0.1, which is not used where upstream is frozen.
    """
    for name, (setting, unused) in used_by.items():
        value = hparams[name]
        if name in given and value is not None and hparams[setting] == unused:
            raise ValueError(f"{name} is {value}, which is not used where {setting} is {unused}.")


def _check_number(name, value, kind, expected, low, high):
    fits = isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high
    if not fits and not (value is None and name in MAY_BE_NULL):
        limits = f"{low} to {high}" if high < NO_END else f"{low} or more"
        raise ValueError(f"{name} is {value}: expected {expected}, {limits}.")
