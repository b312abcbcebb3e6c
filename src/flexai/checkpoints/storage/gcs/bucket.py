"""A bucket of Google Cloud Storage.

An upload in parts stores each part as an object of its own beside the final name and has the service compose them, 32
at a time, into the final one (https://cloud.google.com/storage/docs/composite-objects). So parts go in any order, from
any process, and any one of them can be sent again; a resumable upload takes them one after the other only.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from flexai.checkpoints.errors import DestinationExistsError, NotFoundError, SourceChangedError, StorageError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX, check_key, exact_blocks, sort_receipts
from flexai.checkpoints.storage.gcs.error_mapping import translate_answer, translate_failure
from flexai.checkpoints.storage.gcs.session import ENDPOINT_URL, GCSService
from flexai.checkpoints.storage.http import (
    BodyReader,
    RangeAnswer,
    find_stored,
    pages,
    parse_date,
    parse_size,
    read_lengths,
    read_object,
    readable,
    send_body,
    unavailable,
)
from flexai.checkpoints.storage.protocol import (
    BLOCK_SIZE,
    Block,
    Body,
    BytesBody,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)
from flexai.checkpoints.storage.retry import Attempts, RetryPolicy, retrying
from flexai.checkpoints.storage.wire import MAX_ANSWER

T = TypeVar("T")

MAX_COMPOSED = 32
"""Objects that the service composes into one: https://cloud.google.com/storage/quotas#objects."""
MAX_PARTS = 10_000
PAGE_SIZE = 1000

_THREADS = 8
_MAX_REWRITES = 10_000
"""Requests of one copy; each but the last copies a megabyte at least, and mostly gigabytes:
https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite."""
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PART_OF_UPLOAD = re.compile(
    rf"(?P<folder>(?:.*/)?)\.(?P<name>[^/]+)\.(?P<upload_id>[0-9a-f]{{32}}){re.escape(PARTIAL_SUFFIX)}/[^/]+", re.DOTALL
)
_BEGINNING = "begin"
"""The object that an upload starts with: it holds the final object's size."""
_UPLOAD = "flexai-upload"
"""The metadata of an object by which the upload is known that it was composed of."""
_CONTENT_TYPE = "application/octet-stream"
_ONLY_NEW = {"ifGenerationMatch": "0"}
"""The condition that there is no object yet: https://cloud.google.com/storage/docs/request-preconditions."""
_FIELDS = "name,size,generation,crc32c,md5Hash,timeCreated"


