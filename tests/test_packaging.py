"""Packaging: what is imported is declared, where it is needed."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "espeakng_loader": "espeakng-loader",
    "markdown_it": "markdown-it-py",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
ASKED_FOR = {"kenlm", "pygtrie"}  # of the beam search: an error tells to install them
OWN = {"lobes", "pretrained", "recipes", "tests"}


def declared(*extras):
    """Return the names of the distributions that an installation with extras brings."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][key] for key in extras)]
    return {re.match(r"[\w.-]+", line)[0].lower() for line in sum(lists, [])}


def imported(*folders):
    """Return the names of the distributions that the code of folders imports."""
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    found.add(node.module.partition(".")[0])
    beside = {path.stem for path in ROOT.glob("recipes/**/*.py")}
    foreign = found - set(sys.stdlib_module_names) - OWN - ASKED_FOR - beside
    return {DISTRIBUTIONS.get(name, name) for name in foreign}


TEXT_METHODS = (".read_text", ".write_text")
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios"}
POSIX_NAMES = {"fork", "forkpty", "getuid", "geteuid", "link", "mkfifo", "nice", "symlink"}
POSIX_NAMES |= {"symlink_to", "hardlink_to", "killpg", "setsid", "SIGKILL", "SIGALRM", "SIGHUP"}


def problems_elsewhere(text):
    """Return what of some code other systems lack or read as another text: lines and names."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names} & POSIX_MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {node.module} & POSIX_MODULES
        elif isinstance(node, ast.Attribute):
            names = {node.attr} & POSIX_NAMES
        elif isinstance(node, ast.Call) and "encoding" not in {key.arg for key in node.keywords}:
            function = ast.unparse(node.func)
            mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "'r'"
            if (function == "open" and "b" not in mode) or function.endswith(TEXT_METHODS):
                names = {function}
        found += [(node.lineno, name) for name in names]
    return found


def test_what_other_systems_lack_is_found():
    text = "import fcntl\nos.fork()\nopen(a)\np.read_text()\nos.kill(pid, signal.SIGKILL)\n"
    assert [line for line, _ in sorted(problems_elsewhere(text))] == [1, 2, 3, 4, 5]
    text = 'open(a, "rb")\nopen(a, encoding="utf-8")\nread_text(path)\nos.fsync(file)\n'
    assert problems_elsewhere(text) == []


def test_code_runs_on_other_systems():
    found = {
        str(path.relative_to(ROOT)): problems
        for folder in ("lobes", "pretrained", "recipes")
        for path in (ROOT / folder).rglob("*.py")
        if (problems := problems_elsewhere(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_inference_needs_what_the_package_and_its_extras_bring():
    assert imported("lobes", "pretrained") <= declared("hub", "onnx", "s3prl")


def test_recipes_need_what_their_extras_bring():
    assert imported("recipes") <= declared("onnx", "train", "report", "demo")


def test_tests_need_what_the_extra_dev_brings():
    assert imported("tests") <= declared("hub", "onnx", "train", "report", "demo", "dev")


@pytest.mark.parametrize("name", ["", "-dev"])
def test_requirements_name_extras_that_there_are(name):
    text = (ROOT / f"requirements{name}.txt").read_text()
    [extras] = re.findall(r"^-e \.\[([\w,]+)\]", text, re.MULTILINE)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_the_demo_needs_nothing_of_the_folder_that_it_is_installed_from():
    lines = (ROOT / "requirements-demo.txt").read_text().splitlines()
    assert [line for line in lines if line[:1] != "#"] == PROJECT["optional-dependencies"]["demo"]
