"""A repository of the Hugging Face Hub at one commit, as a store that can be read.

A branch is looked up once; from then on everything is asked of the commit that it was, so what is read belongs
together. The Hub keeps a SHA-256 of every large file (git LFS) and git's own SHA-1 of the others. What is read whole is
compared with it before its last byte is handed out; for files that are read in ranges ``ObjectInfo.checksums`` has the
SHA-256.

The requests are those of huggingface_hub (``file_download.py``, ``hf_api.py``, ``utils/_http.py``):
https://github.com/huggingface/huggingface_hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

from flexai.checkpoints.errors import (
    IntegrityError,
    SourceChangedError,
    StorageError,
    StorageUnavailableError,
    UsageError,
)
from flexai.checkpoints.storage.checks import check_key
from flexai.checkpoints.storage.http import read_lengths
from flexai.checkpoints.storage.hub.client import HubClient, Location, Token
from flexai.checkpoints.storage.hub.error_mapping import Subject, error_of, location_error
from flexai.checkpoints.storage.hub.repo_paths import DEFAULT_REVISION
from flexai.checkpoints.storage.hub.tree import HubTree
from flexai.checkpoints.storage.protocol import (
    BLOCK_SIZE,
    Block,
    Body,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)
from flexai.checkpoints.storage.retry import Attempts, RetryPolicy, retrying

if TYPE_CHECKING:
    from requests import Response

DEFAULT_ENDPOINT = "https://huggingface.co"

_REPO_TYPES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_SKIPPED = 16 * 1024**2
# What servers say of a signed address that is no longer valid: 403 mostly, 400 on Google's, 404 or 410 on some mirrors.
_EXPIRED = frozenset({400, 401, 403, 404, 410})

_POLICY = RetryPolicy()


class HubStorage:
    """One repository at one commit; it can be listed and read, not written to."""

    max_parts = 10_000
    min_part_size = 0

    def __init__(
        self,
        repo: str,
        *,
        revision: str = DEFAULT_REVISION,
        endpoint: str = DEFAULT_ENDPOINT,
        token: Token = None,
        repo_type: str = "model",
        connections: int = 256,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        policy: RetryPolicy = _POLICY,
    ) -> None:
        """Read ``repo`` (``ORG/NAME``) as it is at ``revision``: a branch, a tag or a commit.

        ``token`` is a secret, or a function that returns one. Up to ``connections`` are kept open between requests;
        timeouts in seconds. Nothing is asked of the Hub yet.

        Raises UsageError for an endpoint or a repository type that is none.
        """
        if repo_type not in _REPO_TYPES:
            raise UsageError(f"{repo_type!r} is no type of repository", hint="use model, dataset or space")
        self._client = HubClient(
            endpoint, token, connections=connections, connect_timeout=connect_timeout, read_timeout=read_timeout
        )
        self._pages = _REPO_TYPES[repo_type]
        self.repo = repo
        self.revision = revision
        subject = Subject(
            repo=repo,
            page=f"{self._client.endpoint}/{self._pages}{repo}",
            revision=revision,
            has_token=self._client.has_token,
        )
        self._subject = subject
        self._policy = policy
        self._tree = HubTree(self._client, subject, repo_type, policy)
        self._locations = _Locations(self._locate)

    def __repr__(self) -> str:
        return f"HubStorage({self.location!r})"

    @property
    def commit(self) -> str:
        """The commit that the revision was when it was first asked for: 40 hexadecimal digits.

        Raises NotFoundError for a repository or revision that is not there (or that the token may not see),
        AccessDeniedError for one that is gated and for a token that is refused.
        """
        return self._tree.resolve()[1]

    @property
    def location(self) -> str:
        """The repository's page and the revision."""
        return f"{self._subject.page}@{self.revision}"

    @property
    def service_identity(self) -> str:
        """Empty: nothing is copied here without moving its bytes."""
        return ""

    @property
    def versioned_place(self) -> str:
        """The repository's page: a file's version is the id of its content, at whatever commit."""
        return self._subject.page

    def head(self, key: str) -> ObjectInfo:
        """Describe a file; NotFoundError where there is none."""
        return self._tree.find(check_key(key, self.location))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files whose paths begin with the prefix, in order.

        The Hub's pages come in another order, so all of them are fetched before the first file is yielded, and kept.
        """
        yield from self._tree.list(prefix)

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield a range of a file; one that is read whole is compared with the Hub's digest before its last block."""
        info = self._tree.find(check_key(key, self.location))
        if etag and etag != info.etag:
            raise SourceChangedError(f"{self.location}/{key} is not the file that it was")
        end = info.size if length is None else start + length
        if max(start, end) > info.size:
            raise IntegrityError(f"{self.location}/{key} is shorter than recorded: {info.size} bytes")
        whole = _Whole(info) if start == 0 and end == info.size else None
        attempts = Attempts(self._policy)
        position = start
        while position < end:
            try:
                for block in self._read(info, position, end):
                    position += len(block)
                    attempts.arrived(len(block))
                    if whole is not None and not whole.agrees(block, is_last=position == end):
                        raise IntegrityError(
                            f"{self.location}/{key} does not match the Hub's digest of it",
                            hint="run the same command again; if it fails again, the file on the Hub is damaged",
                        )
                    yield memoryview(block)
            except StorageUnavailableError as error:
                attempts.failed(error)

    def _read(self, info: ObjectInfo, start: int, end: int) -> Iterator[bytes]:
        """Ask once for a range and yield what comes of it; StorageUnavailableError where it is too little."""
        response = self._open(info, start, end)
        with contextlib.closing(response):
            surplus = self._surplus(response, info, start, end)
            position = start
            for block in self._client.blocks(response, BLOCK_SIZE):
                if surplus:
                    cut = min(surplus, len(block))
                    surplus -= cut
                    block = block[cut:]
                block = block[: end - position]
                position += len(block)
                if block:
                    yield block
                if position == end:
                    return
        raise StorageUnavailableError(
            f"{self.location}/{info.key} ended after {position - start} of {end - start} bytes"
        )

    def _open(self, info: ObjectInfo, start: int, end: int) -> Response:
        location = self._locations.get(info)
        response = self._client.open(location.url, start, end)
        if response.status_code in _EXPIRED and not self._client.is_own(location.url):
            response.close()
            location = self._locations.get(info, stale=location)
            response = self._client.open(location.url, start, end)
        if response.status_code in {200, 206}:
            return response
        response.close()
        subject = replace(self._subject, key=info.key)
        if self._client.is_own(response.url):
            raise error_of(response.status_code, response.headers, subject)
        raise location_error(response.status_code, response.headers, subject)

    def _surplus(self, response: Response, info: ObjectInfo, start: int, end: int) -> int:
        """How many bytes of an answer come before the range. Raises where it is not this file that answers."""
        headers = response.headers
        if headers.get("Content-Encoding", "identity") not in {"", "identity"}:
            raise StorageError(f"{self.location}/{info.key} is sent compressed, so it cannot be read in ranges")
        if self._client.is_own(response.url):
            self._compare(info, commit=headers.get("X-Repo-Commit"), etag=headers.get("ETag"))
        if response.status_code == 206:
            begins, ends, size = read_lengths(headers, f"{self.location}/{info.key}")
            if not begins == start < ends <= end:
                raise StorageError(f"{self.location}/{info.key}: another range was sent than the one asked for")
            self._compare(info, size=str(size))
            return 0
        self._compare(info, size=headers.get("Content-Length"))
        if start > _MAX_SKIPPED:
            raise StorageError(f"{self.location}/{info.key} is on a server that sends no ranges of it")
        return start

    def _locate(self, info: ObjectInfo) -> Location:
        """Where a file's content lies. Small files are the Hub's own; for large ones it gives a signed address."""
        repo, commit = self._tree.resolve()
        path = f"/{self._pages}{quote(repo)}/resolve/{commit}/{quote(info.key)}"
        if info.checksums is None:
            return Location(f"{self._client.endpoint}{path}", {})

        def locate() -> Location:
            location, response = self._client.locate(path)
            if location is None:
                raise error_of(response.status_code, response.headers, replace(self._subject, key=info.key))
            self._compare(
                info,
                commit=location.said.get("X-Repo-Commit"),
                etag=location.said.get("X-Linked-Etag"),
                size=location.said.get("X-Linked-Size"),
            )
            return location

        return retrying(locate, self._policy)

    def _compare(
        self, info: ObjectInfo, *, commit: str | None = None, etag: str | None = None, size: str | None = None
    ) -> None:
        """Raise SourceChangedError where an answer speaks of another file than the one that was listed."""
        oid = (etag or "").removeprefix("W/").strip('"')
        if (
            (commit and commit != self.commit)
            or (_OID.fullmatch(oid) and oid != info.etag)
            or (size and size != str(info.size))
        ):
            raise SourceChangedError(
                f"{self.location}/{info.key} is not the file that the Hub listed", hint="run the same command again"
            )

    def put(self, key: str, body: Body, *, only_new: bool = False) -> NoReturn:
        """Refused."""
        raise _read_only()

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> NoReturn:
        """Refused."""
        raise _read_only()

    def delete(self, keys: Iterable[str]) -> NoReturn:
        """Refused."""
        raise _read_only()

    def start_upload(self, key: str, *, size: int) -> NoReturn:
        """Refused."""
        raise _read_only()

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Never."""
        check_key(key, self.location)
        return False

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> NoReturn:
        """Refused."""
        raise _read_only()

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> NoReturn:
        """Refused."""
        raise _read_only()

    def abort_upload(self, key: str, upload_id: str) -> NoReturn:
        """Refused."""
        raise _read_only()

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield nothing: there are none."""
        yield from ()


