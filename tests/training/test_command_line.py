"""The command line: values as they are given, and how what is refused is told."""

import re
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from recipes.common.training.brain import ResumableBrain, TrainingError
from recipes.common.training.command_line import (
    REFUSED,
    SEVERAL_WORDS,
    read_command_line,
    read_value,
)
from recipes.common.training.hparams import (
    load_hparams,
    read_meanings,
    read_tree,
    resolve_hparams,
    shown_values,
)
from recipes.common.training.limits import check_limits
from recipes.common.training.refusals import run_recipe
from recipes.experiments.runner import PRETRAIN, RECIPES
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.LibriSpeech.pretrain.train import main

YAML = """
output_folder: !PLACEHOLDER
manifest_folder: !ref <output_folder>/manifest
tokenizer_file: null
models: []
lr: 0.1
name: word
bad: False
splits: [a]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return str(path)


NAMES = ["run #2", "#", "lr=0.001", "x: y", "20240601", "1e3", "2024-06-01", "true", "null x"]
NAMES += ["it's", '"', "[a", "{a: b}", "- a", "&a", "*a", "!a", "%a", "@a", "`a", "a\\n", "a\tb"]
NAMES += [
    "~x",
    "a ~ b",
    "ünï/ç ø",
    "01",
    "0x1F",
    "1_000",
    ".5",
    "5.",
    "+1",
    "-1",
    "=",
    "a=b=c",
    " ",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("joined", [False, True])
def test_a_folder_is_as_it_is_given(name, joined, file):
    given = [f"--output_folder={name}"] if joined else ["--output_folder", name]
    _, _, options = read_command_line([file, *given])
    assert options == {"output_folder": name}
    hparams = load_hparams(file, options)
    assert hparams["output_folder"] == name and hparams["manifest_folder"] == f"{name}/manifest"
    Path(file).with_name("saved.yaml").write_text(resolve_hparams(file, options))
    assert load_hparams(Path(file).with_name("saved.yaml"))["manifest_folder"] == f"{name}/manifest"


def test_the_home_is_found_in_paths_alone(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = [file, "--output_folder=~/x", "--models=[~/a,2024]", "--name", "~/x"]
    _, _, options = read_command_line(words)
    assert options == {
        "output_folder": "/home/ada/x",
        "models": ["/home/ada/a", "2024"],
        "name": "~/x",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("1e-3", 0.001),
        ("False", False),
        ("null", None),
        ("[1, b]", [1, "b"]),
        ("'1'", "1"),
        ("{a: [1], b: True}", {"a": [1], "b": True}),
        ("(?P<x>.*)-", "(?P<x>.*)-"),
        ("word # 2", "word # 2"),
        ("2024-06-01", "2024-06-01"),
        ("", None),
    ],
)
def test_numbers_and_lists_are_read_as_yaml_reads_them(text, value, file):
    assert read_command_line([file, "--name", text])[2] == {"name": value}


def test_counts_are_numbers_and_names_of_lists_are_text():
    assert read_value("trials", "500") == 500 and read_value("max_items", "5") == 5
    assert read_value("dev_trials", "2024") == "2024"
    assert read_value("train_splits", "[2024, a]") == ["2024", "a"]


def test_of_an_option_that_is_given_twice_the_last_counts(file):
    words = [file, "--lr", "1", "--device", "cpu:0", "--lr=2", "--device=cpu"]
    _, run_opts, options = read_command_line(words)
    assert options == {"lr": 2} and run_opts.device == "cpu"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr"], "--lr has no value"),
        (["--lr", "--debug"], "--lr has no value"),
        (["--device"], "--device has no value"),
        (["--sed", "3"], "no key for the option --sed .* lr, "),
        (["--dev", "cpu"], "no key for the option --dev"),  # argparse would take it for --device
        (["--lr", "1", "2"], "Expected one hyperparameters file"),
        (["--output_folder", "O/<x>"], "cannot hold <...>"),
        (["--bad", "no"], "--bad is 'no': expected True or False"),
        (["--bad", "1"], "--bad is 1: expected True or False"),
        (["--bad", "null"], "expected True or False"),
        (["--lr", "1e-3x"], "--lr is '1e-3x': expected a number"),
        (["--lr", "True"], "--lr is True: expected a number"),
        (["--splits", "dev-clean"], r"--splits is 'dev-clean': expected a list, such as \[a, b\]"),
        (["--", "x"], "no key for the option -- "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, message, file):
    with pytest.raises(ValueError, match=message) as error:
        read_command_line([file, *words])
    assert len(str(error.value).splitlines()) == 1


def test_without_a_file_it_says_what_it_expects():
    with pytest.raises(ValueError, match="Expected one hyperparameters file.*found none"):
        read_command_line(["--lr", "1"])


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_option_that_does_not_work_is_refused(name, file):
    assert name in {field.name for field in fields(RunOptions)}
    words = [f"--{name}"] if getattr(RunOptions, name, None) is False else [f"--{name}", "1"]
    with pytest.raises(ValueError, match=f"--{name} cannot be used here: "):
        read_command_line([file, *words])


VALUES = {  # of each run option that works
    "ckpt_interval_minutes": 7,
    "ckpt_interval_steps": 7,
    "compile": True,
    "compile_mode": "max-autotune",
    "compile_module_keys": ["a"],
    "compile_using_dynamic_shape_tracing": True,
    "debug": True,
    "debug_batches": 7,
    "debug_epochs": -1,
    "device": "cpu",
    "distributed_backend": "gloo",
    "eval_precision": "bf16",
    "find_unused_parameters": True,
    "grad_accumulation_factor": 7,
    "max_grad_norm": 0.5,
    "noprogressbar": True,
    "precision": "fp16",
    "profile_steps": 7,
    "profile_training": True,
    "profile_warmup": 7,
    "tqdm_colored_bar": True,
}


def test_every_run_option_works_or_is_refused():
    others = {"data_parallel_count", "distributed_launch"}  # SpeechBrain's parser lacks them
    assert {*VALUES, *REFUSED} == {*HELP_TEXTS, *SEVERAL_WORDS, *others}


@pytest.mark.parametrize(("name", "value"), VALUES.items())
def test_a_run_option_that_works_reaches_speechbrain(name, value, file):
    words = value if isinstance(value, list) else [] if value is True else [str(value)]
    _, run_opts, options = read_command_line([file, f"--{name}", *words])
    assert run_opts[name] == value and not options
    assert name in run_opts.overridden_args
    assert run_opts.overridden_args <= {name, "ckpt_interval_minutes"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "fp8"], "--precision is 'fp8': expected one of fp32, fp16, bf16"),
        (["--compile_mode", "x"], "expected one of default, reduce-overhead, max-autotune"),
        (["--distributed_backend", "x"], "expected one of nccl, gloo, mpi"),
        (["--grad_accumulation_factor", "0"], "'0': expected a whole number from 1 on"),
        (["--grad_accumulation_factor", "1.5"], "'1.5': expected a whole number from 1 on"),
        (["--max_grad_norm", "-1"], "'-1': expected a number from 1e-12 on"),
        (["--max_grad_norm", "nan"], "'nan': expected a number"),
        (["--ckpt_interval_steps", "often"], "'often': expected a whole number"),
        (["--debug_batches", "0"], "'0': expected a whole number from 1 on"),
        (["--device", "cuda:99"], "'cuda:99', which this machine does not have"),
        (["--device", "gpu"], "'gpu', which this machine does not have"),
        (["--debug=yes"], "The option --debug has a value, 'yes': expected --debug alone"),
        (["--param_file", "x"], "no key for the option --param_file"),
        (["--overridden_args", "x"], "no key for the option --overridden_args"),
        (["--tqdm_barcolor", "x"], "no key for the option --tqdm_barcolor"),
    ],
)
def test_a_value_that_a_run_option_does_not_take_is_refused(words, message, file):
    with pytest.raises(ValueError, match=message) as error:
        read_command_line([file, *words])
    assert len(str(error.value).splitlines()) == 1


def test_a_command_that_trains_nothing_refuses_what_it_does_not_heed(file):
    assert read_command_line([file, "--device", "cpu"], heeded=["device"])[1].device == "cpu"
    with pytest.raises(ValueError, match="--debug cannot be used here: this command does nothing"):
        read_command_line([file, "--debug"], heeded=["device"])


def test_help_shows_the_keys_of_the_file_and_what_works(file, capsys):
    with pytest.raises(SystemExit) as end:
        read_command_line([file, "--help"])
    shown = capsys.readouterr().out
    assert end.value.code is None
    assert "--lr 0.1" in shown and "--debug:" in shown and "--compile_module_keys" in shown
    assert not [name for name in REFUSED if f"--{name}:" in shown]


def test_each_key_of_each_recipe_has_a_meaning():
    """A file that takes an output folder is a recipe's; others are bases of such files."""
    lacking = set()
    for path in sorted(RECIPES.rglob("hparams/**/*.yaml")):
        shown, meanings = shown_values(read_tree(path)), read_meanings(path)
        if "output_folder" in shown:
            lacking |= {f"{path}: {key}" for key in shown if key not in meanings}
    assert not lacking


