"""The exported folder: what is saved is loaded, and a hostile one runs nothing."""

import hashlib
import json
import os
import pickle
import resource
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lobes.heads import SpeakerHead
from pretrained import Learn2Diss
from pretrained.exported import load_folder, load_model, save_model
from recipes.common.data.utterances import load_dataset
from recipes.common.training.run import finish
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from tests.pretrained.exports import PLAIN, frame_encoder, modules_of, utterance_encoder, wavs_of


@pytest.mark.parametrize("backbone", ["tdnn", "ecapa"])
@pytest.mark.parametrize(
    "changes", [{}, {"frontend": "waveform", "attention": "wavlm", "head": "linear"}]
)
def test_what_is_saved_is_loaded(backbone, changes, tmp_path):
    saved = {
        "frame_encoder": frame_encoder(**changes),
        "utterance_encoder": utterance_encoder(backbone),
    }
    save_model(tmp_path, saved)
    loaded = load_model(tmp_path)
    for name, encoder in saved.items():
        assert loaded[name].config == encoder.config and not loaded[name].training
        theirs = loaded[name].state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in encoder.state_dict().items())


def test_a_folder_of_encoders_is_as_it_always_was(encoders, folder):
    config = json.loads((folder / "config.json").read_text())
    arguments = {name: encoder.config for name, encoder in encoders.items()}
    text = json.dumps(arguments, sort_keys=True).encode()
    digests = {"encoders": hashlib.sha256(text).hexdigest()}
    weights = (folder / "model.safetensors").read_bytes()
    digests["weights"] = hashlib.sha256(weights).hexdigest()
    assert config == {"format": "learn2diss-1", "sha256": digests, **arguments}
    modules, facts = load_folder(folder)
    assert list(modules) == list(encoders) and facts is None


def test_a_run_leaves_a_folder_that_stands_alone(encoders, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "history.jsonl").write_text(
        '{"epoch": 1, "train": {"loss": 9.0}, "valid": {"loss": 8.0}}\n'
        '{"epoch": 2, "train": {"loss": 3.0}, "valid": {"loss": 4.0}}\n'
    )
    (tmp_path / "some.csv").write_text("ID,duration,wav,spk_id\na,1.0,a.wav,1\n")
    dataset = load_dataset(tmp_path / "some.csv", tmp_path)
    brain = SimpleNamespace(
        modules=encoders,
        architecture=lambda: list(encoders),
        optimizer_step=12,
        loaders=dict.fromkeys(("train", "valid", "test"), SimpleNamespace(dataset=dataset)),
        test_figures={"loss": 5.5},
    )
    hparams = {"output_folder": str(tmp_path / "run"), "manifest_folder": str(tmp_path), "seed": 3}
    hparams |= {"train_splits": ["some"], "valid_splits": [], "test_splits": []}
    hparams["prepare"] = prepare_librispeech
    finish(brain, hparams, began=0.0)
    folder = (tmp_path / "run" / "model").rename(tmp_path / "elsewhere")
    text = (folder / "README.md").read_text()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name, value in {"test.loss": 5.5, "valid.loss": 4, "epochs": 2, "seed": 3}.items():
        assert f"| {name} | {value} |" in text
    assert metrics["versions"]["torch"] in text and "| data" in text
    assert "recipe of LibriSpeech" in text and "| some | 0.00 | 1 | not known |" in text
    assert "| output_folder | (a path) |" in text and str(tmp_path) not in text
    model = Learn2Diss.from_pretrained(folder)
    assert model.encode(wavs_of()).utterance.shape == (1, 12)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def assert_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        Learn2Diss.from_pretrained(folder)
    assert not (folder / "ran").exists()


def test_a_pickle_for_weights_runs_nothing(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(folder / "ran")))
    assert_refused(folder, "model.safetensors is not a complete safetensors file")
    torch.save({"x": Payload(folder / "ran")}, folder / "model.safetensors")
    assert_refused(folder, "model.safetensors is not a complete safetensors file")


HOSTILE_YAML = "{tag} ['mkdir {folder}/ran']\n"


TAGS = ["a: !apply:os.system", "a: !!python/object/apply:os.system", "a: !new:os.system"]


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_run_nothing(folder, tag):
    text = HOSTILE_YAML.format(tag=tag, folder=folder)
    (folder / "hyperparams.yaml").write_text(text)
    (folder / "custom.py").write_text(f"import os; os.mkdir('{folder}/ran')")
    torch.save({"x": Payload(folder / "ran")}, folder / "pytorch_model.bin")
    assert load_model(folder) and not (folder / "ran").exists()
    (folder / "config.json").write_text(text)
    assert_refused(folder, "config.json.*: cannot be read as JSON")
    (folder / "config.json").unlink()
    assert_refused(folder, "config.json is missing")


