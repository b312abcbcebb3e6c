"""A bucket of AWS S3 or of a service that speaks S3 (R2, MinIO, SeaweedFS, Ceph …)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.checks import check_key, sort_receipts
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
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.checkpoints.storage.s3 import checksums
from flexai.checkpoints.storage.s3.client import S3Service
from flexai.checkpoints.storage.s3.error_mapping import EXPIRED, PERMISSIONS, code_of, sdk_errors, translate

T = TypeVar("T")

MAX_PARTS = 10_000
MIN_PART_SIZE = 5 * 1024**2
MAX_COPY_SIZE = 5 * 1024**3
"""Bytes: S3's limits, https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html; above the last one an object
is copied in parts."""
COPY_PART_SIZE = 512 * 1024**2
"""Bytes of a part that is copied server-side."""
SLOW_COPY_PART_SIZE = 64 * 1024**2
"""Bytes of one where the service is so slow that copying the whole was not answered in time."""
PAGE_SIZE = 1000
"""Objects of one page of a listing and of one deletion; S3's limit."""

_COPY_THREADS = 8
_MD5 = re.compile(r"[0-9a-f]{32}")
_UPLOAD_ID = re.compile(r"[!-~]{1,2048}")
_CHECKSUMS = {
    "ChecksumCRC32": "crc32",
    "ChecksumCRC32C": "crc32c",
    "ChecksumCRC64NVME": "crc64nvme",
    "ChecksumSHA1": "sha1",
    "ChecksumSHA256": "sha256",
}


class _SlowCopyError(Exception):
    """A copy that takes longer than an answer is waited for, so that trying it again is of no use."""


