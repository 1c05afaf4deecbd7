"""A recipe's command line: a hyperparameters file, its options and SpeechBrain's run options."""

import math
import os
import re
import sys
from typing import Literal, get_args, get_origin, get_type_hints

import ruamel.yaml
import torch
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from recipes.common.training.hparams import (
    check_options,
    plain_values,
    read_meanings,
    read_tree,
    shown_values,
)

SEVERAL_WORDS = ("compile_module_keys", "jit_module_keys")
# Run options of SpeechBrain's that do not work here, and why.
SEVERAL_DEVICES = "start a process for each device with torchrun"
STOPPED = "training stops at a loss that is not finite, before a checkpoint is made of it"
REFUSED = {
    "data_parallel_backend": SEVERAL_DEVICES,
    "data_parallel_count": SEVERAL_DEVICES,
    "distributed_launch": SEVERAL_DEVICES,
    "jit": "the encoders cannot be scripted; --compile compiles them",
    "jit_module_keys": "the encoders cannot be scripted; --compile_module_keys compiles some",
    "compile_using_fullgraph": "parts of the encoders are compiled, each for itself",
    "skip_nonfinite_grads": STOPPED,
    "nonfinite_patience": STOPPED,
    "remove_vector_weight_decay": "it makes two groups, and SpeechBrain clips the first alone",
    "auto_mix_prec": "it is deprecated: --precision fp16",
    "bfloat16_mix_prec": "it is deprecated: --precision bf16",
    "test_only": "a finished run that is started again trains nothing and is evaluated anew",
    "optimizer_step_limit": "it ends an epoch early, of which a checkpoint would know nothing; "
    "number_of_epochs says how long a run is, and --debug takes a few steps",
    "debug_persistently": "a run would take a quick look's checkpoints for its own",
    "log_config": "SpeechBrain does not read it; the environment's SB_LOG_LEVEL sets the level",
}
RUN_OPTIONS = {**dict.fromkeys(SEVERAL_WORDS, "The modules to compile, by name."), **HELP_TEXTS}
FLAGS = {name for name in {*HELP_TEXTS, *REFUSED} if getattr(RunOptions, name, None) is False}
LEAST = {  # values of run options: below, a run divides by zero or learns backwards
    "grad_accumulation_factor": 1,
    "debug_batches": 1,
    "max_grad_norm": 1e-12,
    "profile_warmup": 0,
    "profile_steps": 1,
}
# Keys whose values are paths or names, or lists of them: text, even where it has digits alone.
PATHS = re.compile(
    r"(^|_)(folder|file|models?|manifest|weights|lexicon|alignments|teacher|control|features|table"
    r"|splits)$|_trials$"
)
KINDS = (  # of a value in the file; what an option may be; how that is said
    (bool, bool, "True or False"),
    ((int, float), (int, float), "a number"),
    (list, list, "a list, such as [a, b]"),
)
REFERENCE = re.compile(r"<[^>]*>")
BEGINNINGS = {"[": list, "{": dict, "'": str, '"': str}  # of what YAML is to read
PLAIN = re.compile(r"[\w.+-]*|~")  # what may be a number, a truth value or null


