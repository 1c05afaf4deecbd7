"""Exported models in the layouts of SpeechBrain, Hugging Face transformers and torchaudio."""

import json

import torch
import yaml
from safetensors.torch import save_file

from lobes.frame_encoder import CONV_KERNELS, CONV_STRIDES
from lobes.signal import SAMPLE_RATE
from lobes.transformer import MAX_DISTANCE, NUM_BUCKETS
from pretrained.plain_files import new_folder
from pretrained.toolkits.importing import FIXED, HF_CONFIG, HF_WEIGHTS, sizes_of
from pretrained.toolkits.names import export_state_dict

HF_MODELS = {"hubert": "HubertModel", "wavlm": "WavLMModel"}
HF_DROPOUTS = {
    "hidden_dropout": "dropout",
    "feat_proj_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "layerdrop": "layer_drop",
}
TORCHAUDIO_SIZES = {
    "encoder_embed_dim": "d_model",
    "encoder_projection_dropout": "dropout",
    "encoder_pos_conv_kernel": "pos_conv_kernel",
    "encoder_pos_conv_groups": "pos_conv_groups",
    "encoder_num_layers": "num_layers",
    "encoder_num_heads": "nhead",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_features": "d_ffn",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_drop": "layer_drop",
}
HF_EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "do_normalize": False,
    "sampling_rate": SAMPLE_RATE,
    "feature_size": 1,
    "padding_value": 0.0,
    "return_attention_mask": True,
}
SPEECHBRAIN_BANNER = """\
# ############################################################################
# Model: Learn2Diss encoders, for pretrained.interfaces.Learn2DissInterface
# Needs the package of Learn2Diss for SpeechBrain, which has the classes below
# ############################################################################

"""


def to_speechbrain(encoders, folder):
    """Write a folder that `pretrained.interfaces.Learn2DissInterface.from_hparams` loads.

    Arguments
    ---------
    encoders : dict
        `frame_encoder`, `utterance_encoder` or both, as `load_model` returns them.
    folder : str or Path
        Missing or empty.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> folder = getfixture("tmp_path") / "speechbrain"
    >>> to_speechbrain({"utterance_encoder": UtteranceEncoder("tdnn", channels=8)}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'utterance_encoder.ckpt']
    """
    folder = new_folder(folder)
    text = SPEECHBRAIN_BANNER
    for name, encoder in encoders.items():
        kind = f"{type(encoder).__module__}.{type(encoder).__name__}"
        arguments = yaml.safe_dump(encoder.config, sort_keys=False).splitlines()
        text += f"{name}: !new:{kind}\n{_indented(arguments)}\n"
        torch.save(encoder.state_dict(), folder / f"{name}.ckpt")
    references = [f"{name}: !ref <{name}>" for name in encoders]
    hooks = [f"{name}: !name:pretrained.interfaces.load_strictly" for name in encoders]
    text += f"modules:\n{_indented(references)}"
    text += "\npretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
    text += f"    loadables:\n{_indented(references, 8)}    custom_hooks:\n{_indented(hooks, 8)}"
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")


def to_huggingface(encoders, folder):
    """Write a folder that `HubertModel.from_pretrained` loads, or WavLMModel's.

    The prediction head is left out, and what erases directions from frames. These models take
    waveforms as they are, and `preprocessor_config.json` says so: the extractor that is made
    without it would normalise them.

    Arguments
    ---------
    encoders : dict
        With a `frame_encoder` that has the waveform front end.
    folder : str or Path
        Missing or empty.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.
    ValueError
        Where there is no frame encoder, or it has another front end.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> folder = getfixture("tmp_path") / "huggingface"
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> to_huggingface({"frame_encoder": FrameEncoder(**sizes)}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    encoder, state_dict, folder = _frame_encoder(encoders, folder, "huggingface")
    config = {
        "architectures": [HF_MODELS[encoder.config["attention"]]],
        **sizes_of(encoder),
        **{key: encoder.config[argument] for key, argument in HF_DROPOUTS.items()},
        **FIXED,
    }
    save_file(state_dict, folder / HF_WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / HF_CONFIG, config)
    _write_json(folder / "preprocessor_config.json", HF_EXTRACTOR)


def to_torchaudio(encoders, folder):
    """Write a state dict of torchaudio's HuBERT or WavLM, and the arguments that build the model.

    `config.json` names the function of `torchaudio.models` and its arguments; `model.pt` is what
    the model's `load_state_dict` takes. The prediction head, what erases directions from frames and
    the mask embedding are left out.

    Arguments
    ---------
    encoders : dict
        With a `frame_encoder` that has the waveform front end.
    folder : str or Path
        Missing or empty.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.
    ValueError
        Where there is no frame encoder, or it has another front end.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> folder = getfixture("tmp_path") / "torchaudio"
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> to_torchaudio({"frame_encoder": FrameEncoder(**sizes)}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.pt']
    """
    encoder, state_dict, folder = _frame_encoder(encoders, folder, "torchaudio")
    own = encoder.config
    layers = zip(CONV_KERNELS, CONV_STRIDES, strict=True)
    arguments = {
        "extractor_mode": "group_norm",
        "extractor_conv_layer_config": [[own["conv_channels"], *layer] for layer in layers],
        "extractor_conv_bias": False,
        **{key: own[argument] for key, argument in TORCHAUDIO_SIZES.items()},
        "encoder_layer_norm_first": False,
        "aux_num_out": None,
    }
    if own["attention"] == "wavlm":
        arguments["encoder_num_buckets"] = NUM_BUCKETS
        arguments["encoder_max_distance"] = MAX_DISTANCE
    function = {"hubert": "wav2vec2_model", "wavlm": "wavlm_model"}[own["attention"]]
    torch.save(state_dict, folder / "model.pt")
    _write_json(folder / "config.json", {"function": function, "arguments": arguments})


def _frame_encoder(encoders, folder, layout):
    """Return the frame encoder, its weights in a layout, and the folder, which is made."""
    if "frame_encoder" not in encoders:
        raise ValueError(
            f"Only a frame encoder has this layout, and the model holds {', '.join(encoders)}; the "
            "layout speechbrain is there for every encoder."
        )
    encoder = encoders["frame_encoder"]
    return encoder, export_state_dict(encoder, layout), new_folder(folder)


def _indented(lines, spaces=4):
    return "".join(f"{' ' * spaces}{line}\n" for line in lines)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
