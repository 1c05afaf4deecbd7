"""The folder of an exported model: weights as safetensors, a configuration of plain values.

`model.safetensors` holds the tensors of encoders and heads, each name behind that of its module,
such as `frame_encoder.`; `config.json` holds the arguments that their constructors take, the facts
of what has a head (`pretrained.facts`), and the SHA-256 of weights, arguments and
facts. Nothing in the folder is code, and no other file in it is read.
"""

import hashlib
import inspect
import json
import math
from pathlib import Path
from reprlib import repr as short

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.overrides import TorchFunctionMode

from lobes.frame_encoder import FrameEncoder
from lobes.heads import ClassificationHead, CTCHead, SpeakerHead
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.facts import RECIPES, check_facts, check_modules, kind_of
from pretrained.file_states import ENCODERS
from pretrained.plain_files import digest_file, read_json, write_whole
from pretrained.sharing.snapshots import CONFIG_FILE, FILES, WEIGHTS_FILE, find_files

FORMAT = "learn2diss-1"
CLASSES = {
    "frame_encoder": FrameEncoder,
    "utterance_encoder": UtteranceEncoder,
    "ctc_head": CTCHead,
    "speaker_head": SpeakerHead,
    "classification_head": ClassificationHead,
}
MAX_CONFIG_BYTES = FILES[CONFIG_FILE]
MAX_SIZE = 2**31  # of anything that config.json gives a size of
NESTED = {"least_squares": "utterance_encoder"}  # arguments of a module within: null or its own
COUNTS = ("num_layers", "lstm_layers", "res2net_scale")  # arguments that constructors count up to
MAY_BE_ZERO = ("erased_directions", "last_layers", "lstm_layers", "projection_dim")
DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def save_model(folder, modules, facts=None):
    """Export encoders, their own heads included, or what a head makes of them, such as a verifier.

    Arguments
    ---------
    folder : str or Path
        Made where it is missing. Each file is complete or as it was.
    modules : dict
        `frame_encoder`, `utterance_encoder` or both; with facts, also `ctc_head`, `speaker_head` or
        `classification_head`.
    facts : dict, optional
        Plain values, see `pretrained.facts`; None for encoders alone.

    Raises
    ------
    ValueError
        Where a module is unknown, or facts are of no kind that `pretrained.facts` knows or do not
        fit the modules. Nothing is written then.

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
    config = _make_config(modules, facts, folder / CONFIG_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(modules)
    config["sha256"]["weights"] = hashlib.sha256(weights).hexdigest()
    write_whole(folder / WEIGHTS_FILE, weights)
    write_whole(folder / CONFIG_FILE, _config_text(config).encode())


def _weights(modules):
    """Return the content of model.safetensors."""
    tensors = nn.ModuleDict(modules).state_dict()
    return save({key: value.cpu().contiguous() for key, value in tensors.items()})


def digests_of(modules, facts):
    """Return the SHA-256 of weights and of facts, as config.json has them of the same model.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "model"
    >>> modules, facts = {}, {"features": "fbank_statistics", "scoring": "plain"}
    >>> facts |= {"threshold": 0.5, "threshold_set_on": "nothing: an example"}
    >>> save_model(folder, modules, facts)
    >>> digests = json.loads((folder / CONFIG_FILE).read_text())["sha256"]
    >>> digests_of(modules, facts).items() <= digests.items()
    True
    """
    weights = hashlib.sha256(_weights(modules)).hexdigest()
    return {"weights": weights, "facts": _digest(facts)}


def _make_config(modules, facts, path):
    """Return the content of config.json, its weights' SHA-256 to come; a ValueError if bad."""
    _check_names([*modules, "facts"] if facts else modules, path)
    arguments = {name: module.config for name, module in modules.items()}
    digests = {"weights": "0" * 64, "encoders": _digest(arguments)}
    config = {"format": FORMAT, "sha256": digests, **arguments}
    if facts is not None:
        check_facts(facts, path)
        digests["facts"] = _digest(facts)
        config["facts"] = facts
    check_modules(modules, facts, path)
    size = len(_config_text(config))
    if size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path}: {size} characters of facts: at most {MAX_CONFIG_BYTES} load.")
    return config


