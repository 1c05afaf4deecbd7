"""Models on the Hub: found, refused, kept in the cache, put there. The Hub is on this machine."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrained import Learn2Diss, SpeakerVerifier, Transcriber, push_to_hub
from pretrained.__main__ import main
from pretrained.exported import load_folder, save_model
from pretrained.sharing import snapshots
from tests.pretrained.exports import tones, utterance_encoder, written
from tests.pretrained.sharing.hub_server import TOKEN

pytestmark = pytest.mark.long

NAME = "someone/learn2diss"
ROOT = Path(__file__).parents[3]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def weights_of(model):
    modules = {"frame": model.frame_encoder, "utterance": model.utterance_encoder}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        if module is not None
        for key, value in module.state_dict().items()
    }


def assert_equal(model, other):
    ours, theirs = weights_of(model), weights_of(other)
    assert ours.keys() == theirs.keys() and len(ours) > 0
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.fixture
def published(hub, folder):
    """The files of `folder` on the Hub, as the model NAME."""
    hub.create(NAME)
    hub.commit(NAME, files_of(folder))
    return hub


def test_a_model_of_the_hub_is_that_of_the_folder(published, folder):
    assert_equal(Learn2Diss.from_pretrained(NAME), Learn2Diss.from_pretrained(folder))


def test_each_class_loads_its_kind(hub, transcriber_folder, verifier_folder, tmp_path):
    for kind, own in (("transcriber", transcriber_folder), ("verifier", verifier_folder)):
        hub.create(f"someone/{kind}")
        hub.commit(f"someone/{kind}", files_of(own))
    path = written(tmp_path / "a.wav", tones(" AB "))
    assert Transcriber.from_pretrained("someone/transcriber").transcribe_file(path) == "AB"
    verifier = SpeakerVerifier.from_pretrained("someone/verifier")
    assert verifier.verify_files(path, path).same_speaker
    with pytest.raises(ValueError, match="someone/verifier holds a verifier, no transcriber"):
        Transcriber.from_pretrained("someone/verifier")


def test_revisions(published, folder, tmp_path):
    first = published.files(NAME)[0]
    save_model(tmp_path / "other", {"utterance_encoder": utterance_encoder(seed=5)})
    published.commit(NAME, files_of(tmp_path / "other"), branch="v2")
    old, new = Learn2Diss.from_pretrained(folder), Learn2Diss.from_pretrained(tmp_path / "other")
    assert_equal(Learn2Diss.from_pretrained(NAME), old)
    assert_equal(Learn2Diss.from_pretrained(NAME, revision="v2"), new)
    assert_equal(Learn2Diss.from_pretrained(f"{NAME}@v2"), new)
    published.commit(NAME, files_of(tmp_path / "other"))
    assert_equal(Learn2Diss.from_pretrained(NAME), new)
    assert_equal(Learn2Diss.from_pretrained(NAME, revision=first), old)
    with pytest.raises(FileNotFoundError, match=f"has the model {NAME}, but no revision 'v3'"):
        Learn2Diss.from_pretrained(NAME, revision="v3")
    with pytest.raises(ValueError, match="names a revision, and 'main' is another: give one"):
        Learn2Diss.from_pretrained(f"{NAME}@v2", revision="main")


def test_a_local_folder_wins(published, encoders_folder):
    encoders_folder.rename(Path.cwd() / "learn2diss")
    (Path.cwd() / "someone").mkdir()
    (Path.cwd() / "learn2diss").rename(NAME)
    assert Learn2Diss.from_pretrained(NAME).utterance_encoder is None
    assert published.asked == []
    with pytest.raises(ValueError, match="is a local folder, which has no revision 'main'"):
        Learn2Diss.from_pretrained(NAME, revision="main")


def test_a_mistyped_path_is_not_taken_for_a_model_of_the_hub(published):
    for path in ("./someone/learn2diss", "../learn2diss", "a/b/model", "learn2diss", "a\\b"):
        with pytest.raises(FileNotFoundError, match="is not a folder: expected one that holds"):
            Learn2Diss.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match="is not a folder: expected one that holds"):
        Learn2Diss.from_pretrained(Path(NAME))
    (Path.cwd() / "someone").mkdir()
    with pytest.raises(FileNotFoundError, match=f"someone is one: expected.*: {NAME}@main"):
        Learn2Diss.from_pretrained(NAME)
    assert published.asked == []
    assert Learn2Diss.from_pretrained(f"{NAME}@main").frame_encoder is not None


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a//b", "", "..", "a/../b"])
def test_what_is_no_revision_is_not_asked_for(published, revision):
    with pytest.raises(ValueError, match="is no revision: expected a branch"):
        Learn2Diss.from_pretrained(NAME, revision=revision)
    assert published.asked == []


def test_a_missing_model_is_told_in_both_readings(published):
    with pytest.raises(FileNotFoundError) as caught:
        Learn2Diss.from_pretrained("someone/else")
    assert "someone/else is not a folder here" in str(caught.value)
    assert f"on the Hub ({published.address}): it has no such model" in str(caught.value)


def test_a_private_model_needs_the_token(published, folder, monkeypatch):
    published.repositories[NAME]["private"] = True
    with pytest.raises(FileNotFoundError, match=r"or a private one that the token \(HF_TOKEN\)"):
        Learn2Diss.from_pretrained(NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_equal(Learn2Diss.from_pretrained(NAME), Learn2Diss.from_pretrained(folder))


def test_a_cut_download_goes_on(published, folder, monkeypatch):
    import huggingface_hub.file_download as client

    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(client.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    size = len(files_of(folder)["model.safetensors"])
    published.cuts = 1
    assert_equal(Learn2Diss.from_pretrained(NAME), Learn2Diss.from_pretrained(folder))
    (_, first), (start, second) = published.sent
    assert first == size // 2 and first - 1000 < start <= first and start + second == size


def test_an_interrupted_download_is_taken_up_by_the_next_call(published, folder, monkeypatch):
    import huggingface_hub.file_download as client

    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    published.cuts = 10**6
    with pytest.raises(OSError, match="could not be downloaded .* complete are kept: try again"):
        Learn2Diss.from_pretrained(NAME)
    published.cuts, published.asked[:] = 0, []
    assert_equal(Learn2Diss.from_pretrained(NAME), Learn2Diss.from_pretrained(folder))
    got = [line for line in published.asked if line.startswith("GET /") and "/api/" not in line]
    assert not any("config.json" in line for line in got) and any("/large/" in line for line in got)


def test_the_cache_serves_where_the_hub_does_not(published, folder, monkeypatch):
    from huggingface_hub import constants

    ours = Learn2Diss.from_pretrained(folder)
    Learn2Diss.from_pretrained(NAME)
    commit = published.files(NAME)[0]
    published.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_equal(Learn2Diss.from_pretrained(NAME), ours)
    assert_equal(Learn2Diss.from_pretrained(NAME, revision=commit), ours)
    with pytest.raises(FileNotFoundError, match="cannot be reached.*is not in the cache"):
        Learn2Diss.from_pretrained(NAME, revision="v2")
    assert published.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    published.close()
    assert_equal(Learn2Diss.from_pretrained(NAME), ours)
    with pytest.raises(FileNotFoundError, match="cannot be reached.*is not in the cache"):
        Learn2Diss.from_pretrained("someone/else")


def test_a_part_in_the_cache_is_told_where_the_hub_cannot_be_asked(published, monkeypatch):
    from huggingface_hub import constants

    cached, commit = Path(constants.HF_HUB_CACHE) / "models--someone--begun", "0" * 40
    for name, content in {"refs/main": commit, f"snapshots/{commit}/config.json": "{}"}.items():
        (cached / name).parent.mkdir(parents=True)
        (cached / name).write_text(content)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="cannot be reached.*holds a part of it alone"):
        Learn2Diss.from_pretrained("someone/begun")


def test_what_is_cached_is_not_downloaded_again(published):
    Learn2Diss.from_pretrained(NAME)
    published.asked.clear()
    Learn2Diss.from_pretrained(NAME)
    assert not [line for line in published.asked if "/resolve/" in line or "/large/" in line]


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_and_pickles_are_not_even_downloaded(published, tmp_path):
    ran = tmp_path / "ran"
    code = f"import os; os.mkdir({str(ran)!r})".encode()
    names = ("hubconf.py", "custom.py", "pytorch_model.bin", "hyperparams.yaml", "x/config.json")
    names += ("../../outside.py", "config.json.py", "model.safetensors/a")
    content = dict.fromkeys(names, code)
    content["pytorch_model.bin"] = pickle.dumps(Payload(ran))
    content["hyperparams.yaml"] = f"a: !apply:os.mkdir [{ran}]".encode()
    published.commit(NAME, content)
    assert Learn2Diss.from_pretrained(NAME).frame_encoder is not None
    assert not ran.exists() and not list(tmp_path.rglob("outside.py"))
    asked = [line for line in published.asked if "/resolve/" in line]
    assert {line.rpartition("/")[2] for line in asked} <= set(snapshots.FILES)
    cached = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert cached == {"config.json", "model.safetensors"}


def test_a_pickle_for_weights_runs_nothing(published, tmp_path):
    ran = tmp_path / "ran"
    published.commit(NAME, {"model.safetensors": pickle.dumps(Payload(ran))})
    with pytest.raises(ValueError, match="model.safetensors is not a complete safetensors file"):
        Learn2Diss.from_pretrained(NAME)
    assert not ran.exists()


def test_altered_weights_are_refused(published, folder):
    content = files_of(folder)["model.safetensors"]
    published.commit(NAME, {"model.safetensors": content[:-1] + bytes([content[-1] ^ 1])})
    with pytest.raises(ValueError, match="model.safetensors was altered"):
        Learn2Diss.from_pretrained(NAME)


def test_a_link_of_the_repository_is_a_text(published, tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps({"format": "learn2diss-1"}))
    published.commit(NAME, {"config.json": str(tmp_path / "secret.json").encode()})
    with pytest.raises(ValueError, match="config.json, line 1: cannot be read as JSON"):
        Learn2Diss.from_pretrained(NAME)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
@pytest.mark.parametrize("size", [10**12, None])
def test_huge_files_are_not_downloaded(published, name, size):
    published.commit(NAME, {"README.md": b"# A card"})
    published.sizes[name] = size
    with pytest.raises(ValueError, match=f"{name} of {NAME} .* Nothing was downloaded"):
        Learn2Diss.from_pretrained(NAME)
    assert not [line for line in published.asked if "/resolve/" in line]


def test_a_repository_of_something_else_is_not_downloaded(hub):
    hub.create(NAME)
    hub.commit(NAME, {"pytorch_model.bin": b"x", "config.json": b"{}"})
    with pytest.raises(ValueError, match="has no model.safetensors: it is not a model exported"):
        Learn2Diss.from_pretrained(NAME)
    assert not [line for line in hub.asked if "/resolve/" in line]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_out_of_the_cache_are_refused(published, folder, tmp_path, name):
    Learn2Diss.from_pretrained(NAME)
    [pointer] = (tmp_path / "cache").rglob(f"snapshots/*/{name}")
    assert pointer.is_symlink()
    pointer.unlink()
    pointer.symlink_to(folder / name)
    with pytest.raises(ValueError, match=f"{name} is a link out of the folder"):
        Learn2Diss.from_pretrained(NAME)


def test_push_and_load_back(hub, token, folder):
    (folder / "README.md").write_text("# A card\n")
    (folder / "train_log.txt").write_text("not for others")
    (folder / "checkpoint.ckpt").write_bytes(pickle.dumps({}))
    assert push_to_hub(folder, NAME) == f"{hub.address}/{NAME}"
    commit, files = hub.files(NAME)
    own = files_of(folder)
    assert files == {name: own[name] for name in ("config.json", "model.safetensors", "README.md")}
    assert_equal(Learn2Diss.from_pretrained(NAME), Learn2Diss.from_pretrained(folder))
    push_to_hub(folder, NAME)
    assert sum(line.startswith("PUT") for line in hub.asked) == 1  # weights that are there stay


def test_push_to_a_branch_of_a_private_model(hub, token, folder, encoders_folder):
    push_to_hub(folder, NAME, private=True)
    assert push_to_hub(encoders_folder, NAME, revision="v2") == f"{hub.address}/{NAME}/tree/v2"
    assert hub.repositories[NAME]["private"]
    assert Learn2Diss.from_pretrained(NAME).utterance_encoder is not None
    assert Learn2Diss.from_pretrained(NAME, revision="v2").utterance_encoder is None


def test_nothing_is_pushed_as_private_to_where_all_can_see_it(published, token, encoders_folder):
    before = published.files(NAME)
    with pytest.raises(ValueError, match="is public, and private was asked for"):
        push_to_hub(encoders_folder, NAME, private=True)
    assert published.files(NAME) == before


def test_what_does_not_load_is_not_pushed(hub, token, folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="README.md is a link out of the folder"):
        push_to_hub(folder, NAME)
    (folder / "README.md").unlink()
    (folder / "README.md").write_text("a" * (10**6 + 1))
    with pytest.raises(ValueError, match="README.md has more than 1000000 bytes"):
        push_to_hub(folder, NAME)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        push_to_hub(folder, NAME)
    for name in ("name", "a/b/c", "../b", f"{NAME}@main", "https://a/b"):
        with pytest.raises(ValueError, match="is not the name of a model on the Hub"):
            push_to_hub(folder, name)
    with pytest.raises(ValueError, match="is no revision"):
        push_to_hub(folder, NAME, revision="../main")
    assert hub.asked == []


def test_only_a_folder_is_pushed(published, token):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        push_to_hub(NAME, "someone/copy")
    assert published.asked == []


def test_pushing_needs_the_token(hub, folder):
    with pytest.raises(OSError, match="could not be put on the Hub .*403"):
        push_to_hub(folder, NAME)
    assert hub.repositories == {}


def test_without_huggingface_hub_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r'is not a folder. .*install "\.\[hub\]"'):
        Learn2Diss.from_pretrained(NAME)
    with pytest.raises(OSError, match=r'pip install "\.\[hub\]"'):
        push_to_hub(folder, NAME)


def test_the_command_line(hub, token, transcriber_folder, tmp_path, capsys):
    path = str(written(tmp_path / "a.wav", tones(" AB ")))
    assert main(["push", str(transcriber_folder), NAME, "--revision", "v2", "--private"]) == 0
    assert capsys.readouterr().out == f"{hub.address}/{NAME}/tree/v2\n"
    assert main(["transcribe", path, "--model", f"{NAME}@v2"]) == 0
    assert capsys.readouterr().out == f"{path}\tAB\n"
    for command in (
        ["push", str(tmp_path / "none"), NAME],
        ["push", str(transcriber_folder), "name"],
        ["transcribe", path, "--model", "someone/else"],
        ["transcribe", path, "--model", f"{NAME}@v3"],
    ):
        assert main(command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")


def test_the_environment_alone_tells_where_the_hub_is(published, tmp_path):
    published.repositories[NAME]["private"] = True
    code = f"from pretrained import Learn2Diss; print(Learn2Diss.from_pretrained({NAME!r}).device)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    for changes in ({"HF_ENDPOINT": published.address, "HF_TOKEN": TOKEN}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment | changes,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "cpu\n", done.stderr


def test_the_folder_of_a_snapshot_is_as_any_folder_of_links(published, tmp_path):
    Learn2Diss.from_pretrained(NAME)
    [snapshot] = (tmp_path / "cache").rglob("snapshots/*")
    with pytest.raises(ValueError, match="is a link out of the folder"):
        load_folder(snapshot)
