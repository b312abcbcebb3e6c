"""The Prefect API, asked by Prefect's own client: a configured one, or one of our own in this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import FlowRunContext, TaskRunContext, refresh_global_settings_context
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.utilities.asyncutils import run_coro_as_sync

from flexai.checkpoints.errors import AccessDeniedError, SettingsError, StorageUnavailableError
from flexai.prefect_server.finding import api_variables, find_api
from flexai.prefect_server.home import close_prefect_home

T = TypeVar("T")


def use_found_api() -> None:
    """Have Prefect use the server of ``flexai up``, with its credential, where it has not been told of another API.

    Commands find that server before they import Prefect; scripts and notebooks may have imported it already.
    """
    known = get_current_settings().api
    if known.url and known.auth_string:
        return
    api = find_api()
    variables = api_variables(api, os.environ) if api is not None else {}
    if variables:
        os.environ |= variables
        refresh_global_settings_context()


def is_without_api() -> bool:
    """Whether Prefect would have to start a server: it knows of no API, and we are in no run."""
    if _is_in_a_run():
        return False
    use_found_api()
    return not get_current_settings().api.url


def _is_in_a_run() -> bool:
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def with_api(work: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Run something with a client of the Prefect API, from wherever we are called.

    Raises SettingsError where no API is configured, AccessDeniedError where it refuses, StorageUnavailableError where
    it does not answer.
    """

    use_found_api()

    async def call() -> T:
        async with _client() as client:
            return await work(client)

    with _api_errors():
        return run_coro_as_sync(call())


def read_blocks(kinds: Sequence[str], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The blocks of a name and of some types: of each its type and its fields, secrets included.

    Raises what ``with_api`` raises.
    """

    async def read(client: PrefectClient) -> list[tuple[str, Mapping[str, Any]]]:
        found: list[tuple[str, Mapping[str, Any]]] = []
        for kind in kinds:
            with contextlib.suppress(ObjectNotFound):
                document = await client.read_block_document_by_name(name, kind, include_secrets=True)
                found.append((kind, document.data))
        return found

    return with_api(read)


@asynccontextmanager
async def _client() -> AsyncIterator[PrefectClient]:
    settings = get_current_settings()
    if settings.api.url or _is_in_a_run() or not settings.server.ephemeral.enabled:
        async with get_client() as client:
            yield client
        return
    # Without a configured API Prefect starts a server as another process, for us alone. Its application answers in this
    # process, and sooner; the lifespan, left out, is that of services that are not needed here.
    from prefect.server.api.server import create_app
    from prefect.server.database import provide_database_interface

    with contextlib.suppress(OSError):  # Prefect says it better where its home cannot be made
        close_prefect_home(settings.home)
    await provide_database_interface().create_db()
    embedded = PrefectClient(create_app(ephemeral=True))
    embedded.manage_lifespan = False
    async with embedded as client:
        yield client


@contextlib.contextmanager
def _api_errors() -> Iterator[None]:
    """Say what goes wrong between us and the Prefect API in our words."""
    url = get_current_settings().api.url
    if not url and not get_current_settings().server.ephemeral.enabled:
        raise SettingsError(
            "connections are saved in Prefect, and no Prefect API is configured",
            hint="set PREFECT_API_URL, or PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true for an embedded one",
        )
    try:
        yield
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise AccessDeniedError(
                f"the Prefect API refused the request ({status})",
                hint="check PREFECT_API_AUTH_STRING or PREFECT_API_KEY",
            ) from error
        raise StorageUnavailableError(f"the Prefect API failed ({status})", hint="see the server's log") from error
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise StorageUnavailableError(
            f"the Prefect API at {url or 'this machine'} does not answer",
            hint="start it (prefect server start) or correct PREFECT_API_URL",
        ) from error
