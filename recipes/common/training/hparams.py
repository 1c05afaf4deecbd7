"""Hyperparameters files: HyperPyYAML, and files that change a few keys of another one.

A file with the key `base` is the file that this key names, relative to its own folder, with the
file's other keys in the place of the base's; `!ref` works as in one file. Of a mapping under the
same tag, or under none, single keys are replaced; anything else is replaced whole. The base may
have a base itself. Of several bases, a list, each changes those before it. A base may be named by a
key, of the file or of a base before it, in angle brackets: with `method: moco` and the base
methods/<method>.yaml, the option `--method dino` takes methods/dino.yaml in the place of moco.yaml.
A setting that other files of such a choice refer to by `!ref`, and the chosen one does not, is
refused where it is given: it would do nothing.
"""

import io
import re
from datetime import date
from difflib import get_close_matches
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tag import Tag
from speechbrain.utils.distributed import main_process_only

from pretrained.plain_files import read_utf8
from recipes.common.data.files import REPOSITORY

INCLUDE = "!include:"
KEY_IN_BASE = re.compile("<(.+?)>")
REFERRED_TO = re.compile(r"!ref <(\w+)>")
MEANING = re.compile(r"^(\w+):.*? # (.*)$", re.M)
# What may change between the parts of a run: how long and how it is computed, where things lie, and
# what is done once it is trained.
FREE = {
    *("number_of_epochs", "num_workers", "max_batch_seconds", "ckpt_interval_minutes", "log_steps"),
    *("tensorboard", "download", "skip_prep", "lrs", "lexicon", "features", "teacher"),
    *("beam_size", "lm_weight", "word_score"),
}
PLACES = ("_folder", "_model", "_weights", "_file")
RECORDINGS = ("noise_folder", "rir_folder")  # null: synthetic ones
PLAIN = (bool, int, float, str, list, type(None))


def load_hparams(path, overrides=None):
    """Build what a hyperparameters file says, with the command line's overrides.

    Arguments
    ---------
    path : str or Path
        The YAML file.
    overrides : dict
        Values in the place of the file's, by key, as `read_command_line` gives them.

    Returns
    -------
    dict
        What the file builds.

    Raises
    ------
    ValueError
        Where an override names a key that the file does not have, a value is missing, or nothing
        can be built so.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "big.yaml").write_text("layers: 12\\nname: !ref big <layers>\\n")
    >>> _ = (folder / "tiny.yaml").write_text("base: big.yaml\\nlayers: 3\\n")
    >>> load_hparams(folder / "tiny.yaml")
    {'layers': 3, 'name': 'big 3'}
    """
    check_options(path, overrides or {})
    tree = read_tree(path, overrides)
    needed = [key for key, value in tree.items() if _tag(value) == "!PLACEHOLDER"]
    missing = [f"--{key}" for key in needed if key not in (overrides or {})]
    if missing:
        raise ValueError(f"{path} needs a value for {' and for '.join(missing)}, missing here.")
    try:
        return load_hyperpyyaml(_dump(tree), overrides)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever is built may raise whatever it likes
        given = " ".join(f"--{name} {value}" for name, value in (overrides or {}).items())
        raise ValueError(
            f"{path} cannot be built{' with ' if given else ''}{given}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no reason given'}."
        ) from error


def check_options(path, options, also=()):
    """Raise ValueError where a name of an option is no key of a hyperparameters file.

    Arguments
    ---------
    path : str or Path
    options : dict
        Their values, by name.
    also : iterable of str
        Other options, which may have been meant.
    """
    known = {key for key in read_tree(path, options) if key[:2] != "__"}
    unknown = [name for name in options if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], [*known, *also], n=1)
        meant = f"Did you mean --{near[0]}? " if near else ""
        raise ValueError(
            f"{path} has no key for the option --{unknown[0]} of the command line. {meant}Its "
            f"keys: {', '.join(sorted(known))}."
        )


def plain_values(tree, references=False):
    """Return the numbers, words and lists of a hyperparameters file.

    Arguments
    ---------
    tree : dict
        As `read_tree` returns it.
    references : bool
        Whether to return placeholders and references too, as tagged scalars.

    Returns
    -------
    dict

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("lr: 0.1\\nsplits: [a]\\nmodel: !new:torch.nn.ReLU\\n")
    >>> plain_values(read_tree(path))
    {'lr': 0.1, 'splits': ['a']}
    """
    named = ("!PLACEHOLDER", "!ref") if references else ()
    return {
        key: list(value) if isinstance(value, list) else value
        for key, value in tree.items()
        if (isinstance(value, PLAIN) and not _tag(value)) or _tag(value) in named
    }


