"""Options of the command line: understood, or refused before anything is written."""

from functools import cache
from pathlib import Path

from hypothesis import strategies as st
from speechbrain.utils.run_opts import HELP_TEXTS

from recipes.common.training.command_line import read_command_line
from recipes.common.training.hparams import load_hparams, plain_values, read_tree
from recipes.common.training.limits import check_limits
from tests.fuzzing.breaking import PIECES, is_understood

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = sorted(
    path.relative_to(RECIPES).as_posix()
    for path in RECIPES.rglob("hparams/*.yaml")
    if path.stem.endswith("_tiny")
    and "output_folder" in read_tree(path)
    or path.stem in ("report", "evaluate", "verify")
)
GIVEN = {"data_folder": "nowhere", "output_folder": "out", "model": "m", "models": "[m]"}
GIVEN |= {"features": "fbank", "control": "c", "lexicon": "words.txt"}


@cache
def keys_of(file):
    """Return the keys of a hyperparameters file that an option can set."""
    return sorted(plain_values(read_tree(RECIPES / file)))


ODD = [0, 1, -1, 0.5, 1e9, 1e-9]
NUMBERS = st.one_of(st.integers(-3, 2000), st.sampled_from(ODD), st.floats())
LETTERS = st.characters(categories=["L", "P", "N", "S", "Z"])
WORDS = st.one_of(st.sampled_from(PIECES), st.text(LETTERS, max_size=8))
LISTS = st.lists(NUMBERS | WORDS, max_size=3).map(lambda parts: f"[{','.join(map(str, parts))}]")
OF_KIND = {bool: st.booleans(), int: NUMBERS, float: NUMBERS, list: LISTS}


@st.composite
def commands(draw):
    """Draw a file, and words of a command line: options with values, joined or not."""
    file = draw(st.sampled_from(FILES))
    defaults = plain_values(read_tree(RECIPES / file))
    words = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(
            st.sampled_from(keys_of(file) + sorted(HELP_TEXTS)) | st.text(LETTERS, max_size=5)
        )
        own = OF_KIND.get(type(defaults.get(name)), WORDS)
        value = str(draw(st.one_of(own, own, own, NUMBERS | WORDS | LISTS)))
        form = draw(st.sampled_from(["joined", "joined", "apart", "alone"]))
        words += {
            "joined": [f"--{name}={value}"],
            "apart": [f"--{name}", value],
            "alone": [f"--{name}"],
        }[form]
    return file, words


def attempt_options(file, words):
    """Read a command line and build what it says; return what is wrong with that, or None."""
    needed = [w for name, value in GIVEN.items() if name in read_tree(RECIPES / file)
              for w in (f"--{name}", value)]  # fmt: skip
    try:
        _, _, options = read_command_line([str(RECIPES / file), *needed, *words])
        check_limits(load_hparams(RECIPES / file, options))
    except SystemExit:
        return None if {"--help", "-h"} & set(words) else "it exits without a word"
    except Exception as error:
        given = [word.partition("=")[0] for word in words]
        told = [repr(word)[1:-1] for word in words]
        return is_understood(error, [name.lstrip("-") for name in given] + words + told)
    return None
