"""Downloads: whole, cut and resumed, or refused; the server is on this machine."""

import hashlib
import io
import os
import shutil
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from recipes.common.corpora import downloads
from recipes.common.corpora.downloads import UNFINISHED, Download, fetch_archives, fetch_file
from recipes.common.data.files import CorpusError
from recipes.common.data.table import read_manifest
from recipes.LibriSpeech import librispeech_prepare
from recipes.LibriSpeech.librispeech_prepare import prepare_librispeech
from recipes.SpeechCommands import speech_commands_prepare
from recipes.SpeechCommands.speech_commands_prepare import fetch_corpus
from recipes.VoxCeleb import voxceleb_prepare
from recipes.VoxCeleb.voxceleb_prepare import prepare_voxceleb, trials_path

CONTENT = bytes(range(256)) * 40


class Answers(BaseHTTPRequestHandler):
    """Files by path, in parts where a part is asked for."""

    web = None

    def log_message(self, *_):
        """Keep the tests' output clean."""

    def do_HEAD(self):
        """Answer with the size alone."""
        self.do_GET()

    def do_GET(self):
        """Answer with a file from some byte on, broken off where it is to be."""
        content = self.web.files.get(self.path)
        if self.command == "GET":
            self.web.asked.append((self.path, self.headers.get("Range")))
        if content is None or self.web.code != 200:
            return self.send_error(self.web.code if content is not None else 404)
        start = 0
        if self.web.resumes and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            end = start + self.web.cuts.pop(0) if self.web.cuts else None
            self.wfile.write(content[start:end])


