"""The place that a run has among those its deployment allows at a time, kept while the run works.

Prefect renews the lease of that place, and ends the run in the midst of its work where this fails three times in a row,
so that the limit is never exceeded (https://github.com/PrefectHQ/prefect/pull/18811). Nothing turns that off. A push or
hours of training are worth more than a place: a run of this package's flows goes on, and renews its lease as soon as it
can.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.concurrency import _leases
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound

from flexai.tasks.options import run_logger

RENEWALS = 5
"""How often a lease is renewed in its length: one of Prefect's 300 s each minute, to outlast a server away for four."""
AGAIN_SECONDS = 10.0
"""After which a renewal that failed is tried again."""

_renew_as_prefect_does = _leases._lease_renewal_loop


def keep_leases() -> None:
    """Have the leases of this package's flows kept in this process, from now on."""
    # Another version of Prefect may call it in another way; its runs are ended as it likes.
    if list(inspect.signature(_renew_as_prefect_does).parameters) == list(inspect.signature(keep_lease).parameters):
        _leases._lease_renewal_loop = keep_lease


def keep_lease(lease_id: UUID, lease_duration: float, stop_event: threading.Event) -> None:
    """Renew a lease until told to stop, whatever fails meanwhile. The leases of other flows are Prefect's affair.

    Prefect calls it in a thread of its own, in the context of the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow is None or not context.flow.fn.__module__.startswith("flexai."):
        _renew_as_prefect_does(lease_id, lease_duration, stop_event)
        return
    logger = run_logger()
    interval = lease_duration / RENEWALS
    is_failing = False
    while not stop_event.is_set():
        try:
            with get_client(sync_client=True) as client:
                if TaskRunContext.get() is None:
                    _end_if_cancelled(client, context, interval)
                client.renew_concurrency_lease(lease_id, lease_duration)
        except (httpx.HTTPError, ObjectNotFound, ValueError) as error:  # a gateway may answer with anything
            # The lease of a run that ends just now may have been given back already.
            if not stop_event.wait(AGAIN_SECONDS) and not is_failing:
                is_failing = True
                logger.warning("%s; the run goes on", _describe(error))
        else:
            if is_failing:
                is_failing = False
                logger.info("the Prefect API is there again")
            stop_event.wait(interval)


def _describe(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.GONE:
        return "the Prefect API has given this run's place to others: more may be at work now than a limit says"
    return f"the Prefect API is not there: {error}"


def _end_if_cancelled(client: SyncPrefectClient, context: FlowRunContext, seconds: float) -> None:
    """End this process as a worker does, where none has for some time.

    After half a minute without a server, a worker hears no more of the cancellation of runs that it was at.
    """
    assert context.flow_run is not None
    state = client.read_flow_run(context.flow_run.id).state
    if state is None or not state.is_cancelling() or (datetime.now(UTC) - state.timestamp).total_seconds() < seconds:
        return
    run_logger().warning("this run is cancelled, and its worker has not ended it: it ends itself")
    os.kill(os.getpid(), signal.SIGTERM)
