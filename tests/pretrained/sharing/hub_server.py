"""A server on this machine that speaks the part of the Hub's protocol that huggingface_hub uses.

Repositories are in memory: commits of files by name, branches, and whether they are private. Files
of weights are kept apart, as the Hub keeps large files, and are answered by a redirection.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
REPOSITORY = r"(?P<name>[^/]+/[^/]+)"


class Hub:
    """The state of the server, and what it was asked for.

    Attributes
    ----------
    repositories : dict
        By name: `private`, `branches` (commit by name) and `commits` (files by commit).
    asked : list of str
        The method and the path of each request.
    sizes : dict
        What it says of the size of a file, by name, where that is not the file's.
    cuts : int
        How many answers with the content of weights break off in the middle.
    sent : list of tuple
        Of each answer with the content of weights, the first byte and how many were sent.
    """

    def __init__(self):
        self.repositories, self.large, self.asked, self.sent = {}, {}, [], []
        self.sizes, self.cuts, self.connections = {}, 0, []
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (Answers,), {"hub": self})
        )
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        # Another host to the client, to which it must not send the token.
        self.store = f"http://localhost:{self.server.server_port}/large"

    def close(self):
        """Let nobody connect any more."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def create(self, name, private=False):
        """Make a repository, with a first commit of nothing."""
        self.repositories[name] = {"private": private, "branches": {}, "commits": {}}
        self.commit(name, {})

    def commit(self, name, files, branch="main"):
        """Add files to a branch and return the commit."""
        repository = self.repositories[name]
        before = repository["commits"].get(repository["branches"].get(branch), {})
        content = {**before, **files}
        digest = hashlib.sha1(f"{len(repository['commits'])}{name}".encode()).hexdigest()
        repository["commits"][digest] = content
        repository["branches"][branch] = digest
        for content in files.values():
            self.large[hashlib.sha256(content).hexdigest()] = content
        return digest

    def files(self, name, revision="main"):
        """Return the commit and the files of a revision, or None."""
        repository = self.repositories[name]
        commit = repository["branches"].get(revision, revision)
        return (commit, repository["commits"][commit]) if commit in repository["commits"] else None