@pytest.fixture
def web(monkeypatch):
    """A server: its `files` by path, what was `asked`, after how many bytes it `cuts`."""
    state = SimpleNamespace(files={}, asked=[], cuts=[], resumes=True, code=200)
    bound = type("Bound", (Answers,), {"web": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()


def published(web, name, content, digest=hashlib.sha256, **changes):
    """Put a file on the server and return its Download."""
    web.files[f"/{name}"] = content
    own = Download(f"{web.address}/{name}", len(content), digest(content).hexdigest())
    return own._replace(**changes)


def archive(entries, root="Corpus", mode="w:gz"):
    """Return a tar archive of texts by path below root."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:
        for path, text in entries.items():
            member = tarfile.TarInfo(f"{root}/{path}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


def left(folder):
    """Return what a folder of unfinished downloads holds."""
    return {p.name: p.stat().st_size for p in (folder / UNFINISHED).iterdir() if p.name != "lock"}


@pytest.mark.parametrize("digest", [hashlib.sha256, hashlib.md5])
@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_file_comes_whole_and_once(web, tmp_path, digest, size):
    own = published(web, "a.bin", CONTENT, digest, size=size)
    for _ in range(2):
        fetch_file(own, tmp_path / "new" / "b.bin")
    assert (tmp_path / "new" / "b.bin").read_bytes() == CONTENT
    assert web.asked == [("/a.bin", None)] and left(tmp_path / "new") == {}


def test_what_is_cut_goes_on_where_it_was(web, tmp_path):
    web.cuts = [1000, 2000]
    fetch_file(published(web, "a.bin", CONTENT), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [part for _, part in web.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_an_interrupted_download_goes_on_the_next_time(web, tmp_path):
    own = published(web, "a.bin", CONTENT)
    web.cuts = [1000] + [0] * downloads.ATTEMPTS
    with pytest.raises(CorpusError, match="came up to byte 1000 of 10240.* goes on from there"):
        fetch_file(own, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists() and left(tmp_path) == {"a.bin.partial": 1000}
    web.asked.clear()
    fetch_file(own, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert web.asked == [("/a.bin", "bytes=1000-")]


def test_a_server_that_gives_no_parts_is_read_again(web, tmp_path):
    web.cuts, web.resumes = [1000], False
    fetch_file(published(web, "a.bin", CONTENT), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_sum_is_refused_and_removed(web, tmp_path):
    own = published(web, "a.bin", CONTENT)
    web.files["/a.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(CorpusError, match=f"another sum than published, .*{own.digest}"):
        fetch_file(own, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists() and left(tmp_path) == {}
    web.files["/a.bin"] = CONTENT
    fetch_file(own, tmp_path / "a.bin")


def test_no_more_is_read_than_was_published(web, tmp_path):
    own = published(web, "a.bin", CONTENT)
    web.files["/a.bin"] = CONTENT * 1000
    fetch_file(own, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [4, None])
def test_a_file_that_is_not_there(web, tmp_path, size):
    own = Download(f"{web.address}/none.bin", size, "0" * 64)
    with pytest.raises(CorpusError, match="none.bin cannot be fetched: .*404"):
        fetch_file(own, tmp_path / "a.bin")
    assert len(web.asked) <= 1 and not (tmp_path / "a.bin").exists()


def test_a_server_that_is_down_or_busy(web, tmp_path):
    own, web.code = published(web, "a.bin", CONTENT), 503
    with pytest.raises(CorpusError, match="up to byte 0 of 10240, then: .*503"):
        fetch_file(own, tmp_path / "a.bin")
    assert len(web.asked) == downloads.ATTEMPTS
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gone = own._replace(address=f"http://127.0.0.1:{port}/a.bin")
    with pytest.raises(CorpusError, match="up to byte 0 .*refused"):
        fetch_file(gone, tmp_path / "a.bin")


def test_no_space_is_told_before_anything_is_asked_for(web, tmp_path, monkeypatch):
    own = published(web, "a.tar.gz", archive({"dev/a.txt": "A"}))
    free = shutil.disk_usage(tmp_path).free
    large = own._replace(size=free)
    with pytest.raises(CorpusError, match="a download needs .* GB, and .* GB are free on its disk"):
        fetch_file(large, tmp_path / "a.bin")
    # Of an archive, both it and what it holds are on the disk for a while.
    half = own._replace(size=free * 3 // 5)
    with pytest.raises(CorpusError, match="are free on its disk"):
        fetch_archives({"dev": half}, tmp_path, "Corpus")
    assert web.asked == []


def test_archives_are_unpacked_to_their_places(web, tmp_path):
    (tmp_path / "LICENSE").write_text("mine")
    names = {"dev": "gz", "test": "bz2"}
    wanted = {
        name: published(
            web,
            f"{name}.tar.{kind}",
            archive(
                {f"{name}/1/a.txt": name, "LICENSE": "theirs", "NOTES": name}, mode=f"w:{kind}"
            ),
        )
        for name, kind in names.items()
    }
    fetch_archives(wanted, tmp_path, "Corpus")
    for name in names:
        assert (tmp_path / name / "1" / "a.txt").read_text() == name
    assert (tmp_path / "LICENSE").read_text() == "mine"
    assert (tmp_path / "NOTES").read_text() == "dev" and left(tmp_path) == {}
    web.asked.clear()
    fetch_archives(wanted, tmp_path, "Corpus")
    shutil.rmtree(tmp_path / "dev")
    fetch_archives(wanted, tmp_path, "Corpus")
    assert web.asked == [("/dev.tar.gz", None)]


def test_two_that_want_the_same_fetch_it_once(web, tmp_path):
    own = published(web, "a.bin", CONTENT)
    threads = [threading.Thread(target=fetch_file, args=(own, tmp_path / "a.bin")) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and len(web.asked) == 1


def test_a_folder_is_in_its_place_last(web, tmp_path, monkeypatch):
    content = archive({"dev/a.txt": "A", "NOTES": "A", "zzz": "A"})
    own, replace, placed = published(web, "dev.tar.gz", content), os.replace, []

    def stop_at_the_last(source, place):
        if len(placed) == 3:  # the archive itself is the first
            raise OSError(28, "No space left on device")
        placed.append(place.name)
        replace(source, place)

    monkeypatch.setattr(os, "replace", stop_at_the_last)
    with pytest.raises(CorpusError, match="cannot be unpacked: .*No space left"):
        fetch_archives({"dev": own}, tmp_path, "Corpus")
    assert placed[0] == "dev.tar.gz" and set(placed[1:]) == {"NOTES", "zzz"}
    assert not (tmp_path / "dev").exists()
    monkeypatch.undo()
    web.asked.clear()
    fetch_archives({"dev": own}, tmp_path, "Corpus")
    assert (tmp_path / "dev" / "a.txt").read_text() == "A" and web.asked == []


def linked(target):
    """Return an archive in which a link leads to a target, and a file is put below the link."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        link = tarfile.TarInfo("Corpus/dev")
        link.type, link.linkname = tarfile.SYMTYPE, target
        tar.addfile(link)
        member = tarfile.TarInfo("Corpus/dev/outside.txt")
        tar.addfile(member, io.BytesIO())
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"../../../outside.txt": "A", "dev/a.txt": "A"}), "outside the destination"),
        (linked("../../.."), "outside the destination"),
        (linked("/etc"), "absolute path"),
        (archive({"other/a.txt": "A"}), "holds no folder Corpus/dev"),
        (archive({"dev": "A"}), "holds no folder Corpus/dev"),
        (b"no archive", "cannot be unpacked"),
        (archive({"dev/a.txt": "A" * 9000})[:60], "cannot be unpacked"),
    ],
    ids=["above", "link above", "link elsewhere", "other folder", "file", "none", "cut"],
)
def test_archives_that_are_refused(web, tmp_path, content, message):
    own = published(web, "dev.tar.gz", content)
    with pytest.raises(CorpusError, match=message):
        fetch_archives({"dev": own}, tmp_path / "corpus", "Corpus")
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == [UNFINISHED]
    assert left(tmp_path / "corpus") == {"dev.tar.gz": len(content)}
    assert not list(tmp_path.rglob("outside.txt"))


def test_what_is_there_needs_no_place_to_write(tmp_path):
    (tmp_path / "dev").mkdir()
    tmp_path.chmod(0o500)
    fetch_archives({"dev": Download("http://nowhere.invalid/dev.tar", 1, "0" * 64)}, tmp_path, "C")
    assert not (tmp_path / UNFINISHED).exists()


