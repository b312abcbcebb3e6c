"""The parts of the checkpoint system, opened together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.checkpoints import title
from flexai.checkpoints.errors import ConflictError, NotFoundError, SettingsError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.owner import Owner, load_owner
from flexai.checkpoints.settings import Settings, load_settings
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore


@dataclass
class System:
    """The settings, the catalog, the managed store and the owner: what every operation works on."""

    settings: Settings
    catalog: Catalog
    store: ManagedStore
    owner: Owner

    @classmethod
    def open(cls, settings: Settings | None = None) -> System:
        """Open what the settings name, making it on first use.

        Raises SettingsError for settings that cannot be used, StorageError for a catalog or store that cannot.
        """
        settings = settings or load_settings()
        return cls(
            settings=settings,
            catalog=Catalog.open(settings.effective_database_url),
            store=open_store(settings.effective_store),
            owner=load_owner(settings.home),
        )

    @cached_property
    def store_id(self) -> str:
        """The managed store's own id; the store is made on first use."""
        store_id = self.store.read_id()
        if store_id is None:
            with self.catalog.alone():
                store_id = self.store.read_id() or self.store.create()
        return store_id

    @cached_property
    def blobs(self) -> Blobs:
        """The catalog's blobs of the managed store."""
        return self.catalog.blobs(self.store_id)

    def available(self, reference: str) -> Checkpoint:
        """The checkpoint that NAME or UUID means, if its content can be read.

        Raises NotFoundError where there is none, or where its bytes lie in another store than the one in force;
        ConflictError where it is not available.
        """
        checkpoint = self.catalog.checkpoints.get(parse_reference(reference))
        if checkpoint.status is not CheckpointStatus.AVAILABLE:
            why = f": {checkpoint.reason}" if checkpoint.reason else ""
            raise ConflictError(f"checkpoint {title(checkpoint)!r} is {checkpoint.status}, not available{why}")
        if checkpoint.store_id != self.store_id:
            raise NotFoundError(
                f"checkpoint {title(checkpoint)!r} lies in another store than {self.store.location}",
                hint="set FLEXAI_STORE to the store that it was pushed to",
            )
        return checkpoint

    def close(self) -> None:
        """Close the catalog's connections."""
        self.catalog.close()

    def __enter__(self) -> System:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_store(place: str) -> ManagedStore:
    """Open the managed store that the setting ``store`` names."""
    if "://" in place:
        raise SettingsError(f"the store {place!r} is of no known kind", hint="set FLEXAI_STORE to a directory")
    return ManagedStore(LocalStorage(Path(place), private=True))
