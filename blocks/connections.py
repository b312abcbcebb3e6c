"""Saving, finding and deleting connections: Prefect block documents, one name for one connection of whatever kind."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import ValidationError

from flexai.blocks import concurrency_limits
from flexai.blocks.api import with_api
from flexai.blocks.probes import Probe, ProbeOutcome
from flexai.blocks.provider import StorageProvider
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidNameError,
    NotFoundError,
    SettingsError,
)
from flexai.checkpoints.models import to_text
from flexai.checkpoints.names import Id, parse_id, parse_name
from flexai.checkpoints.storage.kinds import KINDS, ConnectionKind


def _block_of(kind: ConnectionKind) -> type[StorageProvider]:
    module, _, name = kind.block.partition(":")
    block: type[StorageProvider] = getattr(importlib.import_module(module), name)
    return block


PROVIDERS: Mapping[str, type[StorageProvider]] = {word: _block_of(kind) for word, kind in KINDS.items()}
"""The blocks of the kinds of connections, by what ``flexai storage create --provider`` calls them."""

_PAGE = 200
_TRIES = 3
_BOOKKEEPING = {"capabilities", "schema_version", "block_type_slug"}
"""Fields of a block that are shown elsewhere, or not at all."""


@dataclass(frozen=True, slots=True)
class SavedConnection:
    """A connection as it is saved; one that cannot be used any more has no block but a problem."""

    name: str
    id: Id
    provider: str
    created_at: datetime | None
    updated_at: datetime | None
    block: StorageProvider | None
    problem: str = ""

    def document(self) -> Document:
        """The connection as JSON; of a secret field, only whether it is set."""
        spec: Document = {"provider": self.provider}
        if self.block is not None:
            spec["location"] = self.block.location
            fields = self.block.model_dump(mode="json", exclude=_BOOKKEEPING)
            # What a saved block remembers of its document is among its fields as well.
            spec |= {name: value for name, value in fields.items() if not name.startswith("_")}
        return {
            "kind": "StorageProviderConnection",
            "metadata": {"name": self.name, "id": self.id},
            "spec": spec,
            "status": {
                "problem": self.problem,
                "capabilities": dict(self.block.capabilities) if self.block is not None else {},
                "createdAt": to_text(self.created_at) if self.created_at else "",
                "updatedAt": to_text(self.updated_at) if self.updated_at else "",
            },
        }


def parse_connection_name(text: str) -> str:
    """Return the text as a connection's name.

    It is the name of a Prefect block document as well, so it obeys the naming rules and Prefect's narrower one:
    lower-case letters, digits and dashes (``prefect.types.names.BlockDocumentName``). Raises InvalidNameError.
    """
    name = parse_name(text, what="connection name")
    if name != name.lower() or "_" in name:
        raise InvalidNameError(
            f"connection name {text!r} breaks Prefect's rule for blocks",
            hint=f"use lower-case letters, digits and '-', for instance {name.lower().replace('_', '-')}",
        )
    return name


def save_connection(
    block: StorageProvider, name: str, *, overwrite: bool = False, max_transfers: int | None = None
) -> Id:
    """Save a connection under a name, and return its id; ``overwrite`` replaces one of the same kind.

    At most ``max_transfers`` task runs move bytes through it at a time; where it is None the limit that it has stays,
    and a new one gets ``concurrency_limits.DEFAULT_MAX_TRANSFERS``.

    Raises InvalidNameError, AlreadyExistsError for a name that is taken (by another kind even with ``overwrite``),
    UsageError for an endpoint that is refused, and StorageUnavailableError where the Prefect API does not answer.
    """
    name = parse_connection_name(name)
    block.verify()

    async def save(client: PrefectClient) -> Id:
        for _ in range(_TRIES):
            for kind, document in await _find(client, name):
                if not overwrite or kind is not type(block):
                    raise _taken(name, kind)
                # Prefect would overwrite the document that the block was loaded from, whatever its name.
                block._block_document_id = document.id
            try:
                saved = await block.asave(name, overwrite=overwrite, client=client)
            except ValueError as error:
                # Either another process has saved it since we looked, so look again; or two blocks are a server's first
                # ones at one moment and both make the key that it encrypts with, which PostgreSQL allows only one.
                if not isinstance(error.__cause__, ObjectAlreadyExists):
                    raise
            else:
                await concurrency_limits.set_limit(client, name, max_transfers)
                return parse_id(saved)
        raise _taken(name, type(block))

    return with_api(save)


def load_connection(name: str) -> StorageProvider:
    """Load a connection, whatever its kind, and check that its fields make sense.

    Raises NotFoundError where there is none, SettingsError for one whose saved fields cannot be used (the Prefect API
    saves what it is given), ConflictError where two kinds share the name, StorageUnavailableError where the API does
    not answer.
    """
    name = parse_connection_name(name)

    async def load(client: PrefectClient) -> StorageProvider:
        kind, document = await _find_one(client, name)
        block, problem = _read(kind, document)
        if block is None:
            raise SettingsError(
                f"connection {name!r} cannot be used: {problem}",
                hint=f"correct it in Prefect's UI, or: flexai storage delete {name}",
            )
        return block

    return with_api(load)


def list_connections() -> list[SavedConnection]:
    """Every saved connection, in order of names; one that cannot be used comes with its problem."""

    async def read_all(client: PrefectClient) -> list[SavedConnection]:
        found = []
        for kind in PROVIDERS.values():
            for document in await _documents(client, kind):
                block, problem = _read(kind, document)
                found.append(
                    SavedConnection(
                        name=document.name or "",
                        id=parse_id(document.id),
                        provider=kind.provider,
                        created_at=document.created,
                        updated_at=document.updated,
                        block=block,
                        problem=problem,
                    )
                )
        return sorted(found, key=lambda connection: (connection.name, connection.provider))

    return with_api(read_all)


def delete_connection(name: str) -> None:
    """Delete a connection; what was pushed from it stays. Raises NotFoundError where there is none."""
    name = parse_connection_name(name)

    async def delete(client: PrefectClient) -> None:
        _, document = await _find_one(client, name)
        # ObjectNotFound: another process has just done it.
        with contextlib.suppress(ObjectNotFound):
            await client.delete_block_document(document.id)
        await concurrency_limits.delete_limit(client, name)

    with_api(delete)


def check_connection(name: str, path: str = "") -> list[Probe]:
    """Try out what a connection may do (below ``BUCKET[/PREFIX]``, if that is given) and save what was found.

    What could not be tried keeps its last outcome. Nothing is saved where the provider was not reached, or where the
    connection leads elsewhere by now.

    Raises what ``load_connection`` raises.
    """
    block = load_connection(name)
    found = block.check(path)

    async def save(client: PrefectClient) -> None:
        # Read again: a user may have changed the connection in Prefect's UI meanwhile.
        kind, document = await _find_one(client, name)
        now, _ = _read(kind, document)
        if now is None or (type(now), now.location) != (type(block), block.location):
            return
        record = {
            probe.name: now.capabilities.get(probe.name, probe.outcome.value)
            if probe.outcome is ProbeOutcome.NOT_TRIED
            else probe.outcome.value
            for probe in found
        }
        await client.update_block_document(document.id, BlockDocumentUpdate(data={"capabilities": record}))

    if path and found[0].outcome is ProbeOutcome.PASSED:
        with_api(save)
    return found


async def _find_one(client: PrefectClient, name: str) -> tuple[type[StorageProvider], BlockDocument]:
    found = await _find(client, name)
    if not found:
        raise NotFoundError(
            f"there is no storage provider connection {name!r}",
            hint="flexai storage list shows what there is, flexai storage create makes one",
        )
    if len(found) > 1:
        kinds = " and ".join(repr(kind.provider) for kind, _ in found)
        raise ConflictError(
            f"connection {name!r} is there more than once, as {kinds}", hint="delete all but one in Prefect's UI"
        )
    return found[0]


async def _find(client: PrefectClient, name: str) -> list[tuple[type[StorageProvider], BlockDocument]]:
    found = []
    for kind in PROVIDERS.values():
        with contextlib.suppress(ObjectNotFound):
            found.append((kind, await client.read_block_document_by_name(name, kind.get_block_type_slug())))
    return found


async def _documents(client: PrefectClient, kind: type[StorageProvider]) -> list[BlockDocument]:
    found: list[BlockDocument] = []
    slug = kind.get_block_type_slug()
    while True:
        try:
            page = await client.read_block_documents_by_type(slug, offset=len(found), limit=_PAGE)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return found  # a kind of which no connection was ever saved
            raise
        known = {document.id for document in found}
        fresh = [document for document in page if document.id not in known]
        found += fresh
        # Prefect's own server ignores offset and limit here, and returns all at once each time.
        if len(page) < _PAGE or not fresh:
            return found


def _read(kind: type[StorageProvider], document: BlockDocument) -> tuple[StorageProvider | None, str]:
    try:
        # Prefect's own loading also emits an event, and without a configured API starts a server to send it to.
        block = kind.model_validate(document.data)
    except ValidationError as error:
        # Not the error's own text: it quotes what was put in, which may be a secret.
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        return None, f"{field}: {problem[:1].lower()}{problem[1:]}" if field else problem
    block._block_document_id, block._block_document_name = document.id, document.name
    return block, ""


def _taken(name: str, kind: type[StorageProvider]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"connection {name!r} ({kind.provider}) already exists",
        hint=f"use another name, or: flexai storage delete {name}",
    )