def test_librispeech_is_fetched_and_prepared(web, librispeech, tmp_path, monkeypatch):
    table = {}
    for split in ("dev-clean", "test-clean"):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as tar:
            tar.add(librispeech / split, f"LibriSpeech/{split}")
        table[split] = published(web, f"{split}.tar.gz", content.getvalue())[1:]
    monkeypatch.setattr(librispeech_prepare, "PUBLISHED", table)
    monkeypatch.setattr(librispeech_prepare, "ADDRESS", web.address)
    prepare_librispeech(tmp_path / "L", tmp_path / "out", ["dev-clean"], download=True)
    assert web.asked == [("/dev-clean.tar.gz", None)]
    prepare_librispeech(librispeech, tmp_path / "expected", ["dev-clean"])
    rows = read_manifest(tmp_path / "expected" / "dev-clean.csv")
    assert read_manifest(tmp_path / "out" / "dev-clean.csv") == rows
    with pytest.raises(CorpusError, match="no split train-clean to download.*: dev-clean, "):
        prepare_librispeech(tmp_path / "L", tmp_path / "out", ["train-clean"], download=True)
    prepare_librispeech(
        tmp_path / "L", tmp_path / "out", ["dev-clean"], download=True, skip_prep=True
    )
    assert len(web.asked) == 1


def test_lists_of_voxceleb_are_fetched(web, voxceleb1_copy, tmp_path, monkeypatch):
    table = {}
    for name in ("veri_test2", "iden_split"):
        path = trials_path(voxceleb1_copy, name)
        table[name] = published(web, path.name, path.read_bytes(), hashlib.md5, size=None)[1:]
        path.unlink()
    monkeypatch.setattr(voxceleb_prepare, "PUBLISHED", table)
    monkeypatch.setattr(voxceleb_prepare, "ADDRESS", web.address)
    prepare_voxceleb(voxceleb1_copy, tmp_path / "out", ["train"], download=True)
    assert web.asked == [("/veri_test2.txt", None)]
    prepare_voxceleb(voxceleb1_copy, tmp_path / "out", ["iden_test", "veri_dev"], download=True)
    assert [path for path, _ in web.asked] == ["/veri_test2.txt", "/iden_split.txt"]
    shutil.rmtree(voxceleb1_copy / "wav")
    with pytest.raises(CorpusError, match="holds no audio, which has to be asked for at"):
        prepare_voxceleb(voxceleb1_copy, tmp_path / "out", ["veri_test2"], download=True)


def test_speech_commands_is_fetched_with_its_test_set(web, tmp_path, monkeypatch, caplog):
    corpus = archive({"yes/a_nohash_0.wav": "A", "_background_noise_/b.wav": "B"}, root=".")
    test_set = archive({"yes/a_nohash_0.wav.wav": "A", "_silence_/c.wav": "C"}, root=".")
    table = {
        "speech_commands_v0.01": published(web, "speech_commands_v0.01.tar.gz", corpus)[1:],
        "speech_commands_test_set_v0.01": (None, None),
    }
    published(web, "speech_commands_test_set_v0.01.tar.gz", test_set)
    monkeypatch.setattr(speech_commands_prepare, "PUBLISHED", table)
    monkeypatch.setattr(speech_commands_prepare, "ADDRESS", web.address)
    folder = tmp_path / "new" / "speech_commands"
    fetch_corpus(folder, "v0.01", with_test_set=False)
    assert [path for path, _ in web.asked] == ["/speech_commands_v0.01.tar.gz"]
    assert "no sum of it is published" not in caplog.text
    for _ in range(2):
        fetch_corpus(folder, "v0.01", with_test_set=True)
    assert len(web.asked) == 2 and "no sum of it is published" in caplog.text
    with pytest.raises(CorpusError, match="the words of v0.01, and version is v0.02"):
        fetch_corpus(folder, "v0.02", with_test_set=True)
    assert len(web.asked) == 2
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*.wav*")}
    assert found == {
        "yes/a_nohash_0.wav",
        "_background_noise_/b.wav",
        "speech_commands_test_set_v0.01/yes/a_nohash_0.wav.wav",
        "speech_commands_test_set_v0.01/_silence_/c.wav",
    }


def test_the_published_sums_of_speech_commands_are_those_of_torchaudio():
    module = pytest.importorskip("torchaudio.datasets.speechcommands")
    known = {address.rpartition("/")[2]: own for address, own in module._CHECKSUMS.items()}
    ours = {f"{n}.tar.gz": own for n, (_, own) in speech_commands_prepare.PUBLISHED.items()}
    assert known.items() <= ours.items()


def test_the_published_sums_are_those_of_torchaudio():
    module = pytest.importorskip("torchaudio.datasets.librispeech")
    known = {address.rpartition("/")[2]: own for address, own in module._CHECKSUMS.items()}
    ours = {f"{name}.tar.gz": own for name, (_, own) in librispeech_prepare.PUBLISHED.items()}
    assert ours == known
    tables = (librispeech_prepare.PUBLISHED, voxceleb_prepare.PUBLISHED)
    digests = [own for table in tables for _, own in table.values()]
    assert all(len(own) in (32, 64) and int(own, 16) for own in digests)
