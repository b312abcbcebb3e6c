"""Trying out a store: S3-compatible servers differ in what they do, whatever they say."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    NotFoundError,
    UnsupportedError,
)
from flexai.checkpoints.foreign_json import TooMuchError, read_bounded
from flexai.checkpoints.names import count
from flexai.checkpoints.storage.checks import few_enough
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import BytesBody, ObjectInfo, ObjectStorage

PROBE = b"flexai storage check\n"

_MAX_READ = 64 * 1024
"""Bytes that are read of an object of the user's."""
_MAX_LISTED = 1000
"""Objects that are looked at to find a small one."""
_NO_UPLOAD = "0" * 32
"""What every store may take for an upload's name; none has such an upload."""


class ProbeOutcome(StrEnum):
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
    outcome: ProbeOutcome
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


class NotTriedError(Exception):
    """There is nothing that it could be tried on."""


def try_out(
    place: RemotePath, abilities: Mapping[str, ProbeFunction] | None = None, *, source: RemotePath | None = None
) -> list[Probe]:
    """Try each ability on objects below a prefix of their own, and delete them.

    ``abilities`` are tried after those that every store is tried for. Where nothing may be stored, what is at
    ``source`` is read instead, other permissions are tried on objects that are not there, and the rest is reported as
    not tried. A last probe fails where something of ours is left.
    """
    remaining = {**_PROBES, **(abilities or {})}
    put = try_one("put", remaining.pop("put"), place)
    found = [put]
    if put.denied:
        harmless = {**reading(source.key if source else place.key), **_WITHOUT_STORING}
        remaining = {name: harmless.get(name, _not_stored) for name in remaining}
    elif put.outcome is ProbeOutcome.FAILED:
        remaining = dict.fromkeys(remaining, _not_stored)
    error = None
    try:
        found += [try_one(name, probe, place) for name, probe in remaining.items()]
    finally:
        error = _clean(place)
    if error is not None and put.outcome is not ProbeOutcome.FAILED:
        detail = f"{error}; what the check stored is left below {place.storage.location}/{place.prefix}"
        found.append(Probe("clean up", ProbeOutcome.FAILED, detail, denied=isinstance(error, AccessDeniedError)))
    return found


def try_one(name: str, probe: ProbeFunction, place: RemotePath) -> Probe:
    """Try one ability."""
    try:
        return Probe(name, ProbeOutcome.PASSED, probe(place.storage, place.prefix))
    except AbsentError as error:
        return Probe(name, ProbeOutcome.ABSENT, str(error))
    except NotTriedError as error:
        return Probe(name, ProbeOutcome.NOT_TRIED, str(error))
    except (CheckpointError, WrongAnswerError) as error:
        return Probe(name, ProbeOutcome.FAILED, str(error), denied=isinstance(error, AccessDeniedError))


def not_tried(abilities: Mapping[str, ProbeFunction] | None = None) -> list[Probe]:
    """Every probe of a store that could not be opened."""
    return [Probe(name, ProbeOutcome.NOT_TRIED) for name in (*_PROBES, *(abilities or ()))]


def _put(storage: ObjectStorage, prefix: str) -> str:
    info = storage.put(prefix + "object", BytesBody(PROBE))
    expect(info.size == len(PROBE), f"{len(PROBE)} bytes were stored, {info.size} are reported")
    return f"{len(PROBE)} bytes"


def _get(storage: ObjectStorage, prefix: str) -> str:
    expect(read(storage.get(prefix + "object")) == PROBE, "other bytes came back than were stored")
    return f"{len(PROBE)} bytes, unchanged"


def _range(storage: ObjectStorage, prefix: str) -> str:
    found = read(storage.get(prefix + "object", start=7, length=7))
    expect(found == PROBE[7:14], f"bytes 7 to 14 were asked for, {len(found)} came back")
    return "a part of an object, by its range"


def _head(storage: ObjectStorage, prefix: str) -> str:
    expect(storage.head(prefix + "object").size == len(PROBE), "the size is wrong")
    with contextlib.suppress(NotFoundError):
        storage.head(prefix + "nothing")
        raise WrongAnswerError("an object that was never stored is there")
    return "the size, and that a missing object is missing"


