"""A Hub on this machine, with a cache of its own for each test."""

import os
import socket

import pytest

from tests.pretrained.sharing.hub_server import TOKEN, Hub

LOCAL = ("127.0.0.1", "localhost")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Refuse what is not this machine."""
    look_up = socket.getaddrinfo

    def refuse_others(host, *args, **kwargs):
        assert host in LOCAL, f"a connection to {host} was asked for"
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", refuse_others)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without models, and without a token for it; the working directory is empty."""
    reason = "huggingface_hub is an optional package"
    constants = pytest.importorskip("huggingface_hub.constants", reason=reason)
    started = Hub()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "ENDPOINT", started.address)
    template = f"{started.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING_FACE_")):
            monkeypatch.delenv(name)
    yield started
    started.close()


@pytest.fixture
def token(monkeypatch):
    """The environment variable that opens private models."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
