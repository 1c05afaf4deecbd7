"""Public weights: names, shapes, agreement with the models they come from, and errors."""

import argparse
import json

import pytest
import torch
import torchaudio
import transformers
from safetensors.torch import load_file, save_file
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from torchaudio.models.wav2vec2 import hubert_pretrain_model, wav2vec2_model, wavlm_model

import pretrained
from lobes.frame_encoder import FrameEncoder
from lobes.utterance_encoder import UtteranceEncoder
from pretrained.toolkits.names import export_state_dict
from pretrained.toolkits.names import import_state_dict as import_weights

SIZES = {"conv_channels": 32, "d_model": 32, "num_layers": 2, "nhead": 4, "d_ffn": 64}
SIZES |= {"pos_conv_kernel": 16, "pos_conv_groups": 4}
HF_SIZES = {
    "conv_dim": [32] * 7,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 5,
}
HF = {
    "hubert": (transformers.HubertConfig, transformers.HubertModel, transformers.HubertForCTC),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel, transformers.WavLMForCTC),
}
every_attention = pytest.mark.parametrize("attention", list(HF))
CONVS = [(32, k, s) for k, s in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)]


def shaken(model, seed=0):
    """Add noise to every parameter, so that none is trivially zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def small_encoder(attention="hubert", **changes):
    return shaken(FrameEncoder(attention=attention, **(SIZES | changes)), seed=1)


def hf_model(attention, kind=1, **changes):
    return shaken(HF[attention][kind](HF[attention][0](**(HF_SIZES | changes))))


def torchaudio_model(attention):
    """Return torchaudio's model of the small size."""
    common = dict(
        extractor_mode="group_norm",
        extractor_conv_layer_config=CONVS,
        extractor_conv_bias=False,
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
    )
    if attention == "hubert":
        return shaken(wav2vec2_model(**common, aux_num_out=None))
    return shaken(
        wavlm_model(**common, encoder_num_buckets=320, encoder_max_distance=800, aux_num_out=None)
    )


def hidden_states(encoder, wavs):
    with torch.no_grad():
        return encoder.eval()(wavs, output_hidden_states=True)[1]


def assert_agree(ours, theirs, tolerance=1e-4):
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape and (own - other).abs().max() <= tolerance
        assert own.std() > 0.1


def assert_agrees_with_hf(encoder, model, samples=16000):
    wavs = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = model(wavs, output_hidden_states=True).hidden_states
    assert_agree(hidden_states(encoder, wavs), theirs)


def assert_agrees_with_torchaudio(encoder, model, samples=16000):
    wavs = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs, _ = model.extract_features(wavs)
    assert_agree(hidden_states(encoder, wavs)[1:], theirs)


def parameters_of(encoder):
    return {name: p.detach().clone() for name, p in encoder.named_parameters()}


def assert_unchanged(encoder, before):
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())


# ---- Agreement with the models at base size


@pytest.mark.long
@every_attention
def test_base_agrees_with_hugging_face(attention):
    config, kind, _ = HF[attention]
    model = shaken(kind(config()))
    encoder = import_weights(FrameEncoder(attention=attention), model.state_dict())
    # Long enough for the last of WavLM's distances that have a bucket of their own.
    assert_agrees_with_hf(encoder, model, samples=32000)


@pytest.mark.long
@pytest.mark.parametrize(
    ("attention", "build"),
    [("hubert", torchaudio.models.hubert_base), ("wavlm", torchaudio.models.wavlm_base)],
)
def test_base_agrees_with_torchaudio(attention, build):
    model = shaken(build())
    encoder = import_weights(FrameEncoder(attention=attention), model.state_dict())
    assert_agrees_with_torchaudio(encoder, model, samples=32000)


def test_distances_beyond_the_last_bucket():
    model = hf_model("wavlm")
    encoder = import_weights(small_encoder("wavlm"), model.state_dict())
    assert_agrees_with_hf(encoder, model, samples=320 * 900)


# ---- Names


