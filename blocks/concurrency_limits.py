"""How many transfers may use a connection at a time, over all machines: a global concurrency limit of Prefect's.

It is made and deleted with the connection. One saved in Prefect's UI has none yet, so each user of a connection makes
the limit where it is missing: to Prefect a missing one means no limit.
"""

from __future__ import annotations

import contextlib

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flexai.prefect_client import with_api

DEFAULT_MAX_TRANSFERS = 16
"""Task runs that move bytes through one connection at a time; each moves several parts at once."""


def limit_name(connection: str) -> str:
    """The name of a connection's limit in Prefect."""
    return f"flexai-storage-{connection}"


def ensure_limits(connections: list[str]) -> int:
    """See to it that connections have limits, the default where there is none; returns the least of them."""

    async def ensure(client: PrefectClient) -> int:
        return min([await set_limit(client, connection, None) for connection in connections])

    return with_api(ensure)


def missing_limits(connections: list[str]) -> list[str]:
    """Those of some connections that have no limit."""

    async def read(client: PrefectClient) -> list[str]:
        return [connection for connection in connections if not await _has_limit(client, connection)]

    return with_api(read)


async def _has_limit(client: PrefectClient, connection: str) -> bool:
    try:
        await client.read_global_concurrency_limit_by_name(limit_name(connection))
    except ObjectNotFound:
        return False
    return True


async def set_limit(client: PrefectClient, connection: str, limit: int | None) -> int:
    """Set a connection's limit; where None is given, to the default if there is none. Returns what it is then."""
    name = limit_name(connection)
    try:
        known = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        # Another process may have been faster.
        made = GlobalConcurrencyLimitCreate(name=name, limit=limit or DEFAULT_MAX_TRANSFERS)
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_global_concurrency_limit(made)
            return made.limit
        known = await client.read_global_concurrency_limit_by_name(name)
    if limit is not None and known.limit != limit:
        await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=limit))
    return known.limit if limit is None else limit


async def delete_limit(client: PrefectClient, connection: str) -> None:
    """Delete a connection's limit, if it has one."""
    with contextlib.suppress(ObjectNotFound):
        await client.delete_global_concurrency_limit_by_name(limit_name(connection))
