"""What services that speak S3 differ in, tried out by hand: what they answer says little of what they do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, StorageError, StorageUnavailableError
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.http import BodyReader, readable
from flexai.checkpoints.storage.protocol import Block, BytesBody, ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.checksums import TrailedBody, end_body
from flexai.checkpoints.storage.s3.error_mapping import DAMAGE_CODES, code_of
from flexai.connections.probes import PROBE, AbsentError, ProbeFunction, WrongAnswerError, expect, read

_FLAGS = {
    "conditional put": "conditional_put",
    "conditional get": "conditional_get",
    "part copy": "part_copy",
    "delete many": "multi_delete",
    "checksum trailer": "trailers",
    "metadata": "metadata",
}
_CHECKSUM = "checksum "
_OTHER = PROBE[::-1]
# A user waits for the check and wants to know soon, and a service may be busy for a moment.
_POLICY = RetryPolicy(attempts=4)
_KNOWN = {"passed": True, "absent": False}


def capabilities_of(found: Mapping[str, str]) -> Capabilities:
    """What a store can do by what probes found of it; what was not tried, or failed, is taken to be as usual."""
    record: dict[str, Any] = {
        flag: _KNOWN[found[probe]] for probe, flag in _FLAGS.items() if found.get(probe) in _KNOWN
    }
    record["checksums"] = [
        probe.removeprefix(_CHECKSUM)
        for probe, outcome in found.items()
        if probe.startswith(_CHECKSUM) and probe not in _FLAGS and outcome == "passed"
    ]
    return Capabilities.from_json(record)


class _Raw:
    """A bucket below a prefix, by the SDK's own calls: some of what is tried has no place in the stores' protocol."""

    def __init__(self, storage: ObjectStorage, prefix: str) -> None:
        if not isinstance(storage, S3Storage):
            raise TypeError("these probes are for S3")
        self.bucket = storage.bucket
        self.service = storage.service
        self._prefix = prefix

    def key(self, name: str) -> str:
        return self._prefix + name

    def call(self, operation: str, name: str = "", **parameters: Any) -> dict[str, Any]:
        """Make a request, again after a passing failure; raises what the stores raise.

        A refusal of what was asked for is a CheckpointError, that of a wrong checksum among them.
        """
        if name:
            parameters["Key"] = self.key(name)
        return retrying(lambda: self._ask(operation, parameters), _POLICY)

    def _ask(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        from flexai.checkpoints.storage.s3.error_mapping import sdk_errors, translate

        if isinstance(body := parameters.get("Body"), BodyReader):
            body.seek(0)
        try:
            with readable(self.service.name):
                answer: dict[str, Any] = getattr(self.service.client, operation)(Bucket=self.bucket, **parameters)
        except sdk_errors() as error:
            if (code := code_of(error)) in DAMAGE_CODES:
                raise StorageError(f"{self.service.name} took what was sent for damaged ({code})") from error
            raise translate(
                error,
                service=self.service.name,
                operation=operation,
                bucket=self.bucket,
                key=str(parameters.get("Key", "")),
            ) from error
        return answer

    def is_refused(self, operation: str, name: str, **parameters: Any) -> bool:
        """Whether a request is refused because of what it asks for, not for a missing permission."""
        try:
            answer = self.call(operation, name, **parameters)
        except (AccessDeniedError, StorageUnavailableError):
            raise
        except CheckpointError:
            return True
        if "Body" in answer:
            answer["Body"].close()
        return False

    def is_kept(self, name: str, **parameters: Any) -> bool:
        """Whether an object that holds ``PROBE`` still does after a put that should be refused.

        Some refuse by closing the connection while something is still being sent, so what is there decides.
        """
        with contextlib.suppress(StorageUnavailableError):
            if not self.is_refused("put_object", name, **parameters):
                return False
        answer = self.call("get_object", name)
        with contextlib.closing(answer["Body"]) as body:
            return bool(body.read(len(PROBE) + 1) == PROBE)


def _conditional_put(storage: ObjectStorage, prefix: str) -> str:
    raw = _Raw(storage, prefix)
    raw.call("put_object", "condition", Body=PROBE)
    if raw.is_refused("put_object", "condition", Body=b"other", IfNoneMatch="*"):
        expect(read(storage.get(raw.key("condition"))) == PROBE, "the object is another one though the put was refused")
        return "an object is stored only where there is none"
    raise AbsentError("an object is replaced though it should not be")


def _conditional_get(storage: ObjectStorage, prefix: str) -> str:
    if _Raw(storage, prefix).is_refused("get_object", "condition", IfMatch='"0123456789abcdef0123456789abcdef"'):
        return "an object that has changed is not sent"
    raise AbsentError("the condition is ignored; the answer's etag is compared instead")


def _part_copy(storage: ObjectStorage, prefix: str) -> str:
    raw = _Raw(storage, prefix)
    raw.call("put_object", "source", Body=PROBE)
    with readable(raw.service.name):
        upload_id = raw.call("create_multipart_upload", "part-copy")["UploadId"]
    try:
        part = raw.call(
            "upload_part_copy",
            "part-copy",
            UploadId=upload_id,
            PartNumber=1,
            CopySource={"Bucket": raw.bucket, "Key": raw.key("source")},
            CopySourceRange=f"bytes=0-{len(PROBE) - 1}",
        )
        parts = [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]
        raw.call("complete_multipart_upload", "part-copy", UploadId=upload_id, MultipartUpload={"Parts": parts})
    except (CheckpointError, KeyError) as error:
        with contextlib.suppress(CheckpointError):
            raw.call("abort_multipart_upload", "part-copy", UploadId=upload_id)
        if isinstance(error, (AccessDeniedError, StorageUnavailableError)):
            raise
        raise AbsentError("objects above 5 GiB are copied through this machine") from None
    expect(read(storage.get(raw.key("part-copy"))) == PROBE, "the copy has other bytes")
    return "objects above 5 GiB are copied by the provider itself"


def _delete_many(storage: ObjectStorage, prefix: str) -> str:
    raw = _Raw(storage, prefix)
    names = ("many/1", "many/2")
    for name in names:
        raw.call("put_object", name, Body=PROBE)
    listed = {"Objects": [{"Key": raw.key(name)} for name in names], "Quiet": True}
    try:
        answer = raw.call("delete_objects", Delete=listed)
    except (AccessDeniedError, StorageUnavailableError):
        raise
    except CheckpointError:
        raise AbsentError("objects are deleted one by one") from None
    if denied := [error for error in answer.get("Errors", ()) if error.get("Code") == "AccessDenied"]:
        raise AccessDeniedError(f"s3:DeleteObject is denied on {raw.bucket}/{denied[0].get('Key', '')}")
    left = [info.key for info in storage.list(raw.key("many/"))]
    expect(not left, f"{len(left)} of 2 objects are still there")
    return "up to 1000 objects with one request"


def _metadata(storage: ObjectStorage, prefix: str) -> str:
    raw = _Raw(storage, prefix)
    raw.call("put_object", "metadata", Body=PROBE, Metadata={"flexai": "check"})
    if raw.call("head_object", "metadata").get("Metadata", {}).get("flexai") != "check":
        raise AbsentError("metadata of an object is lost")
    return "metadata of an object is kept"


def _checksum(name: str, parameter: str, digest: bytes) -> ProbeFunction:
    right = {parameter: base64.b64encode(digest).decode()}

    def probe(storage: ObjectStorage, prefix: str) -> str:
        raw = _Raw(storage, prefix)
        if raw.is_refused("put_object", "checksum", Body=PROBE, **right):
            raise AbsentError(f"a put with its {name} is refused")
        if not raw.is_kept("checksum", Body=_OTHER, **right):
            raise AbsentError(f"a put with a wrong {name} is accepted")
        if parameter != "ContentMD5":
            kept = raw.call("head_object", "checksum", ChecksumMode="ENABLED").get(parameter)
            if kept not in {None, *right.values()}:
                raise WrongAnswerError(f"another {name} is kept than was sent")
            return f"a put with a wrong {name} is refused{'' if kept is None else ', a right one kept'}"
        return f"a put with a wrong {name} is refused"

    return probe


class _SpoiledBody(TrailedBody):
    """A body with the checksum of another one behind it."""

    def blocks(self) -> Iterator[Block]:
        *encoded, _ = super().blocks()
        yield from encoded
        yield memoryview(end_body(0))


def _trailer(storage: ObjectStorage, prefix: str) -> str:
    raw = _Raw(storage, prefix)
    key = raw.key("trailer")
    trailing = S3Storage(raw.service, raw.bucket, capabilities=Capabilities(trailers=True))
    content = BytesBody(PROBE)
    try:
        trailing.put(key, content)
        upload_id = trailing.start_upload(key, size=len(PROBE))
        try:
            part = trailing.put_part(key, upload_id, number=1, offset=0, body=content)
            trailing.complete_upload(key, upload_id, [part])
        except CheckpointError:
            trailing.abort_upload(key, upload_id)
            raise
    except (AccessDeniedError, StorageUnavailableError):
        raise
    except CheckpointError:
        raise AbsentError("a checksum behind what is sent is not understood") from None
    if read(storage.get(key)) != PROBE:
        raise AbsentError("what is sent with a checksum behind it is kept as if all of it were content")
    if not raw.is_kept("trailer", Body=BodyReader(_SpoiledBody(BytesBody(_OTHER)))):
        raise AbsentError("a wrong checksum behind what is sent is accepted")
    return "parts that arrive damaged are refused, by a CRC32C behind them"


def _crc32c() -> bytes:
    import google_crc32c

    return int(google_crc32c.value(PROBE)).to_bytes(4, "big")


def s3_abilities() -> dict[str, ProbeFunction]:
    """The probes, by name."""
    checksums = {
        "crc32": ("ChecksumCRC32", zlib.crc32(PROBE).to_bytes(4, "big")),
        "crc32c": ("ChecksumCRC32C", _crc32c()),
        "sha256": ("ChecksumSHA256", hashlib.sha256(PROBE).digest()),
        "md5": ("ContentMD5", hashlib.md5(PROBE, usedforsecurity=False).digest()),
    }
    return {
        "conditional put": _conditional_put,
        "conditional get": _conditional_get,
        "part copy": _part_copy,
        "delete many": _delete_many,
        "metadata": _metadata,
        "checksum trailer": _trailer,
        **{_CHECKSUM + name: _checksum(name, *how) for name, how in checksums.items()},
    }
