"""What the tests of the downstream wing share."""

import pytest

from pretrained.exported import save_model
from tests.downstream.tasks import encoders


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of an exported model. Do not change it."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, encoders())
    return folder