def read_command_line(arguments, heeded=None):
    """Return what a command line says; with `--help`, show what it can say and exit.

    Arguments
    ---------
    arguments : list of str
        A hyperparameters file and options, `--key value` or `--key=value`. Of an option that is
        given twice the last counts.
    heeded : collection of str, optional
        The run options of SpeechBrain's that the command heeds, where it does not train a Brain.

    Returns
    -------
    file : str
        The hyperparameters file.
    run_opts : speechbrain.utils.run_opts.RunOptions
    options : dict
        Of the options that are keys of the file, the values: as YAML reads a number, `True`,
        `null`, a list `[a, b]` or a mapping `{a: b}`, and as they are given otherwise. In paths,
        `~` is the home.

    Raises
    ------
    ValueError
        Where an option is unknown, has no value, or cannot be used here.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tiny.yaml"
    >>> _ = path.write_text("lr: 0.1\\noutput_folder: !PLACEHOLDER\\n")
    >>> words = [str(path), "--device", "cpu", "--lr=1e-3", "--output_folder", "O/run #2"]
    >>> _, run_opts, options = read_command_line(words)
    >>> run_opts.device, options
    ('cpu', {'lr': 0.001, 'output_folder': 'O/run #2'})
    """
    heeded = RUN_OPTIONS.keys() - REFUSED.keys() if heeded is None else set(heeded)
    if "--help" in arguments or "-h" in arguments:
        words = [word for word in arguments if word not in ("--help", "-h")]
        file, _, texts = split_words(words) if words else (None, None, {})
        print(describe_options(file, heeded, texts))
        sys.exit()
    file, run_values, texts = split_words(arguments)
    defaults = plain_values(read_tree(file, texts))
    check_options(file, texts, also=heeded)
    run_opts = read_run_options(run_values, heeded)
    options = {name: read_value(name, text) for name, text in texts.items()}
    for name, value in options.items():
        check_kind(name, value, defaults.get(name))
    return file, run_opts, options


def describe_options(file, heeded, given=None):
    """Return the options of a command: keys of the file with value and meaning, run options.

    The keys are those that the file has with what is given.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tiny.yaml"
    >>> _ = path.write_text("lr: 0.1 # at its peak\\n")
    >>> print(describe_options(path, ["debug"]).partition("Options of SpeechBrain")[0].strip())
    usage: COMMAND HPARAMS.yaml [--KEY VALUE ...]
    <BLANKLINE>
    Keys of ...tiny.yaml:
      --lr 0.1 # at its peak
    """
    lines = ["usage: COMMAND HPARAMS.yaml [--KEY VALUE ...]", ""]
    if file is not None:
        values, meanings = shown_values(read_tree(file, given)), read_meanings(file, given)
        lines.append(f"Keys of {file}:")
        for key, value in values.items():
            lines.append(f"  --{key} {value}" + (f" # {meanings[key]}" if key in meanings else ""))
        lines.append("")
    else:
        lines += ["With a hyperparameters file, --help shows its keys as well.", ""]
    shown = sorted(RUN_OPTIONS.keys() & heeded)
    lines += ["Options of SpeechBrain:", *(f"  --{name}: {RUN_OPTIONS[name]}" for name in shown)]
    return "\n".join(lines)


def read_run_options(values, heeded):
    """Return SpeechBrain's run options.

    Arguments
    ---------
    values : dict
        By name, the words that were given: none for a flag.
    heeded : collection of str
        The names of those that can be used.

    Returns
    -------
    speechbrain.utils.run_opts.RunOptions

    Raises
    ------
    ValueError
        Where one cannot be used here, or its value is not one that it takes.

    Example
    -------
    >>> read_run_options({"precision": ["bf16"]}, ["precision"]).precision
    'bf16'
    """
    types, read = get_type_hints(RunOptions), {}
    for name, words in values.items():
        if name not in heeded:
            reason = REFUSED.get(name, "this command does nothing with it")
            raise ValueError(f"--{name} cannot be used here: {reason}.")
        if name in FLAGS:
            read[name] = True
        elif name in SEVERAL_WORDS:
            read[name] = words
        else:
            read[name] = _read_run_value(name, words[0], types[name])
    if "ckpt_interval_steps" in read:
        read.setdefault("ckpt_interval_minutes", 0)  # in the place of the file's
    return RunOptions.from_dictionary(read)


def _read_run_value(name, text, kind):
    """Return the value of a run option of one of SpeechBrain's types."""
    if name == "device":
        return check_device(text)
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"--{name} is {text!r}: expected one of {', '.join(get_args(kind))}.")
        return text
    expected = {int: "a whole number", float: "a number"}[kind]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    least = LEAST.get(name, -math.inf)
    if not least <= value < math.inf:
        expected += f" from {least} on" if least > -math.inf else ""
        raise ValueError(f"--{name} is {text!r}: expected {expected}.")
    return value