def _list(storage: ObjectStorage, prefix: str) -> str:
    storage.put(prefix + "folder/object", BytesBody(PROBE))
    keys = sorted(info.key for info in few_enough(storage.list(prefix), prefix))
    expect(keys == [prefix + "folder/object", prefix + "object"], f"{len(keys)} keys came, or others, of 2")
    return "the keys below a prefix"


def _overwrite(storage: ObjectStorage, prefix: str) -> str:
    before = storage.head(prefix + "folder/object")
    after = storage.put(prefix + "folder/object", BytesBody(PROBE[::-1]))
    expect(read(storage.get(prefix + "folder/object")) == PROBE[::-1], "the old bytes came back")
    expect(before.etag != after.etag, "the etag is the same for other bytes")
    return "the new bytes come back at once, under a new etag"


def _copy(storage: ObjectStorage, prefix: str) -> str:
    storage.copy(storage, prefix + "object", prefix + "copy")
    expect(read(storage.get(prefix + "copy")) == PROBE, "the copy has other bytes")
    return "by the provider itself" if storage.service_identity else "through this machine"


def _multipart(storage: ObjectStorage, prefix: str) -> str:
    first, last = bytes(max(storage.min_part_size, 1024)), PROBE
    key, size = prefix + "multipart", len(first) + len(last)
    try:
        upload_id = storage.start_upload(key, size=size)
    except UnsupportedError:
        raise AbsentError(
            "there are no uploads in parts: exports send each file with one request, and no managed store can be there"
        ) from None
    # Out of order, as parallel transfers do.
    receipts = [
        storage.put_part(key, upload_id, number=2, offset=len(first), body=BytesBody(last)),
        storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(first)),
    ]
    info = storage.complete_upload(key, upload_id, receipts) or storage.head(key)
    expect(info.size == size, f"{size} bytes were stored in parts, {info.size} are reported")
    expect(read(storage.get(key, start=len(first) - 1)) == b"\0" + PROBE, "the parts were put together wrongly")
    return f"2 parts, {size} bytes"


def _abort(storage: ObjectStorage, prefix: str) -> str:
    key = prefix + "aborted"
    storage.put(key, BytesBody(PROBE))
    lacks = []
    try:
        upload_id = storage.start_upload(key, size=len(PROBE))
    except UnsupportedError:
        raise AbsentError("there are no uploads in parts that could be given up") from None
    try:
        storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(PROBE))
        if not _is_listed(storage, prefix, key):
            lacks.append("are not listed: gc does not find those of killed pushes")
        if not storage.has_upload(key, upload_id):
            lacks.append("cannot be looked up: a push that goes on sends a large file from its start")
    finally:
        try:
            storage.abort_upload(key, upload_id)
        except UnsupportedError:
            lacks.append("cannot be given up: no managed store can be there, and a broken export leaves bytes")
    # What does not know such a request may take it for one that deletes the object.
    expect(key in [info.key for info in storage.list(key)], "the object of that key went with the upload")
    if lacks:
        raise AbsentError(f"unfinished uploads {'; '.join(lacks)}")
    expect(not storage.has_upload(key, upload_id), "the upload is still there")
    return "unfinished uploads are listed and can be given up"


def _is_listed(storage: ObjectStorage, prefix: str, key: str) -> bool:
    with contextlib.suppress(UnsupportedError):
        return any(upload.key == key for upload in storage.list_uploads(prefix))
    return False


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