def nested_values(tree, source, above=""):
    """Return what is set within mappings: numbers, words, lists and what the mappings build.

    Arguments
    ---------
    tree : dict
        With references resolved.
    source : dict
        The same before that: what refers to another key there is left out.
    above : str
        The keys above the tree's, each with a dot behind it.

    Returns
    -------
    dict
        By keys with dots between them.

    Example
    -------
    >>> text = "lr: 0.1\\nopt: !name:torch.optim.SGD\\n    lr: !ref <lr>\\n    momentum: 0.9\\n"
    >>> tree = ruamel.yaml.YAML().load(text)
    >>> nested_values(tree, tree)
    {'opt': '!name:torch.optim.SGD', 'opt.momentum': 0.9}
    """
    found = {}
    for key, value in tree.items():
        own = source.get(key)
        if isinstance(value, dict) and isinstance(own, dict):
            found |= {f"{above}{key}": _tag(value), **nested_values(value, own, f"{above}{key}.")}
        elif above and isinstance(value, PLAIN) and _tag(own) != "!ref":
            found[f"{above}{key}"] = value
    return found


def shown_values(tree):
    """Return the text of each value that an option can give, as it stands in the file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("data: !PLACEHOLDER\\nsplits: [a, b]\\nout: !ref <data>/x\\n")
    >>> shown_values(read_tree(path))
    {'data': '(needed)', 'splits': '[a, b]', 'out': '<data>/x'}
    """
    shown = {}
    for key, value in plain_values(tree, references=True).items():
        text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
        text = "null" if value is None else text
        shown[key] = "(needed)" if _tag(tree[key]) == "!PLACEHOLDER" else text
    return shown


def check_same_settings(path, overrides, folder):
    """Raise ValueError where a folder's run was trained with other settings than a command's.

    Its weights and figures would be told to be of settings that they never saw.

    Arguments
    ---------
    path : str or Path
        The hyperparameters file.
    overrides : dict
        The command line's.
    folder : str or Path
        The output folder. Without checkpoints in it there is nothing to compare with.
    """
    saved = Path(folder) / "hyperparams.yaml"
    if not saved.is_file() or not any(Path(folder).glob("**/save/CKPT*")):
        return
    source = read_tree(path, overrides)
    now, before = (
        {**plain_values(tree), **nested_values(tree, source)}
        for tree in (ruamel.yaml.YAML().load(resolve_hparams(path, overrides)), read_tree(saved))
    )
    # The stage, then what the command says, before what follows from these.
    # A key that one of the two lacks is another version's, but within a mapping it is a setting.
    compared = [key for key in {**before, **now} if "." in key or (key in before and key in now)]
    given = {key: key.partition(".")[0] in overrides for key in compared}
    for key in sorted(compared, key=lambda key: (key != "stage", not given[key])):
        old, new = (values.get(key, "not set") for values in (before, now))
        free = key in FREE or key.endswith(PLACES)
        if key in RECORDINGS:
            free = (old is None) == (new is None)
        if not free and old != new:
            known = f" Where {new} is what it was trained with, write that into {saved}."
            raise ValueError(
                f"{folder} holds a run that was trained with {key} {old}; now it is {new}. "
                "Use another output_folder, or the settings of before."
                f"{known if old == 'not set' else ''}"
            )


@main_process_only
def save_hparams(path, overrides, folder):
    """Write hyperparams.yaml, which stands by itself: one file, references resolved.

    Arguments
    ---------
    path : str or Path
        The hyperparameters file of the run.
    overrides : dict
        The command line's.
    folder : str or Path
        Receives `hyperparams.yaml`.
    """
    header = f"# Generated {date.today()} from:\n# {Path(path).resolve()}\n# yamllint disable\n"
    file = Path(folder) / "hyperparams.yaml"
    file.write_text(header + resolve_hparams(path, overrides), encoding="utf-8")


def read_source(folder):
    """Return the hyperparameters file of a run, as it is named in the repository.

    Arguments
    ---------
    folder : str or Path
        Of the run, with the hyperparams.yaml that `save_hparams` writes.

    Returns
    -------
    str or None
        Its path in the repository, or its name where it lies elsewhere; None without a
        hyperparams.yaml.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "own.yaml").write_text("lr: 0.1\\n")
    >>> save_hparams(folder / "own.yaml", {}, folder)
    >>> read_source(folder)
    'own.yaml'
    """
    file = Path(folder) / "hyperparams.yaml"
    if not file.is_file():
        return None
    source = Path(read_utf8(file).splitlines()[1].removeprefix("# "))
    inside = source.is_relative_to(REPOSITORY)
    return source.relative_to(REPOSITORY).as_posix() if inside else source.name


def resolve_hparams(path, overrides):
    """Return the text of a hyperparameters file, its base merged in and references resolved.

    Arguments are those of `load_hparams`.
    """
    return resolve_references(_dump(read_tree(path, overrides)), overrides).getvalue()


def read_tree(path, given=None):
    """Return the mapping of a hyperparameters file, its base merged in, with nothing built.

    Arguments
    ---------
    path : str or Path
    given : dict, optional
        Values that count in the place of the file's where a base is named by a key.

    Returns
    -------
    ruamel.yaml.comments.CommentedMap
        Tags stand as they are; the files of `!include` have absolute paths.
    """
    return _read_with_bases(Path(path), given)[0]


