"""Exported models in other toolkits' layouts, loaded by these toolkits."""

import json

import pytest
import torch
import torchaudio
import transformers
import yaml
from safetensors.torch import load_file

from lobes.frame_encoder import FrameEncoder
from pretrained import Learn2Diss
from pretrained.__main__ import main
from pretrained.exported import save_model
from pretrained.interfaces import Learn2DissInterface
from pretrained.toolkits.layouts import to_huggingface, to_speechbrain, to_torchaudio
from tests.pretrained.exports import (
    frame_encoder,
    wavs_of,
    written,
)
from tests.pretrained.toolkits.comparing import OFFLINE, erase

every_attention = pytest.mark.parametrize("attention", ["hubert", "wavlm"])


def from_speechbrain(folder):
    savedir = folder.parent / "collected"
    return Learn2DissInterface.from_hparams(source=str(folder), savedir=str(savedir), **OFFLINE)


@pytest.mark.parametrize("names", [("frame_encoder", "utterance_encoder"), ("utterance_encoder",)])
def test_speechbrain_loads_its_layout(encoders, names, recording, tmp_path):
    chosen = {name: encoders[name] for name in names}
    to_speechbrain(chosen, None, tmp_path / "model")
    model = from_speechbrain(tmp_path / "model")
    for name, encoder in chosen.items():
        theirs = model.mods[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())
    wavs, lens = wavs_of().repeat(2, 1), torch.tensor([1.0, 0.5])
    expected = Learn2Diss(chosen).encode(wavs, lens)
    for found in (model.encode_batch(wavs, lens), model(wavs, lens)):
        assert torch.equal(found.utterance, expected.utterance)
        assert (found.frames is None) == (len(names) == 1)
    path = written(tmp_path / "a.wav", recording(1))
    assert model.encode_file(path).utterance.shape == (1, 12)


@pytest.mark.parametrize("change", ["missing", "left over"])
def test_speechbrain_does_not_load_half_a_model(encoders, change, tmp_path):
    to_speechbrain(encoders, None, tmp_path / "model")
    path = tmp_path / "model" / "utterance_encoder.ckpt"
    tensors = torch.load(path, weights_only=True)
    if change == "missing":
        del tensors["backbone.fc.bias"]
    else:
        tensors["backbone.other"] = torch.ones(2)
    torch.save(tensors, path)
    with pytest.raises(RuntimeError, match="backbone.(fc.bias|other)"):
        from_speechbrain(tmp_path / "model")


