"""Keeping a fleet below a provider's request rate: a run that moves bytes waits for its turn with a connection."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator

import httpx
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.service.system import System, store_connection
from flexai.checkpoints.settings import load_settings
from flexai.tasks import artifacts
from flexai.tasks.options import Logger, open_system, run_logger, telling

LEASE_SECONDS = 60.0
"""After which the place of a run that was killed is free again; the shortest that Prefect allows."""
MORE_SECONDS = 10.0
"""Between two tries to take places that were not free."""
_NOT_FREE = 423
"""What a server answers where all places are taken."""


class Places:
    """Places among the transfers that may use some connections at a time, for a transfer or for the shards of one."""

    def __init__(self, names: list[str], wanted: int) -> None:
        self.held = 0 if names else sys.maxsize
        """So many transfers may be at work; without a connection as many as there are."""
        self._names = names
        self._wanted = wanted
        self._leases = contextlib.ExitStack()
        self._next_try = 0.0

    def take(self) -> None:
        """Take those that are wanted, by one lease; where not all are free, some of them. The first is waited for.

        Raises StorageUnavailableError where the Prefect API does not answer or a limit is deleted meanwhile.
        """
        number = self._wanted - self.held
        while self.held < self._wanted and number:
            self._take(min(number, self._wanted - self.held), waits=number == 1 and not self.held)
            number = -(-number // 2) if number > 1 else 0

    def take_more(self) -> None:
        """Take what has become free of those that were not, now and then."""
        if self.held < self._wanted and time.monotonic() >= self._next_try:
            self._next_try = time.monotonic() + MORE_SECONDS
            with contextlib.suppress(StorageUnavailableError):  # with fewer it goes on as well
                self.take()

    def give_back(self) -> None:
        """Give them back, or say that they are free by themselves."""
        try:
            self._leases.close()
        except (httpx.HTTPError, RuntimeError) as error:
            run_logger().warning(
                "the place among the transfers through %s could not be given back; it is free again in %.0f s: %s",
                ", ".join(self._names),
                LEASE_SECONDS,
                error,
            )

    def _take(self, number: int, *, waits: bool) -> None:
        from flexai.blocks.concurrency_limits import limit_name

        try:
            self._leases.enter_context(
                concurrency(
                    [limit_name(name) for name in self._names],
                    occupy=number,
                    max_retries=None if waits else 0,
                    lease_duration=LEASE_SECONDS,
                    strict=True,
                    # A transfer is worth more than its place: an API that fails meanwhile must not end it.
                    raise_on_lease_renewal_failure=False,
                )
            )
        except ConcurrencySlotAcquisitionError as error:
            refusal = error.__cause__
            if not waits and isinstance(refusal, httpx.HTTPStatusError) and refusal.response.status_code == _NOT_FREE:
                return
            raise _unlimited(self._names, str(error)) from error
        self.held += number


@contextlib.contextmanager
def transfer_through(*connections: str, places: int = 1) -> Iterator[Places]:
    """Hold places among those that may use the connections, and that of the managed store, at a time.

    Empty names are none. Of all connections a place is taken at once, so that no transfer holds one while it waits for
    another. The run that gives out shards holds ``places`` for them, or as many of them as are free. Without a run
    nothing is held. The places are held for the block, never for a file of it. Raises StorageUnavailableError where
    the Prefect API does not answer or a limit is deleted meanwhile, SettingsError where none is configured.
    """
    names = sorted({*connections, store_connection(load_settings().effective_store)} - {""})
    if not names or not artifacts.is_in_a_run():
        yield Places([], places)
        return
    # Here, because a run without a connection need not wait for the blocks' import.
    from flexai.blocks.concurrency_limits import ensure_limits, missing_limits

    held = Places(names, max(1, min(places, ensure_limits(names))))
    try:
        held.take()
        # Strict is content with one of several limits.
        if len(names) > 1 and (missing := missing_limits(names)):
            raise _unlimited(missing, "the limit was deleted meanwhile")
        yield held
    finally:
        held.give_back()


@contextlib.contextmanager
def transferring(
    logger: Logger, *connections: str, first: Callable[[System], object] = lambda _: None
) -> Iterator[System]:
    """The system, for as long as a place is held among those that may use the connections; see ``transfer_through``.

    The connections are loaded before, so that none that is not there gets a limit; and ``first`` is called before
    that, which may find that there is nothing to transfer. Raises what ``first``, ``transfer_through`` and
    ``flexai.blocks.load_connection`` raise.
    """
    with telling(logger), open_system() as system, _objects_set_aside():
        first(system)
        for name in filter(None, connections):
            system.connect(name)
        with transfer_through(*connections):
            yield system


@contextlib.contextmanager
def _objects_set_aside() -> Iterator[None]:
    """Keep the garbage collector from the objects that are there already, which are Prefect's.

    A transfer of many files makes so many more that it looks through all of them: of a push of 20,000 files that was a
    tenth of the processor's time. Who has set objects aside before keeps them so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _unlimited(names: list[str], reason: str) -> StorageUnavailableError:
    return StorageUnavailableError(f"no place among the transfers through {', '.join(names)} could be taken: {reason}")
