"""What made a result: code, settings, data and models. Results are made again where these change.

A run's folder has `made_by.json` beside the `metrics.json` of the command that wrote it. A reading
is a JSON file that holds both its figures and what made them. Of code, the files count that were
loaded, without comments and docstrings, but for those that write model cards; of data, the names
and sizes of files; of models, the digests in their config.json.
"""

import ast
import hashlib
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pretrained.exported import CONFIG_FILE
from pretrained.plain_files import digest_file, list_files, read_json
from recipes.common.data.files import REPOSITORY, replace_text
from recipes.common.training.hparams import resolve_hparams
from recipes.common.training.record import CODE, loaded_code
from recipes.experiments.runner import make_command, run_logged

# Options that name no input: places of outputs, and manifests, which follow from the data
OUTPUTS = ("output_folder", "cache_folder", "manifest_folder", "manifests")
RANDOM = "random:"  # before a model of which the architecture counts alone
RECORD = "made_by.json"
OF_A_SEED = ("seed", "__set_seed", "lrs")  # settings
STATES = "states"  # where heads and readings keep what frozen models give, in their folder
EXPERIMENTS = Path("recipes/experiments")
CARDS = ("pretrained/sharing/card.py", "pretrained/sharing/card_texts.py")  # tell of figures


class Run(NamedTuple):
    """A command of a recipe.

    Attributes
    ----------
    folder : Path
        Its output folder.
    recipe : Path
        Where it is run.
    words : list of str
        The script, then the hyperparameters file where it takes one.
    given : dict
        Its options. Paths are what it reads, or `OUTPUTS`; all else are settings.
    """

    folder: Path
    recipe: Path
    words: list
    given: dict

    @property
    def log(self):
        """The file that receives what the command prints."""
        return self.folder / "log.txt"


def make_run(run, jobs):
    """Run a command unless the same one made what its folder holds.

    What an interrupted one left is gone on from. What another one made is removed: other code,
    settings, data or models.

    Arguments
    ---------
    run : Run
    jobs : int
        How many commands share the cores at a time.

    Returns
    -------
    str or None
        What went wrong.
    """
    ended = (run.folder / "metrics.json").is_file()
    if change := changed(run):
        print(f"{run.folder} is made again: {change} changed.", flush=True)
        shutil.rmtree(run.folder)
    elif ended:
        return None
    made_by = {**asked(run), "begun": digest_text(json.dumps(project_code()))}
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / RECORD, made_by)
    given = {**run.given, "output_folder": run.folder}
    command = make_command(run.words, given)
    if problem := run_logged(command, run.recipe, run.log, jobs):
        return f"{run.folder} {problem}"
    shutil.rmtree(run.folder / STATES, ignore_errors=True)  # gigabytes in each of many runs
    made_by["code"] = digests_of_code(read_json(run.folder / "metrics.json")["code"])
    del made_by["begun"]
    write_json(run.folder / RECORD, made_by)
    return None


def changed(run):
    """Return what of a run is not as it was when its folder was written, or None.

    Arguments
    ---------
    run : Run

    Returns
    -------
    str or None
        None too where there is no folder.
    """
    if not run.folder.is_dir():
        return None
    path = run.folder / RECORD
    if not path.is_file():
        return "what made it is not known: it may have"
    made_by = read_json(path)
    if "begun" in made_by and made_by["begun"] != digest_text(json.dumps(project_code())):
        return "the code"
    return difference(made_by, {**asked(run), "code": digests_of_code(made_by.get("code", ()))})


def difference(before, now):
    """Return in which part two records of what made a result differ, or None.

    Example
    -------
    >>> before = {"settings": {"lr": "0.1"}, "code": {}}
    >>> difference(before, {**before, "settings": {"lr": "0.2"}})
    'lr (0.1, now 0.2)'
    """
    settings, other = before["settings"], now["settings"]
    for name in settings.keys() | other.keys():
        if settings.get(name) != other.get(name):
            return f"{name} ({settings.get(name, 'none')}, now {other.get(name, 'none')})"
    for part in ("inputs", "code"):
        old, new = before.get(part, {}), now.get(part, {})
        names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if names:
            return f"{', '.join(names[:3])}{' and others' * (len(names) > 3)}"
    return None


def refuse_mixed(folders):
    """Leave with a message where runs differ in more than their seeds: they are no one result.

    Arguments
    ---------
    folders : list of Path
        Of the same run with several seeds. One without a record of what made it is passed over.
    """
    records = {x: read_json(x / RECORD) for x in folders if (x / RECORD).is_file()}
    for folder, record in list(records.items())[1:]:
        first = next(iter(records))
        before, now = (
            {**x, "settings": without_seed(x["settings"]), "code": {}}
            for x in (records[first], record)
        )
        if change := difference(before, now):
            sys.exit(
                f"{first} and {folder} are not of the same: {change}. Run the command again "
                "without --write and with as many seeds, or remove what is of before."
            )


def without_seed(settings):
    """Return a run's settings but for its seed, and the learning rates that a seed sweeps."""
    return {name: text for name, text in settings.items() if name not in OF_A_SEED}