def read_meanings(path, given=None):
    """Return the comments behind the keys of a hyperparameters file and of its bases.

    Arguments are those of `read_tree`.

    Returns
    -------
    dict
        By key, without the sign that begins it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "big.yaml").write_text("data: !PLACEHOLDER # a folder\\nlr: 0.1 # peak\\n")
    >>> _ = (folder / "tiny.yaml").write_text("base: big.yaml\\nlr: 0.3\\n")
    >>> read_meanings(folder / "tiny.yaml")
    {'data': 'a folder', 'lr': 'peak'}
    """
    return _read_with_bases(Path(path), given)[1]


def _read_with_bases(path, given):
    """Return what `read_tree` does, and what `read_meanings` does."""
    tree = _read_mapping(path)
    folder = path.resolve().parent
    _place_includes(tree, folder)
    _check_included(tree, path)
    bases = tree.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    given = {**tree, **(given or {})}
    merged, meanings = None, {}
    for base in bases:
        base = _named_base(base, merged or {}, given, path)
        added, told = _read_with_bases(folder / base, given)
        merged = added if merged is None else _merge(merged, added)
        meanings |= told
    meanings |= dict(MEANING.findall(read_utf8(path)))
    return tree if merged is None else _merge(merged, tree), meanings


def _named_base(base, before, given, path):
    """Return the name of a base with the values of keys in the place of `<key>`.

    Arguments
    ---------
    base : str
    before : dict
        What the bases before it say.
    given : dict
        What counts in the place of that.
    path : Path
        The file that names the base.
    """
    for key in KEY_IN_BASE.findall(base):
        word = given.get(key, before.get(key))
        if not isinstance(word, str):
            raise ValueError(f"{path}: base: {base}: expected a key {key} that is a word.")
        start, end = Path(base).name.split(f"<{key}>")
        files = sorted((path.resolve().parent / base).parent.glob(f"{start}*{end}"))
        choice = {file.name[len(start) : len(file.name) - len(end)]: file for file in files}
        if word not in choice:
            raise ValueError(f"{key} is {word!r}: expected one of {', '.join(choice)}.")
        _check_use(key, word, choice, given)
        base = base.replace(f"<{key}>", word)
    return base


def _check_use(key, word, choice, given):
    """Raise ValueError where a value is given that only others of the files to choose from use."""
    used = {name: set(REFERRED_TO.findall(read_utf8(file))) for name, file in choice.items()}
    for name in sorted(set().union(*used.values()) - used[word]):
        if name in given:
            own = f"only {', '.join(sorted(used[word]))}" if used[word] else "none"
            users = ", ".join(other for other in used if name in used[other])
            raise ValueError(
                f"{name} is {given[name]}, which {key} {word} does not use: it has {own} of such "
                f"settings. {name} is for {users}."
            )


def _read_mapping(path):
    """Return the mapping of one file, without its base."""
    if not path.is_file():
        there = {found.name: str(found) for found in sorted(path.parent.glob("*.yaml"))}
        near = get_close_matches(path.name, there, n=1)
        meant = f" Did you mean {there[near[0]]}?" if near else ""
        raise ValueError(
            f"There is no hyperparameters file {path}.{meant} Files in {path.parent}: "
            f"{', '.join(there.values()) or 'none'}."
        )
    try:
        tree = ruamel.yaml.YAML().load(read_utf8(path))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}{where}: not a hyperparameters file in YAML: {what}.") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ValueError(f"{path}: expected lines of the form `key: value`.")
    return tree


def _place_includes(node, folder):
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        _place_includes(child, folder)
    tag = _tag(node)
    if tag.startswith(INCLUDE):
        node.yaml_set_ctag(Tag(suffix=f"{INCLUDE}{folder / tag.removeprefix(INCLUDE)}"))


def _check_included(node, path):
    """Raise ValueError where a setting below `!include` has another tag than what it replaces.

    HyperPyYAML would keep the tag that is included, and so build the included file's class.
    """
    for child in node.values() if isinstance(node, dict) else ():
        file = Path(_tag(child).removeprefix(INCLUDE))
        if _tag(child).startswith(INCLUDE) and file.is_file():
            _check_same_tags(child, _read_mapping(file), path)
        _check_included(child, path)


def _check_same_tags(changes, included, path):
    for key, value in changes.items():
        own = included.get(key)
        if isinstance(value, dict) and isinstance(own, dict):
            if _tag(value) not in ("", _tag(own)):
                raise ValueError(
                    f"{path}: {key} is {_tag(value)}, where the file that it changes has "
                    f"{_tag(own)}: below !include, values change and classes do not. Put another "
                    "class into `modules`, in the place of the reference there."
                )
            _check_same_tags(value, own, path)


def _merge(base, changes):
    for key, value in changes.items():
        own = base.get(key)
        both = isinstance(own, dict) and isinstance(value, dict)
        base[key] = _merge(own, value) if both and _tag(own) == _tag(value) else value
    return base


def _tag(node):
    return getattr(getattr(node, "tag", None), "value", None) or ""


def _dump(tree):
    stream = io.StringIO()
    ruamel.yaml.YAML().dump(tree, stream)
    stream.seek(0)
    return stream
