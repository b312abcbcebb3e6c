"""The parts of the checkpoint system, opened together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    ConflictError,
    NotFoundError,
    SettingsError,
    UsageError,
)
from flexai.checkpoints.models import Actor, Checkpoint, CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.owner import Owner, find_owner, load_owner, new_owner, owner_of
from flexai.checkpoints.settings import Settings, hide_secrets, load_settings
from flexai.checkpoints.storage.at_once import Beside
from flexai.checkpoints.storage.connection import RemotePath, StorageConnection, check_bucket, split_bucket
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore, StoreCatalog
from flexai.checkpoints.storage.patience import Patience
from flexai.checkpoints.storage.protocol import ObjectStorage

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.blobs import Blobs
    from flexai.checkpoints.catalog.soundness import Soundness
    from flexai.checkpoints.transfer.journal import RecordDigests
    from flexai.checkpoints.transfer.stat_cache import StatCache

Connect: TypeAlias = Callable[[str], StorageConnection]
"""Loads a storage provider connection by its name."""

STAT_CACHE = "stat-cache.db"
"""The file in the home folder that remembers digests of this machine's files."""

_FORMS = "set FLEXAI_STORE to a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or CONNECTION:BUCKET/PREFIX"
_IN_CONNECTION = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]):(?!/)(.*)", re.DOTALL)