def edit(*path, value):
    """Return a change of config.json: set what the path leads to."""

    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("format", value="other"), "is not the configuration of an exported model"),
        (edit("format", value=["learn2diss-2"]), "is not the configuration of an exported model"),
        (edit("class", value="os.system"), r"found \['class'\]"),
        (edit("os.system", value={"command": "true"}), r"found \['os.system'\]"),
        (edit("frame_encoder", "class", value="os.system"), "has no argument 'class'"),
        (edit("frame_encoder", value="../other"), "must be an object of arguments"),
        (edit("frame_encoder", "frontend", value="../other"), "frontend must be one of"),
        (edit("frame_encoder", "frontend", value=["fbank"]), "frontend must be str"),
        (edit("frame_encoder", "d_model", value="32"), "d_model must be int, not '32'"),
        (edit("frame_encoder", "d_model", value=32.0), "d_model must be int"),
        (edit("frame_encoder", "num_layers", value=True), "num_layers must be int"),
        (edit("frame_encoder", "dropout", value=None), "dropout must be float"),
        (edit("frame_encoder", "dropout", value=float("nan")), "dropout must be finite"),
        (edit("frame_encoder", "dropout", value=7.0), "cannot be built: dropout"),
        (edit("frame_encoder", "nhead", value=0), "nhead must be between 1"),
        (edit("frame_encoder", "d_model", value=10**9), "config.json.*cannot be built"),
        (edit("frame_encoder", "d_model", value=10**6), "has shape"),
        (edit("frame_encoder", "d_ffn", value=2 * 10**9), "has shape"),
        (edit("frame_encoder", "d_model", value=10**30), "d_model must be between 1"),
        (edit("frame_encoder", "num_layers", value=10**9), "num_layers must be between 1"),
        (edit("utterance_encoder", "channels", value=2 * 10**9), "cannot be built: .*overflow"),
        (edit("utterance_encoder", "channels", value=10**8), "has shape"),
        (edit("frame_encoder", "num_layers", value=1), "layers.1.*is left over"),
        (edit("frame_encoder", "num_layers", value=3), "layers.2.* is missing"),
        (edit("frame_encoder", "nhead", value=8), "config.json was altered"),
        (edit("frame_encoder", "temperature", value=0.2), "config.json was altered"),
        (edit("sha256", "weights", value="0"), "model.safetensors was altered"),
        (edit("sha256", "encoders", value=None), "config.json was altered"),
        (edit("sha256", value=None), "sha256 must give"),
        (lambda config: config.pop("utterance_encoder"), "config.json has no module for"),
    ],
)
def test_configurations_that_do_not_fit(folder, change, message):
    change_config(folder, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(folder, f"{folder}/(.|\n)*{message}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"format": ' + "9" * 10_000 + "}", "cannot be read as JSON"),
        ("[]", "is not the configuration"),
        ("null", "is not the configuration"),
        ('"learn2diss-2"', "is not the configuration"),
        (" " * 1_000_001, "is larger than"),
    ],
)
def test_configurations_of_other_types(folder, text, message):
    (folder / "config.json").write_text(text)
    assert_refused(folder, f"config.json.*{message}")


def test_altered_and_truncated_weights(folder):
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert_refused(folder, "model.safetensors was altered")
    for size in (len(content) - 100, 100, 4, 0):
        weights.write_bytes(content[:size])
        assert_refused(folder, "model.safetensors is not a complete safetensors file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"frame_encoder.mask_embedding": torch.ones(31)}), r"shape \(31,\)"),
        (lambda w: w.update({"frame_encoder.mask_embedding": torch.ones(32).half()}), "of F16"),
        (lambda w: w.pop("frame_encoder.mask_embedding"), "mask_embedding is missing"),
        (lambda w: w.update({"frame_encoder.x": torch.ones(2)}), "frame_encoder.x is left over"),
        (
            lambda w: w.update({"other.x": torch.ones(2)}),
            "other.x is left over, which config.json has no",
        ),
    ],
)
def test_tensors_that_do_not_fit(folder, change, message):
    change_weights(folder, change)
    assert_refused(folder, f"model.safetensors(.*){message}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_folder(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    assert_refused(folder, f"{name} is a link out of the folder")
    (folder / name).unlink()
    assert_refused(folder, f"{name} is missing")
    (folder / name).mkdir()
    assert_refused(folder, f"{name} is missing")


def test_unknown_modules_and_no_modules_are_not_saved(tmp_path):
    for modules in ({"os": torch.nn.Linear(2, 2)}, {}):
        with pytest.raises(ValueError, match="config.json: expected frame_encoder or"):
            save_model(tmp_path / "model", modules)
    assert list(tmp_path.iterdir()) == []


def test_facts_too_long_to_load_are_not_saved(tmp_path):
    facts = {"features": "utterance_encoder", **PLAIN, "scoring": "centred", "mean": [0.1] * 10**5}
    modules = modules_of("utterance_encoder", speaker_head=SpeakerHead(1, 12, 10**5))
    with pytest.raises(ValueError, match="characters of facts: at most 1000000 load"):
        save_model(tmp_path / "model", modules, facts)
    assert list(tmp_path.iterdir()) == []