@every_attention
def test_prefixes_and_heads_of_hugging_face(attention):
    model = hf_model(attention, kind=2)
    encoder = small_encoder(attention)
    head = parameters_of(encoder.head)
    import_weights(encoder, model.state_dict())
    assert_agrees_with_hf(encoder, getattr(model, attention))
    embedding = getattr(model, attention).masked_spec_embed
    assert torch.equal(encoder.mask_embedding, embedding)
    assert_unchanged(encoder.head, head)


def test_older_spelling_of_weight_norm():
    model = hf_model("hubert")
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    assert "encoder.pos_conv_embed.conv.weight_g" in older
    assert_agrees_with_hf(import_weights(small_encoder(), older), model)


def test_prefixes_and_heads_of_torchaudio():
    model = shaken(
        hubert_pretrain_model(
            extractor_mode="group_norm",
            extractor_conv_layer_config=CONVS,
            extractor_conv_bias=False,
            encoder_embed_dim=32,
            encoder_projection_dropout=0.0,
            encoder_pos_conv_kernel=16,
            encoder_pos_conv_groups=4,
            encoder_num_layers=2,
            encoder_num_heads=4,
            encoder_attention_dropout=0.0,
            encoder_ff_interm_features=64,
            encoder_ff_interm_dropout=0.0,
            encoder_dropout=0.0,
            encoder_layer_norm_first=False,
            encoder_layer_drop=0.0,
            mask_prob=0.8,
            mask_selection="static",
            mask_other=0.0,
            mask_length=10,
            no_mask_overlap=False,
            mask_min_space=1,
            mask_channel_prob=0.0,
            mask_channel_selection="static",
            mask_channel_other=0.0,
            mask_channel_length=10,
            no_mask_channel_overlap=False,
            mask_channel_min_space=1,
            skip_masked=False,
            skip_nomask=False,
            num_classes=7,
            final_dim=8,
            feature_grad_mult=None,
        )
    )
    encoder = import_weights(small_encoder(), model.state_dict())
    assert_agrees_with_torchaudio(encoder, model.wav2vec2)
    assert torch.equal(encoder.mask_embedding, model.mask_generator.mask_embedding)


@every_attention
def test_plain_torchaudio_models_leave_the_mask_embedding(attention):
    encoder = small_encoder(attention)
    before = encoder.mask_embedding.detach().clone()
    model = torchaudio_model(attention)
    import_weights(encoder, model.state_dict())
    assert_agrees_with_torchaudio(encoder, model)
    assert torch.equal(encoder.mask_embedding, before)


# ---- The way back


@every_attention
def test_exported_weights_load_in_hugging_face(attention):
    encoder = small_encoder(attention)
    model = hf_model(attention)
    model.load_state_dict(export_state_dict(encoder), strict=True)
    assert_agrees_with_hf(encoder, model)


@every_attention
def test_exported_weights_load_in_torchaudio(attention):
    encoder = small_encoder(attention)
    model = torchaudio_model(attention)
    model.load_state_dict(export_state_dict(encoder, layout="torchaudio"), strict=True)
    assert_agrees_with_torchaudio(encoder, model)


@every_attention
@pytest.mark.parametrize("layout", ["huggingface", "torchaudio"])
def test_export_and_import_are_inverse(attention, layout):
    source, encoder = small_encoder(attention), FrameEncoder(attention=attention, **SIZES)
    exported = export_state_dict(source, layout)
    import_weights(encoder, exported)
    unmapped = ("head.",) + (("mask_embedding",) if layout == "torchaudio" else ())
    for (name, ours), theirs in zip(encoder.named_parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs) == (not name.startswith(unmapped)), name
    exported[next(iter(exported))].add_(1.0)
    again = export_state_dict(source, layout)
    assert not torch.equal(next(iter(again.values())), next(iter(exported.values())))


# ---- Tensors that do not fit


def test_every_tensor_that_does_not_fit_is_named_and_nothing_changes():
    weights = export_state_dict(small_encoder())
    del weights["encoder.layers.1.attention.k_proj.bias"]
    weights["encoder.layers.2.layer_norm.weight"] = torch.ones(32)
    weights["feature_projection.projection.weight"] = torch.ones(32, 31)
    encoder = FrameEncoder(**SIZES)
    before = parameters_of(encoder)
    with pytest.raises(ValueError) as error:
        import_weights(encoder, weights)
    text = str(error.value)
    assert "encoder.layers.1.attention.k_proj.bias: missing, expected shape (32,)" in text
    assert "encoder.layers.2.layer_norm.weight: no such tensor in the encoder, shape (32,)" in text
    assert "feature_projection.projection.weight: shape (32, 31), expected (32, 32)" in text
    assert_unchanged(encoder, before)


