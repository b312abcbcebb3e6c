"""Looking at the catalog, for commands that only show what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexai.checkpoints.service.looking import look_at_catalog
from flexai.cli import terminal

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.storage.connection import StorageConnection


def look() -> Catalog:
    """The catalog as it is at this moment, to be closed by the caller; see ``look_at_catalog``."""
    tell_places()
    return look_at_catalog(_connect)


def tell_places() -> None:
    """Say which catalog and store are used, to a user who wants to read more."""
    if not terminal.verbosity.verbose:
        return
    from flexai.checkpoints.settings import hide_secrets, load_settings

    settings = load_settings()
    terminal.say(f"catalog {hide_secrets(settings.effective_database_url)}")
    terminal.say(f"store {hide_secrets(settings.effective_store)}")


def _connect(name: str) -> StorageConnection:
    from flexai.cli.tracking import load_connection

    return load_connection(name)