def test_help_tells_meanings_of_bases_and_of_the_file_itself(tmp_path, capsys):
    (tmp_path / "big.yaml").write_text("lr: 0.1 # at its peak\nepochs: 9 # in all\nseed: 1\n")
    file = tmp_path / "tiny.yaml"
    file.write_text("base: big.yaml\nlr: 0.3\nepochs: 2 # few\n")
    with pytest.raises(SystemExit):
        read_command_line([str(file), "--help"])
    shown = capsys.readouterr().out
    assert "--lr 0.3 # at its peak\n  --epochs 2 # few\n  --seed 1\n" in shown


def test_a_mistyped_option_is_told_which_one_was_meant(file):
    with pytest.raises(ValueError, match="Did you mean --manifest_folder?"):
        read_command_line([file, "--manifestfolder", "x"])
    with pytest.raises(ValueError, match="Did you mean --device?"):
        read_command_line([file, "--devise", "cpu"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: not a hyperparameters file in YAML: "),
        ("a: 1\na: 2\n", "line 2: not a hyperparameters file in YAML: found duplicate key"),
        ("a: \t1\n\tb: 2", "not a hyperparameters file in YAML: "),
        ("", "expected lines of the form `key: value`"),
        ("- 1", "expected lines of the form `key: value`"),
        ("\xff", "line 1: not text in UTF-8: byte 0xff"),
        (None, r"There is no hyperparameters file .*: .*tiny.yaml"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_a_line(text, message, file, tmp_path):
    path = tmp_path / "other.yaml"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as error:
        read_command_line([str(path)])
    assert "other.yaml" in str(error.value)
    assert len(str(error.value).splitlines()) == 1 and "http" not in str(error.value)


def test_of_a_misspelt_file_the_nearest_is_named(file, tmp_path):
    with pytest.raises(ValueError) as error:
        read_command_line([str(tmp_path / "tinny.yaml")])
    assert f"tinny.yaml. Did you mean {file}? Files in" in str(error.value)
    with pytest.raises(ValueError) as error:
        read_command_line([str(tmp_path / "something else")])
    assert "Did you mean" not in str(error.value)


def test_steps_between_checkpoints_take_the_place_of_minutes(file):
    _, run_opts, _ = read_command_line([file, "--ckpt_interval_steps", "5"])
    assert run_opts.ckpt_interval_steps == 5 and run_opts.ckpt_interval_minutes == 0
    assert "ckpt_interval_minutes" in run_opts.overridden_args


def test_several_modules_are_named_in_a_row(file):
    words = [file, "--compile_module_keys", "a", "b", "--lr", "1"]
    _, run_opts, options = read_command_line(words)
    assert run_opts.compile_module_keys == ["a", "b"] and options == {"lr": 1}


def test_help_shows_the_keys_of_the_method_that_is_given(capsys):
    file = str(PRETRAIN / "hparams" / "utterance_tiny.yaml")
    with pytest.raises(SystemExit):
        read_command_line([file, "--method", "dino", "--help"])
    shown = capsys.readouterr().out
    assert "--prototypes 65536" in shown and "--short_crops 4" in shown
    with pytest.raises(ValueError, match="method is 'mocco': expected one of dino, moco, simclr"):
        read_command_line([file, "--method", "mocco"])


SCRIPTS = [*RECIPES.rglob("train.py"), *RECIPES.rglob("verify.py")]


def train_astray(arguments):
    ResumableBrain.check_collapse(SimpleNamespace(epoch=2), {"loss": float("nan")})


def unpack(arguments):
    first, second = arguments
    return first, second


REFUSALS = {  # by what is said: what a recipe does
    "mask_prob is 80: expected": lambda _: check_limits({"mask_prob": 80}),
    "none.yaml": lambda _: main(["none.yaml"]),
    "folder none": lambda _: prepare_librispeech("none", "none/made", ["train-clean-100"]),
    "loss is nan after epoch 2": train_astray,
    "No such file or directory: 'lexicon'": lambda _: open("lexicon"),
}
DEFECTS = {
    "not enough values to unpack": unpack,
    "invalid literal": lambda _: int("many"),
    "must match": lambda _: torch.zeros(2) + torch.zeros(3),
    "normal expects std >= 0.0": lambda _: torch.empty(2).normal_(std=-1),
    "key": lambda _: {}["key"],
    # A ValueError
    "Expected parameter scale": lambda _: torch.distributions.Normal(0.0, -1.0, validate_args=True),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_refusal_ends_a_command_with_its_message_alone(said, monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with caplog.at_level("DEBUG"), pytest.raises(SystemExit) as end:
        run_recipe(REFUSALS[said])
    assert isinstance(end.value.code, str) and said in end.value.code  # which is status 1
    assert end.value.code in caplog.text  # for the run's log
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])
    with pytest.raises((ValueError, TrainingError, OSError), match=said):
        run_recipe(REFUSALS[said])


def test_an_interrupted_recipe_says_what_to_do(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as end:
        run_recipe(interrupted)
    assert end.value.code == 130
    assert "The same command goes on from the last checkpoint" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug"])
    with pytest.raises(KeyboardInterrupt):
        run_recipe(interrupted)


@pytest.mark.parametrize("said", DEFECTS)
def test_a_defect_keeps_its_traceback(said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(Exception, match=said):  # SystemExit is none
        run_recipe(DEFECTS[said])


def test_the_words_of_the_command_line_and_more_reach_a_recipe(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "a.yaml", "--seed", "1"])
    given = []
    run_recipe(lambda *words: given.extend(words), "test_fold", [1, 2])
    assert given == [["a.yaml", "--seed", "1"], "test_fold", [1, 2]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_begins_so(script):
    assert 'if __name__ == "__main__":\n    run_recipe(' in script.read_text(encoding="utf-8")


def test_values_that_a_file_leaves_open_are_asked_for_together(tmp_path):
    path = tmp_path / "open.yaml"
    path.write_text("data_folder: !PLACEHOLDER\nseed: 1\noutput_folder: !PLACEHOLDER\n")
    with pytest.raises(ValueError, match="a value for --data_folder and for --output_folder"):
        load_hparams(path, {"seed": 2})
    with pytest.raises(ValueError, match="a value for --output_folder, missing"):
        load_hparams(path, {"data_folder": "D"})


@pytest.mark.parametrize("file", sorted(RECIPES.rglob("hparams/*.yaml")), ids=lambda f: f.name)
def test_what_a_file_has_as_a_number_is_one_on_the_command_line(file):
    for name, text in re.findall(r"^(\w+): ([-\d.]+|True|False)(?: #.*)?$", file.read_text(), re.M):
        assert isinstance(read_value(name, text), (bool, int, float)), name