def test_every_tensor_is_missed():
    weights = export_state_dict(small_encoder("wavlm"))
    for name in weights:
        if name != "masked_spec_embed":
            with pytest.raises(ValueError, match=f"{name}: missing"):
                import_weights(
                    small_encoder("wavlm"), {k: weights[k] for k in weights if k != name}
                )


def test_fused_projections_of_another_shape():
    weights = export_state_dict(small_encoder("wavlm"), "torchaudio")
    name = "encoder.transformer.layers.0.attention.attention.in_proj_weight"
    weights[name] = weights[name][:64]
    with pytest.raises(ValueError, match=r"in_proj_weight: shape \(64, 32\), expected \(96, 32\)"):
        import_weights(small_encoder("wavlm"), weights)


def test_weights_of_the_other_attention():
    with pytest.raises(ValueError, match="gru_rel_pos_const: no such tensor"):
        import_weights(small_encoder("hubert"), export_state_dict(small_encoder("wavlm")))
    with pytest.raises(ValueError, match="gru_rel_pos_const: missing"):
        import_weights(small_encoder("wavlm"), export_state_dict(small_encoder("hubert")))


def test_only_waveform_encoders_have_a_public_layout():
    encoder = small_encoder(frontend="fbank")
    with pytest.raises(ValueError, match="frontend='waveform'"):
        import_weights(encoder, hf_model("hubert").state_dict())
    with pytest.raises(ValueError, match="frontend='waveform'"):
        export_state_dict(encoder)
    with pytest.raises(ValueError, match="layout must be one of huggingface, torchaudio"):
        export_state_dict(small_encoder(), "fairseq")


# ---- Folders and files


@every_attention
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_a_hugging_face_folder(attention, shard, tmp_path):
    model = hf_model(attention, kind=2)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors").exists() == (shard == "5GB")
    encoder = pretrained.import_weights(small_encoder(attention), tmp_path)
    assert_agrees_with_hf(encoder, getattr(model, attention))


def test_single_files(tmp_path):
    model = torchaudio_model("wavlm")
    torch.save(model.state_dict(), tmp_path / "wavlm.pt")
    encoder = pretrained.import_weights(small_encoder("wavlm"), str(tmp_path / "wavlm.pt"))
    assert_agrees_with_torchaudio(encoder, model)
    save_file(model.state_dict(), tmp_path / "wavlm.safetensors")
    encoder = pretrained.import_weights(small_encoder("wavlm"), tmp_path / "wavlm.safetensors")
    assert_agrees_with_torchaudio(encoder, model)


@pytest.mark.parametrize("path", ["facebook/hubert-base-ls960", "missing.pt"])
def test_a_missing_path_is_never_taken_for_a_model_on_a_hub(path):
    with pytest.raises(FileNotFoundError, match=f"{path} does not exist.*download"):
        pretrained.import_weights(small_encoder(), path)