def reading(key: str) -> dict[str, ProbeFunction]:
    """What can be tried of objects that are there already, at or below ``key``, without writing."""
    found: list[ObjectInfo] | None = None

    def look(storage: ObjectStorage) -> list[ObjectInfo]:
        nonlocal found
        found = list(itertools.islice(storage.list(f"{key}/" if key else ""), _MAX_LISTED)) or the_one(storage)
        return found

    def the_one(storage: ObjectStorage) -> list[ObjectInfo]:
        with contextlib.suppress(NotFoundError):
            return [storage.head(key)] if key else []
        return []

    def smallest(storage: ObjectStorage) -> ObjectInfo:
        try:
            known = look(storage) if found is None else found
        except AccessDeniedError:
            # Credentials that may not list can still read an object whose key is known.
            known = the_one(storage)
        if not known:
            raise NotTriedError("no object is known that could be read")
        return min(known, key=lambda info: (info.size == 0, info.size))

    def list_objects(storage: ObjectStorage, prefix: str) -> str:
        found = len(look(storage))
        if not found:
            raise NotFoundError(f"there is nothing {f'at {key} ' if key else ''}in {storage.location}", hint="")
        return f"{count(found, 'object')}{' or more' if found == _MAX_LISTED else ''}"

    def head(storage: ObjectStorage, prefix: str) -> str:
        info = smallest(storage)
        again = storage.head(info.key)
        expect((again.size, again.etag) == (info.size, info.etag), "an object is described in two ways")
        return f"{info.key}, {info.size} bytes"

    def get(storage: ObjectStorage, prefix: str) -> str:
        info = smallest(storage)
        length = min(info.size, _MAX_READ)
        expect(len(read(storage.get(info.key, length=length))) == length, "less came back than was asked for")
        return f"{length} bytes of {info.key}"

    def get_range(storage: ObjectStorage, prefix: str) -> str:
        info = smallest(storage)
        start = info.size // 2
        length = min(info.size - start, _MAX_READ)
        came = read(storage.get(info.key, start=start, length=length))
        expect(len(came) == length, f"{length} bytes were asked for, {len(came)} came back")
        return "a part of an object, by its range"

    return {"list": list_objects, "head": head, "get": get, "range": get_range}


def _start_upload(storage: ObjectStorage, prefix: str) -> str:
    key = prefix + "multipart"
    storage.abort_upload(key, storage.start_upload(key, size=len(PROBE)))
    return "allowed; no part could be stored"


def _abort_nothing(storage: ObjectStorage, prefix: str) -> str:
    next(iter(storage.list_uploads(prefix)), None)
    storage.abort_upload(prefix + "nothing", _NO_UPLOAD)
    return "allowed; there was no upload to give up"


def _delete_nothing(storage: ObjectStorage, prefix: str) -> str:
    storage.delete([prefix + "nothing"])
    return "allowed; there was no object to delete"


def _not_stored(storage: ObjectStorage, prefix: str) -> str:
    raise NotTriedError("nothing could be stored")


_WITHOUT_STORING: dict[str, ProbeFunction] = {
    "multipart": _start_upload,
    "abort": _abort_nothing,
    "delete": _delete_nothing,
}


def conditional_put(storage: ObjectStorage, prefix: str) -> str:
    """An ability of some stores: to store an object only where there is none."""
    key = prefix + "condition"
    storage.put(key, BytesBody(PROBE))
    try:
        storage.put(key, BytesBody(PROBE[::-1]), only_new=True)
    except DestinationExistsError:
        expect(read(storage.get(key)) == PROBE, "the object is another one though the put was refused")
        return "an object is stored only where there is none"
    raise AbsentError("an object is replaced though it should not be")


def lacking(why: str) -> ProbeFunction:
    """What a store has no operation for, and why that is no loss."""

    def probe(storage: ObjectStorage, prefix: str) -> str:
        raise AbsentError(f"no such operation: {why}")

    return probe


def read(blocks: Iterator[memoryview]) -> bytes:
    """The bytes of an object."""
    try:
        return read_bounded(blocks)
    except TooMuchError:
        raise WrongAnswerError("far more came back than was stored") from None


def expect(holds: bool, otherwise: str) -> None:
    """Raise WrongAnswerError, saying what was found instead."""
    if not holds:
        raise WrongAnswerError(otherwise)


def _clean(place: RemotePath) -> CheckpointError | None:
    """Delete what is below a prefix; returns why something is left."""
    # Each on its own: who may not delete may still list.
    error = None
    try:
        left = few_enough(place.storage.list(place.prefix), place.prefix)
        place.storage.delete([info.key for info in left])
    except CheckpointError as found:
        error = found
    with contextlib.suppress(CheckpointError):
        # Each probe has given up its own; these are of those that failed.
        for upload in list(itertools.islice(place.storage.list_uploads(place.prefix), _MAX_LISTED)):
            try:
                place.storage.abort_upload(upload.key, upload.upload_id)
            except CheckpointError as found:
                error = found
    return error