def tell_other_code(folder):
    """Print how many of the runs in a folder other code made than is here, if any did."""
    records = {path.parent: read_json(path).get("code", {}) for path in folder.rglob(RECORD)}
    other = sorted(run for run, code in records.items() if digests_of_code(code) != code)
    if other:
        print(
            f"{len(other)} of {len(records)} runs were made by other code than is here, such as "
            f"{other[0]}: without --write, the same command makes them again."
        )


def kept_reading(path, inputs, read, modules):
    """Return the figures of a reading: those of a file, or made and kept there.

    Arguments
    ---------
    path : Path
        A JSON file.
    inputs : dict
        What it is read from: paths, and settings.
    read : callable
        Makes the figures, of what JSON holds.
    modules : list of module
        Of the experiments, those that they come from. All code but the experiments' counts too.

    Returns
    -------
    dict
    """
    if path.is_file():
        if not (change := changed_reading(path, inputs)):
            return read_json(path)["figures"]
        print(f"{path} is read again: {change} changed.", flush=True)
    figures = read()
    own = {Path(module.__file__).name for module in modules}
    files = [Path(file) for file in loaded_code()]
    code = [
        file.as_posix() for file in files if EXPERIMENTS not in file.parents or file.name in own
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    made_by = {**record_of(inputs), "code": digests_of_code(code)}
    write_json(path, {"figures": figures, "made_by": made_by})
    return figures


def changed_reading(path, inputs):
    """Return what of a kept reading is not as it was when it was made, or None.

    Arguments are those of `kept_reading`; the file has to be there.
    """
    made_by = read_json(path)["made_by"]
    now = {**record_of(inputs), "code": digests_of_code(made_by["code"])}
    return difference(made_by, now)


def asked(run):
    """Return what a run is asked for: `settings`, as texts, and the digests of its `inputs`."""
    given = {name: value for name, value in run.given.items() if name not in OUTPUTS}
    record = record_of(given)
    record["settings"]["command"] = " ".join(run.words)
    files = [run.recipe / word for word in run.words if word.endswith(".yaml")]
    for file in files:
        # Neither where things lie nor comments count
        options = {**given, **dict.fromkeys(record["inputs"], "."), "output_folder": "."}
        text = resolve_hparams(file, options)
        record["settings"] |= settings_of(text)
    return record


def settings_of(text):
    """Return the keys of a YAML text, each with its own text without comments.

    Example
    -------
    >>> settings_of("lr: 0.1 # low\\nmodel:\\n    dim: 3\\n")
    {'lr': '0.1', 'model': 'dim: 3'}
    """
    found, name = {}, None
    for line in text.splitlines():
        line = line.partition(" #")[0].rstrip()
        if not line or line.startswith("#"):
            continue
        if not line[0].isspace() and ":" in line:
            name, _, line = line.partition(":")
            found[name] = line.strip()
        elif name is not None:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def record_of(given):
    """Return the `settings` and the digests of the `inputs` among options."""
    inputs = {name: value for name, value in given.items() if is_input(value)}
    return {
        "settings": {name: str(value) for name, value in given.items() if name not in inputs},
        "inputs": {name: digest_input(str(value)) for name, value in inputs.items()},
    }


def as_features(text):
    """Return features as an option of a run: a path where they are a model's.

    Example
    -------
    >>> as_features("fbank"), as_features("random:O/joint/model")
    ('fbank', 'random:O/joint/model')
    >>> as_features("O/joint/model") == Path("O/joint/model")
    True
    """
    return text if text == "fbank" or text.startswith(RANDOM) else Path(text)


def is_input(value):
    """Return whether an option's value is, or names, a path."""
    return isinstance(value, Path) or (isinstance(value, str) and value.startswith(RANDOM))


def digest_input(value):
    """Return a digest of what an option names: a model, a file, or the files of a folder."""
    path = Path(value.removeprefix(RANDOM))
    if (path / CONFIG_FILE).is_file():
        digests = read_json(path / CONFIG_FILE)["sha256"]
        return digests["encoders"] if value.startswith(RANDOM) else digest_text(json.dumps(digests))
    return digest_data(path)


@cache
def digest_data(path):
    """Return a digest of a file, or of the names and sizes of a folder's files."""
    if path.is_file():
        return digest_file(path)
    sizes = {file.relative_to(path).as_posix(): file.stat().st_size for file in list_files(path)}
    return digest_text(json.dumps(sizes, sort_keys=True))


def digest_text(text):
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def digests_of_code(files):
    """Return the digest of each file of the project that counts; "gone" of a missing one."""
    known = project_code()
    return {file: known.get(file, "gone") for file in files if file not in CARDS}


@cache
def project_code():
    """Return a digest of each Python file of the project, but for tests."""
    files = [file for folder in CODE for file in sorted((REPOSITORY / folder).rglob("*.py"))]
    return {file.relative_to(REPOSITORY).as_posix(): digest_source(file) for file in files}


def digest_source(path):
    """Return a digest of Python code that comments, docstrings and layout do not change.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.py"
    >>> digests = set()
    >>> for text in ("def f():", "def f():\\n    'One.'  # one"):
    ...     _ = path.write_text(f"{text}\\n    return 1\\n")
    ...     digests.add(digest_source(path))
    >>> len(digests)
    1
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return digest_text(ast.dump(tree))


def write_json(path, value):
    """Write a JSON file whole."""
    replace_text(path, json.dumps(value, indent=1) + "\n")