@pytest.fixture
def folder(tmp_path):
    hf_model("hubert").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "wav2vec2"),
        ("conv_bias", True),
        ("do_stable_layer_norm", True),
        ("feat_extract_norm", "layer"),
        ("conv_pos_batch_norm", True),
        ("feat_proj_layer_norm", False),
        ("hidden_act", "relu"),
        ("num_attention_heads", 8),
        ("hidden_size", 64),
        ("conv_stride", [5, 2, 2, 2, 2, 2, 1]),
        ("conv_dim", [512] * 7),
    ],
)
def test_settings_that_do_not_fit_are_named(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    encoder = small_encoder()
    before = parameters_of(encoder)
    with pytest.raises(ValueError) as error:
        pretrained.import_weights(encoder, folder)
    assert "config.json" in str(error.value) and f"{key} is {value!r}" in str(error.value)
    assert_unchanged(encoder, before)


def test_settings_left_out_have_the_base_value(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["num_attention_heads"], config["conv_bias"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="num_attention_heads is 12, and the encoder's is 4"):
        pretrained.import_weights(small_encoder(), folder)


def test_wavlm_folders_need_wavlm_attention(folder):
    with pytest.raises(ValueError, match="model_type is 'hubert', and the encoder's is 'wavlm'"):
        pretrained.import_weights(small_encoder("wavlm"), folder)


def test_tensors_that_do_not_fit_name_the_folder(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer_norm.bias"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{folder}: (.|\n)*encoder.layer_norm.bias: missing"):
        pretrained.import_weights(small_encoder(), folder)


def test_folders_without_their_files(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        pretrained.import_weights(small_encoder(), folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        pretrained.import_weights(small_encoder(), folder)


def test_an_index_stays_in_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match="'../elsewhere.safetensors' is not the name of a file"):
        pretrained.import_weights(small_encoder(), folder)
    index.write_text(json.dumps({"weight_map": {"x": "absent.safetensors"}}))
    with pytest.raises(FileNotFoundError, match="absent.safetensors is missing"):
        pretrained.import_weights(small_encoder(), folder)
    index.write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ValueError, match="weight_map"):
        pretrained.import_weights(small_encoder(), folder)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch.save({"x": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="evil.pt: not a file of tensors alone"):
        pretrained.import_weights(small_encoder(), tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_fairseq_is_refused_in_a_line_that_says_how_to_convert_it(tmp_path):
    made = {"model": {"a": torch.ones(1)}, "args": argparse.Namespace(arch="hubert")}
    torch.save(made, tmp_path / "hubert_base.pt")
    with pytest.raises(ValueError, match="fairseq's, must be converted first: by") as error:
        pretrained.import_weights(small_encoder(), tmp_path / "hubert_base.pt")
    text = str(error.value)
    assert len(text.splitlines()) == 1 and text.isprintable()
    assert "http" not in text and "weights_only" not in text


def test_files_that_cannot_be_read(tmp_path):
    weights = tmp_path / "hubert.safetensors"
    save_file(export_state_dict(small_encoder()), weights)
    weights.write_bytes(weights.read_bytes()[:-100])
    torch.save(export_state_dict(small_encoder()), tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-1000])
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pth")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("layer weights")
    (tmp_path / "notes.txt").touch()
    for name, reason in {
        "hubert.safetensors": "not a complete safetensors file",
        "cut.pt": "not a file of tensors alone",
        "checkpoint.pth": "expected a state dict",
        "empty.pt": "not a file of tensors alone",
        "text.pt": "not a file of tensors alone",
        "notes.txt": "expected a folder or a .safetensors, .pt or .pth file",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {reason}"):
            pretrained.import_weights(small_encoder(), tmp_path / name)


# ---- SpeechBrain's speaker models


@pytest.mark.parametrize("in_folder", [True, False])
def test_an_ecapa_tdnn_of_speechbrain(in_folder, tmp_path):
    theirs = shaken(ECAPA_TDNN(80, lin_neurons=12, channels=[32, 32, 32, 32, 96]))
    torch.save(theirs.state_dict(), tmp_path / "embedding_model.ckpt")
    encoder = UtteranceEncoder("ecapa", channels=32, embedding_dim=12)
    path = tmp_path if in_folder else tmp_path / "embedding_model.ckpt"
    assert pretrained.import_weights(encoder, path) is encoder
    bands = torch.randn(1, 80, 100, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = encoder.eval().backbone.embed(encoder.backbone.frames(bands))
        expected = theirs(bands.transpose(1, 2))[:, 0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=f"{path}: the weights do not fit the encoder"):
        pretrained.import_weights(UtteranceEncoder("ecapa", channels=16), path)
    torch.save({"weight": torch.ones(2)}, tmp_path / "embedding_model.ckpt")
    with pytest.raises(ValueError, match="fc.conv.bias: missing"):
        pretrained.import_weights(encoder, path)


def test_a_folder_without_a_speaker_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="embedding_model.ckpt is missing"):
        pretrained.import_weights(UtteranceEncoder("ecapa", channels=16), tmp_path)
