"""The managed store: blobs under ids of their own, manifests beside them, on any object storage.

::

    store.json               what this is: format, the store's own id, and the catalog that it belongs to
    clock                    what gc stores for a moment, to learn the time of the store
    catalogs/N.json          which catalog took it over as the Nth one
    blobs/AB/ABCDEF…         the bytes of one large file, or of many small ones one after the other (a pack)
    manifests/ID.json        what a checkpoint is made of and where that lies, so that a lost catalog can be rebuilt
    records/KIND/ID.json     what changed of a checkpoint since its manifest, and what is known of a training job
    logs/ID.txt              what a training job printed in its last attempt
    files/ID/attempt-N.tar   what it wrote beside its checkpoints

A blob's id is random and never used again, so an upload can start before its digest is known, and what gc deletes
can never be what another push has just brought back.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    StorageError,
    StorageFullError,
    UnsupportedError,
)
from flexai.checkpoints.foreign_json import MAX_DOCUMENT, parse_json, read_bounded
from flexai.checkpoints.storage.at_once import at_once
from flexai.checkpoints.storage.patience import Patience
from flexai.checkpoints.storage.protocol import (
    Block,
    Body,
    BytesBody,
    JoinedBody,
    ObjectInfo,
    ObjectStorage,
    PutsTogether,
    UnfinishedUpload,
)

FORMAT = 1
_STORE_KEY = "store.json"
_CLOCK_KEY = "clock"
_BLOBS = "blobs/"
_MANIFESTS = "manifests/"
_RECORDS = "records/"
_CATALOGS = "catalogs/"
_CATALOG_KEY = re.compile(r"\d+\.json")
_LONGEST_PLACE = 1000
_MOST_GIVEN_UP = 4
_LOGS = "logs/"
_FILES = "files/"


class StoreCatalog(NamedTuple):
    """The catalog that a store belongs to."""

    id: str
    place: str
    """Where it is, for people."""
    number: int
    """How many catalogs the store has had with this one."""
    renewed_at: str
    """When a command of it last used the store: ISO 8601."""
    changes: int
    """The last change that it had told by then: a catalog that knows fewer is an older copy of it."""


class ManagedStore:
    """Where pushed content lives."""

    def __init__(self, storage: ObjectStorage, *, prefix: str = "") -> None:
        """Use the objects of ``storage`` below ``prefix`` (empty, or ending in ``/``)."""
        self.storage = storage
        self._prefix = prefix

    @property
    def location(self) -> str:
        """Where this is, for people."""
        return f"{self.storage.location}/{self._prefix}".rstrip("/") if self._prefix else self.storage.location

    def read_id(self) -> str | None:
        """The store's own id; None before its first use. Raises StorageError where something else is in its place."""
        return self.read()[0]

    def read(self) -> tuple[str | None, StoreCatalog | None]:
        """The store's own id, None before its first use, and the catalog that it belongs to, if any does.

        Raises StorageError where something else is in its place.
        """
        try:
            with self._told_damaged(_STORE_KEY):
                document = self._read(_STORE_KEY)
                if document["format"] != FORMAT:
                    raise StorageError(
                        f"the store {self.location} is of format {document['format']}; this program knows {FORMAT}",
                        hint="upgrade flexai-checkpoints on this machine",
                    )
                catalog = document.get("catalog")
                return str(uuid.UUID(str(document["id"]))), None if catalog is None else _catalog(catalog)
        except NotFoundError:
            return None, None

    @contextlib.contextmanager
    def _told_damaged(self, key: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if not self._lists(key, isinstance(error, json.JSONDecodeError) and error.doc.lstrip().startswith("<")):
                raise StorageError(
                    f"what answers at {self.location} is no managed store: it gives a {key} that is none,"
                    " and lists none",
                    hint="check the endpoint: the login page of a network, a console or a proxy may answer there",
                ) from error
            raise StorageError(
                f"{self.location}/{key} is damaged: {error}",
                hint="move it away: a catalog that knows what the store holds makes it anew;"
                " flexai checkpoint recover --move-aside makes it and the catalog anew",
            ) from error

    def _lists(self, key: str, is_markup: bool) -> bool:
        """Whether the storage lists an object that it has just given; where it lets no caller list, by what was given.

        What is no object storage gives the same page for whatever it is asked for.
        """
        wanted = self._prefix + key
        try:
            with Patience(0).spent():  # no try after the first one: the error is clear in any case
                return any(info.key == wanted for info in self.storage.list(wanted))
        except AccessDeniedError:
            return not is_markup
        except CheckpointError:
            return False

    def give_to(self, store_id: str, catalog: StoreCatalog) -> StoreCatalog | None:
        """Let the store belong to a catalog; returns the other one that has taken it with the same number, if one has.

        Of two that take it at once the first one wins where the storage can store only what is new, and the last one
        else, which the other one sees at its next look.
        """
        key = f"{_CATALOGS}{catalog.number:06}.json"
        try:
            self._write(key, catalog._asdict(), only_new=True)
        except DestinationExistsError:
            # Perhaps this very catalog's: a process of it has died before the next line.
            with self._told_damaged(key):
                holder = _catalog(self._read(key))
            if holder.id != catalog.id:
                return holder
        self.renew(store_id, catalog)
        return None

    def renew(self, store_id: str, catalog: StoreCatalog) -> None:
        """Note when its catalog used the store, and how far that has come."""
        self._write(_STORE_KEY, _document(store_id, catalog), only_new=False)

    def noted_at(self) -> float | None:
        """When ``renew`` was last called, by the clock of ``read_clock``."""
        return self.storage.head(self._prefix + _STORE_KEY).modified_at

    def see_clock(self) -> float | None:
        """What ``read_clock`` tells, without anything being stored; None where the store does not say it."""
        try:
            return self.storage.head(self._prefix + _STORE_KEY).told_at
        except NotFoundError:
            return None

    def read_clock(self) -> float | None:
        """The present in seconds since the epoch, by the clock that gives the store's objects their times; None where
        it is not said. An object is stored for it, and deleted again.
        """
        key = self._prefix + _CLOCK_KEY
        try:
            present = self._put_own(key, b"now").modified_at
        except StorageFullError:
            return None  # what asks may be about to make room
        self.storage.delete([key])
        return present

    def last_taken_by(self) -> StoreCatalog | None:
        """The last catalog that ``give_to`` has given the store to, as it was then; None where it never did."""
        prefix = self._prefix + _CATALOGS
        keys = [info.key for info in self.storage.list(prefix) if _CATALOG_KEY.fullmatch(info.key, len(prefix))]
        if not keys:
            return None
        key = max(keys, key=lambda key: (len(key), key)).removeprefix(self._prefix)
        with self._told_damaged(key):
            return _catalog(self._read(key))

    def create(self, catalog: StoreCatalog | None = None, store_id: str = "") -> str:
        """Make the store, for a catalog, and return its id, or the id that a faster process gave it.

        ``store_id`` is the id that it had before it lost its name.

        The caller sees to it that only one process does as far as its catalog reaches. Of machines with catalogs of
        their own the first one wins where the storage can store only what is new, and the last one else.
        """
        # Raises where there is no bucket, which some services (SeaweedFS) would make for any object that is stored.
        next(self.storage.list(self._prefix + _STORE_KEY), None)
        self._check_uploads()
        document = _document(store_id or str(uuid.uuid4()), catalog)
        with contextlib.suppress(DestinationExistsError):
            self._write(_STORE_KEY, document, only_new=True)
        if (found := self.read_id()) is None:
            raise StorageError(f"{self.location}/{_STORE_KEY} is gone again: another program deletes it")
        return found

    def _check_uploads(self) -> None:
        """Raise StorageError where large files cannot arrive in parts, or what was broken off would stay for ever."""
        key = self.blob_key(uuid.uuid4().hex)
        try:
            upload_id = self.storage.start_upload(key, size=1)
            self.storage.abort_upload(key, upload_id)
        except UnsupportedError as error:
            raise StorageError(
                f"{self.location} cannot hold a managed store: {error.message}",
                hint="use a service that takes uploads in parts and lets them be given up; exports may go there",
            ) from error

    def blob_key(self, blob_id: str) -> str:
        """The object that holds a blob."""
        return f"{self._prefix}{_BLOBS}{blob_id[:2]}/{blob_id}"

    def read_blob(self, blob_id: str, *, start: int, length: int) -> Iterator[Block]:
        """Yield a range of a blob."""
        return self.storage.get(self.blob_key(blob_id), start=start, length=length)

    def blob_size(self, blob_id: str) -> int:
        """Bytes of a blob that is there; -1 for one that is not."""
        try:
            return self.storage.head(self.blob_key(blob_id)).size
        except NotFoundError:
            return -1

    def delete_blobs(self, blob_ids: Iterable[str]) -> None:
        """Delete blobs; those that are not there are no error."""
        self.storage.delete(self.blob_key(blob_id) for blob_id in blob_ids)

    def list_blobs(self) -> Iterator[tuple[str, ObjectInfo]]:
        """Yield every blob that is there: its id and its object."""
        for info in self.storage.list(self._prefix + _BLOBS):
            blob_id = info.key.rpartition("/")[2]
            if info.key == self.blob_key(blob_id):  # anything else is not ours
                yield blob_id, info

    def list_unfinished(self) -> Iterator[tuple[str, UnfinishedUpload]]:
        """Yield unfinished uploads of blobs: the blob's id and the upload."""
        for upload in self.storage.list_uploads(self._prefix + _BLOBS):
            blob_id = upload.key.rpartition("/")[2]
            if upload.key == self.blob_key(blob_id):
                yield blob_id, upload

    def list_unfinished_documents(self) -> Iterator[tuple[str, UnfinishedUpload]]:
        """Yield unfinished manifests, records, logs and archives: the id of their checkpoint or job, and the upload.

        What a process left that died while it made the store is of none: its id is the empty text.
        """
        for key in (_STORE_KEY, _CLOCK_KEY):
            for upload in self.storage.list_uploads(self._prefix + key):
                if upload.key == self._prefix + key:
                    yield "", upload
        for upload in self.storage.list_uploads(self._prefix + _CATALOGS):
            yield "", upload
        folders: dict[str, Callable[[str], str]] = {_MANIFESTS: _manifest_key, _LOGS: _log_key}
        folders |= {f"{_RECORDS}{kind}/": partial(_record_key, kind) for kind in ("checkpoint", "job")}
        for folder, key_of in folders.items():
            for upload in self.storage.list_uploads(self._prefix + folder):
                document_id = upload.key.rpartition("/")[2].rpartition(".")[0]
                if upload.key == self._prefix + key_of(document_id):
                    yield document_id, upload
        for upload in self.storage.list_uploads(self._prefix + _FILES):
            job_id, _, name = upload.key.removeprefix(self._prefix + _FILES).partition("/")
            if upload.key == self._prefix + _files_key(job_id, name.removesuffix(".tar")):
                yield job_id, upload

    def write_manifest(self, checkpoint_id: str, *document: bytes | bytearray) -> None:
        """Store the JSON document that describes a checkpoint, given in pieces."""
        self.storage.put(self._prefix + _manifest_key(checkpoint_id), JoinedBody(document))

    def read_manifest(self, checkpoint_id: str, *, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
        """What describes a checkpoint; ``limit`` is in bytes.

        Raises NotFoundError where there is none, IntegrityError where it is damaged or too large.
        """
        key = _manifest_key(checkpoint_id)
        try:
            document = self._read(key, limit=limit)
        except ValueError as error:
            raise IntegrityError(f"{self.location}/{key} is damaged: {error}") from error
        if not isinstance(document, dict):
            raise IntegrityError(f"{self.location}/{key} is damaged: it is no JSON object")
        return document

    def list_manifests(self) -> Iterator[str]:
        """Yield the ids of the checkpoints that the store describes."""
        for info in self.storage.list(self._prefix + _MANIFESTS):
            checkpoint_id = info.key.rpartition("/")[2].removesuffix(".json")
            if info.key == self._prefix + _manifest_key(checkpoint_id):
                yield checkpoint_id

    def delete_manifest(self, *checkpoint_ids: str) -> None:
        """Delete what describes checkpoints, if it is there."""
        self.storage.delete(self._prefix + _manifest_key(checkpoint_id) for checkpoint_id in checkpoint_ids)

    def write_records(self, documents: Iterable[tuple[tuple[str, str], bytes | None]]) -> None:
        """Store the JSON documents that say how checkpoints or jobs are by now, by kind and id; None deletes one."""
        bodies: dict[str, Body] = {}
        gone: list[str] = []
        for of, document in documents:
            key = self._prefix + _record_key(*of)
            if document is None:
                gone.append(key)
            else:
                bodies[key] = BytesBody(document)
        if gone:
            self.storage.delete(gone)
        if isinstance(self.storage, PutsTogether):
            self.storage.put_together(bodies)
        else:
            at_once(lambda one: self.storage.put(*one), bodies.items())

    def delete_records(self, kind: str, record_ids: Iterable[str]) -> None:
        """Delete the records of checkpoints, or jobs, that are there."""
        self.storage.delete(self._prefix + _record_key(kind, record_id) for record_id in record_ids)

    def read_record(self, kind: str, record_id: str) -> dict[str, Any] | None:
        """What says how a checkpoint or a job is by now, if anything does; IntegrityError where it is damaged."""
        key = _record_key(kind, record_id)
        try:
            document = self._read(key)
        except NotFoundError:
            return None
        except ValueError as error:
            raise IntegrityError(f"{self.location}/{key} is damaged: {error}") from error
        if not isinstance(document, dict):
            raise IntegrityError(f"{self.location}/{key} is damaged: it is no JSON object")
        return document

    def list_records(self, kind: str) -> Iterator[str]:
        """Yield the ids of the checkpoints, or jobs, that have a record."""
        return (record_id for record_id, _ in self.record_times(kind))

    def record_times(self, kind: str) -> Iterator[tuple[str, float | None]]:
        """Yield the same ids, and when each record was stored: seconds since the epoch, by the store's own clock."""
        for info in self.storage.list(f"{self._prefix}{_RECORDS}{kind}/"):
            record_id = info.key.rpartition("/")[2].removesuffix(".json")
            if info.key == self._prefix + _record_key(kind, record_id):
                yield record_id, info.modified_at

    def write_log(self, job_id: str, log: Body) -> None:
        """Store what a training job printed, in place of an earlier attempt's."""
        self.storage.put(self._prefix + _log_key(job_id), log)

    def read_log(self, job_id: str) -> Iterator[Block]:
        """Yield what a training job printed; NotFoundError where that was not stored."""
        return self.storage.get(self._prefix + _log_key(job_id))

    def delete_log(self, job_id: str) -> None:
        """Delete what a training job printed, if it is there."""
        self.storage.delete([self._prefix + _log_key(job_id)])

    def write_files(self, job_id: str, name: str, archive: Body) -> None:
        """Store an archive of what a training job wrote beside its checkpoints, in place of one of that name."""
        self.storage.put(self._prefix + _files_key(job_id, name), archive)

    def list_files(self, job_id: str) -> Iterator[tuple[str, int]]:
        """Yield the archives of a training job: name and size in bytes."""
        for info in self.storage.list(f"{self._prefix}{_FILES}{job_id}/"):
            name = info.key.rpartition("/")[2].removesuffix(".tar")
            if info.key == self._prefix + _files_key(job_id, name):
                yield name, info.size

    def read_files(self, job_id: str, name: str, start: int, length: int) -> Iterator[Block]:
        """Yield a range of an archive."""
        return self.storage.get(self._prefix + _files_key(job_id, name), start=start, length=length)

    def delete_files(self, job_id: str) -> None:
        """Delete the archives of a training job."""
        names = [name for name, _ in self.list_files(job_id)]
        self.storage.delete(self._prefix + _files_key(job_id, name) for name in names)

    def _read(self, key: str, *, limit: int = MAX_DOCUMENT) -> Any:
        # Not described first: an answer without a body cannot say whether the credentials or a permission are missing.
        return parse_json(read_bounded(self.storage.get(self._prefix + key), limit), limit=limit)

    def _write(self, key: str, document: dict[str, Any], *, only_new: bool) -> None:
        content = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        self._put_own(self._prefix + key, content, only_new=only_new)

    def _put_own(self, key: str, content: bytes, *, only_new: bool = False) -> ObjectInfo:
        """Store a document of the store itself. No catalog announces it, so a gc without a grace period may take it
        for what a dead process has left, and give it up: then it is stored again.
        """
        for _ in range(_MOST_GIVEN_UP):
            with contextlib.suppress(NotFoundError):
                return self.storage.put(key, BytesBody(content), only_new=only_new)
        return self.storage.put(key, BytesBody(content), only_new=only_new)


def _document(store_id: str, catalog: StoreCatalog | None) -> dict[str, Any]:
    document: dict[str, Any] = {"format": FORMAT, "id": store_id}
    return document if catalog is None else document | {"catalog": catalog._asdict()}


def _catalog(document: Mapping[str, Any]) -> StoreCatalog:
    """The catalog that a document names; ValueError, KeyError or TypeError for one that names none."""
    return StoreCatalog(
        id=str(uuid.UUID(str(document["id"]))),
        place=str(document["place"])[:_LONGEST_PLACE],
        number=int(document["number"]),
        renewed_at=str(document["renewed_at"])[:_LONGEST_PLACE],
        changes=int(document["changes"]),
    )


def _record_key(kind: str, record_id: str) -> str:
    return f"{_RECORDS}{kind}/{record_id}.json"


def _manifest_key(checkpoint_id: str) -> str:
    return f"{_MANIFESTS}{checkpoint_id}.json"


def _log_key(job_id: str) -> str:
    return f"{_LOGS}{job_id}.txt"


def _files_key(job_id: str, name: str) -> str:
    return f"{_FILES}{job_id}/{name}.tar"
