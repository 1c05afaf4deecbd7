"""Layers, circles, sizes and names of files, and how many of them a batch passes."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import structure

# Each imports from those before it, and from itself.
LAYERS = ("lobes", "pretrained", "recipes/common", "recipes", "recipes/experiments", "tests")
MOST_LINES = 500
MOST_FILES = 15
REPEATED = {"__init__", "__main__", "train", "conftest"}


@pytest.fixture(scope="module")
def modules():
    """Return the text of each Python file by its path."""
    sources = structure.read_sources()
    return {path: text for path, text in sources.items() if path.endswith(".py")}


def layer_of(path):
    """Return the number of the layer that a file is in: the last whose name begins its path.

    A file of no folder, hubconf.py, is above all of them.
    """
    fitting = [n for n, layer in enumerate(LAYERS) if path.startswith(f"{layer}/")]
    return max(fitting, key=lambda n: len(LAYERS[n]), default=len(LAYERS))


def imported(text, modules):
    """Yield the files of the repository that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            stem = name.replace(".", "/")
            yield from (path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in modules)


def test_no_layer_imports_from_a_higher_one(modules):
    wrong = [
        f"{path} imports {other}"
        for path, text in modules.items()
        for other in imported(text, modules)
        if layer_of(other) > layer_of(path)
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_circle(modules):
    graph = {path: set(imported(text, modules)) - {path} for path, text in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_files_and_folders_are_small(modules):
    shipped = {path: text for path, text in modules.items() if not path.startswith("tests/")}
    long = {path: len(text.splitlines()) for path, text in shipped.items()}
    assert not {path: lines for path, lines in long.items() if lines > MOST_LINES}
    folders = Counter(str(Path(path).parent) for path, text in modules.items() if text.strip())
    assert not {name: files for name, files in folders.items() if files > MOST_FILES}


def test_no_module_name_stands_twice(modules):
    names = Counter(Path(path).stem for path in modules)
    assert not {name for name, times in names.items() if times > 1} - REPEATED


def test_there_is_no_symbolic_link():
    assert not [line for line in structure.git("ls-files", "-s").splitlines() if line[:2] == "12"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "most"),
    [("frame", 13), ("codes", 15), ("utterance", 15), ("joint", 20), ("spin", 16)],
)
def test_a_batch_passes_few_files(stage, most):
    files = structure.files_of_a_batch(stage)
    assert f"recipes/LibriSpeech/pretrain/{stage}.py" in files
    assert len(files) <= most, "\n".join(files)
