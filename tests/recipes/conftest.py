"""What the tests of the downstream recipes share."""

from types import SimpleNamespace

import pytest

from pretrained.exported import save_model
from tests.downstream.tasks import LEXICON, encoders
from tests.recipes.commands import Commands


@pytest.fixture(scope="session")
def commands():
    """What runs commands of recipes."""
    started = Commands()
    yield started
    started.close()


@pytest.fixture(scope="session")
def corpora(librispeech, voxceleb1, tmp_path_factory):
    """Made-up corpora, a lexicon and a model. Do not change them."""
    root = tmp_path_factory.mktemp("corpora")
    (root / "lexicon.txt").write_text(LEXICON)
    save_model(root / "model", encoders())
    return SimpleNamespace(
        librispeech=librispeech,
        voxceleb1=voxceleb1,
        lexicon=root / "lexicon.txt",
        model=root / "model",
    )
