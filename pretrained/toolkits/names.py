"""Names of our encoders' weights in other toolkits, and state dicts read and written under them.

Frame encoders have names of HuBERT and WavLM in two layouts, Hugging Face transformers' and
torchaudio's; utterance encoders those of SpeechBrain's ECAPA-TDNN.
"""

import re

import torch

from pretrained.plain_files import first_few

# Our prefix, then Hugging Face transformers' and torchaudio's. The first that fits applies.
NAME_RULES = (
    ("mask_embedding", "masked_spec_embed", "mask_generator.mask_embedding"),
    ("front_end.", "feature_extractor.", "feature_extractor."),
    ("feature_projection.", "feature_projection.", "encoder.feature_projection."),
    (
        "transformer.rel_attn_embed.",
        "encoder.layers.0.attention.rel_attn_embed.",
        "encoder.transformer.layers.0.attention.rel_attn_embed.",
    ),
    ("transformer.", "encoder.", "encoder.transformer."),
)
NAMED = ("huggingface", "torchaudio")  # the layouts, in the order of the rules' columns
MASK_NAMES = NAME_RULES[0]
# Names of the whole encoder within a model that has a head of its own.
MODEL_PREFIX = re.compile(r"^(hubert|wavlm|wav2vec2)\.")
# Heads of pretraining, CTC and classification: not part of the encoder.
HEAD_PREFIXES = (
    "aux.",
    "classifier.",
    "final_proj.",
    "label_embs",
    "layer_weights",
    "lm_head.",
    "logit_generator.",
    "projector.",
)
# The older spelling of weight norm's parameters, and torch's present one.
WEIGHT_NORM = {
    "pos_conv_embed.conv.weight_g": "pos_conv_embed.conv.parametrizations.weight.original0",
    "pos_conv_embed.conv.weight_v": "pos_conv_embed.conv.parametrizations.weight.original1",
}
MAX_SHOWN = 20  # problems named in one error


def import_state_dict(encoder, state_dict):
    """Load the weights of a public HuBERT Base or WavLM Base into an encoder, in place.

    Everything is checked before anything is changed. The prediction head keeps its values, and
    so does the mask embedding where the weights have none.

    Arguments
    ---------
    encoder : FrameEncoder
        With the waveform front end and the sizes of the weights.
    state_dict : dict
        Tensors by name, as of Hugging Face's HubertModel or WavLMModel or of torchaudio's
        hubert_base or wavlm_base, or of a model that wraps one of them with a head.

    Returns
    -------
    FrameEncoder
        The encoder.

    Raises
    ------
    ValueError
        Naming each tensor that is missing, of another shape, or has no place in the encoder.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> sizes = dict(conv_channels=32, d_model=32, num_layers=2, nhead=4, d_ffn=64)
    >>> source, encoder = FrameEncoder(**sizes), FrameEncoder(**sizes)
    >>> encoder = import_state_dict(encoder, export_state_dict(source))
    >>> bool((encoder.mask_embedding == source.mask_embedding).all())
    True
    """
    source = _canonical_names(state_dict)
    torchaudio_layout = any(name.startswith("encoder.transformer.") for name in source)
    _load(_places(encoder, "torchaudio" if torchaudio_layout else "huggingface"), source)
    return encoder


def export_state_dict(encoder, layout="huggingface", changes_apart=False):
    """Return the encoder's weights under other toolkits' names; see `import_state_dict`.

    Arguments
    ---------
    encoder : FrameEncoder
        With the waveform front end.
    layout : str
        "huggingface" (HubertModel, WavLMModel) or "torchaudio" (hubert_base, wavlm_base, which
        have no mask embedding, so that it is left out).
    changes_apart : bool
        Whether an encoder that changes frames after the last layer, for which these layouts have no
        place, is exported without that: `lobes.frame_encoder.FrameNorm` is its norm, and
        `erasure_map` returns what erases directions.

    Returns
    -------
    dict
        Tensors by name, without the prediction head.

    Raises
    ------
    ValueError
        Where frames are changed after the last layer and `changes_apart` does not say that this is
        known, or are changed by `least_squares`, the layout is none of these, or the front end is
        another.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder(conv_channels=32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> export_state_dict(encoder)["feature_projection.projection.weight"].shape
    torch.Size([32, 32])
    """
    _check_last_layer(encoder, layout, changes_apart)
    places = _places(encoder, layout)
    return {
        foreign: torch.cat([parameter.detach() for parameter in own])
        for foreign, own in places.items()
        if not (layout == "torchaudio" and foreign in MASK_NAMES)
    }


def last_changes(encoder):
    """Return what is done to an encoder's frames after the last layer, a text each.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> last_changes(FrameEncoder("fbank", d_model=32, num_layers=1, nhead=4, frame_norm="mean"))
    ["each utterance's mean is taken off (frame_norm)"]
    """
    config = encoder.config
    norm = "each utterance's mean is taken off"
    norm += ", and its deviation divided by" if config["frame_norm"] == "mean_std" else ""
    changes = {
        f"{norm} (frame_norm)": config["frame_norm"] != "none",
        f"{config['erased_directions']} directions are erased": config["erased_directions"] > 0,
        "what an embedding predicts is taken off (least_squares)": config["least_squares"],
    }
    return [change for change, is_there in changes.items() if is_there]


def _check_last_layer(encoder, layout, changes_apart):
    """Raise ValueError where frames are changed after the last layer, and the user may not know."""
    least_squares, found = encoder.config["least_squares"], last_changes(encoder)
    if not found or (changes_apart and not least_squares):
        return
    way = "" if least_squares else "; or say that the user does it (--changes_apart)"
    raise ValueError(
        f"after the last layer of this encoder, {' and '.join(found)}, for which the layout "
        f"{layout} has no place: its model would give other frames. The layout speechbrain and the "
        f"s3prl upstreams keep that{way}."
    )


