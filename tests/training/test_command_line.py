"""The command line: values as they are given, and what is refused before anything is written."""

from dataclasses import fields
from pathlib import Path

import pytest
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from recipes.common.training.command_line import REFUSED, read_command_line
from recipes.common.training.hparams import load_hparams, resolve_hparams

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


def test_of_an_option_that_is_given_twice_the_last_counts(file):
    words = [file, "--lr", "1", "--device", "cuda", "--lr=2", "--device=cpu"]
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
    with pytest.raises(ValueError, match=f"--{name} cannot be used here: "):
        read_command_line([file, f"--{name}", "1"])


def test_all_other_run_options_reach_speechbrain(file):
    defaults = RunOptions()
    for name in sorted(HELP_TEXTS.keys() - REFUSED.keys()):
        default = getattr(defaults, name)
        if default is False:
            words, expected = [f"--{name}"], True
        elif "precision" in name:
            words, expected = [f"--{name}", "bf16"], "bf16"
        else:
            expected = "a" if default is None else type(default)("7")
            words = [f"--{name}", str(expected)]
        if name.endswith("_keys"):
            expected = ["a"]
        _, run_opts, options = read_command_line([file, *words])
        assert run_opts[name] == expected and not options
        assert name in run_opts.overridden_args
        assert run_opts.overridden_args <= {name, "ckpt_interval_minutes"}


def test_steps_between_checkpoints_take_the_place_of_minutes(file):
    _, run_opts, _ = read_command_line([file, "--ckpt_interval_steps", "5"])
    assert run_opts.ckpt_interval_steps == 5 and run_opts.ckpt_interval_minutes == 0
    assert "ckpt_interval_minutes" in run_opts.overridden_args


def test_several_modules_are_named_in_a_row(file):
    words = [file, "--compile_module_keys", "a", "b", "--lr", "1"]
    _, run_opts, options = read_command_line(words)
    assert run_opts.compile_module_keys == ["a", "b"] and options == {"lr": 1}