class S3Storage:
    """The objects of one bucket."""

    max_parts = MAX_PARTS
    min_part_size = MIN_PART_SIZE

    def __init__(
        self,
        service: S3Service,
        bucket: str,
        *,
        capabilities: Capabilities | None = None,
        policy: RetryPolicy | None = None,
        page_size: int = PAGE_SIZE,
        max_copy_size: int = MAX_COPY_SIZE,
        copy_part_size: int = COPY_PART_SIZE,
    ) -> None:
        """Use a bucket of a service; nothing is sent yet. Sizes are in bytes."""
        self.service = service
        self.bucket = bucket
        self.capabilities = capabilities or Capabilities()
        self._policy = policy or RetryPolicy()
        self._page_size = page_size
        self._max_copy_size = max_copy_size
        self._copy_part_size = copy_part_size
        self._deletes_many = self.capabilities.multi_delete

    @property
    def location(self) -> str:
        """The bucket's URL: ``s3://BUCKET``, or with the endpoint where that is not AWS."""
        return f"{self.service.endpoint_url}/{self.bucket}" if self.service.endpoint_url else f"s3://{self.bucket}"

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

        def store(**condition: str) -> dict[str, Any]:
            return self._send(
                body, lambda reader: self._call("put_object", key, Body=reader, **condition), self.capabilities.trailers
            )

        try:
            answer = self._replacing_nothing(store) if only_new else store()
        except DestinationExistsError:
            info = find_stored(self, key, body, self._policy)
            if info is None:
                raise
            return info
        # The answer says nothing of the object's own time, but when it was given.
        return ObjectInfo(key, body.size, _etag(answer), modified_at=parse_date(_headers(answer).get("date", "")))

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield a range of an object; a transfer that breaks off goes on with the next byte."""
        self._check(key)
        return read_object(self, key, start=start, length=length, etag=etag, policy=self._policy)

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        self._check(key)
        answer = self._try(lambda: self._call("head_object", key, ChecksumMode="ENABLED"))
        _, size, _ = read_lengths(_headers(answer), f"{self.location}/{key}")
        with readable(self.service.name):
            told_at = parse_date(_headers(answer).get("date", ""))
            return ObjectInfo(key, size, _etag(answer), _checksums(answer), _modified_at(answer), told_at)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with the prefix, page by page.

        Empty objects whose keys end in ``/`` are left out: consoles and file gateways make them to show a folder.
        """

        def ask(token: str | None) -> tuple[list[ObjectInfo], str | None]:
            more = {"ContinuationToken": token} if token else {}
            page = self._try(lambda: self._call("list_objects_v2", "", Prefix=prefix, MaxKeys=self._page_size, **more))
            with readable(self.service.name):
                infos = [
                    ObjectInfo(item["Key"], parse_size(item["Size"]), _etag(item), modified_at=_modified_at(item))
                    for item in page.get("Contents", ())
                ]
            following = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            return infos, following or None

        return (info for info in pages(ask, self.location) if info.size or not info.key.endswith("/"))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a page at a time where the service can."""
        remaining = (self._check(key) for key in keys)
        while batch := list(itertools.islice(remaining, self._page_size)):
            self._delete(batch)

    # Copies

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        """Copy an object server-side, in parts above 5 GiB, or where the service is too slow to copy it as a whole.

        Raises UnsupportedError where that takes UploadPartCopy and the service has none.
        """
        if not isinstance(source, S3Storage) or source.service_identity != self.service_identity:
            raise StorageError(f"cannot copy from {source.location} to {self.location} directly")
        self._check(key)
        info = source.head(source_key)
        if etag and info.etag != etag:
            raise SourceChangedError(f"{source.location}/{source_key} changed before it was copied")
        origin = {
            "CopySource": {"Bucket": source.bucket, "Key": source_key},
            "CopySourceIfMatch": f'"{info.etag}"',
        }
        if info.size > self._max_copy_size:
            return self._copy_in_parts(key, info.size, origin, self._copy_part_size)
        slow_part_size = min(SLOW_COPY_PART_SIZE, self._copy_part_size)
        has_parts = self.capabilities.part_copy and info.size > slow_part_size
        try:
            answer = self._try(lambda: self._copy_whole(key, origin, has_parts))
        except _SlowCopyError:
            return self._copy_in_parts(key, info.size, origin, slow_part_size)
        except SourceChangedError:
            raise SourceChangedError(f"{source.location}/{source_key} changed while it was copied") from None
        with readable(self.service.name):
            result = answer["CopyObjectResult"]
            return ObjectInfo(key, info.size, _etag(result), modified_at=_modified_at(result))

    def _copy_whole(self, key: str, origin: Mapping[str, Any], has_parts: bool) -> dict[str, Any]:
        from botocore.exceptions import ReadTimeoutError

        try:
            return self._call("copy_object", key, **origin)
        except StorageUnavailableError as error:
            if has_parts and isinstance(error.__cause__, ReadTimeoutError):
                raise _SlowCopyError from error
            raise

    def _copy_in_parts(self, key: str, size: int, origin: Mapping[str, Any], part_size: int) -> ObjectInfo:
        if not self.capabilities.part_copy:
            raise UnsupportedError(f"{self.service.name} cannot copy an object of {size} bytes by itself")
        while size > part_size * self.max_parts:
            part_size *= 2
        # Without checksums: no byte passes here that could be damaged.
        upload_id = self._begin_upload(key)
        # Only copies of large objects take it.
        from concurrent.futures import ThreadPoolExecutor

        def copy(number: int) -> PartReceipt:
            first = (number - 1) * part_size
            bytes_range = f"bytes={first}-{min(first + part_size, size) - 1}"
            answer = self._try(
                lambda: self._call(
                    "upload_part_copy",
                    key,
                    UploadId=upload_id,
                    PartNumber=number,
                    CopySourceRange=bytes_range,
                    **origin,
                )
            )
            token = _etag(answer.get("CopyPartResult", {}))
            if not token:
                # rclone takes the request for one that stores an empty part.
                raise UnsupportedError(f"{self.service.name} cannot copy parts of an object")
            return PartReceipt(number=number, token=token)

        try:
            with ThreadPoolExecutor(_COPY_THREADS) as threads:
                receipts = list(threads.map(copy, range(1, -(-size // part_size) + 1)))
            return self.complete_upload(key, upload_id, receipts) or self.head(key)
        except BaseException:
            # What went wrong first is what is told; gc finds an upload that is left.
            with contextlib.suppress(CheckpointError):
                self.abort_upload(key, upload_id)
            raise

    # Uploads in parts

    def start_upload(self, key: str, *, size: int) -> str:
        """Begin a multipart upload."""
        self._check(key)
        if self.capabilities.trailers:
            return checksums.mark(self._begin_upload(key, ChecksumAlgorithm=checksums.ALGORITHM))
        return self._begin_upload(key)

    def _begin_upload(self, key: str, **details: str) -> str:
        answer = self._try(lambda: self._call("create_multipart_upload", key, **details))
        with readable(self.service.name):
            return str(answer["UploadId"])

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Whether the service still knows the upload; not where it cannot be asked, so that one begins anew."""
        self._check(key)
        if not _is_upload_id(upload_id):
            return False
        known_as, _ = checksums.unmark(upload_id)
        try:
            self._try(lambda: self._call("list_parts", key, UploadId=known_as, MaxParts=1))
        except (NotFoundError, UnsupportedError):
            return False
        return True

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Store a part."""
        known_as, has_checksums = self._check_upload(key, upload_id)
        answer = self._send(
            body,
            lambda reader: self._call("upload_part", key, UploadId=known_as, PartNumber=number, Body=reader),
            has_checksums,
        )
        return PartReceipt(number=number, token=f"{_etag(answer)} {answer.get(checksums.FIELD, '')}".rstrip())

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> ObjectInfo | None:
        """Make the object of its parts; S3's answer says no size."""
        known_as, _ = self._check_upload(key, upload_id)
        ordered = sort_receipts(receipts, f"{self.location}/{key}")
        request = {"UploadId": known_as, "MultipartUpload": {"Parts": [_named_part(receipt) for receipt in ordered]}}

        def complete(**condition: str) -> dict[str, Any]:
            return self._try(lambda: self._call("complete_multipart_upload", key, **request, **condition))

        try:
            _ = self._replacing_nothing(complete) if only_new else complete()
        except (NotFoundError, DestinationExistsError):
            # The answer to an earlier try may have been lost on its way.
            info = self._completed_before(key, ordered)
            if info is None:
                raise
            return info
        return None

    def _completed_before(self, key: str, receipts: Sequence[PartReceipt]) -> ObjectInfo | None:
        """The object under the key, if it is made of these very parts."""
        etags = [receipt.token.partition(" ")[0] for receipt in receipts]
        if not all(map(_MD5.fullmatch, etags)):
            return None
        with contextlib.suppress(NotFoundError):
            info = self.head(key)
            if info.etag == _composite_etag(etags):
                return info
        return None

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Give up an upload."""
        self._check(key)
        if not _is_upload_id(upload_id):
            return
        known_as, _ = checksums.unmark(upload_id)
        with contextlib.suppress(NotFoundError):
            self._try(lambda: self._call("abort_multipart_upload", key, UploadId=known_as))

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield the unfinished uploads."""
        asked: dict[str, Any] = {"Prefix": prefix, "MaxUploads": self._page_size}
        Markers: TypeAlias = tuple[tuple[str, str], ...]

        def ask(markers: Markers | None) -> tuple[list[UnfinishedUpload], Markers | None]:
            asked.update(markers or ())
            try:
                page = self._try(lambda: self._call("list_multipart_uploads", "", **asked))
            except NotFoundError as error:
                code = code_of(error.__cause__)
                if code == "NoSuchUpload":
                    return [], None  # rclone's way to say that there is none
                if code == "NoSuchBucket":
                    raise
                raise UnsupportedError(f"{self.service.name} cannot list unfinished uploads ({code})") from error
            with readable(self.service.name):
                uploads = [
                    UnfinishedUpload(
                        key=item["Key"], upload_id=item["UploadId"], started_at=item["Initiated"].timestamp()
                    )
                    for item in page.get("Uploads", ())
                ]
            # SeaweedFS gives the second marker alone, and wants it back alone.
            names = ("KeyMarker", "UploadIdMarker") if page.get("IsTruncated") else ()
            following = tuple((name, page[f"Next{name}"]) for name in names if page.get(f"Next{name}"))
            return uploads, following or None

        return (upload for upload in pages(ask, self.location) if upload.key.startswith(prefix))

    # Requests

    def _replacing_nothing(self, store: Callable[..., T]) -> T:
        """Make a request that fails where there is an object already, if the service is known to heed that."""
        if self.capabilities.conditional_put:
            # One that is known to heed it in a put may know nothing of it at the end of an upload.
            with contextlib.suppress(UnsupportedError):
                return store(IfNoneMatch="*")
        return store()

    def _check(self, key: str) -> str:
        return check_key(key, self.location)

    def _check_upload(self, key: str, upload_id: str) -> tuple[str, bool]:
        """What the service calls an upload, and whether its parts have checksums."""
        self._check(key)
        if not _is_upload_id(upload_id):
            raise NotFoundError(f"there is no such upload of {self.location}/{key}")
        return checksums.unmark(upload_id)

    def _call(self, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        """Make one request of the SDK's, once."""
        client = self.service.client
        if key:
            parameters["Key"] = key
        try:
            answer: dict[str, Any] = getattr(client, operation)(Bucket=self.bucket, **parameters)
            _check_texts(answer)
        except sdk_errors() as error:
            if self._has_expired(error):
                raise unavailable(f"{self.service.name} did not accept the session token any more") from error
            raise self._translated(error, operation, key) from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # The SDK's ways to say it, which are no errors of its own kind.
            if "still expired" in str(error):
                raise unavailable(f"the credentials for {self.service.name} were expired when they came") from error
            if isinstance(error, RuntimeError) and "timezone" not in str(error):
                raise
            # Its parsers let out what Python says of a number, a date or a text that is none.
            raise unavailable(f"{self.service.name} gave an answer that cannot be read") from error
        return answer

    def _has_expired(self, error: Exception) -> bool:
        """Whether a request was refused for a session token that had expired, and there is another one now."""
        code = code_of(error)
        # An answer to HEAD has no body, so nothing but a status; AWS's is 400 for a token that has expired.
        is_certain = code in EXPIRED
        return (is_certain or code in {"400", "403"}) and self.service.renew(is_certain=is_certain)

    def _translated(self, error: Exception, operation: str, key: str) -> CheckpointError:
        return translate(error, service=self.service.name, operation=operation, bucket=self.bucket, key=key)

    def _try(self, operation: Callable[[], T]) -> T:
        return retrying(operation, self._policy)

    def _send(self, body: Body, send: Callable[[BodyReader], T], with_checksum: bool) -> T:
        return send_body(checksums.TrailedBody(body) if with_checksum else body, send, self._policy)

    def open_range(self, key: str, start: int, stop: int | None, etag: str) -> RangeAnswer:
        """Ask for a range once."""
        parameters = {"IfMatch": f'"{etag}"'} if etag else {}
        if start or stop is not None:
            parameters["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        answer = self._call("get_object", key, **parameters)
        body = answer["Body"]
        begins, ends, size = read_lengths(_headers(answer), f"{self.location}/{key}")
        return RangeAnswer(begins, ends, size, _etag(answer), self._blocks(key, body, ends - begins), body.close)

    def _blocks(self, key: str, body: Any, length: int) -> Iterator[Block]:
        while length:
            try:
                # The SDK makes a new buffer for each block. Reading into one of our own copies it there once more.
                chunk = body.read(min(BLOCK_SIZE, length))
            except sdk_errors() as error:
                raise self._translated(error, "get_object", key) from error
            if not chunk:
                return
            length -= len(chunk)
            yield memoryview(chunk)

    # Deletion

    def _delete(self, keys: Sequence[str]) -> None:
        if self._deletes_many:
            try:
                self._delete_many(keys)
                return
            except UnsupportedError:
                self._deletes_many = False
        for key in keys:
            with contextlib.suppress(NotFoundError):
                self._try(partial(self._call, "delete_object", key))

    def _delete_many(self, keys: Sequence[str]) -> None:
        pending = list(keys)

        def request() -> None:
            listed = {"Objects": [{"Key": key} for key in pending], "Quiet": True}
            answer = self._call("delete_objects", "", Delete=listed)
            failed = [item for item in answer.get("Errors", ()) if item.get("Code") != "NoSuchKey"]
            left = {item.get("Key") for item in failed}
            if failed:
                # Where it is not said which ones failed, all are deleted once more.
                pending[:] = [key for key in pending if key in left] or pending
                raise self._deletion_error(failed[0])

        self._try(request)

    def _deletion_error(self, item: Mapping[str, Any]) -> CheckpointError:
        code = str(item.get("Code", ""))
        place = f"{self.bucket}/{item.get('Key', '')}"
        if code == "AccessDenied":
            return AccessDeniedError(f"{PERMISSIONS['delete_objects']} is denied on {place} at {self.service.name}")
        if code in {"InternalError", "SlowDown", "ServiceUnavailable"}:
            return unavailable(f"{self.service.name} is not available ({code})")
        return StorageError(f"{place} cannot be deleted at {self.service.name} ({code}: {item.get('Message', '')})")


def _check_texts(answer: Mapping[str, Any]) -> None:
    """Raise TypeError where a text is there twice: the SDK passes on the elements of the XML."""
    for value in answer.values():
        if isinstance(value, dict):
            _check_texts(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _check_texts(item)
                elif not isinstance(item, str):
                    raise TypeError("a text is there twice")


def _headers(answer: Mapping[str, Any]) -> Mapping[str, str]:
    """What the service said itself: of a size, the SDK takes other forms as well, and none that is missing."""
    headers: Mapping[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _modified_at(answer: Mapping[str, Any]) -> float | None:
    moment = answer.get("LastModified")
    return None if moment is None else float(moment.timestamp())


def _named_part(receipt: PartReceipt) -> dict[str, Any]:
    etag, _, checksum = receipt.token.partition(" ")
    part = {"PartNumber": receipt.number, "ETag": f'"{etag}"'}
    return part | {checksums.FIELD: checksum} if checksum else part


def _is_upload_id(text: str) -> bool:
    return _UPLOAD_ID.fullmatch(text) is not None and ".." not in text


def _composite_etag(etags: Sequence[str]) -> str:
    """The ETag of an object made of parts: the MD5 of their MD5s, and how many they are."""
    joined = b"".join(bytes.fromhex(etag) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"


def _checksums(answer: Mapping[str, Any]) -> dict[str, str] | None:
    """The checksums of the whole content, in hex; those of its parts' checksums say nothing about it."""
    if answer.get("ChecksumType") == "COMPOSITE":
        return None
    found = {
        name: base64.b64decode(answer[field], validate=True).hex()
        for field, name in _CHECKSUMS.items()
        if field in answer and "-" not in answer[field]
    }
    return found or None
