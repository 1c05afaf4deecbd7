"""Exported models as upstreams of s3prl: its Featurizer, and one of its tasks."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
import torch
import torchaudio
import yaml

from pretrained.exported import save_model
from pretrained.toolkits import upstreams
from tests.pretrained.exports import frame_encoder, utterance_encoder
from tests.pretrained.toolkits.comparing import erase

ROOT = Path(__file__).parents[3]
NAMES = list(upstreams.UPSTREAMS)
with_s3prl = pytest.mark.skipif(find_spec("s3prl") is None, reason="s3prl is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream") / "model"
    frames = frame_encoder()
    erase(frames, 4)
    save_model(folder, {"frame_encoder": frames, "utterance_encoder": utterance_encoder()})
    return folder


def noise(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def upstream_of(name, model):
    return torch.hub.load(str(ROOT), name, source="local", ckpt=model).eval()


@with_s3prl
@pytest.mark.parametrize("name", NAMES)
def test_an_utterance_does_not_depend_on_its_batch(name, model):
    from s3prl.upstream.interfaces import Featurizer

    upstream = upstream_of(name, model)
    featurizer = Featurizer(upstream, upstream_device="cpu")
    # 641 and 719 samples are two frames for s3prl, and one for us.
    wavs = noise(16000, 8159, 8160, 9001, 719, 641)
    together = featurizer(wavs, upstream(wavs))
    for wav, found in zip(wavs, together, strict=True):
        [alone] = featurizer([wav], upstream([wav]))
        assert len(found) == len(alone) == round(len(wav) / 320)
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
        assert (found != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_are_as_long_as_s3prl_expects(name, model):
    wavs = noise(16001, 641)
    found = upstream_of(name, model)(wavs)
    for states in found["hidden_states"]:
        assert states.shape[:2] == (2, 51) and states.isfinite().all()
        assert (states[1, :3] != 0).all() and (states[1, 3:] == 0).all()
    assert found["last_hidden_state"] is found["hidden_states"][-1]


def test_an_embedding_is_the_mean_over_frames(model):
    [states] = upstream_of("learn2diss_utterance", model)(noise(16000))["hidden_states"]
    with torch.no_grad():
        expected = utterance_encoder()(noise(16000)[0][None])
    torch.testing.assert_close(states.mean(1), expected)


def test_an_upstream_can_be_fine_tuned(model):
    upstream = upstream_of("learn2diss_frames", model).train()
    upstream(noise(16000, 8000))["hidden_states"][-1].square().sum().backward()
    assert upstream.encoder.front_end.down.weight.grad.abs().sum() > 0


def test_a_model_without_what_is_asked_for_is_refused(tmp_path):
    save_model(tmp_path / "frames", {"frame_encoder": frame_encoder()})
    save_model(tmp_path / "utterance", {"utterance_encoder": utterance_encoder()})
    for name, folder, message in (
        ("learn2diss_frames", "utterance", "utterance holds no frame encoder"),
        ("learn2diss_last", "utterance", "utterance holds no frame encoder"),
        ("learn2diss_utterance", "frames", "frames holds no utterance encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            upstream_of(name, tmp_path / folder)


def test_a_waveform_without_a_frame_is_named(model):
    with pytest.raises(ValueError, match="row 1 of wavs has 399 valid samples"):
        upstream_of("learn2diss_frames", model)(noise(16000, 399))


@pytest.mark.parametrize(
    ("wavs", "found"), [([], "none"), ([torch.zeros(1, 16000)], r"\(1, 16000\)")]
)
def test_what_is_no_list_of_waveforms_is_refused(wavs, found, model):
    with pytest.raises(ValueError, match=rf"shape \(samples,\), found {found}"):
        upstream_of("learn2diss_frames", model)(wavs)


TASKS_LOAD = (
    find_spec("s3prl") is not None
    and hasattr(torchaudio, "set_audio_backend")
    and int(version("huggingface_hub").split(".")[0]) < 1
)
TASK = """
import sys
from s3prl.downstream.voxceleb1 import dataset
from pretrained.toolkits.s3prl_tasks import main
dataset.CACHE_PATH = sys.argv.pop(1)  # else beside s3prl's code
main()
"""


def sid_config(folder):
    """Write two speakers' files and return the settings of SUPERB's speaker identification."""
    rows, generator = [], torch.Generator().manual_seed(0)
    for number in range(12):
        name = f"id1000{1 + number % 2}/video/{number:05d}.wav"
        path = folder / "dev" / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * torch.randn(16000 + 800 * number, generator=generator)
        soundfile.write(path, samples.numpy(), 16000)
        rows.append(f"{1 + number // 8 + number // 10} {name}")
    (folder / "splits.txt").write_text("\n".join(rows) + "\n")
    return {
        "runner": {
            "total_steps": 4,
            "gradient_clipping": 1,
            "gradient_accumulate_steps": 1,
            "log_step": 2,
            "eval_step": 4,
            "save_step": 4,
            "max_keep": 1,
            "eval_dataloaders": ["dev", "test"],
        },
        "optimizer": {"name": "TorchOptim", "torch_optim_name": "Adam", "lr": 0.01},
        "downstream_expert": {
            "datarc": {
                "file_path": str(folder),
                "meta_data": str(folder / "splits.txt"),
                "max_timestep": 32000,
                "train_batch_size": 4,
                "eval_batch_size": 1,
                "num_workers": 0,
            },
            "modelrc": {
                "projector_dim": 16,
                "select": "UtteranceLevel",
                "UtteranceLevel": {"pooling": "MeanPooling"},
            },
        },
    }


@pytest.mark.long
@pytest.mark.skipif(not TASKS_LOAD, reason="s3prl's tasks cannot be loaded beside these versions")
def test_a_task_of_s3prl_takes_a_few_steps(model, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sid_config(tmp_path)))
    options = ["-m", "train", "-u", "learn2diss_utterance", "-k", str(model)]
    options += ["-d", "voxceleb1", "--device", "cpu"]
    options += ["-c", str(tmp_path / "config.yaml"), "-p", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", TASK, str(tmp_path / "cache"), *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "dev acc" in done.stdout and "test acc" in done.stdout
    assert (tmp_path / "out" / "states-4.ckpt").is_file()
    predicted = (tmp_path / "out" / "test_predict.txt").read_text().splitlines()
    assert len(predicted) == 2


@pytest.mark.long
@with_s3prl
@pytest.mark.skipif(TASKS_LOAD, reason="s3prl's tasks can be loaded here")
def test_versions_beside_which_tasks_cannot_be_loaded_are_told():
    done = subprocess.run(
        [sys.executable, "-m", "pretrained.toolkits.s3prl_tasks", "-h"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and 'pip install ".[s3prl]"' in done.stderr
    assert "Traceback" not in done.stderr
