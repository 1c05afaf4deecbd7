"""Start from public weights, HuBERT Base's, WavLM Base's or SpeechBrain's ECAPA-TDNN's.

Nothing is downloaded and no code in the files runs: weights are read with safetensors, or by
torch.load with weights_only.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lobes.front_ends import CONV_KERNELS, CONV_STRIDES
from lobes.transformer import ATTENTIONS, MAX_DISTANCE, NUM_BUCKETS
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.plain_files import read_json
from pretrained.toolkits.names import import_ecapa_state_dict, import_state_dict

# Files of a folder in the layout of Hugging Face transformers, and of a SpeechBrain speaker model.
HF_WEIGHTS = "model.safetensors"
HF_INDEX = "model.safetensors.index.json"
HF_CONFIG = "config.json"
SPEECHBRAIN_WEIGHTS = "embedding_model.ckpt"
# What every encoder of ours has. A key that config.json leaves out has this value there too.
FIXED = {
    "conv_bias": False,
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "layer_norm_eps": 1e-5,
    "add_adapter": False,
    "conv_kernel": list(CONV_KERNELS),
    "conv_stride": list(CONV_STRIDES),
    "num_buckets": NUM_BUCKETS,
    "max_bucket_distance": MAX_DISTANCE,
}
# The encoder's argument for a key of config.json, and the value of a key that is left out.
SIZES = {
    "hidden_size": ("d_model", 768),
    "num_hidden_layers": ("num_layers", 12),
    "num_attention_heads": ("nhead", 12),
    "intermediate_size": ("d_ffn", 3072),
    "num_conv_pos_embeddings": ("pos_conv_kernel", 128),
    "num_conv_pos_embedding_groups": ("pos_conv_groups", 16),
}


def import_weights(encoder, path):
    """Load public weights from a local folder or file into an encoder, in place.

    Everything is checked before anything is changed. Heads of pretraining keep their values.

    Arguments
    ---------
    encoder : FrameEncoder or UtteranceEncoder
        A frame encoder with the waveform front end, or an utterance encoder with backbone "ecapa",
        of the sizes of the weights.
    path : str or pathlib.Path
        Always a local path, never the name of a model on a hub. For a frame encoder a folder in the
        layout of Hugging Face transformers (config.json and model.safetensors, in one file or
        several), a .safetensors file, or a torchaudio state dict (.pt or .pth); single files do not
        tell the number of attention heads, which must be the encoder's. For an utterance encoder a
        folder with the embedding_model.ckpt of a SpeechBrain speaker model, or the file.

    Returns
    -------
    FrameEncoder or UtteranceEncoder
        The encoder.

    Raises
    ------
    FileNotFoundError
        Where the path, or a file that the folder must have, does not exist.
    ValueError
        Where a file cannot be read or a tensor or setting does not fit; it is named.

    Example
    -------
    >>> from safetensors.torch import save_file
    >>> from lobes.frame_encoder import FrameEncoder
    >>> from pretrained.toolkits.names import export_state_dict
    >>> path = getfixture("tmp_path") / "hubert.safetensors"
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> encoder = FrameEncoder(**sizes)
    >>> save_file(export_state_dict(encoder), path)
    >>> other = import_weights(FrameEncoder(**sizes), path)
    >>> bool((other.mask_embedding == encoder.mask_embedding).all())
    True
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; public weights are read from a local file or folder, "
            "so download them first"
        )
    if isinstance(encoder, UtteranceEncoder):
        load = import_ecapa_state_dict
        state_dict = _read_file(path / SPEECHBRAIN_WEIGHTS if path.is_dir() else path)
    else:
        load = import_state_dict
        if path.is_dir():
            _check_config(encoder, path / HF_CONFIG)
        state_dict = _read_folder(path) if path.is_dir() else _read_file(path)
    try:
        return load(encoder, state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def sizes_of(encoder):
    """Return what config.json says of an encoder, without what all have."""
    own = encoder.config
    return {
        "model_type": own["attention"],
        "conv_dim": [own["conv_channels"]] * len(CONV_KERNELS),
        **{key: own[argument] for key, (argument, _) in SIZES.items()},
    }


def _check_config(encoder, path):
    """Raise a ValueError where a folder's configuration is not the encoder's."""
    config = _read_json(path)
    model_type = config.get("model_type")
    if model_type not in ATTENTIONS:
        raise ValueError(
            f"{path}: model_type is {model_type!r}; only {' and '.join(ATTENTIONS)} can be loaded"
        )
    defaults = {key: default for key, (_, default) in SIZES.items()}
    actual = FIXED | defaults | {"conv_dim": [512] * 7} | config
    problems = [
        f"{key} is {actual[key]!r}, and the encoder's is {value!r}"
        for key, value in (FIXED | sizes_of(encoder)).items()
        if actual[key] != value
    ]
    if problems:
        raise ValueError(
            f"{path}: a model that this encoder cannot hold (only Base architectures fit, of its "
            "own sizes and attention):\n  " + "\n  ".join(problems)
        )


def _read_json(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from a folder that should hold a model")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_folder(folder):
    if (folder / HF_WEIGHTS).is_file():
        return _read_file(folder / HF_WEIGHTS)
    if not (folder / HF_INDEX).is_file():
        raise FileNotFoundError(
            f"{folder} has no {HF_WEIGHTS}; weights in other formats must be converted first "
            "(in transformers: model.save_pretrained(folder))"
        )
    weight_map = _read_json(folder / HF_INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{folder / HF_INDEX}: expected an object under the key weight_map")
    state_dict = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ValueError(f"{folder / HF_INDEX}: {name!r} is not the name of a file beside it")
        state_dict |= _read_file(folder / name)
    return state_dict


def _read_file(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a complete safetensors file ({error})") from None
    if path.suffix not in (".pt", ".pth", ".ckpt"):
        raise ValueError(
            f"{path}: expected a folder or a .safetensors, .pt or .pth file, or SpeechBrain's .ckpt"
        )
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a foreign file makes the unpickler raise is anything
        raise ValueError(
            f"{path}: not a file of tensors alone ({type(error).__name__}); a checkpoint with "
            "objects in it, such as fairseq's, must be converted first: by transformers' script "
            "convert_hubert_original_pytorch_checkpoint_to_pytorch.py, or to a safetensors file of "
            "its model's state dict where its source is trusted"
        ) from None
    if not isinstance(state_dict, dict) or not all(map(torch.is_tensor, state_dict.values())):
        raise ValueError(f"{path}: expected a state dict, tensors by name and nothing else")
    return state_dict
