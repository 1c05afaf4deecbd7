"""A recipe's command line: a hyperparameters file, its options and SpeechBrain's run options."""

import os
import re
from dataclasses import fields

import ruamel.yaml
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from recipes.common.training.hparams import check_options, plain_values, read_tree

SCALAR_LISTS = ("compile_module_keys", "jit_module_keys")  # run options of several words
# Run options of SpeechBrain's that do not work here, and why.
SEVERAL_DEVICES = "start a process for each device with torchrun"
STOPPED = "training stops at the first loss that is not finite, before it reaches a weight"
REFUSED = {
    "data_parallel_backend": SEVERAL_DEVICES,
    "data_parallel_count": SEVERAL_DEVICES,
    "distributed_launch": SEVERAL_DEVICES,
    "jit": "the encoders cannot be scripted; --compile compiles them",
    "jit_module_keys": "the encoders cannot be scripted; --compile_module_keys compiles some",
    "skip_nonfinite_grads": STOPPED,
    "nonfinite_patience": STOPPED,
    "remove_vector_weight_decay": "it makes two groups, and SpeechBrain clips the first alone",
    "auto_mix_prec": "it is deprecated: --precision fp16",
    "bfloat16_mix_prec": "it is deprecated: --precision bf16",
}
# Keys whose values are paths, or lists of them: text, even where a name has digits alone.
PATHS = re.compile(
    r"(^|_)(folder|file|models?|manifest|weights|lexicon|alignments|teacher|control|features)$"
)
KINDS = (  # of a value in the file; what an option may be; how that is said
    (bool, bool, "True or False"),
    ((int, float), (int, float), "a number"),
    (list, list, "a list, such as [a, b]"),
)
REFERENCE = re.compile(r"<[^>]*>")
BEGINNINGS = {"[": list, "{": dict, "'": str, '"': str}  # of what YAML is to read
PLAIN = re.compile(r"[\w.+-]*|~")  # what may be a number, a truth value or null


def read_command_line(arguments):
    """Return what a command line says.

    Arguments
    ---------
    arguments : list of str
        A hyperparameters file and options, `--key value` or `--key=value`. Of an option that is
        given twice the last counts.

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
    file, run_words, texts = split_words(arguments)
    _, run_opts, _ = RunOptions.from_command_line_args([file, *run_words])
    check_options(file, texts)
    options = {name: read_value(name, text) for name, text in texts.items()}
    defaults = plain_values(read_tree(file))
    for name, value in options.items():
        check_kind(name, value, defaults.get(name))
    return file, run_opts, options


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
    """Return the file, the words of SpeechBrain's run options, and the text of each other option.

    Raises
    ------
    ValueError
        Where there is not one file, an option has no value, or a run option cannot be used.

    Example
    -------
    >>> split_words(["a.yaml", "--debug", "--lr", "1", "--lr=2"])
    ('a.yaml', ['--debug'], {'lr': '2'})
    """
    runs = {field.name: field.default is False for field in fields(RunOptions)}
    words, files, run_words, texts = list(arguments), [], [], {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            files.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in REFUSED:
            raise ValueError(f"--{name} cannot be used here: {REFUSED[name]}.")
        if name == "help" or runs.get(name):
            run_words.append(word)
            continue
        taken = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            taken.append(words.pop(0))
            if name not in SCALAR_LISTS:
                break
        if not taken:
            raise ValueError(f"The option --{name} has no value: expected --{name} VALUE.")
        if name in runs:
            run_words += [f"--{name}", *taken]
        else:
            texts[name] = taken[0]
    if "--ckpt_interval_steps" in run_words and "--ckpt_interval_minutes" not in run_words:
        run_words.append("--ckpt_interval_minutes=0")  # in the place of the file's
    if len(files) != 1 and "--help" not in run_words:
        raise ValueError(
            f"Expected one hyperparameters file, then options; found {files or 'none'}. A value "
            "with a space needs quotes."
        )
    return (files or ["hparams.yaml"])[0], run_words, texts


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
