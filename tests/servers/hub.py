"""A stand-in for the Hugging Face Hub, on two local ports: it answers as the code of huggingface_hub expects.

One port is the Hub: revisions, listings in pages, small files, and redirects for large ones. The other is the host
behind it, which gives content to every caller with a signed address. A token that gets there is a leak, and the
stand-in says so when it is closed. ``Hub.faults`` makes either of them misbehave.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlencode, urlsplit

from .local import LocalServer

ServerName = Literal["hub", "cdn"]

_REPOSITORY = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)"
_API = re.compile(rf"/api/(?P<type>\w+)s/{_REPOSITORY}/(?P<verb>revision|tree)/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
_RESOLVE = re.compile(rf"/(?:(?P<type>dataset|space)s/)?{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_CACHED = re.compile(rf"/api/resolve-cache/(?P<type>\w+)s/{_REPOSITORY}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    content: bytes
    is_large: bool = False
    """Whether it is kept with git LFS."""

    @cached_property
    def oid(self) -> str:
        """Git's name for what git holds: the content, or the pointer to it."""
        held = self.content
        if self.is_large:
            held = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
                self.sha256.encode(),
                len(held),
            )
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """The digest that LFS goes by."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass
class Repository:
    """A repository: its commits, and what branches and tags mean."""

    name: str
    type: str = "model"
    is_private: bool = False
    is_gated: bool = False
    is_disabled: bool = False
    former_names: set[str] = field(default_factory=set)
    commits: dict[str, dict[str, HubFile]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, HubFile], revision: str = "main") -> str:
        """Make these the files of a branch; returns the commit."""
        commit = secrets.token_hex(20)
        self.commits[commit] = dict(files)
        self.revisions[revision] = commit
        return commit

    def find(self, revision: str) -> str | None:
        """The commit that a revision means."""
        return revision if revision in self.commits else self.revisions.get(revision)


@dataclass
class Fault:
    """What goes wrong with the next requests whose address contains a text."""

    server: ServerName
    part: str
    times: int = 1
    status: int = 0
    """Answer with this status and nothing else."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """Headers to replace, or to leave out."""
    cut: int | None = None
    """Close the connection after so many bytes of content."""
    reset: bool = False
    """Close it with a reset."""
    without_ranges: bool = False
    """Send everything, whatever range is asked for."""
    content: bytes | None = None
    """Send this content instead, in ranges as well."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    server: ServerName
    method: str
    path: str
    query: str
    range: str
    authorization: str


