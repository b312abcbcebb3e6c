"""What is saved of blocks, read without importing Prefect: from its API, or from its database in this home.

Prefect's own reading takes three seconds, of which one row takes none. Its database is SQLite, unless it is configured
otherwise; a block's fields are in it encrypted (Fernet), with a key that is in the database or in the environment
(``prefect.server.utilities.encryption``). Whatever looks different from what is known here raises UnsureError: then
Prefect itself has to be asked.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

from flexai.checkpoints.errors import CheckpointError, NotFoundError, SettingsError
from flexai.checkpoints.foreign_json import parse_json
from flexai.prefect_server.finding import find_api, is_true, prefect_settings
from flexai.prefect_server.home import close_prefect_home, prefect_home

if TYPE_CHECKING:
    from flexai.connections.saved import BlockDocuments
    from flexai.prefect_server.rest import PrefectREST

_ELSEWHERE = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")
_EMBEDDED = ("PREFECT_SERVER_EPHEMERAL_ENABLED", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE")
_KEYS = ("PREFECT_SERVER_ENCRYPTION_KEY", "ORION_ENCRYPTION_KEY")

_COLUMNS = {
    "block_type": "id created updated name slug logo_url documentation_url description code_example is_protected",
    "block_document": ("id created updated name data is_anonymous block_type_name block_type_id block_schema_id"),
    "block_document_reference": "id created updated name parent_block_document_id reference_block_document_id",
    "configuration": "id created updated key value",
}
"""The tables, all of their columns in the versions of Prefect that are known: one more could mean anything."""

_SELECT = """
SELECT document.id, document.name, document.data, document.created, document.updated,
       EXISTS (SELECT 1 FROM block_document_reference WHERE parent_block_document_id = document.id)
FROM block_document AS document JOIN block_type AS type ON type.id = document.block_type_id
WHERE type.slug = ? AND """


class UnsureError(Exception):
    """Only Prefect itself can tell; the text says why."""


@dataclass(frozen=True, slots=True)
class SavedBlock:
    """What is saved of a block."""

    kind: str
    """Its type, as Prefect's addresses have it."""
    id: UUID
    name: str | None
    data: Mapping[str, Any] = field(repr=False)
    created: datetime | None
    updated: datetime | None


def saved_blocks() -> BlockDocuments:
    """Where blocks are saved, by Prefect's configuration. It and what it returns raise UnsureError."""
    if "prefect" in sys.modules:
        raise UnsureError("Prefect is loaded, and may have been told of another API")
    api = find_api()
    if api is not None:
        from flexai.prefect_server.rest import PrefectREST

        try:
            return _BlocksOfAPI(PrefectREST(api))
        except SettingsError as error:
            raise UnsureError(error.message) from error
    settings = prefect_settings()
    if found := [name for name in settings if name.startswith(_ELSEWHERE)]:
        raise UnsureError(f"{found[0]} is set")
    if found := [name for name in _EMBEDDED if name in settings and not is_true(settings[name])]:
        raise UnsureError(f"{found[0]} is set")
    if settings.get("PREFECT_HOME") != os.environ.get("PREFECT_HOME"):
        raise UnsureError("PREFECT_HOME is set in a file")
    return _BlocksOfDatabase(prefect_home())


class _BlocksOfAPI:
    """Asks the API for what is saved."""

    def __init__(self, api: PrefectREST) -> None:
        self._api = api

    def named(self, kind: str, name: str) -> SavedBlock | None:
        """See ``flexai.connections.saved.BlockDocuments``."""
        found = self._get(f"/block_types/slug/{quote(kind, safe='')}/block_documents/name/{quote(name, safe='')}")
        return None if found is None else _of_api(kind, found)

    def of_type(self, kind: str) -> list[SavedBlock]:
        """See ``flexai.connections.saved.BlockDocuments``. The API gives all of them at once."""
        found = self._get(f"/block_types/slug/{quote(kind, safe='')}/block_documents")
        if found is not None and not isinstance(found, list):
            raise UnsureError("the API has no list of blocks")
        return [_of_api(kind, document) for document in found or ()]

    def _get(self, path: str) -> Any:
        try:
            return self._api.get(path, include_secrets="true")
        except NotFoundError:
            return None
        except CheckpointError as error:
            raise UnsureError(error.message) from error


def _of_api(kind: str, document: Any) -> SavedBlock:
    try:
        if document["block_type"]["slug"] != kind or document.get("block_document_references"):
            raise UnsureError("a block has others inside")
        return _block(
            kind, document["id"], document["name"], document["data"], document["created"], document["updated"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnsureError(f"the API tells of a block in another form: {error!r}") from error


class _BlocksOfDatabase:
    """Reads Prefect's database as it lies there."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "prefect.db"

    def named(self, kind: str, name: str) -> SavedBlock | None:
        """See ``flexai.connections.saved.BlockDocuments``."""
        found = self._select("document.name = ?", kind, name)
        return found[0] if found else None

    def of_type(self, kind: str) -> list[SavedBlock]:
        """See ``flexai.connections.saved.BlockDocuments``."""
        return self._select("NOT document.is_anonymous", kind)

    def _select(self, condition: str, kind: str, *values: str) -> list[SavedBlock]:
        if not self._path.exists():
            return []  # Prefect has never been used here
        with contextlib.suppress(OSError):
            close_prefect_home(self._home)
        try:
            with self._reading() as connection:
                found = connection.execute(_SELECT + condition, (kind, *values)).fetchall()
                key = _encryption_key(connection) if found else b""
        except sqlite3.Error as error:
            raise UnsureError(f"Prefect's database cannot be read: {error}") from error
        return [_of_row(kind, row, key) for row in found]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        address = f"file:{quote(str(self._path.absolute()))}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            for table, columns in _COLUMNS.items():
                found = {str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")}
                if found != set(columns.split()):
                    raise UnsureError(f"Prefect's database has another table {table}")
            yield connection


def _encryption_key(connection: sqlite3.Connection) -> bytes:
    for name in _KEYS:
        if key := os.environ.get(name):
            return key.encode()
    row = connection.execute("SELECT value FROM configuration WHERE key = 'ENCRYPTION_KEY'").fetchone()
    try:
        return str(parse_json(row[0].encode())["fernet_key"]).encode()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnsureError("Prefect's database has no key that is known") from error


def _of_row(kind: str, row: Sequence[Any], key: bytes) -> SavedBlock:
    from cryptography.fernet import Fernet, InvalidToken

    document_id, name, data, created, updated, has_references = row
    if has_references:
        raise UnsureError("a block has others inside")
    try:
        fields = parse_json(Fernet(key).decrypt(parse_json(data.encode()).encode()), lenient=True)
    except (AttributeError, ValueError, InvalidToken) as error:
        raise UnsureError("a block is saved in another form") from error
    return _block(kind, document_id, name, fields, created, updated)


def _block(kind: str, document_id: Any, name: Any, data: Any, created: Any, updated: Any) -> SavedBlock:
    if not isinstance(data, dict) or data.get("block_type_slug") not in {None, "", kind}:
        raise UnsureError("a block has fields of another type")
    try:
        return SavedBlock(kind, UUID(document_id), name, data, _moment(created), _moment(updated))
    except (TypeError, ValueError, AttributeError) as error:
        raise UnsureError("a block is saved in another form") from error


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
