"""Plant bugs, one at a time, and tell which of them no test sees.

    git clone . CLONE
    python -m tests.mutation CLONE MINUTES [SEED [FIRST]]

Changes files of CLONE and puts them back. A mutant meets the doctests and the tests of its module,
but for the long ones, and where it survives these, all tests of its part. Prints a line for each:
caught or SURVIVED, file, line, what was changed.
"""

import ast
import importlib
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

PARTS = {
    "lobes": ["tests/lobes", "tests/training"],
    "pretrained": ["tests/pretrained"],
    "recipes/common/training": ["tests/training"],
    "recipes/common/corpora": ["tests/corpora", "tests/recipes"],
    "recipes/common/data": ["tests/data", "tests/training", "tests/recipes"],
}
SECONDS = 300
WARM = ["torch._dynamo", "torchaudio", "speechbrain", "hyperpyyaml", "scipy.signal", "sklearn"]
WARM += ["matplotlib.pyplot", "soundfile", "pytest", "safetensors.torch", "scipy.stats"]
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "zeros": "ones", "floor": "ceil"}
DROPPED = ("detach", "double", "float", "abs", "sqrt", "round", "clone")


def mutants(text):
    """Yield (line, what is changed, place of the node, number of the change) for a module."""
    for place, node in enumerate(ast.walk(ast.parse(text))):
        for number, (what, _) in enumerate(changes_of(node)):
            yield node.lineno, what, place, number


def mutated(text, place, number):
    """Return the text of a module with one change."""
    tree = ast.parse(text)
    node = next(node for p, node in enumerate(ast.walk(tree)) if p == place)
    list(changes_of(node))[number][1]()
    return ast.unparse(ast.fix_missing_locations(tree))


def changes_of(node):
    """Yield (what, function that makes the change in place) for a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        new = SWAPS[type(node.ops[0])]
        yield f"{_text(node)} with {new.__name__}", lambda: node.ops.__setitem__(0, new())
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
        new = SWAPS[type(node.op)]
        yield f"{_text(node)} with {new.__name__}", lambda: setattr(node, "op", new())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        value = not node.value if isinstance(node.value, bool) else node.value + 1
        yield f"{node.value} becomes {value}", lambda: setattr(node, "value", value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield f"{_text(node)} turned round", lambda: setattr(node, "op", ast.UAdd())
    if isinstance(node, ast.If):
        yield f"if {_text(node.test)}: never", lambda: setattr(node, "test", ast.Constant(False))
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield f"without {_text(node)}", lambda: setattr(node, "value", ast.Constant(None))
    if isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} becomes {NAMES[node.id]}", lambda: setattr(node, "id", NAMES[node.id])
    if isinstance(node, ast.Call) and len(node.keywords) and node.keywords[-1].arg:
        yield f"{_text(node)} without {node.keywords[-1].arg}", lambda: node.keywords.pop()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in DROPPED and not node.args:
            yield f"{_text(node)} dropped", lambda: setattr(node.func, "attr", "__pos__")


def _text(node):
    return re.sub(r"\s+", " ", ast.unparse(node))[:90]


def tests_of(clone, path):
    """Return a module and the tests that name it or have its name, the latter first."""
    dotted = path.with_suffix("").as_posix().replace("/", ".")
    package, _, stem = dotted.rpartition(".")
    naming = re.compile(rf"{re.escape(dotted)}\b|from {re.escape(package)} import [^\n]*\b{stem}\b")
    own = f"test_{stem}"
    files = list((clone / "tests").rglob("test_*.py"))
    found = [test for test in files if test.stem == own or naming.search(test.read_text())]
    found.sort(key=lambda test: (test.stem != own, test.stat().st_size))
    return [str(clone / path), *map(str, found)]


def survives(clone, path, text, tests):
    """Return whether all tests pass with a file's text changed."""
    file = clone / path
    before = file.read_text()
    file.write_text(text)
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        signal.alarm(SECONDS)
        import pytest

        code = pytest.main(["-x", "-q", "-n0", "-m", "not long", *tests])
        os._exit(int(code))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    file.write_text(before)
    return code == 0


def main(clone, minutes, seed="0", first="0"):
    """Try mutants in a random order, from one on, until the time is over."""
    clone, end = Path(clone).resolve(), time.time() + 60 * float(minutes)
    os.chdir(clone)
    sys.path.insert(0, str(clone))
    sys.dont_write_bytecode = True
    found = []
    for path in sorted(p for place in PARTS for p in Path(place).rglob("*.py")):
        found += [(path, *mutant) for mutant in mutants(path.read_text())]
    random.Random(seed).shuffle(found)
    print(f"{len(found)} mutants", flush=True)
    for name in WARM:
        importlib.import_module(name)
    counts = [0, 0]
    for path, line, what, *change in found[int(first) :]:
        if time.time() > end:
            break
        text = mutated(path.read_text(), *change)
        part = next(tests for place, tests in PARTS.items() if path.is_relative_to(place))
        alive = survives(clone, path, text, tests_of(clone, path))
        alive = alive and survives(clone, path, text, part)
        counts[alive] += 1
        print("SURVIVED" if alive else "caught", f"{path}:{line}: {what}", flush=True)
    print(f"{counts[0]} caught, {counts[1]} survived", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
