"""The managed store: blobs under ids of their own, manifests beside them, on any object storage.

::

    store.json               what this is: format and the store's own id
    blobs/AB/ABCDEF…         the bytes of one large file, or of many small ones one after the other (a pack)
    manifests/ID.json        what a checkpoint is made of and where that lies, so that a lost catalog can be rebuilt
    logs/ID.txt              what a training job printed in its last attempt
    files/ID/attempt-N.tar   what it wrote beside its checkpoints

A blob's id is random and never used again, so an upload can start before its digest is known, and what gc deletes
can never be what another push has just brought back.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from flexai.checkpoints.errors import DestinationExistsError, IntegrityError, NotFoundError, StorageError
from flexai.checkpoints.foreign_json import MAX_DOCUMENT, parse_json, read_bounded
from flexai.checkpoints.storage.protocol import Block, Body, BytesBody, ObjectInfo, ObjectStorage, UnfinishedUpload

FORMAT = 1
_STORE_KEY = "store.json"
_BLOBS = "blobs/"
_MANIFESTS = "manifests/"
_LOGS = "logs/"
_FILES = "files/"


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
        try:
            document = self._read(_STORE_KEY)
            if document["format"] != FORMAT:
                raise StorageError(
                    f"the store {self.location} is of format {document['format']}; this program knows {FORMAT}",
                    hint="upgrade flexai-checkpoints on this machine",
                )
            return str(uuid.UUID(str(document["id"])))
        except NotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self.location}/{_STORE_KEY} is damaged: {error}") from error

    def create(self) -> str:
        """Make the store and return its id, or the id that a faster process gave it.

        The caller sees to it that only one process does as far as its catalog reaches. Of machines with catalogs of
        their own the first one wins where the storage can store only what is new, and the last one else.
        """
        # Raises where there is no bucket, which some services (SeaweedFS) would make for any object that is stored.
        next(self.storage.list(self._prefix + _STORE_KEY), None)
        document = {"format": FORMAT, "id": str(uuid.uuid4())}
        with contextlib.suppress(DestinationExistsError):
            self._write(_STORE_KEY, document, only_new=True)
        store_id = self.read_id()
        if store_id is None:
            raise StorageError(f"{self.location}/{_STORE_KEY} is gone again: another program deletes it")
        return store_id

    def blob_key(self, blob_id: str) -> str:
        """The object that holds a blob."""
        return f"{self._prefix}{_BLOBS}{blob_id[:2]}/{blob_id}"

    def read_blob(self, blob_id: str, *, start: int, length: int) -> Iterator[Block]:
        """Yield a range of a blob."""
        return self.storage.get(self.blob_key(blob_id), start=start, length=length)

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
        """Yield unfinished manifests, logs and archives: the id of their checkpoint or job, and the upload.

        What a process left that died while it made the store is of none: its id is the empty text.
        """
        for upload in self.storage.list_uploads(self._prefix + _STORE_KEY):
            if upload.key == self._prefix + _STORE_KEY:
                yield "", upload
        for folder, key_of in ((_MANIFESTS, _manifest_key), (_LOGS, _log_key)):
            for upload in self.storage.list_uploads(self._prefix + folder):
                document_id = upload.key.rpartition("/")[2].rpartition(".")[0]
                if upload.key == self._prefix + key_of(document_id):
                    yield document_id, upload
        for upload in self.storage.list_uploads(self._prefix + _FILES):
            job_id, _, name = upload.key.removeprefix(self._prefix + _FILES).partition("/")
            if upload.key == self._prefix + _files_key(job_id, name.removesuffix(".tar")):
                yield job_id, upload

    def write_manifest(self, checkpoint_id: str, document: bytes) -> None:
        """Store the JSON document that describes a checkpoint."""
        self.storage.put(self._prefix + _manifest_key(checkpoint_id), BytesBody(document))

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

    def delete_manifest(self, checkpoint_id: str) -> None:
        """Delete what describes a checkpoint, if it is there."""
        self.storage.delete([self._prefix + _manifest_key(checkpoint_id)])

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
        self.storage.put(self._prefix + key, BytesBody(content), only_new=only_new)


def _manifest_key(checkpoint_id: str) -> str:
    return f"{_MANIFESTS}{checkpoint_id}.json"


def _log_key(job_id: str) -> str:
    return f"{_LOGS}{job_id}.txt"


def _files_key(job_id: str, name: str) -> str:
    return f"{_FILES}{job_id}/{name}.tar"