def erasure_map(encoder):
    """Return what erases directions from an encoder's frames, as one affine map.

    Arguments
    ---------
    encoder : FrameEncoder
        From whose frames directions are erased.

    Returns
    -------
    dict
        `weight` (d_model, d_model) and `bias` (d_model,), float32: the frames are
        `torch.nn.functional.linear(last_layer_output, weight, bias)`.

    Example
    -------
    >>> from lobes.frame_encoder import FrameEncoder
    >>> encoder = FrameEncoder("fbank", 32, d_model=32, num_layers=1, nhead=4, d_ffn=64)
    >>> encoder.add_erasure(3)
    >>> {name: tuple(tensor.shape) for name, tensor in erasure_map(encoder).items()}
    {'weight': (32, 32), 'bias': (32,)}
    """
    own = encoder.erasure
    taken = own.down.double() @ own.up.double()
    weight = torch.eye(len(taken), dtype=taken.dtype, device=taken.device) - taken
    tensors = {"weight": weight.T, "bias": own.centre.double() @ taken}
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def _canonical_names(state_dict):
    """Return the tensors of the encoder proper, without a model's prefix and its heads."""
    source = {}
    for name, tensor in state_dict.items():
        name = MODEL_PREFIX.sub("", name)
        for older, present in WEIGHT_NORM.items():
            name = name.replace(older, present)
        if not name.startswith(HEAD_PREFIXES):
            source[name] = tensor
    return source


def _places(encoder, layout):
    """Return the parameters that make up each tensor of a layout, by the layout's names.

    That is one parameter, but for torchaudio's WavLM, where one tensor holds the projections of
    queries, keys and values.
    """
    if layout not in NAMED:
        raise ValueError(f"layout must be one of {', '.join(NAMED)}, not {layout!r}")
    if encoder.config["frontend"] != "waveform":
        raise ValueError(
            "HuBERT's layout has a waveform front end, and this encoder's frontend is "
            f"{encoder.config['frontend']!r}; build it with frontend='waveform'"
        )
    fused = layout == "torchaudio" and encoder.config["attention"] == "wavlm"
    places = {}
    for name, parameter in encoder.named_parameters():
        if not name.startswith("head."):
            prefix, *others = next(rule for rule in NAME_RULES if name.startswith(rule[0]))
            foreign = others[NAMED.index(layout)] + name.removeprefix(prefix)
            if fused:
                foreign = re.sub(r"\.[qkv]_proj\.", ".attention.in_proj_", foreign)
                foreign = foreign.replace(".out_proj.", ".attention.out_proj.")
            places.setdefault(foreign, []).append(parameter)
    return places


def _load(places, source):
    """Copy tensors into their places, or raise a ValueError that names each that does not fit."""
    problems = []
    for name, own in places.items():
        expected = tuple(own[0].shape)
        if len(own) > 1:
            expected = (len(own) * expected[0], *expected[1:])
        if name not in source:
            if name not in MASK_NAMES:
                problems.append(f"{name}: missing, expected shape {expected}")
        elif tuple(source[name].shape) != expected:
            problems.append(f"{name}: shape {tuple(source[name].shape)}, expected {expected}")
    for name in sorted(source.keys() - places.keys()):
        problems.append(f"{name}: no such tensor in the encoder, shape {tuple(source[name].shape)}")
    if problems:
        raise ValueError(
            "the weights do not fit the encoder, which is left as it was:\n  "
            + "\n  ".join(first_few(problems, MAX_SHOWN))
        )
    with torch.no_grad():
        for name in places.keys() & source.keys():
            own = places[name]
            parts = source[name].reshape(len(own), *own[0].shape)
            for parameter, part in zip(own, parts, strict=True):
                parameter.copy_(part)


def import_ecapa_state_dict(encoder, state_dict):
    """Load SpeechBrain's ECAPA-TDNN weights into an utterance encoder.

    Everything is checked before anything is changed. The projection head keeps its values.

    Arguments
    ---------
    encoder : UtteranceEncoder
        With backbone "ecapa", of the same sizes.
    state_dict : dict
        Tensors by name, of `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`.

    Returns
    -------
    UtteranceEncoder
        The encoder.

    Raises
    ------
    ValueError
        Where a tensor is missing, left over or of another shape, naming it.

    Example
    -------
    >>> from lobes.utterance_encoder import UtteranceEncoder
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> theirs = ECAPA_TDNN(80, lin_neurons=192, channels=[32, 32, 32, 32, 96])
    >>> encoder = import_ecapa_state_dict(UtteranceEncoder(channels=32), theirs.state_dict())
    >>> bool((encoder.backbone.fc.bias == theirs.fc.conv.bias).all())
    True
    """
    if encoder.config["backbone"] != "ecapa":
        raise ValueError(
            "SpeechBrain's ECAPA-TDNN weights need an encoder with backbone 'ecapa', "
            f"not {encoder.config['backbone']!r}"
        )
    places = {}
    for name, tensor in encoder.backbone.state_dict().items():
        # Each of SpeechBrain's layers wraps torch's in one more module: conv.conv, norm.norm.
        layer, _, last = name.rpartition(".")
        wrapped = "norm" if layer.endswith(("norm", "bn")) else "conv"
        places[f"{layer}.{wrapped}.{last}"] = [tensor]
    _load(places, state_dict)
    return encoder
