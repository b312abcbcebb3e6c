"""Which catalog a managed store belongs to: one at a time, so that no other one collects what this one needs.

The store names its catalog. Each command that writes there or collects looks first, notes now and then that its catalog
uses the store, and how many changes that has seen. So a catalog that was restored from an older copy is found out too:
it may not collect what it does not know.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from flexai.checkpoints.catalog.changes import note, write_due
from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import HistoryEntry, from_text, now, to_text
from flexai.checkpoints.settings import hide_secrets
from flexai.checkpoints.storage.at_once import Beside, at_once
from flexai.checkpoints.storage.managed import StoreCatalog
from flexai.checkpoints.storage.patience import Patience
from flexai.checkpoints.storage.retry import tell_of_retries

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.changes import Kind
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.service.system import System

RENEWAL = timedelta(minutes=5)
"""How often the commands of a catalog note that it uses the store."""
STORE_LEASE = timedelta(hours=1)
"""A catalog that has not used its store for so long may be taken for gone."""
_MANY = 1000
"""Of so many things it is looked which have a record, before these are read."""


def keep_store(system: System, store_id: str, catalog: StoreCatalog | None) -> Beside[None] | None:
    """See to it that the store belongs to the system's catalog; ``catalog`` is what the store said.

    Returns the note of that use, which is on its way to the store; None where none is due. Raises ConflictError where
    the store belongs to another catalog, or to a newer copy of this one.
    """
    if catalog is None:
        take_over(system)
        return None
    try:
        _check_owner(system, catalog)
    except ConflictError:
        # Perhaps it has been recovered, or has adopted the store, since.
        _, catalog = system.store.read()
        if catalog is None:
            raise
        _check_owner(system, catalog)
    if now() - from_text(catalog.renewed_at) > RENEWAL or catalog.place != place_of(system):
        new = first_use(system)._replace(number=catalog.number)

        def renew() -> None:
            with contextlib.suppress(StorageFullError):  # what is to come may make room
                system.store.renew(store_id, new)

        return Beside(renew)
    return None


def check_before_training(system: System) -> None:
    """Raise ConflictError where the store is not this catalog's, and would refuse what a training makes.

    A store that is away says nothing: it may be back when there is something to store. Nothing is made or written.
    """
    store_id, catalog = _asked_once(system)
    if catalog is not None:
        _check_owner(system, catalog)
    elif store_id == "":
        with contextlib.suppress(StorageUnavailableError, AccessDeniedError), Patience(0).spent():
            _former_id(system)


def name_store(system: System) -> str:
    """Make a store that has no name, or give it back the one that it has lost; returns its id.

    Raises StorageError where it holds what this catalog does not know, and it was not said that the store is this
    catalog's. Where nothing may be written the id is the one that it had, or empty for a new store.
    """
    store_id = _former_id(system)
    if system.is_read_only:
        return store_id
    taken_by = system.store.last_taken_by() if store_id else None
    own = first_use(system)
    if taken_by is not None:
        own = own._replace(number=taken_by.number + (taken_by.id != own.id))
    try:
        with system.catalog.alone():
            if (found := system.store.read_id()) is not None:
                return found
            found = system.store.create(own, store_id)
    except AccessDeniedError:
        if not store_id:
            raise
        return store_id  # a reader needs no more
    if store_id:
        tell_of_retries(f"the store {system.store.location} has lost its store.json, which was written anew")
    elif elsewhere := system.catalog.soundness(found).count_elsewhere():
        # The disk of the store may not be there.
        where = "checkpoint of this catalog is" if elsewhere == 1 else "checkpoints of this catalog are"
        tell_of_retries(f"a new store was made at {system.store.location}: {elsewhere} {where} in another one")
    if own.number > 1:
        system.store.give_to(found, own)
    return found


def _former_id(system: System) -> str:
    """The id that a store had which has lost its name; empty for a new store, which describes nothing.

    Raises StorageError where it describes what this catalog does not know, or belonged to another one.
    """
    described = list(system.store.list_manifests())
    if not described:
        return ""
    known = system.catalog.stores_of(described)
    if system.begins_anew:
        return max(known, key=known.__getitem__, default=None) or _told_id(system, described)
    taken_by = system.store.last_taken_by()
    is_own = taken_by is None or taken_by.id == system.catalog.identity()
    for store_id, count in known.items():
        if is_own and count == len(described):
            return store_id
    raise StorageError(
        f"the store {system.store.location} describes checkpoints, its store.json is gone, and this catalog does not"
        " know it as its own",
        hint="bring it back; or flexai checkpoint recover makes it anew and enters what the store describes;"
        " flexai store adopt makes it anew, and gc keeps what this catalog does not know",
    )


def _told_id(system: System, described: Iterable[str]) -> str:
    """The store's id by what its manifests say; empty where none says one."""
    for checkpoint_id in described:
        with contextlib.suppress(IntegrityError, NotFoundError, KeyError, TypeError, ValueError):
            return str(uuid.UUID(system.store.read_manifest(checkpoint_id)["checkpoint"]["store_id"]))
    return ""


