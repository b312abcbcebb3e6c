"""Keeping a fleet below a provider's request rate: a task run that moves bytes waits for its turn with a connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from prefect.concurrency.sync import concurrency

from flexai.blocks.limits import ensure_limits, limit_name
from flexai.tasks import artifacts
from flexai.tasks.running import run_logger

LEASE_SECONDS = 60.0
"""After which the place of a task run that was killed is free again; the shortest that Prefect allows."""


@contextlib.contextmanager
def transfer_through(*connections: str) -> Iterator[None]:
    """Hold a place among those that may use the connections at a time; empty names are none.

    Without a run nothing is held. The places are held for the block, never for a file of it. Raises
    StorageUnavailableError where the Prefect API does not answer, SettingsError where none is configured.
    """
    names = sorted({name for name in connections if name})
    if not names or not artifacts.is_in_a_run():
        yield
        return
    ensure_limits(names)
    with contextlib.ExitStack() as places:
        places.enter_context(
            concurrency(
                [limit_name(name) for name in names],
                lease_duration=LEASE_SECONDS,
                strict=True,
                # A transfer is worth more than its place: an API that fails meanwhile must not end it.
                raise_on_lease_renewal_failure=False,
            )
        )
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