@dataclass
class System:
    """The settings, the catalog, the managed store and the owner: what every operation works on."""

    settings: Settings
    database_url: str = field(repr=False)
    """Of the catalog, password included: never print it."""
    open_store: Callable[[], ManagedStore]
    owner: Owner
    connect: Connect
    """Loads a connection that a request names, each one once. Raises SettingsError where none are known, and what
    ``flexai.blocks.load_connection`` raises."""
    is_read_only: bool = False
    begins_anew: bool = field(default=False, init=False)
    """Whether the catalog may be made anew where the store belongs to one that was at its place."""
    flow_run_id: str = ""
    """The Prefect flow run that the operation is a part of, for the history; empty for none."""
    _reading: Beside[tuple[str | None, StoreCatalog | None]] | None = field(default=None, init=False, repr=False)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        connect: Connect | None = None,
        read_only: bool = False,
        flow_run_id: str = "",
    ) -> System:
        """Take what the settings name, which is opened, and made, when it is first used.

        With ``read_only`` nothing is made or written, whatever is done: what is not there yet is empty, and the catalog
        is seen as it is at one moment. ``connect`` is needed for a store in a connection's bucket, and for operations
        on one that they name. ``flow_run_id`` is that of the Prefect flow run that does it, if one does.

        Raises SettingsError for settings that cannot be used; a catalog or a store that cannot is a StorageError on
        first use.
        """
        settings = settings or load_settings()
        if connect is not None:
            connect = cache(connect)
        open_store = store_opener(settings.effective_store, connect, shared=settings.is_store_shared)
        if settings.owner:
            owner = owner_of(settings.owner, settings.home)
        else:
            owner = find_owner(settings.home) or new_owner() if read_only else load_owner(settings.home)
        url = settings.effective_database_url
        connect = connect or _no_connection
        return cls(settings, url, open_store, owner, connect, is_read_only=read_only, flow_run_id=flow_run_id)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog."""
        if self.is_read_only:
            return self.look()
        from flexai.checkpoints.service.store_owner import StoreRecords, check_not_lost

        catalog = Catalog.open(self.database_url, before_making=partial(check_not_lost, self), patience=self._patience)
        catalog.database.actor = Actor(self.owner.name, os.uname().nodename, self.flow_run_id)
        catalog.database.records = StoreRecords(self)
        return catalog

    def open_place(self, connection: str, path: str) -> RemotePath:
        """Open ``BUCKET/PREFIX`` of a connection.

        Raises UsageError for a directory in which flexai keeps what is its own, or that holds such a one, and what
        ``connect`` and the connection raise.
        """
        place = self.connect(connection).open(path)
        if isinstance(place.storage, LocalStorage):
            OwnFolders.of(self.settings).check("the place", place.storage.root / place.key, may_hold=False)
        return place

    def look(self) -> Catalog:
        """The catalog as it is at this moment, to read it and to be closed by the caller; see ``Catalog.look``.

        Raises StorageError where there is none, and the store belongs to one that was at its place.
        """
        catalog = Catalog.look(self.database_url, patience=self._patience)
        if catalog.is_empty:
            from flexai.checkpoints.service.store_owner import check_not_lost

            check_not_lost(self)
        return catalog

    @property
    def _patience(self) -> Patience:
        return Patience(self.settings.patience.total_seconds())

    @cached_property
    def store(self) -> ManagedStore:
        """Where pushed content lives; opened when it is first used."""
        return self.open_store()

    @cached_property
    def store_id(self) -> str:
        """The managed store's own id; the store is made on first use, or empty where it is only read."""
        store_id, _ = self._store_document
        if store_id is None:
            from flexai.checkpoints.service.store_owner import name_store

            store_id = name_store(self)
            if not self.is_read_only:
                del self._store_document  # it is another one now
        return store_id

    @cached_property
    def _store_document(self) -> tuple[str | None, StoreCatalog | None]:
        reading, self._reading = self._reading, None  # what has failed may be asked again
        return self.store.read() if reading is None else reading.answer()

    def read_ahead(self) -> None:
        """Begin to read what the store says of itself, beside what comes before that is needed.

        What goes wrong is raised where it is needed.
        """
        if self._reading is None and "_store_document" not in vars(self):
            with suppress(CheckpointError):
                self._reading = Beside(self.store.read)

    @cached_property
    def own_store_id(self) -> str:
        """The managed store's own id, for what writes there or collects: the store belongs to this catalog.

        A store that belongs to none is this catalog's from here on. Raises ConflictError for another catalog's store,
        and where this catalog is an older copy of the one that used the store last.
        """
        store_id = self.claim_store()
        if self._noting is not None:
            self._noting.answer()
        return store_id

    def claim_store(self) -> str:
        """The managed store's own id, as ``own_store_id``; that the store is used is noted there beside what follows.

        ``check_claim`` tells whether that went wrong, and what makes content available reads ``own_store_id`` first.
        """
        _ = self._noting
        return self.store_id

    @cached_property
    def _noting(self) -> Beside[None] | None:
        from flexai.checkpoints.service.store_owner import keep_store

        return keep_store(self, self.store_id, self._store_document[1])

    def check_claim(self) -> None:
        """Raise what has gone wrong by now with the note that the store is used."""
        if self._noting is not None:
            self._noting.check()

    @cached_property
    def stat_cache(self) -> StatCache:
        """The digests of this machine's files that are remembered."""
        from flexai.checkpoints.transfer.stat_cache import StatCache

        return StatCache(self.settings.home / STAT_CACHE, read_only=self.is_read_only)

    @cached_property
    def blobs(self) -> Blobs:
        """The catalog's blobs of the managed store."""
        return self.catalog.blobs(self.store_id)

    @cached_property
    def soundness(self) -> Soundness:
        """What the catalog knows of the soundness of the managed store's contents."""
        return self.catalog.soundness(self.store_id)

    def available(self, reference: str) -> Checkpoint:
        """The checkpoint that NAME, UUID or JOB/PATH means, if its content can be read.

        Raises NotFoundError where there is none, or where its bytes lie in another store than the one in force;
        ConflictError where it is not available.
        """
        checkpoint = self.catalog.checkpoints.get(parse_reference(reference))
        _check_available(checkpoint)
        self.check_store(checkpoint)
        return checkpoint

    def available_files(self, reference: str, node: int | None = None) -> tuple[Checkpoint, list[StoredFile]]:
        """The checkpoint as ``available`` finds it, and its files, in order of their paths; seen at one moment.

        With ``node`` it is what that machine has brought of it, available or not; NotFoundError where it has brought
        nothing.
        """
        checkpoint, files = self.catalogued_files(reference, node)
        self.check_store(checkpoint)
        return checkpoint, files

    def catalogued_files(self, reference: str, node: int | None = None) -> tuple[Checkpoint, list[StoredFile]]:
        """The same by the catalog's word alone: who reads the bytes calls ``check_store`` beside that."""
        with self.look() as catalog:
            checkpoint = catalog.checkpoints.get(parse_reference(reference))
            if node is not None:
                checkpoint = _part(catalog, checkpoint, node)
            else:
                _check_available(checkpoint)
            files = catalog.blobs(checkpoint.store_id).files_of(checkpoint.id)
            if checkpoint.status is CheckpointStatus.AVAILABLE and len(files) != checkpoint.file_count:
                raise _taken(checkpoint)  # where the look had to begin again
            return checkpoint, files

    def learning(self, files: Sequence[StoredFile]) -> RecordDigests:
        """Who is told of digests of these files; the catalog itself is opened only where one is missing.

        Who may read the catalog alone reads the files all the same: what was read is then not remembered.
        """

        def learn(content: StoredContent) -> None:
            with suppress(AccessDeniedError):
                self.blobs.learn(content)

        return (lambda _: None) if all(file.content.digest for file in files) else learn

    def files_of(self, checkpoint: Checkpoint) -> list[StoredFile]:
        """The files of a checkpoint that was available; NotFoundError where gc has taken it meanwhile."""
        files = self.blobs.files_of(checkpoint.id)
        if len(files) != checkpoint.file_count:
            raise _taken(checkpoint)
        return files

    def check_store(self, checkpoint: Checkpoint) -> None:
        """Raise NotFoundError where a checkpoint's bytes lie in another store than the one in force."""
        if checkpoint.store_id != self.store_id:
            raise NotFoundError(
                f"checkpoint {checkpoint.title!r} lies in another store than {self.store.location}",
                hint="set FLEXAI_STORE to the store that it was pushed to",
            )

    def close(self) -> None:
        """Close the catalog's connections, and give up what is asked beside the work."""
        for beside in (self._reading, vars(self).get("_noting")):
            if beside is not None:
                beside.give_up()
        if "catalog" in vars(self):
            self.catalog.close()

    def __enter__(self) -> System:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_available(checkpoint: Checkpoint) -> None:
    if checkpoint.status is not CheckpointStatus.AVAILABLE:
        why = f": {checkpoint.reason}" if checkpoint.reason else ""
        raise ConflictError(f"checkpoint {checkpoint.title!r} is {checkpoint.status}, not available{why}")