def _asked_once(system: System) -> tuple[str | None, StoreCatalog | None]:
    """The store's id, empty where it has none, and its catalog, if any; None and None where one try cannot tell.

    Nothing waits for a store that is away before it needs it.
    """
    try:
        with Patience(0).spent():
            store_id, catalog = system.store.read()
            return store_id or "", catalog
    except CheckpointError:
        return None, None


def check_own(system: System) -> None:
    """Raise ConflictError where the store is not this catalog's, or is that of a newer copy; nothing is written."""
    catalog = system.store.read()[1]
    if catalog is not None:
        _check_owner(system, catalog)


def look_again(system: System) -> None:
    """Raise ConflictError where another catalog has taken the store over by now."""
    noted = keep_store(system, system.store_id, system.store.read()[1])
    if noted is not None:
        noted.answer()


def _check_owner(system: System, catalog: StoreCatalog) -> None:
    """Raise ConflictError where the store names another catalog than the system's, or a newer copy of it."""
    if catalog.id != system.catalog.identity():
        raise ConflictError(
            f"the store {system.store.location} belongs to another catalog, {described(catalog)}",
            hint="use that catalog (FLEXAI_DATABASE_URL, FLEXAI_HOME); where it is lost: flexai checkpoint recover;"
            " to begin anew without what it knows: flexai store adopt",
        )
    if catalog.changes > system.catalog.last_change():
        raise ConflictError(
            f"this catalog is an older copy of the one that used the store {system.store.location} last",
            hint="flexai checkpoint recover brings it up to what the store knows",
        )


def check_not_lost(system: System) -> None:
    """Raise StorageError where there is no catalog, and the store belongs to one that was at this very place.

    A store that cannot be read now says nothing: it is asked again before it is written to.
    """
    if system.begins_anew:
        return
    _, catalog = _asked_once(system)
    if catalog is not None and catalog.place == (place := place_of(system)):
        raise StorageError(
            f"the catalog {place} is empty or gone, and the store {system.store.location} belongs to it",
            hint="flexai checkpoint recover makes it anew from what the store knows; so does, whatever file is there:"
            " flexai checkpoint recover --move-aside",
        )


def take_over(system: System, *, force: bool = False) -> StoreCatalog | None:
    """Let the store belong to the system's catalog; returns the other one that it belonged to, if it did.

    Raises ConflictError where commands of that one have used the store of late (but with ``force``), by the store's own
    clock: one that is at the very place of this catalog is lost.
    """
    system.begins_anew = True
    store_id, former = system.store_id, system.store.read()[1]
    own = first_use(system)
    if former is not None and former.id == own.id:
        return None
    holder = former
    while True:
        check_may_take(system, holder, force=force)
        if holder is not None:
            own = own._replace(number=holder.number + 1)
        holder = system.store.give_to(store_id, own)
        if holder is None:
            database = system.catalog.database
            with database.writing() as transaction:
                note(transaction, database.actor, "adopt", "store", {store_id: system.store.location})
            return former


