"""The files of a repository at one commit; they never change, so what has been listed is kept."""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from flexai.checkpoints.errors import NotFoundError, StorageError
from flexai.checkpoints.storage.checks import few_enough
from flexai.checkpoints.storage.http import pages
from flexai.checkpoints.storage.hub.client import HubClient
from flexai.checkpoints.storage.hub.error_mapping import Subject, error_of, is_passing
from flexai.checkpoints.storage.protocol import ObjectInfo
from flexai.checkpoints.storage.retry import RetryPolicy, retrying

if TYPE_CHECKING:
    from requests import Response

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FIELDS = 20


class HubTree:
    """Which commit a revision is, and which files it has. Asks the Hub on first use."""

    def __init__(self, client: HubClient, subject: Subject, repo_type: str, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._subject = subject
        self._api = f"/api/{repo_type}s"
        self._lock = threading.Lock()
        self._resolved: tuple[str, str] | None = None
        self._folders: dict[str, Sequence[ObjectInfo]] = {}
        self._files: dict[str, ObjectInfo] = {}

    def resolve(self) -> tuple[str, str]:
        """The repository's present name and the revision's commit.

        Raises NotFoundError for a repository or a revision that is not there, AccessDeniedError for one that is gated
        and for a token that is refused.
        """
        with self._lock:
            if self._resolved is None:
                repo = quote(self._subject.repo)
                path = f"{self._api}/{repo}/revision/{quote(self._subject.revision, safe='')}"
                document, response = self._read(path, {}, "")
                if response.status_code != 200:
                    raise error_of(response.status_code, response.headers, self._subject)
                match document:
                    case {"sha": str(commit)} if _COMMIT.fullmatch(commit):
                        # A renamed repository redirects every request that uses its old name.
                        name = document.get("id")
                        self._resolved = (name if isinstance(name, str) and name else self._subject.repo), commit
                    case _:
                        raise self._nonsense()
            return self._resolved

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the files whose paths begin with the prefix, in order."""
        files = self._load(prefix.rpartition("/")[0])
        for index in range(bisect.bisect_left(files, prefix, key=lambda info: info.key), len(files)):
            if not files[index].key.startswith(prefix):
                return
            yield files[index]

    def find(self, key: str) -> ObjectInfo:
        """The file at a path; NotFoundError where there is none."""
        if key not in self._files:
            self._load(key.rpartition("/")[0])
        try:
            return self._files[key]
        except KeyError:
            raise NotFoundError(
                f"{self._subject.repo}@{self._subject.revision} has no file {key!r}",
                hint=f"{self._subject.page}/tree/{self.resolve()[1]} shows its files",
            ) from None

    def _load(self, folder: str) -> Sequence[ObjectInfo]:
        """Every file below a folder or below one that contains it."""
        self.resolve()
        with self._lock:
            above = folder
            while above not in self._folders and above:
                above = above.rpartition("/")[0]
            if above in self._folders:
                return self._folders[above]
            files = sorted(few_enough(self._fetch(folder), self._subject.page), key=lambda info: info.key)
            self._files.update((info.key, info) for info in files)
            self._folders[folder] = files
            return files

    def _fetch(self, folder: str) -> Iterator[ObjectInfo]:
        assert self._resolved is not None
        repo, commit = self._resolved
        path = f"{self._api}/{quote(repo)}/tree/{commit}" + (f"/{quote(folder, safe='')}" if folder else "")

        def ask(following: str | None) -> tuple[list[Any], str | None]:
            query = {"recursive": "true", "expand": "false"}
            if following:
                # Only the query of the next page's address is used: behind a mirror it names another host.
                query = dict(parse_qsl(following, max_num_fields=_MAX_FIELDS))
            document, response = self._read(path, query, folder)
            if response.status_code == 404 and response.headers.get("X-Error-Code", "") in {"", "EntryNotFound"}:
                return [], None
            if response.status_code != 200:
                raise error_of(response.status_code, response.headers, replace(self._subject, key=folder))
            if not isinstance(document, list):
                raise self._nonsense()
            try:
                return document, urlsplit(response.links.get("next", {}).get("url", "")).query or None
            except ValueError:
                raise self._nonsense() from None

        where = f"{self._client.endpoint}/{self._subject.repo}"
        for entry in pages(ask, where):
            if (info := self._parse(entry)) is not None:
                yield info

    def _parse(self, entry: Any) -> ObjectInfo | None:
        """A file of a listing; None for what is none (a folder, another repository)."""
        match entry:
            case {"type": "file", "path": str(path), "lfs": {"oid": str(oid), "size": int(size)}} if _SHA256.fullmatch(
                oid
            ) and _is_size(size):
                return ObjectInfo(key=path, size=size, etag=oid, checksums={"sha256": oid})
            case {"type": "file", "path": str(path), "oid": str(oid), "size": int(size)} if (
                oid and _is_size(size) and not entry.get("lfs")
            ):
                return ObjectInfo(key=path, size=size, etag=oid)
            case {"type": str(kind), "path": str()} if kind != "file":
                return None
        raise self._nonsense()

    def _read(self, path: str, query: Mapping[str, str], key: str) -> tuple[Any, Response]:
        def read() -> tuple[Any, Response]:
            document, response = self._client.read_document(path, query)
            if is_passing(response.status_code):
                raise error_of(response.status_code, response.headers, replace(self._subject, key=key))
            return document, response

        return retrying(read, self._policy)

    def _nonsense(self) -> StorageError:
        return StorageError(
            f"{self._client.endpoint} answered with something that is no answer of a Hugging Face Hub",
            hint="check the connection's endpoint",
        )


def _is_size(value: int) -> bool:
    return value is not True and value is not False and 0 <= value < 2**63
