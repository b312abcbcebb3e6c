"""Saving, finding and deleting connections: Prefect block documents, one name for one connection of whatever kind."""

from __future__ import annotations

import contextlib

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flexai.blocks import concurrency_limits
from flexai.blocks.providers import PROVIDERS, StorageProvider
from flexai.checkpoints.errors import AlreadyExistsError
from flexai.checkpoints.names import Id, parse_id
from flexai.connections import saved
from flexai.connections.probes import Probe, ProbeOutcome
from flexai.connections.saved import SavedConnection, parse_connection_name
from flexai.prefect_client import with_api

_PAGE = 200
_TRIES = 3


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
                saved_id = await block.asave(name, overwrite=overwrite, client=client)
            except ValueError as error:
                # Either another process has saved it since we looked, so look again; or two blocks are a server's first
                # ones at one moment and both make the key that it encrypts with, which PostgreSQL allows only one.
                if not isinstance(error.__cause__, ObjectAlreadyExists):
                    raise
            else:
                await concurrency_limits.set_limit(client, name, max_transfers)
                return parse_id(saved_id)
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
        return saved.usable(name, kind, document)

    return with_api(load)


def list_connections() -> list[SavedConnection]:
    """Every saved connection, in order of names; one that cannot be used comes with its problem."""

    async def read_all(client: PrefectClient) -> list[SavedConnection]:
        return saved.in_order(
            [saved.saved(kind, document) for kind in PROVIDERS.values() for document in await _documents(client, kind)]
        )

    return with_api(read_all)


def delete_connection(name: str) -> Id:
    """Delete a connection, and return its id; what was pushed from it stays.

    Raises NotFoundError where there is none.
    """
    name = parse_connection_name(name)

    async def delete(client: PrefectClient) -> Id:
        _, document = await _find_one(client, name)
        # ObjectNotFound: another process has just done it.
        with contextlib.suppress(ObjectNotFound):
            await client.delete_block_document(document.id)
        await concurrency_limits.delete_limit(client, name)
        return parse_id(document.id)

    return with_api(delete)


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
        now, _ = saved.read(kind, document)
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
        raise saved.not_there(
            name, [str(one.name) for kind in PROVIDERS.values() for one in await _documents(client, kind)]
        )
    word, document = saved.the_one(name, [(kind.provider, document) for kind, document in found])
    return PROVIDERS[word], document


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


def _taken(name: str, kind: type[StorageProvider]) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"connection {name!r} ({kind.provider}) already exists",
        hint=f"use another name, or: flexai storage delete {name}",
    )
