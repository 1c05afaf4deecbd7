"""Exported models in the layouts of SpeechBrain, Hugging Face transformers and torchaudio."""

import json

import torch
import yaml
from safetensors.torch import save_file

from lobes.front_ends import CONV_KERNELS, CONV_STRIDES
from lobes.signal import SAMPLE_RATE
from lobes.transformer import MAX_DISTANCE, NUM_BUCKETS
from pretrained.facts import CLASSIFIER, TRANSCRIBER, VERIFIER, kind_of
from pretrained.plain_files import new_folder
from pretrained.toolkits.huggingface_card import write_huggingface_card
from pretrained.toolkits.importing import FIXED, HF_CONFIG, HF_WEIGHTS, sizes_of
from pretrained.toolkits.names import erasure_map, export_state_dict

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
ERASURE = "erasure.safetensors"
SPEECHBRAIN_CLASSES = {
    None: "WaveformEncoder, or Learn2DissInterface",
    TRANSCRIBER: "EncoderASR",
    VERIFIER: "SpeakerRecognition",
    CLASSIFIER: "EncoderClassifier",
}
SPEECHBRAIN_BANNER = """\
# ############################################################################
# Model: Learn2Diss, for {classes} of pretrained.interfaces
# Needs the package of Learn2Diss for SpeechBrain, which has the classes below
# ############################################################################

"""


def to_speechbrain(modules, facts, folder):
    """Write a folder that `from_hparams` of the classes in `pretrained.interfaces` loads.

    Arguments
    ---------
    modules : dict
        Encoders and heads by name, as `load_folder` returns them.
    facts : dict or None
        Of what has a head, as `load_folder` returns them; None for encoders alone.
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
    >>> to_speechbrain({"utterance_encoder": UtteranceEncoder("tdnn", channels=8)}, None, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['hyperparams.yaml', 'utterance_encoder.ckpt']
    """
    folder = new_folder(folder)
    text = SPEECHBRAIN_BANNER.format(classes=SPEECHBRAIN_CLASSES[kind_of(facts)])
    for name, module in modules.items():
        kind = f"{type(module).__module__}.{type(module).__name__}"
        text += f"{name}: !new:{kind}\n{_yaml(module.config)}\n"
        torch.save(module.state_dict(), folder / f"{name}.ckpt")
    if facts is not None:
        text += f"facts:\n{_yaml(facts)}\n"
    references = [f"{name}: !ref <{name}>" for name in modules]
    hooks = [f"{name}: !name:pretrained.interfaces.load_strictly" for name in modules]
    text += _section("modules", references)
    text += "\npretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer\n"
    text += _section("    loadables", references, 8) + _section("    custom_hooks", hooks, 8)
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")


def to_huggingface(encoders, folder, changes_apart=False):
    """Write a folder that `AutoModel` and `AutoFeatureExtractor` of transformers load.

    The model is a HubertModel or a WavLMModel; the prediction head is left out. These models take
    waveforms as they are, and `preprocessor_config.json` says so: the extractor that is made
    without it would normalise them. `README.md` is a model card for the Hub.

    Arguments
    ---------
    encoders : dict
        With a `frame_encoder` that has the waveform front end.
    folder : str or Path
        Missing or empty.
    changes_apart : bool
        Whether what the encoder does to frames after the last layer, its norm or erased directions,
        is left to the user: the toolkit's own model gives frames before it, the card tells the
        lines, and the map that erases directions goes to `erasure.safetensors`.

    Raises
    ------
    FileExistsError
        Where the folder holds anything.
    ValueError
        Where there is no frame encoder, it has another front end, or frames are changed after the
        last layer and `changes_apart` is False. Nothing is written then.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> folder = getfixture("tmp_path") / "huggingface"
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> to_huggingface({"frame_encoder": FrameEncoder(**sizes)}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['README.md', 'config.json', 'model.safetensors', 'preprocessor_config.json']
    """
    encoder, state_dict, folder = _frame_encoder(encoders, folder, "huggingface", changes_apart)
    config = {
        "architectures": [HF_MODELS[encoder.config["attention"]]],
        **sizes_of(encoder),
        **{key: encoder.config[argument] for key, argument in HF_DROPOUTS.items()},
        **FIXED,
        "frame_norm": encoder.config["frame_norm"],
    }
    save_file(state_dict, folder / HF_WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / HF_CONFIG, config)
    _write_json(folder / "preprocessor_config.json", HF_EXTRACTOR)
    write_huggingface_card(folder, encoder)


def to_torchaudio(encoders, folder, changes_apart=False):
    """Write a state dict of torchaudio's HuBERT or WavLM, and the arguments that build the model.

    `config.json` names the function of `torchaudio.models` and its arguments, and as `frame_norm`
    what of `changes_apart` is left to the user; `model.pt` is what the model's `load_state_dict`
    takes. The prediction head and the mask embedding are left out.

    Arguments
    ---------
    encoders : dict
        With a `frame_encoder` that has the waveform front end.
    folder : str or Path
        Missing or empty.
    changes_apart : bool
        As `to_huggingface` takes it.

    Raises
    ------
    FileExistsError, ValueError
        As `to_huggingface` raises them.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> folder = getfixture("tmp_path") / "torchaudio"
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> to_torchaudio({"frame_encoder": FrameEncoder(**sizes)}, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'model.pt']
    """
    encoder, state_dict, folder = _frame_encoder(encoders, folder, "torchaudio", changes_apart)
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
    told = {"function": function, "arguments": arguments, "frame_norm": own["frame_norm"]}
    _write_json(folder / "config.json", told)


def _frame_encoder(encoders, folder, layout, changes_apart):
    """Return the frame encoder, its weights in a layout, and the folder, which is made.

    What erases directions from frames is written to the folder, where there is such.
    """
    if "frame_encoder" not in encoders:
        raise ValueError(
            f"Only a frame encoder has this layout, and the model holds {', '.join(encoders)}; the "
            "layout speechbrain is there for every encoder."
        )
    encoder = encoders["frame_encoder"]
    state_dict, folder = export_state_dict(encoder, layout, changes_apart), new_folder(folder)
    if encoder.erasure is not None:
        save_file(erasure_map(encoder), folder / ERASURE)
    return encoder, state_dict, folder


class _Quoting(yaml.SafeDumper):
    """Writes each text in quotes: the versions of YAML differ on what else is a number, as 1e3."""

    def represent_text(self, text):
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Quoting.add_representer(str, _Quoting.represent_text)


def _yaml(values):
    """Return plain values as indented lines of YAML."""
    text = yaml.dump(values, Dumper=_Quoting, sort_keys=False, allow_unicode=True)
    return _indented(text.splitlines(), 4)


def _section(heading, lines, spaces=4):
    return f"{heading}:\n{_indented(lines, spaces)}"


def _indented(lines, spaces):
    return "".join(f"{' ' * spaces}{line}\n" for line in lines)


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