class Answers(BaseHTTPRequestHandler):
    """The answer to each request. `hub` is set by the server."""

    protocol_version = "HTTP/1.1"
    hub = None

    def setup(self):
        """Remember the connection, which lasts for several requests."""
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_):
        """Keep the tests' output clean."""

    def handle_request(self):
        """Find the answer to a method and a path; a 404 for any other."""
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        for methods, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                named = found.groupdict()
                if not self.allowed(named.get("name")):
                    return self.refuse(401 if "name" in named else 403, "RepoNotFound")
                return answer(self, **named)
        return self.refuse(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def allowed(self, name):
        """Return whether a repository is there and may be seen, or anything written."""
        token = self.headers.get("Authorization")
        trusted = token == f"Bearer {TOKEN}"
        if name is None:
            return token is None if self.path.startswith("/large/") else trusted
        repository = self.hub.repositories.get(name)
        reading = self.command in ("GET", "HEAD")
        return repository is not None and (trusted or (reading and not repository["private"]))

    def answer(self, code=200, content=b"", **headers):
        """Answer with JSON or bytes."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, code, reason):
        """Answer with an error, as the Hub names it."""
        self.answer(code, {"error": reason}, X_Error_Code=reason)

    def revision(self, name, revision):
        """Return a revision's commit and files, or answer that there is none."""
        found = self.hub.files(name, revision)
        return found if found is not None else self.refuse(404, "RevisionNotFound")

    def tell_model(self, name, revision="main"):
        """Tell of a model's commit and files."""
        if (found := self.revision(name, revision)) is None:
            return
        siblings = [
            {"rfilename": entry["path"], "size": entry["size"]} for entry in self.tree(found)
        ]
        private = self.hub.repositories[name]["private"]
        self.answer(content={"id": name, "sha": found[0], "private": private, "siblings": siblings})

    def tree(self, found):
        """Return the listing of a commit."""
        entries = []
        for path, content in found[1].items():
            size = self.hub.sizes.get(path, len(content))
            entries.append({"type": "file", "path": path, "size": size, "oid": git_digest(content)})
            if path.endswith(".safetensors"):
                entries[-1]["lfs"] = {"oid": sha256(content), "size": size, "pointerSize": 134}
        return entries

    def tell_tree(self, name, revision):
        """List the files of a revision."""
        if (found := self.revision(name, revision)) is not None:
            self.answer(content=self.tree(found))

    def give_file(self, name, revision, path):
        """Answer with a small file, or with the place of a large one."""
        if (found := self.revision(name, revision)) is None:
            return
        commit, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content = files[path]
        if not path.endswith(".safetensors"):
            etag = f'"{git_digest(content)}"'
            return self.answer(content=content, X_Repo_Commit=commit, ETag=etag)
        digest = sha256(content)
        headers = {"X_Repo_Commit": commit, "X_Linked_Etag": f'"{digest}"'}
        headers |= {"X_Linked_Size": len(content), "Location": f"{self.hub.store}/{digest}"}
        self.answer(302, **headers)

    def give_large(self, digest):
        """Answer with a large file, from the byte that was asked for, and cut where it is to be."""
        content = self.hub.large[digest]
        start = int(re.search(r"bytes=(\d+)-|$", self.headers.get("Range", ""))[1] or 0)
        rest = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.hub.cuts:
            self.hub.cuts -= 1
            rest = rest[: len(rest) // 2]
            self.close_connection = True
        self.hub.sent.append((start, len(rest)))
        self.wfile.write(rest)

    def create_repository(self):
        """Make a repository, private or not."""
        asked = json.loads(self.content)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return self.answer(409, url)
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.create(name, bool(private))
        self.answer(content=url)

    def create_branch(self, name, branch):
        """Make a branch at the commit of main."""
        branches = self.hub.repositories[name]["branches"]
        code = 409 if branch in branches else 201
        branches.setdefault(branch, branches["main"])
        self.answer(code, {})

    def tell_how_to_send(self, name, revision):
        """Say which files are sent with the commit and which apart."""
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.content)["files"]
        ]
        self.answer(content={"files": files})

    def tell_where_to_send(self, name):
        """Say where large files are put that are not there yet."""
        objects = []
        for entry in json.loads(self.content)["objects"]:
            objects.append({"oid": entry["oid"], "size": entry["size"]})
            if entry["oid"] not in self.hub.large:
                href = f"{self.hub.store}/{entry['oid']}"
                objects[-1]["actions"] = {"upload": {"href": href, "header": {}}}
        self.answer(content={"objects": objects, "transfer": "basic"})

    def take_large(self, digest):
        """Keep a large file that is what it is said to be."""
        content = self.content
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if sha256(content) != digest:
            return self.answer(400, {"error": "another digest"})
        self.hub.large[digest] = content
        self.answer()

    def take_commit(self, name, revision):
        """Add files to a branch."""
        files = {}
        for line in map(json.loads, self.content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        commit = self.hub.commit(name, files, revision)
        url = f"{self.hub.address}/{name}/commit/{commit}"
        self.answer(content={"success": True, "commitOid": commit, "commitUrl": url})


def sha256(content):
    """Return the SHA-256 by which large files are known."""
    return hashlib.sha256(content).hexdigest()


def git_digest(content):
    """Return the digest by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES = [
    (("GET",), f"/api/models/{REPOSITORY}", Answers.tell_model),
    (("GET",), f"/api/models/{REPOSITORY}/revision/(?P<revision>.+)", Answers.tell_model),
    (("GET",), f"/api/models/{REPOSITORY}/tree/(?P<revision>.+)", Answers.tell_tree),
    (("GET", "HEAD"), f"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Answers.give_file),
    (("GET", "HEAD"), "/large/(?P<digest>[0-9a-f]+)", Answers.give_large),
    (("POST",), "/api/repos/create", Answers.create_repository),
    (("POST",), f"/api/models/{REPOSITORY}/branch/(?P<branch>.+)", Answers.create_branch),
    (("POST",), "/api/validate-yaml", lambda answers: answers.answer(content={})),
    (("POST",), f"/api/models/{REPOSITORY}/preupload/(?P<revision>.+)", Answers.tell_how_to_send),
    (("POST",), f"/{REPOSITORY}.git/info/lfs/objects/batch", Answers.tell_where_to_send),
    (("PUT",), "/large/(?P<digest>[0-9a-f]+)", Answers.take_large),
    (("POST",), f"/api/models/{REPOSITORY}/commit/(?P<revision>.+)", Answers.take_commit),
]
