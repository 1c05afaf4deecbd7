"""The folder of an exported model: weights as safetensors, a configuration of plain values.

`model.safetensors` holds the tensors of the encoders, each name behind `frame_encoder.` or
`utterance_encoder.`; `config.json` holds the arguments that their constructors take. Nothing in
the folder is code.
"""

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder

FORMAT = "learn2diss-1"
CLASSES = {"frame_encoder": FrameEncoder, "utterance_encoder": UtteranceEncoder}


def save_model(folder, encoders):
    """Export encoders, heads included.

    Arguments
    ---------
    folder : str or Path
        Made where it is missing. Each file is complete or as it was.
    encoders : dict
        `frame_encoder`, `utterance_encoder` or both.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> encoder = UtteranceEncoder("tdnn", channels=8, embedding_dim=4, projection_dim=4)
    >>> save_model(folder, {"utterance_encoder": encoder})
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors']
    >>> list(load_model(folder))
    ['utterance_encoder']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, encoder in encoders.items()
        for key, value in encoder.state_dict().items()
    }
    config = {"format": FORMAT, **{name: encoder.config for name, encoder in encoders.items()}}
    weights = folder / "model.safetensors"
    save_file(tensors, f"{weights}.partial")
    os.replace(f"{weights}.partial", weights)
    text = json.dumps(config, indent=2) + "\n"
    partial = folder / "config.json.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / "config.json")


def load_model(folder):
    """Load the encoders of an exported folder, in evaluation mode. Nothing in it is run.

    Arguments
    ---------
    folder : str or Path
        As `save_model` leaves it.

    Returns
    -------
    dict
        `frame_encoder`, `utterance_encoder` or both.

    Raises
    ------
    ValueError
        Where a file is missing, damaged or not of this format, or a tensor is missing, left over or
        of another shape.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    weights = folder / "model.safetensors"
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights} cannot be read: {error}.") from error
    encoders = {}
    for name in CLASSES:
        if name in config:
            encoders[name] = _build(name, config[name], folder).eval()
            _fill(encoders[name], name, tensors, weights)
    known = tuple(f"{name}." for name in encoders)
    left_over = [key for key in tensors if not key.startswith(known)]
    if left_over:
        raise ValueError(f"{weights} holds {left_over[0]}, which config.json has no encoder for.")
    return encoders


def _read_config(path):
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} is not the configuration of an exported model ({FORMAT}).")
    unknown = set(config) - {"format", *CLASSES}
    if unknown or len(config) == 1:
        raise ValueError(f"{path}: expected {' or '.join(CLASSES)}, found {sorted(unknown)}.")
    return config


def _build(name, arguments, folder):
    try:
        return CLASSES[name](**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {name} cannot be built: {error}") from error


def _fill(encoder, name, tensors, path):
    own = encoder.state_dict()
    given = {
        key.removeprefix(f"{name}."): value
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }
    for key in sorted(own.keys() | given.keys()):
        if key not in given:
            raise ValueError(f"{path}: {name}.{key} is missing.")
        if key not in own:
            raise ValueError(f"{path}: {name}.{key} is left over: no part of the encoder has it.")
        if own[key].shape != given[key].shape:
            raise ValueError(
                f"{path}: {name}.{key} has shape {tuple(given[key].shape)}, expected "
                f"{tuple(own[key].shape)}."
            )
    encoder.load_state_dict(given)
