"""Trying out a store: S3-compatible servers differ in what they do, whatever they say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, NotFoundError
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage

CONTENT = b"flexai storage check\n"


class Outcome(StrEnum):
    """How a probe went."""

    PASSED = "passed"
    ABSENT = "absent"
    """The store has not got it, and transfers do without."""
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Probe:
    """One ability of a store, and whether it is there."""

    name: str
    outcome: Outcome
    detail: str = ""
    """What was found, or what went wrong, for people."""
    denied: bool = field(default=False, compare=False)
    """Whether credentials or a permission were what went wrong."""


ProbeFunction: TypeAlias = Callable[[ObjectStorage, str], str]
"""Tries one ability of a store below a prefix, says in a few words what was found, and raises what went wrong."""


class WrongAnswerError(Exception):
    """The store answered, but not with what it was given."""


class AbsentError(Exception):
    """The store has not got what was tried."""


def try_out(place: RemotePath, abilities: Mapping[str, ProbeFunction] | None = None) -> list[Probe]:
    """Try each ability on objects below a prefix that nobody else uses, and delete them.

    ``abilities`` are tried after those that every store is tried for. What cannot be tried because nothing could be
    stored is reported as not tried.
    """
    found: list[Probe] = []
    try:
        for name, probe in {**_PROBES, **(abilities or {})}.items():
            if found and found[0].outcome is Outcome.FAILED:
                found.append(Probe(name, Outcome.NOT_TRIED, "nothing could be stored"))
            else:
                found.append(try_one(name, probe, place))
    finally:
        _clean(place)
    return found


def try_one(name: str, probe: ProbeFunction, place: RemotePath) -> Probe:
    """Try one ability."""
    try:
        return Probe(name, Outcome.PASSED, probe(place.storage, place.prefix))
    except AbsentError as error:
        return Probe(name, Outcome.ABSENT, str(error))
    except (CheckpointError, WrongAnswerError) as error:
        return Probe(name, Outcome.FAILED, str(error), denied=isinstance(error, AccessDeniedError))


def not_tried(abilities: Mapping[str, ProbeFunction] | None = None) -> list[Probe]:
    """Every probe of a store that could not be opened."""
    return [Probe(name, Outcome.NOT_TRIED) for name in (*_PROBES, *(abilities or ()))]


def _put(storage: ObjectStorage, prefix: str) -> str:
    info = storage.put(prefix + "object", BytesBody(CONTENT))
    expect(info.size == len(CONTENT), f"{len(CONTENT)} bytes were stored, {info.size} are reported")
    return f"{len(CONTENT)} bytes"


def _get(storage: ObjectStorage, prefix: str) -> str:
    expect(read(storage.get(prefix + "object")) == CONTENT, "other bytes came back than were stored")
    return f"{len(CONTENT)} bytes, unchanged"


def _range(storage: ObjectStorage, prefix: str) -> str:
    found = read(storage.get(prefix + "object", start=7, length=7))
    expect(found == CONTENT[7:14], f"bytes 7 to 14 were asked for, {len(found)} came back")
    return "a part of an object, by its range"


def _head(storage: ObjectStorage, prefix: str) -> str:
    expect(storage.head(prefix + "object").size == len(CONTENT), "the size is wrong")
    with contextlib.suppress(NotFoundError):
        storage.head(prefix + "nothing")
        raise WrongAnswerError("an object that was never stored is there")
    return "the size, and that a missing object is missing"


def _list(storage: ObjectStorage, prefix: str) -> str:
    storage.put(prefix + "folder/object", BytesBody(CONTENT))
    keys = sorted(info.key for info in storage.list(prefix))
    expect(keys == [prefix + "folder/object", prefix + "object"], f"{len(keys)} keys came, or others, of 2")
    return "the keys below a prefix"


def _overwrite(storage: ObjectStorage, prefix: str) -> str:
    before = storage.head(prefix + "folder/object")
    after = storage.put(prefix + "folder/object", BytesBody(CONTENT[::-1]))
    expect(read(storage.get(prefix + "folder/object")) == CONTENT[::-1], "the old bytes came back")
    expect(before.etag != after.etag, "the etag is the same for other bytes")
    return "the new bytes come back at once, under a new etag"


def _copy(storage: ObjectStorage, prefix: str) -> str:
    storage.copy(storage, prefix + "object", prefix + "copy")
    expect(read(storage.get(prefix + "copy")) == CONTENT, "the copy has other bytes")
    return "by the provider itself" if storage.service_identity else "through this machine"


def _multipart(storage: ObjectStorage, prefix: str) -> str:
    first, last = bytes(max(storage.min_part_size, 1024)), CONTENT
    key, size = prefix + "multipart", len(first) + len(last)
    upload_id = storage.start_upload(key, size=size)
    # Out of order, as parallel transfers do.
    receipts = [
        storage.put_part(key, upload_id, number=2, offset=len(first), body=BytesBody(last)),
        storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(first)),
    ]
    info = storage.complete_upload(key, upload_id, receipts)
    expect(info.size == size, f"{size} bytes were stored in parts, {info.size} are reported")
    expect(read(storage.get(key, start=len(first) - 1)) == b"\0" + CONTENT, "the parts were put together wrongly")
    return f"2 parts, {size} bytes"


def _abort(storage: ObjectStorage, prefix: str) -> str:
    key = prefix + "aborted"
    upload_id = storage.start_upload(key, size=len(CONTENT))
    storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(CONTENT))
    is_listed = any(upload.key == key for upload in storage.list_uploads(prefix))
    storage.abort_upload(key, upload_id)
    expect(not storage.has_upload(key, upload_id), "the upload is still there")
    if not is_listed:
        raise AbsentError(
            "unfinished uploads can be given up, but are not listed: gc does not find those of killed pushes"
        )
    return "unfinished uploads are listed and can be given up"


def _delete(storage: ObjectStorage, prefix: str) -> str:
    storage.delete([prefix + "object", prefix + "nothing"])
    expect(prefix + "object" not in [info.key for info in storage.list(prefix)], "the object is still there")
    return "one that is missing too"


_PROBES: dict[str, ProbeFunction] = {
    "put": _put,
    "get": _get,
    "range": _range,
    "head": _head,
    "list": _list,
    "overwrite": _overwrite,
    "copy": _copy,
    "multipart": _multipart,
    "abort": _abort,
    "delete": _delete,
}


def read(blocks: Iterator[memoryview]) -> bytes:
    """The bytes of an object."""
    return b"".join(bytes(block) for block in blocks)


def expect(holds: bool, otherwise: str) -> None:
    """Raise WrongAnswerError, saying what was found instead."""
    if not holds:
        raise WrongAnswerError(otherwise)


def _clean(place: RemotePath) -> None:
    # Each on its own: who may not delete may still list, and the probes have said what failed.
    with contextlib.suppress(CheckpointError):
        place.storage.delete([info.key for info in place.storage.list(place.prefix)])
    with contextlib.suppress(CheckpointError):
        for upload in list(place.storage.list_uploads(place.prefix)):
            place.storage.abort_upload(upload.key, upload.upload_id)