class GCSStorage:
    """The objects of one bucket. An object's etag is its generation."""

    max_parts = MAX_PARTS
    min_part_size = 1

    def __init__(
        self, service: GCSService, bucket: str, *, policy: RetryPolicy | None = None, page_size: int = PAGE_SIZE
    ) -> None:
        """Use a bucket of a service; nothing is sent yet."""
        self.service = service
        self.bucket = bucket
        self._policy = policy or RetryPolicy()
        self._page_size = page_size
        self._begun: set[tuple[str, str]] = set()
        """The uploads, each with its key, that were there when this process looked last."""

    @property
    def location(self) -> str:
        """The bucket's URL: ``gs://BUCKET``, or with the endpoint where that is not Google's."""
        if self.service.endpoint_url == ENDPOINT_URL:
            return f"gs://{self.bucket}"
        return f"{self.service.endpoint_url}/{self.bucket}"

    @property
    def service_identity(self) -> str:
        """The endpoint and whose credentials they are."""
        return self.service.identity

    @property
    def versioned_place(self) -> str:
        """Where this is: an object that is written again has another version."""
        return self.location

    # Objects

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        """Store an object with one request."""
        self._check(key)
        try:
            return self._store(key, body, _ONLY_NEW if only_new else {}, self.service.storage_class)
        except DestinationExistsError:
            info = find_stored(self, key, body, self._policy)
            if info is None:
                raise
            return info

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield a range of an object; a transfer that breaks off goes on with the next byte."""
        self._check(key)
        return read_object(self, key, start=start, length=length, etag=etag, policy=self._policy)

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        self._check(key)
        url = f"{self.service.endpoint_url}/storage/v1{self._object(key)}"

        def ask() -> ObjectInfo:
            answer = self._request("GET", url, "storage.objects.get", key, params={"fields": _FIELDS})
            told_at = parse_date(answer.headers.get("date", ""))
            return replace(self._info(key, _read_json(answer, self.service.name)), told_at=told_at)

        return retrying(ask, self._policy)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with the prefix, page by page.

        Empty objects whose keys end in ``/`` are left out: consoles make them to show a folder.
        """
        for item in self._items(prefix):
            info = self._info(item["name"], item)
            if _PART_OF_UPLOAD.fullmatch(info.key) is None and (info.size or not info.key.endswith("/")):
                yield info

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        """Copy an object server-side; a large one takes several requests, each of which does some of it."""
        if not isinstance(source, GCSStorage) or source.service_identity != self.service_identity:
            raise StorageError(f"cannot copy from {source.location} to {self.location} directly")
        self._check(key)
        info = source.head(source_key)
        if etag and info.etag != etag:
            raise SourceChangedError(f"{source.location}/{source_key} changed before it was copied")
        path = f"{source._object(source_key)}/rewriteTo{self._object(key)}"
        parameters = {"ifSourceGenerationMatch": info.etag} | _given(destinationKmsKeyName=self.service.kms_key_name)
        stored_as = _given(storageClass=self.service.storage_class)
        # With a description of the copy nothing of the original's is kept.
        body = {"contentType": _CONTENT_TYPE, **stored_as} if stored_as else None
        permission = "storage.objects.get and storage.objects.create"
        attempts, copied = Attempts(self._policy), 0
        for _ in range(_MAX_REWRITES):
            answer = self._ask("POST", path, permission, source_key, parameters, body=body)
            with readable(self.service.name):
                if answer.get("done"):
                    return self._info(key, answer["resource"])
                parameters["rewriteToken"] = str(answer["rewriteToken"])
                so_far = parse_size(answer.get("totalBytesRewritten", 0))
            if so_far > copied:
                copied = so_far
                attempts.progressed()
            else:
                attempts.failed(unavailable(f"{self.service.name} does not get on with copying {self.bucket}/{key}"))
        raise StorageError(f"{self.service.name} does not come to an end with copying {self.bucket}/{key}")

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a few at the same time."""
        remaining = (self._check(key) for key in keys)
        with ThreadPoolExecutor(_THREADS) as threads:
            while batch := list(itertools.islice(remaining, self._page_size)):
                list(threads.map(self._delete, batch))

    # Uploads in parts

    def start_upload(self, key: str, *, size: int) -> str:
        """Begin an upload: store the object that says so."""
        self._check(key)
        upload_id = uuid.uuid4().hex
        self._store(_parts_prefix(key, upload_id) + _BEGINNING, BytesBody(str(size).encode()))
        self._begun.add((key, upload_id))
        return upload_id

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Whether the object is there that the upload began with.

        One that was cut off after its parts were composed, while they were being deleted, is brought to its end.
        """
        self._check(key)
        try:
            self._declared_size(key, upload_id)
        except NotFoundError:
            return False
        if self._composed_before(key, upload_id) is None:
            return True
        self._delete_below(_parts_prefix(key, upload_id))
        return False

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Store a part as an object of its own."""
        self._check(key)
        if (key, upload_id) not in self._begun:
            # Once: it is asked for again before it is completed, and gc finds the parts of one that is gone.
            self._declared_size(key, upload_id)
            self._begun.add((key, upload_id))
        info = self._store(f"{_parts_prefix(key, upload_id)}{number:05}", body)
        return PartReceipt(number=number, token=f"{info.etag} {info.size}")

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> ObjectInfo:
        """Have the parts composed, then delete them."""
        self._check(key)
        self._begun.discard((key, upload_id))
        size = self._declared_size(key, upload_id)
        prefix = _parts_prefix(key, upload_id)
        ordered = sort_receipts(receipts, f"{self.location}/{key}")
        pieces: Sequence[_Piece] = [_Piece.of(prefix, receipt) for receipt in ordered]
        if sum(piece.size for piece in pieces) != size:
            raise StorageError(f"{self.location}/{key} cannot be completed: its parts are not its {size} bytes")
        try:
            pieces = self._compose_groups(prefix, pieces)
            info = self._compose_object(key, upload_id, pieces, _ONLY_NEW if only_new else {})
        except (NotFoundError, SourceChangedError) as error:
            raise StorageError(f"{self.location}/{key} cannot be completed: a part is missing or replaced") from error
        self._delete_below(prefix)
        return info

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Delete the parts."""
        self._check(key)
        self._begun.discard((key, upload_id))
        if _UPLOAD_ID.fullmatch(upload_id):
            self._delete_below(_parts_prefix(key, upload_id))

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield the uploads of which parts are there."""
        last = None
        for item in self._items(prefix.rpartition("/")[0] + "/" if "/" in prefix else ""):
            match = _PART_OF_UPLOAD.fullmatch(item["name"])
            if match is None:
                continue
            key, upload_id = match["folder"] + match["name"], match["upload_id"]
            if key.startswith(prefix) and last != (key, upload_id):
                last = (key, upload_id)
                with readable(self.service.name):
                    began = datetime.fromisoformat(item["timeCreated"]).timestamp()
                yield UnfinishedUpload(key=key, upload_id=upload_id, started_at=began)

    def _declared_size(self, key: str, upload_id: str) -> int:
        """The final object's size; NotFoundError where the upload is gone."""
        if _UPLOAD_ID.fullmatch(upload_id) is None:
            raise NotFoundError(f"there is no such upload of {self.location}/{key}")
        beginning = _parts_prefix(key, upload_id) + _BEGINNING
        try:
            blocks = read_object(self, beginning, start=0, length=None, etag="", policy=self._policy)
            with readable(self.service.name):
                return parse_size(bytes(next(blocks, b"")).decode())
        except NotFoundError as error:
            raise NotFoundError(
                f"the upload of {self.location}/{key} is gone", hint="run the same command again: it starts a new one"
            ) from error

    def is_composed_of(self, key: str, upload_id: str) -> bool:
        """Whether there is an object that says of itself that it was composed of this upload's parts."""
        return self._composed_before(key, upload_id) is not None

    def _composed_before(self, key: str, upload_id: str) -> ObjectInfo | None:
        """The object under the key, if it was composed of this upload's parts."""
        with contextlib.suppress(NotFoundError):
            fields = {"fields": f"{_FIELDS},metadata"}
            answer = self._ask("GET", self._object(key), "storage.objects.get", key, fields)
            with readable(self.service.name):
                if answer.get("metadata", {}).get(_UPLOAD) == upload_id:
                    return self._info(key, answer)
        return None

    def _compose_groups(self, prefix: str, pieces: Sequence[_Piece]) -> Sequence[_Piece]:
        """Compose pieces into composites until few enough are left for the object."""
        level = 0
        while len(pieces) > MAX_COMPOSED:
            level += 1
            groups = [pieces[start : start + MAX_COMPOSED] for start in range(0, len(pieces), MAX_COMPOSED)]
            names = [f"{prefix}{level}-{number:05}" for number in range(len(groups))]
            with ThreadPoolExecutor(_THREADS) as threads:
                infos = list(threads.map(self._compose, names, groups))
            pieces = [_Piece(info.key, info.etag, info.size) for info in infos]
        return pieces

    def _compose_object(
        self, key: str, upload_id: str, pieces: Sequence[_Piece], condition: Mapping[str, str]
    ) -> ObjectInfo:
        try:
            # Parts are in the bucket's own class: others ask a price for what is deleted soon.
            stored_as = _given(storageClass=self.service.storage_class)
            return self._compose(key, pieces, {"metadata": {_UPLOAD: upload_id}, **stored_as}, condition)
        except DestinationExistsError:
            # The answer to an earlier try may have been lost on its way.
            info = self._composed_before(key, upload_id)
            if info is None:
                raise
            return info

    def _compose(
        self,
        key: str,
        pieces: Sequence[_Piece],
        details: Mapping[str, Any] | None = None,
        condition: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        sources = [{"name": piece.key, "generation": piece.generation} for piece in pieces]
        request = {"sourceObjects": sources, "destination": {"contentType": _CONTENT_TYPE, **(details or {})}}
        parameters = {**_given(kmsKeyName=self.service.kms_key_name), **(condition or {})}
        permission = "storage.objects.get and storage.objects.create"
        path = f"{self._object(key)}/compose"
        return self._info(key, self._ask("POST", path, permission, key, parameters, body=request))

    def _delete_below(self, prefix: str) -> None:
        names = [item["name"] for item in self._items(prefix)]
        # What says that there is an upload goes last, so that one that is cut off here can be found and given up.
        names.sort(key=lambda name: name.endswith(_BEGINNING))
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(self._delete, names[:-1]))
        for name in names[-1:]:
            self._delete(name)

    # Requests

    def _check(self, key: str) -> str:
        return check_key(key, self.location)

    def _info(self, key: str, item: Mapping[str, Any]) -> ObjectInfo:
        with readable(self.service.name):
            named = {"crc32c": item.get("crc32c"), "md5": item.get("md5Hash")}
            checksums = {name: base64.b64decode(value, validate=True).hex() for name, value in named.items() if value}
            # A number of 64 bits too. Servers that make their JSON of protocol buffers leave out what is 0.
            etag = str(parse_size(item["generation"]))
            size, created = parse_size(item.get("size", 0)), item.get("timeCreated")
            modified_at = None if created is None else datetime.fromisoformat(created).timestamp()
            return ObjectInfo(key, size, etag, checksums or None, modified_at)

    def _object(self, key: str) -> str:
        return f"/b/{quote(self.bucket, safe='')}/o/{quote(key, safe='')}"

    def _store(
        self, key: str, body: Body, condition: Mapping[str, str] | None = None, storage_class: str = ""
    ) -> ObjectInfo:
        """Store an object and compare the checksum that the service computed with that of what was sent."""
        summed = _SummedBody(body)
        sent: Body = summed
        url = f"{self.service.endpoint_url}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"
        parameters = {"uploadType": "media", "name": key, "fields": _FIELDS, **(condition or {})}
        parameters |= _given(kmsKeyName=self.service.kms_key_name)
        headers = {"Content-Type": _CONTENT_TYPE}
        if storage_class:
            sent = related = _RelatedBody({"storageClass": storage_class}, summed)
            parameters["uploadType"] = "multipart"
            headers = {"Content-Type": f"multipart/related; boundary={related.boundary}"}

        def send(reader: BodyReader) -> ObjectInfo:
            answer = self._request(
                "POST",
                url,
                "storage.objects.create",
                key,
                params=parameters,
                headers=headers,
                data=reader if len(reader) else b"",
            )
            info = self._info(key, _read_json(answer, self.service.name))
            arrived = (info.checksums or {}).get("crc32c", summed.crc32c)
            if info.size != body.size or arrived != summed.crc32c:
                raise unavailable(f"{self.service.name} received other bytes of {self.bucket}/{key} than were sent")
            return info

        return send_body(sent, send, self._policy)

    def _delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._ask("DELETE", self._object(key), "storage.objects.delete", key)

    def _items(self, prefix: str) -> Iterator[dict[str, Any]]:
        parameters = {
            "prefix": prefix,
            "maxResults": str(self._page_size),
            "fields": f"items({_FIELDS}),nextPageToken",
        }
        path = f"/b/{quote(self.bucket, safe='')}/o"

        def ask(token: str | None) -> tuple[list[dict[str, Any]], str | None]:
            more = {"pageToken": token} if token else {}
            page = self._ask("GET", path, "storage.objects.list", "", parameters | more)
            with readable(self.service.name):
                items, following = page.get("items", []), page.get("nextPageToken")
                if not all(isinstance(item["name"], str) for item in items) or not isinstance(following, str | None):
                    raise TypeError("name")
            return items, following or None

        return pages(ask, self.location)

    def _ask(
        self,
        method: str,
        path: str,
        permission: str,
        key: str,
        parameters: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make a request of the JSON API, again after a passing failure; returns the answer's document."""
        url = f"{self.service.endpoint_url}/storage/v1{path}"

        def ask() -> dict[str, Any]:
            answer = self._request(method, url, permission, key, params=parameters, json=body)
            return {} if method == "DELETE" else _read_json(answer, self.service.name)

        return retrying(ask, self._policy)

    def _request(self, method: str, url: str, permission: str, key: str, **options: Any) -> Any:
        """Make one request, once."""
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        session = self.service.session
        options["params"] = {**(options.get("params") or {}), **_given(userProject=self.service.user_project)}
        # The token may be asked for first, and Google's library reads that answer as it comes.
        with readable(self.service.name):
            try:
                answer = session.request(method, url, **self.service.request_options, **options)
            except (GoogleAuthError, RequestException, OSError) as error:
                raise translate_failure(error, service=self.service.name) from error
        if 200 <= answer.status_code < 300:
            return answer
        with contextlib.closing(answer):
            document = _read_error(answer)
        token = answer.request.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = options.get("params") or {}
        if answer.status_code == 412 and _ONLY_NEW.items() <= asked.items():
            raise DestinationExistsError(f"{self.bucket}/{key} is there already at {self.service.name}")
        if answer.status_code == 401 and self.service.renew(token):
            raise unavailable(f"{self.service.name} did not accept the token any more")
        raise translate_answer(
            answer.status_code,
            answer.headers,
            document,
            service=self.service.name,
            permission=permission,
            bucket=self.bucket,
            key=key,
        )

    def open_range(self, key: str, start: int, stop: int | None, etag: str) -> RangeAnswer:
        """Ask for a range once."""
        url = f"{self.service.endpoint_url}/download/storage/v1{self._object(key)}"
        parameters = {"alt": "media"} | ({"ifGenerationMatch": etag} if etag else {})
        # An object that was stored compressed is otherwise unpacked on its way, and ranges of it are ignored:
        # https://cloud.google.com/storage/docs/transcoding.
        headers = {"Accept-Encoding": "gzip"}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        answer = self._request("GET", url, "storage.objects.get", key, params=parameters, headers=headers, stream=True)
        begins, ends, size = read_lengths(answer.headers, f"{self.location}/{key}")
        generation = answer.headers.get("X-Goog-Generation", etag)
        return RangeAnswer(begins, ends, size, generation, self._blocks(answer, ends - begins), answer.close)

    def _blocks(self, answer: Any, length: int) -> Iterator[Block]:
        from urllib3.exceptions import HTTPError

        while length:
            try:
                chunk = answer.raw.read(min(BLOCK_SIZE, length), decode_content=False)
            except (HTTPError, OSError) as error:
                raise translate_failure(error, service=self.service.name) from error
            if not chunk:
                return
            length -= len(chunk)
            yield memoryview(chunk)


@dataclass(frozen=True, slots=True)
class _Piece:
    """An object that is composed into another."""

    key: str
    generation: str
    size: int

    @classmethod
    def of(cls, prefix: str, receipt: PartReceipt) -> _Piece:
        generation, _, size = receipt.token.partition(" ")
        if not size.isdecimal():
            raise StorageError(f"part {receipt.number} has a receipt that is not of this store")
        return cls(f"{prefix}{receipt.number:05}", generation, int(size))


class _SummedBody:
    """A body whose CRC32C is taken while it is read."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._crc = 0
        self.size = body.size

    def blocks(self) -> Iterator[Block]:
        """Yield the content, feeding the checksum."""
        import google_crc32c

        self._crc = 0
        for block in self._body.blocks():
            # It takes no memory that could be written to.
            self._crc = google_crc32c.extend(self._crc, bytes(block))
            yield block

    @property
    def crc32c(self) -> str:
        """The checksum of what the last reading yielded, in hex."""
        return f"{self._crc:08x}"


class _RelatedBody:
    """An object's description and its content as one body, which is how a class is told with the content:
    https://cloud.google.com/storage/docs/uploading-objects#rest-upload-objects.
    """

    def __init__(self, description: Mapping[str, str], body: Body) -> None:
        self.boundary = uuid.uuid4().hex
        self._body = body
        first = f"--{self.boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(description)}\r\n"
        self._before = f"{first}--{self.boundary}\r\nContent-Type: {_CONTENT_TYPE}\r\n\r\n".encode()
        self._after = f"\r\n--{self.boundary}--\r\n".encode()
        self.size = len(self._before) + body.size + len(self._after)

    def blocks(self) -> Iterator[Block]:
        """Yield the description, the content, and what ends it."""
        yield memoryview(self._before)
        yield from exact_blocks(self._body)
        yield memoryview(self._after)


def _given(**parameters: str) -> dict[str, str]:
    """Those that are not empty."""
    return {name: value for name, value in parameters.items() if value}


def _parts_prefix(key: str, upload_id: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}.{name}.{upload_id}{PARTIAL_SUFFIX}/"


def _read_json(answer: Any, service: str) -> dict[str, Any]:
    try:
        document = parse_json(answer.content, limit=MAX_ANSWER)
    except ValueError as error:
        raise unavailable(f"{service} gave an answer that cannot be read") from error
    if not isinstance(document, dict):
        raise unavailable(f"{service} gave an answer that cannot be read")
    return document


def _read_error(answer: Any) -> object:
    """The JSON of an error, if it is one."""
    from requests.exceptions import RequestException

    try:
        return parse_json(answer.content, limit=MAX_ANSWER)
    except (ValueError, RequestException):
        return None