def assert_agrees_with_hugging_face(encoder, folder):
    to_huggingface({"frame_encoder": encoder}, folder)
    kind = {"hubert": transformers.HubertModel, "wavlm": transformers.WavLMModel}
    model, info = kind[encoder.config["attention"]].from_pretrained(
        folder, output_loading_info=True, local_files_only=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        theirs = model(wavs_of(), output_hidden_states=True).hidden_states
        ours = encoder(wavs_of(), output_hidden_states=True)[1]
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() <= 1e-4 and own.std() > 0.1


@every_attention
def test_transformers_loads_its_layout(attention, tmp_path):
    assert_agrees_with_hugging_face(frame_encoder("waveform", attention=attention), tmp_path)


@pytest.mark.long
def test_transformers_loads_the_base_size(tmp_path):
    assert_agrees_with_hugging_face(FrameEncoder().eval(), tmp_path)


@every_attention
def test_torchaudio_loads_its_layout(attention, tmp_path):
    encoder = frame_encoder("waveform", attention=attention)
    to_torchaudio({"frame_encoder": encoder}, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    model = getattr(torchaudio.models, config["function"])(**config["arguments"]).eval()
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    with torch.no_grad():
        theirs, _ = model.extract_features(wavs_of())
        ours = encoder(wavs_of(), output_hidden_states=True)[1][1:]
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert (own - other).abs().max() <= 1e-4 and own.std() > 0.1


@every_attention
def test_the_extractor_beside_it_leaves_waveforms_as_they_are(attention, tmp_path):
    encoder = frame_encoder("waveform", attention=attention)
    to_huggingface({"frame_encoder": encoder}, tmp_path / "m")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "m")
    model = transformers.AutoModel.from_pretrained(tmp_path / "m").eval()
    for clip in (3 * wavs_of()[:1], wavs_of()[:1, :9000]):
        given = extractor(clip[0].numpy(), sampling_rate=16000, return_tensors="pt")
        assert torch.equal(given["input_values"], clip)
        with torch.no_grad():
            theirs, ours = model(**given).last_hidden_state, encoder.eval()(clip)
        assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()


@pytest.mark.parametrize("write", [to_huggingface, to_torchaudio])
def test_only_waveform_frame_encoders_have_these_layouts(encoders, write, tmp_path):
    with pytest.raises(ValueError, match="frontend='waveform'"):
        write(encoders, tmp_path / "out")
    with pytest.raises(ValueError, match="the model holds utterance_encoder"):
        write({"utterance_encoder": encoders["utterance_encoder"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("write", "layout"), [(to_huggingface, "huggingface"), (to_torchaudio, "torchaudio")]
)
def test_erased_directions_are_never_dropped(write, layout, tmp_path):
    encoder = frame_encoder("waveform")
    erase(encoder, 4)
    with pytest.raises(ValueError, match=f"4 directions are erased.*layout {layout} has no place"):
        write({"frame_encoder": encoder}, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    write({"frame_encoder": encoder}, tmp_path / "apart", changes_apart=True)
    erasure = load_file(tmp_path / "apart" / "erasure.safetensors")
    encoder.erasure, mapped = None, encoder.erasure
    with torch.no_grad():
        last = encoder(wavs_of())
        expected = mapped(last)
    assert (last - expected).abs().max() > 0.1
    found = torch.nn.functional.linear(last, **erasure)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_export_with_nothing_erased_has_no_erasure(tmp_path):
    to_huggingface({"frame_encoder": frame_encoder("waveform")}, tmp_path, changes_apart=True)
    assert not (tmp_path / "erasure.safetensors").exists()
    assert "erasure" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("frame_norm", ["none", "mean", "mean_std"])
@pytest.mark.parametrize("erased", [0, 4])
def test_the_card_of_the_hub_tells_how_to_get_our_frames(
    erased, frame_norm, recording, tmp_path, monkeypatch
):
    encoder = frame_encoder("waveform", frame_norm=frame_norm)
    if erased:
        erase(encoder, erased)
    to_huggingface({"frame_encoder": encoder}, tmp_path / "export", changes_apart=True)
    to_torchaudio({"frame_encoder": encoder}, tmp_path / "torchaudio", changes_apart=True)
    for name in ("export", "torchaudio"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["frame_norm"] == frame_norm
    text = (tmp_path / "export" / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["library_name"] == "transformers" and metadata["license"] == "unknown"
    assert metadata["pipeline_tag"] == "feature-extraction" and "hubert" in metadata["tags"]
    assert "Frames still carry some of the speaker" in text and "who have not agreed" in text
    code = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    for wav in (recording(1), recording(1)[:450]):  # 450 samples are one frame
        written(tmp_path / "speech.wav", wav, subtype="FLOAT")
        names = {}
        exec("\n".join(code).replace("<this folder>", "export"), names)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(wav).float()[None])
        torch.testing.assert_close(names["frames"], expected, atol=1e-4, rtol=0)


def test_the_command_line_exports_erased_models_when_told_to(tmp_path, capsys):
    encoder = frame_encoder("waveform")
    erase(encoder, 4)
    save_model(tmp_path / "model", {"frame_encoder": encoder})
    command = ["export", str(tmp_path / "model"), "--layout", "huggingface", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 2
    assert "--changes_apart" in capsys.readouterr().err and not (tmp_path / "out").exists()
    command[command.index("huggingface")] = "speechbrain"
    assert main([*command, str(tmp_path / "out"), "--changes_apart"]) == 2
    assert "speechbrain keeps them" in capsys.readouterr().err and not (tmp_path / "out").exists()
    command[command.index("speechbrain")] = "huggingface"
    assert main([*command, str(tmp_path / "out"), "--changes_apart"]) == 0
    assert (tmp_path / "out" / "erasure.safetensors").is_file()
    said = capsys.readouterr().out
    assert "Left to you, after the last layer: 4 directions are erased." in said