def check_device(text):
    """Return the name of a device; raise ValueError where there is no such device.

    Example
    -------
    >>> check_device("cpu")
    'cpu'
    """
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch without CUDA
        raise ValueError(
            f"--device is {text!r}, which this machine does not have: expected cpu, cuda, cuda:1 "
            f"and so on ({torch.cuda.device_count()} CUDA devices were found)."
        ) from error
    return text


def check_kind(name, value, default):
    """Raise ValueError unless a value is of the kind that the file has, or null.

    Example
    -------
    >>> check_kind("skip_bad", "no", False)
    Traceback (most recent call last):
        ...
    ValueError: --skip_bad is 'no': expected True or False.
    """
    for kind, types, expected in KINDS:
        if isinstance(default, kind):
            is_bool = isinstance(value, bool)
            fits = isinstance(value, types) and (is_bool == (kind is bool))
            if not fits and (value is not None or kind is bool):
                raise ValueError(f"--{name} is {value!r}: expected {expected}.")
            return


def split_words(arguments):
    """Return the file, the words of each of SpeechBrain's run options, and each other one's text.

    Raises
    ------
    ValueError
        Where there is not one file, or an option has no value.

    Example
    -------
    >>> split_words(["a.yaml", "--debug", "--lr", "1", "--lr=2"])
    ('a.yaml', {'debug': []}, {'lr': '2'})
    """
    words, files, run_values, texts = list(arguments), [], {}, {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            files.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        taken = [value] if equals else []
        while name not in FLAGS and not equals and words and not words[0].startswith("--"):
            taken.append(words.pop(0))
            if name not in SEVERAL_WORDS:
                break
        if bool(taken) == (name in FLAGS):
            expected = f"--{name} alone" if taken else f"--{name} VALUE"
            has = f"a value, {value!r}" if taken else "no value"
            raise ValueError(f"The option --{name} has {has}: expected {expected}.")
        if name in RUN_OPTIONS or name in REFUSED:
            run_values[name] = taken
        else:
            texts[name] = taken[0]
    if len(files) != 1:
        raise ValueError(
            f"Expected one hyperparameters file, then options; found {files or 'none'}. A value "
            "with a space needs quotes."
        )
    return files[0], run_values, texts


def read_value(name, text):
    """Return the value of an option.

    Raises
    ------
    ValueError
        Where a path has a `<...>`, which HyperPyYAML takes for a reference.

    Example
    -------
    >>> [read_value("lr", text) for text in ("0.1", "null", "[1, 2]", "x: y", "a # b")]
    [0.1, None, [1, 2], 'x: y', 'a # b']
    >>> read_value("output_folder", "20240601"), read_value("seed", "20240601")
    ('20240601', 20240601)
    """
    is_path = bool(PATHS.search(name))
    if is_path and REFERENCE.search(text):
        raise ValueError(
            f"--{name} is {text!r}: a path cannot hold <...>, which HyperPyYAML takes for a "
            "reference. Rename what it names."
        )
    kinds = BEGINNINGS.get(text[:1], (bool, int, float, type(None)))
    value = text
    if text[:1] in BEGINNINGS or PLAIN.fullmatch(text):
        try:
            value = ruamel.yaml.YAML(typ="safe").load(text)
        except YAMLError:
            value = text
    value = value if isinstance(value, kinds) else text
    return read_path(value, text) if is_path else value


def read_path(value, text):
    """Return a path, or a list of them, with the home in the place of `~`.

    Example
    -------
    >>> read_path(2024, "2024"), read_path(["a", 1], "[a, 1]"), read_path(None, "null")
    ('2024', ['a', '1'], None)
    """
    if isinstance(value, list):
        return [read_path(part, str(part)) for part in value]
    return value if value is None else os.path.expanduser(value if isinstance(value, str) else text)
