"""The codes stage by its own command: killed and gone on with, and stage C after it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pretrained.exported import load_model, save_model
from recipes.common.training.hparams import load_hparams
from recipes.experiments.runner import PRETRAIN

TRAIN = PRETRAIN / "train.py"

pytestmark = pytest.mark.long


def arguments(stage, data, output, *more):
    """Return the command line of a small run."""
    options = {
        "--data_folder": data,
        "--output_folder": output / stage,
        "--number_of_epochs": 2,
        "--max_batch_seconds": 20,
        "--num_targets": 16,
        "--ckpt_interval_minutes": 0,
        "--ckpt_interval_steps": 3,
    }
    pairs = [str(word) for pair in options.items() for word in pair]
    return [f"hparams/{stage}_tiny.yaml", *pairs, *map(str, more)]


def tensors(folder):
    """Return the exported weights, and those of the last checkpoint."""
    found = load_file(folder / "model" / "model.safetensors")
    (checkpoint,) = (folder / "save").glob("CKPT*")
    for name in ("teacher", "codebooks", "heads"):
        state = torch.load(checkpoint / f"{name}.ckpt", weights_only=True)
        found |= {f"{name}.{key}": value for key, value in state.items()}
    return found


@pytest.fixture(scope="module")
def left_alone(librispeech, commands, tmp_path_factory):
    """A run of the stage without interruption."""
    output = tmp_path_factory.mktemp("codes")
    commands.succeed(TRAIN, *arguments("codes", librispeech, output))
    return output


def test_a_killed_run_ends_with_the_same_bits(left_alone, librispeech, commands, tmp_path):
    args = arguments("codes", librispeech, tmp_path)
    commands.succeed(TRAIN, *args, points="epoch,validation")
    expected, found = (tensors(folder / "codes") for folder in (left_alone, tmp_path))
    assert expected.keys() == found.keys()
    different = [name for name in expected if not expected[name].equal(found[name])]
    assert not different, f"{len(different)} of {len(expected)} tensors differ: {different[:3]}"
    records = (folder / "codes" / "metrics.json" for folder in (left_alone, tmp_path))
    expected, found = (json.loads(path.read_text())["figures"]["test"] for path in records)
    assert expected == found and set(found) >= {"copy_accuracy", "code_perplexity_2"}


def test_stage_c_starts_from_it_with_units_of_a_layer(left_alone, librispeech, commands, tmp_path):
    given = {"data_folder": "none", "output_folder": str(tmp_path)}
    stage_b = load_hparams(PRETRAIN / "hparams" / "utterance_tiny.yaml", given)["modules"]
    encoder = {"utterance_encoder": stage_b["utterance_encoder"]}
    save_model(tmp_path / "utterance" / "model", encoder)
    model = left_alone / "codes" / "model"
    more = ("--frame_model", model, "--units_folder", "null", "--number_of_epochs", 1)
    args = arguments("joint", librispeech, tmp_path, *more)
    args[args.index("--num_targets") + 1] = "24"  # others than the codes
    commands.succeed(TRAIN, *args)
    description = json.loads((tmp_path / "joint" / "units" / "units.json").read_text())
    assert description["num_units"] == 24
    assert load_model(tmp_path / "joint" / "model")["frame_encoder"].config["num_targets"] == 24