class Hub:
    """What the two servers know, do wrong, and have been asked."""

    def __init__(self) -> None:
        self.repositories: list[Repository] = []
        self.readers: dict[str, set[str]] = {}
        """Tokens, and the private and gated repositories that each may read."""
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.page_size = 1000
        self.endpoint = ""
        self.cdn = ""
        self.next_page_host = ""
        """What the address of a next page begins with; the endpoint itself by default."""
        self.serves_large_files = False
        """Whether the Hub sends large files itself, as some mirrors do."""
        self.replies: dict[str, bytes] = {}
        """Documents to send for addresses that contain a text."""
        self.silence: threading.Event | None = None
        """Until it is set, nothing is answered."""
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(16)

    def add(self, name: str, files: Mapping[str, bytes | HubFile] | None = None, **options: object) -> Repository:
        """Add a repository with a first commit on ``main``; contents given as bytes are small files."""
        repository = Repository(name, **options)  # type: ignore[arg-type]
        repository.commit(
            {path: one if isinstance(one, HubFile) else HubFile(one) for path, one in (files or {}).items()}
        )
        self.repositories.append(repository)
        return repository

    def expire_signatures(self) -> None:
        """From now on no address that was signed so far is valid."""
        self._key = secrets.token_bytes(16)

    def sign(self, sha256: str) -> str:
        """What makes the address of content valid."""
        return hashlib.blake2b(sha256.encode(), key=self._key, digest_size=16).hexdigest()

    def asked(self, server: ServerName, part: str = "") -> list[Request]:
        """The requests so far whose path contains a text."""
        with self._lock:
            return [one for one in self.requests if one.server == server and part in one.path]

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self.requests.append(request)

    def take_fault(self, server: ServerName, address: str) -> Fault | None:
        """What is to go wrong with a request, if anything is."""
        with self._lock:
            for fault in self.faults:
                if fault.server == server and fault.part in address and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def leaks(self) -> list[str]:
        """The requests that took a token, or anything like one, where it does not belong."""
        return [
            f"{one.method} {one.path}"
            for one in self.asked("cdn")
            if one.authorization or any(token in one.query for token in self.readers)
        ]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a stand-in; at the end it must not have seen a token where none belongs."""
    hub = Hub()
    with _serve(hub, _HubHandler) as hub.endpoint, _serve(hub, _ContentHandler) as hub.cdn:
        yield hub
    assert hub.leaks() == []


@contextmanager
def _serve(hub: Hub, kind: type[_Handler]) -> Iterator[str]:
    handler = type(kind.__name__, (kind,), {"hub": hub})
    server = LocalServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    name: ServerName
    protocol_version = "HTTP/1.1"
    # Headers and content are written apart; without this, the second waits for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.hub.note(
            Request(
                server=self.name,
                method=self.command,
                path=unquote(parts.path),
                query=parts.query,
                range=self.headers.get("Range", ""),
                authorization=self.headers.get("Authorization", ""),
            )
        )
        if self.hub.silence is not None:
            self.hub.silence.wait(timeout=60)
        self.fault = self.hub.take_fault(self.name, self.path)
        if self.fault is not None and self.fault.status:
            self.send(self.fault.status, b"out of order")
            return
        for part, document in self.hub.replies.items():
            if part in self.path:
                self.send(200, document)
                return
        self.answer(parts.path, parts.query)

    do_HEAD = do_GET

    def answer(self, path: str, query: str) -> None:
        """Answer a request; the path is still encoded."""
        raise NotImplementedError

    def send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send an answer, with what is to go wrong with it."""
        merged: dict[str, str | None] = {"Content-Length": str(len(content)), **(headers or {})}
        fault = self.fault
        if fault is not None:
            merged.update(fault.headers)
        self.send_response(status)
        for name, value in merged.items():
            if value is not None:
                self.send_header(name, value)
        if merged["Content-Length"] is None:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.cut is None:
            self.wfile.write(content)
            return
        self.wfile.write(content[: fault.cut])
        self.wfile.flush()
        self.close_connection = True
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def send_content(self, content: bytes, headers: Mapping[str, str]) -> None:
        """Send a file, or the range of it that is asked for."""
        if self.fault is not None and self.fault.content is not None:
            content = self.fault.content
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted is None or (self.fault is not None and self.fault.without_ranges):
            self.send(200, content, headers)
            return
        start = int(wanted[1])
        end = min(int(wanted[2] or len(content)) + 1, len(content))
        if start >= len(content):
            self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send(206, content[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError):
            self.close_connection = True  # the client has gone, or a fault has closed the connection


class _ContentHandler(_Handler):
    name = "cdn"

    def answer(self, path: str, query: str) -> None:
        sha256 = path.removeprefix("/content/")
        found = [
            file
            for repository in self.hub.repositories
            for files in repository.commits.values()
            for file in files.values()
            if file.is_large and file.sha256 == sha256
        ]
        if self.headers.get("Authorization"):
            self.send(400, b"Only one auth mechanism allowed")
        elif not found or parse_qs(query).get("Signature") != [self.hub.sign(sha256)]:
            self.send(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        else:
            # An ETag of the host's own, that has nothing to do with the content's digest.
            self.send_content(found[0].content, {"ETag": f'"{hashlib.md5(sha256.encode()).hexdigest()}"'})


class _HubHandler(_Handler):
    name = "hub"

    def answer(self, path: str, query: str) -> None:
        if path in {"/api/whoami-v2", "/api/models"}:
            self.tell_of_itself(path, self.headers.get("Authorization", "").removeprefix("Bearer "))
            return
        match = _API.fullmatch(path) or _CACHED.fullmatch(path) or _RESOLVE.fullmatch(path)
        if match is None:
            self.send(404, b"Not Found")
            return
        asked = match.groupdict()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.readers:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return
        repository = self.find(asked["type"] or "model", asked["repo"], token)
        if repository is None:
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return
        if asked["repo"] != repository.name:
            self.send(307, b"", {"Location": self.path.replace(asked["repo"], repository.name, 1)})
            return
        if repository.is_disabled:
            self.refuse(403, "", "Access to this resource is disabled.")
            return
        commit = repository.find(unquote(asked["revision"]))
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {asked['revision']}")
            return
        inside = unquote(asked["path"] or "")
        if asked.get("verb") == "revision":
            self.send_json({"_id": "0", "id": repository.name, "sha": commit, "siblings": []})
        elif asked.get("verb") == "tree":
            self.send_tree(repository, commit, inside, query)
        else:
            self.send_file(repository, commit, inside, token, is_cached=path.startswith("/api/"))

    def tell_of_itself(self, path: str, token: str) -> None:
        """Say whose token it is, or which models there are."""
        if token not in self.hub.readers and (token or path == "/api/whoami-v2"):
            self.refuse(401, "", "Invalid username or password.")
        elif path == "/api/models":
            self.send_json([{"id": one.name} for one in self.hub.repositories if not one.is_private])
        else:
            self.send_json({"type": "user", "name": "somebody", "auth": {"type": "access_token"}})

    def find(self, kind: str, name: str, token: str) -> Repository | None:
        """The repository, where there is one and the token may know of it."""
        for one in self.hub.repositories:
            if one.type == kind and (one.name == name or name in one.former_names):
                return None if one.is_private and one.name not in self.hub.readers.get(token, ()) else one
        return None

    def send_tree(self, repository: Repository, commit: str, folder: str, query: str) -> None:
        """Send one page of a listing: folders first, as the Hub does, so not in order of paths."""
        files = repository.commits[commit]
        prefix = f"{folder}/" if folder else ""
        below = {path: file for path, file in files.items() if path.startswith(prefix)}
        if folder and not below:
            self.refuse(404, "EntryNotFound", f"{folder} does not exist on {commit}")
            return
        folders = {path.rsplit("/", depth)[0] for path in below for depth in range(1, path.count("/") + 1)}
        entries: list[dict[str, object]] = [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
            for path in sorted(folders)
            if path != folder
        ]
        for path in sorted(below, key=lambda path: (-path.count("/"), path)):
            file = below[path]
            entry: dict[str, object] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
            if file.is_large:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 135}
            entries.append(entry)
        fields = dict(parse_qsl(query))
        start = int(fields.get("cursor", "0"))
        end = start + self.hub.page_size
        headers = {}
        if end < len(entries):
            following = urlencode({**fields, "cursor": str(end)})
            host = self.hub.next_page_host or self.hub.endpoint
            headers["Link"] = f'<{host}{urlsplit(self.path).path}?{following}>; rel="next"'
        self.send_json(entries[start:end], headers)

    def send_file(self, repository: Repository, commit: str, path: str, token: str, *, is_cached: bool) -> None:
        """Send a small file, by way of a redirect on the same host; for a large one, a signed address."""
        if repository.is_gated and repository.name not in self.hub.readers.get(token, ()):
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {repository.name} is restricted")
            return
        file = repository.commits[commit].get(path)
        if file is None:
            self.refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit}
        if file.is_large and self.hub.serves_large_files:
            self.send_content(file.content, {**headers, "ETag": f'"{file.sha256}"'})
        elif file.is_large:
            linked = {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.sha256}"', "ETag": '"0"'}
            signed = f"{self.hub.cdn}/content/{file.sha256}?Expires=1&Signature={self.hub.sign(file.sha256)}"
            self.send(302, b"Found. Redirecting to " + signed.encode(), {**headers, **linked, "Location": signed})
        elif is_cached:
            self.send_content(file.content, {**headers, "ETag": f'"{file.oid}"'})
        else:
            place = f"/api/resolve-cache/{repository.type}s/{repository.name}/{commit}/{quote(path)}"
            self.send(307, b"Temporary Redirect", {**headers, "Location": f"{place}?etag=%22{file.oid}%22"})

    def refuse(self, status: int, code: str, message: str) -> None:
        """Send an error as the Hub does."""
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send_json(self, document: object, headers: Mapping[str, str] | None = None) -> None:
        """Send a document."""
        self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})
