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