def _read_only() -> UsageError:
    return UsageError("a Hugging Face repository is read-only here", hint="export to a connection of another provider")


class _Whole:
    """Compares a file, as it passes by, with the digest that the Hub has of it."""

    def __init__(self, info: ObjectInfo) -> None:
        self._expected = info.etag
        if info.checksums is not None:
            self._hasher = hashlib.sha256()
        else:
            # Git's name for content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects.
            self._hasher = hashlib.sha1(b"blob %d\0" % info.size, usedforsecurity=False)

    def agrees(self, block: bytes, *, is_last: bool) -> bool:
        """Take the next block; False where it is the last and the digest is another one."""
        self._hasher.update(block)
        return not is_last or not _OID.fullmatch(self._expected) or self._hasher.hexdigest() == self._expected


@dataclass
class _KnownLocation:
    lock: threading.Lock = field(default_factory=threading.Lock)
    location: Location | None = None


class _Locations:
    """Where files' contents lie, each asked for once until it is no longer valid."""

    def __init__(self, locate: Callable[[ObjectInfo], Location]) -> None:
        self._locate = locate
        self._lock = threading.Lock()
        self._places: dict[str, _KnownLocation] = {}

    def get(self, info: ObjectInfo, *, stale: Location | None = None) -> Location:
        """A file's place, another than ``stale``."""
        with self._lock:
            place = self._places.setdefault(info.key, _KnownLocation())
        # One asks for all: many threads read one file, and the Hub counts requests.
        with place.lock:
            if place.location is None or place.location is stale:
                place.location = self._locate(info)
            return place.location
