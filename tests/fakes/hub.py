"""A Hub of the test's own: repositories in memory, behind the part of the HTTP API that
huggingface_hub uses to make repositories, to commit and to download (the LFS way, without Xet)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
NONE: Mapping[str, str] = {}
LARGE = (".safetensors", ".pt", ".npz")
REVISION_NOT_FOUND = {"X-Error-Code": "RevisionNotFound"}
REPO_NOT_FOUND = {"X-Error-Code": "RepoNotFound"}
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}


@dataclass
class Repo:
    """A repository: its commits by hash, and branches that point at them."""

    private: bool
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict[str, Files])
    branches: dict[str, str] = field(default_factory=dict[str, str])
    messages: list[str] = field(default_factory=list[str])

    def commit(self, branch: str, files: Files, message: str = "") -> str:
        """Make a commit of all files that the branch then has; its hash."""
        said = repr((len(self.commits), branch, message, sorted(files.items())))
        made = hashlib.sha1(said.encode()).hexdigest()
        self.commits[made] = files
        self.branches[branch] = made
        self.messages.append(message)
        return made

    @property
    def files(self) -> Files:
        """What `main` holds."""
        return self.commits[self.branches["main"]]


@dataclass
class Hub:
    """`tokens` are those of users; a user writes below their own name."""

    tokens: dict[str, str] = field(default_factory=lambda: {"hf_alice_token": "alice"})
    repos: dict[str, Repo] = field(default_factory=dict[str, Repo])
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Large files by their sha256, committed or not."""
    requests: list[str] = field(default_factory=list[str])
    answers: dict[str, int] = field(default_factory=dict[str, int])
    """Status that the next request whose line begins so gets in place of an answer."""
    served: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Other bytes than those committed, by the name of a file: damage on the way."""
    waits: dict[str, threading.Event] = field(default_factory=dict[str, threading.Event])
    """Requests whose line begins so are answered when the event is set."""
    endpoint: str = ""

    def add(self, repo: str, files: Files, *, private: bool = False, gated: bool = False) -> str:
        """A repository with one commit; its hash."""
        made = self.repos[repo] = Repo(private=private, gated=gated)
        return made.commit("main", files)


@dataclass(frozen=True)
class File:
    """A file as an answer."""

    data: bytes
    headers: Mapping[str, str]


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(status)
        self.status, self.headers = status, headers or {}


@contextmanager
def running_hub() -> Generator[Hub]:
    """A Hub that answers at `endpoint`."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        for event in hub.waits.values():
            event.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are in `Hub.requests`."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.state.requests.append(line)
        try:
            self._wait(line)
            self._send(self._acted(path, body))
        except Refused as refused:
            self._send(b"", refused.status, refused.headers)

    def _acted(self, path: str, body: bytes) -> object:
        for method, pattern, act in ROUTES:
            if method == self.command and (found := pattern.fullmatch(path)):
                return act(self, *found.groups(), body)
        raise Refused(404)

    def _wait(self, line: str) -> None:
        for start, event in list(self.state.waits.items()):
            if line.startswith(start):
                event.wait(60)
        for start in list(self.state.answers):
            if line.startswith(start):
                raise Refused(self.state.answers.pop(start))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, answer: object, status: int = 200, headers: Mapping[str, str] = NONE) -> None:
        if isinstance(answer, File):
            answer, headers = answer.data, answer.headers
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def user(self) -> str:
        """Whose token came; a token that nobody has is refused."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.state.tokens:
            raise Refused(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        return self.state.tokens.get(token, "")

    def repo(self, name: str, *, writes: bool = False) -> Repo:
        """The repository, where this user may see it. An unknown one is no different from a hidden
        one."""
        user, found = self.user, self.state.repos.get(name)
        owner = name.partition("/")[0]
        if found is None or (found.private and user != owner):
            raise Refused(404 if user else 401, REPO_NOT_FOUND)
        if writes and user != owner:
            raise Refused(403, {"X-Error-Message": "You have no write access"})
        return found

    def at(self, repo: Repo, revision: str) -> tuple[str, Files]:
        """Hash and files of a branch or commit."""
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise Refused(404, REVISION_NOT_FOUND)
        return commit, repo.commits[commit]

    def create(self, body: bytes) -> object:
        given, user = json.loads(body), self.user
        owner = given["organization"] or user
        name = f"{owner}/{given['name']}"
        if user != owner:
            raise Refused(403 if user else 401, {"X-Error-Message": "No rights in that namespace"})
        if name in self.state.repos:
            raise Refused(409)
        made = self.state.repos[name] = Repo(private=given.get("visibility") == "private")
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return {"url": f"{self.state.endpoint}/{name}", "name": name}

    def validate(self, body: bytes) -> object:
        return {"errors": [], "warnings": []}

    def info(self, name: str, revision: str | None, body: bytes) -> object:
        repo = self.repo(name)
        commit, files = self.at(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": commit, "private": repo.private, "siblings": siblings}

    def tree(self, name: str, revision: str, body: bytes) -> object:
        _, files = self.at(self.repo(name), revision)
        return [_entry(path, data) for path, data in files.items()]

    def branch(self, name: str, branch: str, body: bytes) -> object:
        repo = self.repo(name, writes=True)
        if branch in repo.branches:
            raise Refused(409)
        repo.branches[branch] = repo.branches["main"]
        return {}

    def preupload(self, name: str, revision: str, body: bytes) -> object:
        _, files = self.at(self.repo(name, writes=True), revision)
        return {
            "files": [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(each["path"], files[each["path"]])
                    if each["path"] in files
                    else None,
                }
                for each in json.loads(body)["files"]
            ]
        }

    def batch(self, name: str, body: bytes) -> object:
        self.repo(name, writes=True)
        objects: list[dict[str, Any]] = json.loads(body)["objects"]
        for each in objects:
            if each["oid"] not in self.state.objects:
                each["actions"] = {"upload": {"href": f"{self.state.endpoint}/lfs/{each['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def put(self, oid: str, body: bytes) -> object:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400)
        self.state.objects[oid] = body
        return b""

    def commit(self, name: str, branch: str, body: bytes) -> object:
        repo = self.repo(name, writes=True)
        files = dict(self.at(repo, branch)[1])
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.state.objects:
                    raise Refused(400)
                files[value["path"]] = self.state.objects[value["oid"]]
        made = repo.commit(branch, files, lines[0]["value"]["summary"])
        return {"commitUrl": f"{self.state.endpoint}/{name}/commit/{made}", "commitOid": made}

    def resolve(self, name: str, revision: str, path: str, body: bytes) -> object:
        repo = self.repo(name)
        if repo.gated and self.user != name.partition("/")[0]:
            raise Refused(403, GATED)
        commit, files = self.at(repo, revision)
        if path not in files:
            raise Refused(404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_oid(path, files[path])}"', "X-Repo-Commit": commit}
        return File(self.state.served.get(path, files[path]), headers)


def _oid(path: str, data: bytes) -> str:
    """What names a blob: of large files their sha256, else git's own hash."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, object]:
    size = len(data)
    entry: dict[str, object] = {"type": "file", "path": path, "size": size}
    entry["oid"] = hashlib.sha1(data).hexdigest()
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _oid(path, data), "size": size, "pointerSize": 134}
    return entry


_NAME, _ANY = r"([^/]+/[^/]+)", r"(.+)"
ROUTES: list[tuple[str, re.Pattern[str], Callable[..., object]]] = [
    (method, re.compile(pattern), act)
    for methods, pattern, act in (
        ("POST", r"/api/repos/create", _Handler.create),
        ("POST", r"/api/validate-yaml", _Handler.validate),
        ("GET", rf"/api/models/{_NAME}(?:/revision/{_ANY})?", _Handler.info),
        ("GET", rf"/api/models/{_NAME}/tree/{_ANY}", _Handler.tree),
        ("POST", rf"/api/models/{_NAME}/branch/{_ANY}", _Handler.branch),
        ("POST", rf"/api/models/{_NAME}/preupload/{_ANY}", _Handler.preupload),
        ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
        ("PUT", r"/lfs/([0-9a-f]{64})", _Handler.put),
        ("POST", rf"/api/models/{_NAME}/commit/{_ANY}", _Handler.commit),
        ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/{_ANY}", _Handler.resolve),
    )
    for method in methods.split()
]
