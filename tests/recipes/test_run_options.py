"""SpeechBrain's run options, each by a recipe's own command."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from recipes.experiments.runner import PRETRAIN

pytestmark = pytest.mark.long
SHOWN = ["--noprogressbar", "--device", "cpu", "--ckpt_interval_minutes", "1"]
SHOWN += ["--distributed_backend", "gloo", "--find_unused_parameters"]
RUNS = {  # by name: SpeechBrain's options
    "plain": [],
    "quick": ["--debug", "--debug_batches", "1", "--debug_epochs", "1"],
    "bf16": ["--precision", "bf16"],
    "bf16_evaluated": ["--eval_precision", "bf16"],
    "accumulated": ["--grad_accumulation_factor", "2"],
    "clipped": ["--max_grad_norm", "1e-12"],
    "silent": SHOWN,
    "coloured": ["--tqdm_colored_bar", "--ckpt_interval_steps", "1"],
    "profiled": ["--profile_training", "--profile_warmup", "1", "--profile_steps", "1"],
}


@pytest.fixture(scope="module")
def runs(librispeech, commands, tmp_path_factory):
    """Stage B with each of the options, in a folder of its name, and what it said beside it."""
    folder = tmp_path_factory.mktemp("options")
    words = ["hparams/utterance_tiny.yaml", "--data_folder", librispeech]
    words += ["--number_of_epochs", "1", "--max_batch_seconds", "20", "--num_workers", "0"]
    for name, options in [*RUNS.items(), ("profiled", [])]:
        script, output = PRETRAIN / "train.py", folder / name
        said = commands.succeed(script, *words, "--output_folder", output, *options)
        with open(folder / f"{name}.log", "a") as log:
            log.write(said)
    return folder


def figures(runs, name):
    return json.loads((runs / name / "metrics.json").read_text())["figures"]


def weights(runs, name):
    return load_file(runs / name / "model" / "model.safetensors")


def same(runs, name):
    plain, other = weights(runs, "plain"), weights(runs, name)
    return all(torch.equal(plain[key], other[key]) for key in plain)


@pytest.mark.parametrize("name", ["silent", "coloured", "profiled"])
def test_what_is_shown_saved_or_timed_changes_no_weight(name, runs):
    assert same(runs, name)
    assert figures(runs, name)["test"] == figures(runs, "plain")["test"]


def test_a_quick_look_takes_the_batches_and_epochs_it_is_told_to(runs):
    found = json.loads((runs / "quick" / "debug" / "metrics.json").read_text())["figures"]
    assert found["steps"] == 1 and found["epochs"] == 1
    assert not (runs / "quick" / "debug" / "save").exists() and not (runs / "quick/model").exists()


def test_precision_is_that_of_training_or_of_evaluation(runs):
    plain, evaluated = figures(runs, "plain"), figures(runs, "bf16_evaluated")
    assert not same(runs, "bf16") and figures(runs, "bf16")["train"] != plain["train"]
    assert evaluated["train"]["loss"] == plain["train"]["loss"]
    assert evaluated["valid"]["loss"] != plain["valid"]["loss"]
    assert evaluated["valid"]["loss"] == pytest.approx(plain["valid"]["loss"], rel=0.1)


def test_accumulated_gradients_make_half_the_steps(runs):
    assert figures(runs, "accumulated")["steps"] == -(-figures(runs, "plain")["steps"] // 2)


def test_gradients_are_clipped_to_the_norm(runs):
    clipped, plain = weights(runs, "clipped"), weights(runs, "plain")
    assert max((clipped[key] - plain[key]).abs().max() for key in plain) > 1e-3


def test_progress_bars_are_shown_or_not_and_in_colour_or_not(runs):
    logs = {name: (runs / f"{name}.log").read_text() for name in ("plain", "silent", "coloured")}
    assert "train_loss=" in logs["plain"] and "train_loss=" not in logs["silent"]
    assert "\x1b[32m" in logs["coloured"] and "\x1b[32m" not in logs["plain"]


def test_a_profiled_run_leaves_its_trace_and_goes_on_without(runs):
    assert "The profiler finished, training is stopped." in (runs / "profiled.log").read_text()
    (trace,) = (runs / "profiled" / "profiler_logs").glob("*.json")
    assert trace.stat().st_size > 1000
    assert os.path.exists(runs / "profiled" / "metrics.json")


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_a_refusal_has_a_traceback_with_debug_alone(options, commands, tmp_path):
    none, output = tmp_path / "none", tmp_path / "output"
    words = ["hparams/frame_tiny.yaml", "--data_folder", none, "--output_folder", output]
    code, said = commands.run(PRETRAIN / "train.py", *words, *options)
    assert code == 1 and said.endswith(f"data_folder {none} is missing or empty.\n")
    assert ("Traceback" in said) == bool(options) and not output.exists()
    assert "torchvision" not in said  # whose absence SpeechBrain tells, as if pictures were lost
