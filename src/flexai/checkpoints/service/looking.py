"""Looking at the catalog without all that a system is made of: what commands do that show a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flexai.checkpoints.catalog.catalog import Catalog

if TYPE_CHECKING:
    from flexai.checkpoints.storage.connection import StorageConnection


def look_at_catalog(connect: Callable[[str], StorageConnection] | None = None) -> Catalog:
    """Open the catalog that the settings name to read it as it is at one moment; see ``Catalog.look``.

    ``connect`` is that of ``System.open``. Raises StorageError where no catalog is there, and the store belongs to one
    that was at its place.
    """
    catalog = Catalog.look()
    if not catalog.is_empty:
        return catalog
    from flexai.checkpoints.service.system import System

    return System.open(connect=connect, read_only=True).look()