def _check_names(names, path):
    unknown = set(names) - {"facts", *CLASSES}
    if unknown or not names:
        raise ValueError(f"{path}: expected {' or '.join(CLASSES)}, found {sorted(unknown)}.")


def _config_text(config):
    return json.dumps(config, indent=2) + "\n"


def load_model(model, revision=None):
    """Load the encoders of an exported model, in evaluation mode. Nothing in it is run.

    Arguments
    ---------
    model : str or Path
        A folder as `save_model` leaves it, heads or none, or the name of such a model on the Hub.
    revision : str, optional
        Of a model on the Hub; both are as `find_files` of `pretrained.sharing.snapshots` takes
        them.

    Returns
    -------
    dict
        `frame_encoder`, `utterance_encoder` or both.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_folder` tells; a ValueError also where the folder holds no encoder.
    """
    modules, facts = load_folder(model, revision)
    encoders = {name: module for name, module in modules.items() if name in ENCODERS}
    if not encoders:
        raise ValueError(
            f"{model} holds no encoder, only a {kind_of(facts)} on {facts['features']}."
        )
    return encoders


def load_folder(model, revision=None):
    """Load the modules and the facts of an exported model. Nothing in it is run.

    What config.json asks for is compared with the tensors that there are before it is built.

    Arguments
    ---------
    model : str or Path
        A folder as `save_model` leaves it, or the name of such a model on the Hub.
    revision : str, optional
        Of a model on the Hub; both are as `find_files` of `pretrained.sharing.snapshots` takes
        them.

    Returns
    -------
    modules : dict
        Encoders and heads by name, in evaluation mode.
    facts : dict or None
        None for a folder of encoders alone.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder or model.
    ValueError
        Where a file is missing, damaged, altered, outside the folder or not of this format; a
        tensor is missing, left over or of another shape; or modules and facts do not fit each
        other.
    """
    config_path, weights = find_files(model, revision)
    config = _read_config(config_path)
    shapes = _read_header(weights)
    arguments = {name: config[name] for name in CLASSES if name in config}
    for name, values in arguments.items():
        _check_arguments(name, values, len(shapes), config_path)
    _check_shapes(arguments, shapes, weights, config_path)
    facts = config.get("facts")
    if "facts" in config:
        check_facts(facts, config_path)
    _check_digests(config, arguments, weights, config_path)
    modules = {name: CLASSES[name](**values) for name, values in arguments.items()}
    nn.ModuleDict(modules).eval().load_state_dict(load_file(weights))
    check_modules(modules, facts, config_path)
    return modules, facts


class FromFolder:
    """What is made of the modules and the facts of a folder of one kind."""

    kind = None  # TRANSCRIBER, VERIFIER or CLASSIFIER

    @classmethod
    def from_pretrained(cls, model, device="cpu", revision=None):
        """Load an exported model; see `load_folder`, and for what it raises.

        Arguments
        ---------
        model : str or Path
            A folder as a recipe of such a task leaves it, or the name of such a model on the Hub,
            "organisation/name".
        device : str or torch.device
            Where to compute.
        revision : str, optional
            A branch, a tag or a commit of a model on the Hub.

        Raises
        ------
        ValueError
            Also where the model is of another kind.
        """
        modules, facts = load_folder(model, revision)
        found = kind_of(facts)
        if found != cls.kind:
            held = f"encoders only ({', '.join(modules)})" if found is None else f"a {found}"
            raise ValueError(
                f"{model} holds {held}, no {cls.kind}: {RECIPES[cls.kind]} exports one."
            )
        return cls(modules, facts, device)


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read_config(path):
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes: not a configuration.")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} is not the configuration of an exported model ({FORMAT}).")
    _check_names(config.keys() - {"format", "sha256"}, path)
    if not isinstance(config.get("sha256"), dict):
        raise ValueError(f"{path}: sha256 must give the SHA-256 of what is saved.")
    return config


