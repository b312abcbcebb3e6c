"""Keeping a fleet below a provider's request rate: a task run that moves bytes waits for its turn with a connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from flexai.blocks import load_connection
from flexai.blocks.concurrency_limits import ensure_limits, limit_name, missing_limits
from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.service.system import System, store_connection
from flexai.checkpoints.settings import load_settings
from flexai.tasks import artifacts
from flexai.tasks.options import Logger, run_logger, telling

LEASE_SECONDS = 60.0
"""After which the place of a task run that was killed is free again; the shortest that Prefect allows."""


@contextlib.contextmanager
def transfer_through(*connections: str) -> Iterator[None]:
    """Hold a place among those that may use the connections, and that of the managed store, at a time.

    Empty names are none. All places are taken at once, so that no transfer holds one while it waits for another.
    Without a run nothing is held. The places are held for the block, never for a file of it. Raises
    StorageUnavailableError where the Prefect API does not answer or a limit is deleted meanwhile, SettingsError where
    none is configured.
    """
    names = sorted({*connections, store_connection(load_settings().effective_store)} - {""})
    if not names or not artifacts.is_in_a_run():
        yield
        return
    ensure_limits(names)
    with contextlib.ExitStack() as places:
        _take(places, names)
        try:
            yield
        finally:
            try:
                places.close()
            except (httpx.HTTPError, RuntimeError) as error:
                run_logger().warning(
                    "the place among the transfers through %s could not be given back; it is free again in %.0f s: %s",
                    ", ".join(names),
                    LEASE_SECONDS,
                    error,
                )


@contextlib.contextmanager
def transferring(logger: Logger, *connections: str) -> Iterator[System]:
    """The system, for as long as a place is held among those that may use the connections; see ``transfer_through``.

    The connections are loaded before, so that none that is not there gets a limit. Raises what ``transfer_through`` and
    ``flexai.blocks.load_connection`` raise.
    """
    with telling(logger), System.open(connect=load_connection) as system:
        for name in filter(None, connections):
            system.connect(name)
        with transfer_through(*connections):
            yield system


def _take(places: contextlib.ExitStack, names: list[str]) -> None:
    try:
        places.enter_context(
            concurrency(
                [limit_name(name) for name in names],
                lease_duration=LEASE_SECONDS,
                strict=True,
                # A transfer is worth more than its place: an API that fails meanwhile must not end it.
                raise_on_lease_renewal_failure=False,
            )
        )
    except ConcurrencySlotAcquisitionError as error:
        raise _unlimited(names, str(error)) from error
    # Strict is content with one of several limits.
    if len(names) > 1 and (missing := missing_limits(names)):
        raise _unlimited(missing, "the limit was deleted meanwhile")


def _unlimited(names: list[str], reason: str) -> StorageUnavailableError:
    return StorageUnavailableError(f"no place among the transfers through {', '.join(names)} could be taken: {reason}")