def _part(catalog: Catalog, checkpoint: Checkpoint, node: int) -> Checkpoint:
    if not checkpoint.parts and checkpoint.node == str(node):
        _check_available(checkpoint)
        return checkpoint
    for part in catalog.parts.of(checkpoint.id):
        if part.node == str(node):
            return replace(part, job_id=checkpoint.job_id, job_name=checkpoint.job_name)
    raise NotFoundError(
        f"node {node} has brought no part of checkpoint {checkpoint.title!r}",
        hint=f"nodes {checkpoint.nodes or checkpoint.node} have; without --node all files are fetched",
    )


def _taken(checkpoint: Checkpoint) -> NotFoundError:
    return NotFoundError(f"checkpoint {checkpoint.title!r} was deleted meanwhile")


def _no_connection(name: str) -> StorageConnection:
    raise SettingsError(f"connections are not known here, so {name!r} cannot be used")


def store_opener(place: str, connect: Connect | None = None, *, shared: bool = False) -> Callable[[], ManagedStore]:
    """How to open the managed store that the setting ``store`` names.

    ``s3://BUCKET[/PREFIX]`` and ``gs://BUCKET[/PREFIX]`` by the SDKs' own credentials and variables,
    ``CONNECTION:BUCKET[/PREFIX]`` by a connection, and else a directory, which is its owner's alone or, with
    ``shared``, its group's. Raises SettingsError for what is none of them, and for a connection where ``connect`` is
    None.
    """
    scheme, separator, rest = place.partition("://")
    if separator:
        if scheme not in {"s3", "gs"}:
            raise SettingsError(f"the store {hide_secrets(place)!r} is of no known kind", hint=_FORMS)
        bucket, key = _split(place, rest)
        check_bucket(bucket)
        return lambda: ManagedStore(_ambient_bucket(scheme, bucket), prefix=f"{key}/" if key else "")
    if found := _IN_CONNECTION.fullmatch(place):
        name, path = found.groups()
        _split(place, path)
        if connect is None:
            shown = hide_secrets(place)
            raise SettingsError(
                f"the store {shown!r} lies in the bucket of a connection, and connections are not known here",
                hint=f"set FLEXAI_STORE to s3://BUCKET or gs://BUCKET here; for a directory of that name to ./{shown}",
            )
        return lambda: _connected_store(connect(name), path)
    return lambda: ManagedStore(LocalStorage(Path(place), private=not shared, same_group=shared))


def store_connection(place: str) -> str:
    """The connection in whose bucket the managed store lies that the setting ``store`` names; empty for any other."""
    found = _IN_CONNECTION.fullmatch(place)
    return found[1] if found else ""


def _split(place: str, path: str) -> tuple[str, str]:
    try:
        return split_bucket(path)
    except UsageError:
        raise SettingsError(
            f"the store {hide_secrets(place)!r} has no bucket, or a path that is none", hint=_FORMS
        ) from None


def _ambient_bucket(scheme: str, bucket: str) -> ObjectStorage:
    from flexai.checkpoints.storage import ambient

    return ambient.s3_bucket(bucket) if scheme == "s3" else ambient.gcs_bucket(bucket)


def _connected_store(connection: StorageConnection, path: str) -> ManagedStore:
    place = connection.open(path)
    return ManagedStore(place.storage, prefix=place.prefix)