def _read_header(path):
    """Return the shape and the type of each tensor, without its values."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            return {key: (tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}.") from error


def _check_arguments(name, arguments, num_tensors, path):
    """Raise a ValueError unless the arguments are plain values of the constructor's kinds."""
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: {name} must be an object of arguments, not {short(arguments)}.")
    parameters = inspect.signature(CLASSES[name]).parameters
    for key, value in arguments.items():
        if key not in parameters:
            raise ValueError(f"{path}: {name} has no argument {key!r}.")
        if key in NESTED:
            if value is not None:
                _check_arguments(NESTED[key], value, num_tensors, path)
            continue
        kind = type(parameters[key].default)
        if kind is tuple:
            _check_sizes(f"{name}.{key}", value, path)
            continue
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ValueError(f"{path}: {name}.{key} must be {kind.__name__}, not {short(value)}.")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{path}: {name}.{key} must be finite, not {value!r}.")
        limit = num_tensors if key in COUNTS else MAX_SIZE
        least = 0 if key in MAY_BE_ZERO else 1
        if kind is int and not least <= value <= limit:
            raise ValueError(
                f"{path}: {name}.{key} must be between {least} and {limit} with the {num_tensors} "
                f"tensors of {WEIGHTS_FILE}, not {value}."
            )


def _check_sizes(name, value, path):
    """Raise a ValueError unless a value is a list of sizes."""
    if type(value) is not list or not all(type(n) is int and 1 <= n <= MAX_SIZE for n in value):
        raise ValueError(
            f"{path}: {name} must be a list of numbers from 1 to {MAX_SIZE}, not {short(value)}."
        )


class _WithoutMemory(TorchFunctionMode):
    """Make new tensors of more than one element without memory, and so without values.

    Functions of values are replaced by ones of shapes: for such tensors torch would load its
    compiler, which takes seconds.
    """

    FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.FACTORIES and args not in ((1,), ((),)):
            return func(*args, **{**kwargs, "device": "meta"})
        if func.__name__.endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        if func is torch.norm_except_dim:
            tensor, _, kept = args
            return tensor.amax([d for d in range(tensor.ndim) if d != kept], keepdim=True)
        return func(*args, **kwargs)


def _check_shapes(arguments, shapes, weights, config_path):
    """Raise a ValueError unless the tensors are those of the modules, built without memory."""
    expected = {}
    for name, values in arguments.items():
        try:
            with _WithoutMemory():
                own = CLASSES[name](**values).state_dict()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{config_path}: {name} cannot be built: {error}") from error
        expected |= {f"{name}.{k}": (tuple(v.shape), DTYPES[v.dtype]) for k, v in own.items()}
    for key in sorted(expected.keys() | shapes.keys()):
        if key not in shapes:
            raise ValueError(f"{weights}: {key} is missing.")
        if key not in expected:
            raise ValueError(
                f"{weights}: {key} is left over, which {CONFIG_FILE} has no module for."
            )
        if shapes[key] != expected[key]:
            (shape, dtype), (own_shape, own_dtype) = shapes[key], expected[key]
            raise ValueError(
                f"{weights}: {key} has shape {shape} of {dtype}, and by {CONFIG_FILE} it has "
                f"shape {own_shape} of {own_dtype}."
            )


def _check_digests(config, arguments, weights, config_path):
    """Raise a ValueError where a file is not what was saved."""
    digests = config["sha256"]
    if digests.get("encoders") != _digest(arguments):
        raise ValueError(f"{config_path} was altered: the modules' SHA-256 is not the one in it.")
    facts = config.get("facts")
    if digests.get("facts") != (None if facts is None else _digest(facts)):
        raise ValueError(f"{config_path} was altered: the facts' SHA-256 is not the one in it.")
    if digests.get("weights") != digest_file(weights):
        raise ValueError(f"{weights} was altered: its SHA-256 is not the one in {CONFIG_FILE}.")