def check_may_take(system: System, holder: StoreCatalog | None, *, force: bool = False) -> None:
    """Raise ConflictError where the store's catalog is at another place and in use; but with ``force``."""
    if holder is not None and not force and holder.place != place_of(system) and _is_in_use(system, holder):
        raise ConflictError(
            f"the store {system.store.location} is in use by the catalog {described(holder)}",
            hint="where that catalog is lost, or no command uses it any more: the same command with --force",
        )


def note_use(system: System) -> None:
    """Note that the system's catalog, whose store it is, knows all that the store knows."""
    store_id, catalog = system.store.read()
    if store_id is not None and catalog is not None and catalog.id == system.catalog.identity():
        system.store.renew(store_id, first_use(system)._replace(number=catalog.number))


def first_use(system: System) -> StoreCatalog:
    """The system's catalog, as a store names it that has belonged to none before."""
    return StoreCatalog(
        id=system.catalog.identity(),
        place=place_of(system),
        number=1,
        renewed_at=to_text(now()),
        changes=system.catalog.last_change(),
    )


def _is_in_use(system: System, catalog: StoreCatalog) -> bool:
    """Whether commands of a catalog have used the store of late: by its own clock, which no machine can set ahead."""
    present, noted = system.store.read_clock(), system.store.noted_at()
    if present is None or noted is None:
        present, noted = now().timestamp(), from_text(catalog.renewed_at).timestamp()
    return present - noted < STORE_LEASE.total_seconds()


def described(catalog: StoreCatalog) -> str:
    """A catalog, for people: where it is, and when it used the store last."""
    return f"at {catalog.place}, which used it last at {catalog.renewed_at[:16].replace('T', ' ')} UTC"


def catalog_document(catalog: StoreCatalog | None) -> Document | None:
    """The catalog that a store was taken from, for programs; None where it was taken from none."""
    return catalog and {"id": catalog.id, "place": catalog.place, "usedAt": catalog.renewed_at}


def place_of(system: System) -> str:
    """Where the system's catalog is, for people: without its password, and with the machine of a file."""
    url = hide_secrets(system.database_url)
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"{os.uname().nodename}:{path}"


def write_due_records(system: System) -> None:
    """Write the records that are due; those that the store, or the catalog, does not let through now stay due."""
    with contextlib.suppress(StorageError, AccessDeniedError, ConflictError):
        write_due(system.catalog.database)


class StoreRecords:
    """The records in the system's store; see ``catalog.changes``."""

    def __init__(self, system: System) -> None:
        self._system = system

    def check(self) -> None:
        """Raise ConflictError where the store is not this catalog's."""
        assert self._system.own_store_id, "a store that is written to is there"

    def histories(self, kind: Kind, ids: Collection[str]) -> Mapping[str, Sequence[HistoryEntry]]:
        """What records tell that happened to things."""
        store = self._system.store
        if len(ids) >= _MANY:
            # A listing tells of a thousand at once, and few of many things have a record.
            ids = set(ids).intersection(store.list_records(kind))

        def history(subject_id: str) -> Sequence[HistoryEntry]:
            try:
                record = store.read_record(kind, subject_id) or {"history": ()}
                # Not by the record's reader, which takes a tenth of a second to import: no more than this is asked.
                return [HistoryEntry(**one | {"at": from_text(one["at"])}) for one in record["history"]]
            except (IntegrityError, KeyError, TypeError, ValueError):
                return ()

        found = zip(ids, at_once(history, ids), strict=True)
        return {subject_id: told for subject_id, told in found if told}

    def sound(self, kind: Kind, ids: Iterable[str]) -> list[str]:
        """Those of the ids whose records are whole, and of their things."""
        return [subject_id for subject_id in ids if self._is_sound(kind, subject_id)]

    def _is_sound(self, kind: Kind, subject_id: str) -> bool:
        from flexai.checkpoints.service.support import record_reader

        try:
            record = self._system.store.read_record(kind, subject_id) or {}
            if kind == "job":
                return record_reader.read_job_record(record).job.id == subject_id
            return record_reader.read_checkpoint_record(record).checkpoint.id == subject_id
        except IntegrityError:
            return False

    def write(self, documents: Mapping[tuple[Kind, str], bytes | None]) -> None:
        """Store records, or delete them."""
        self._system.store.write_records(documents.items())
