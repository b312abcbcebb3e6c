"""What the flows share: their options, and the name that a run gets once more is known."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flexai.flows.run_leases import keep_leases
from flexai.tasks.artifacts import forgiving
from flexai.tasks.options import run_logger

keep_leases()

OPTIONS: dict[str, Any] = {"persist_result": False, "log_prints": True}
"""A result is a description and not the data; what a user's code prints belongs into the log."""


def rename_run(name: str) -> None:
    """Give the flow run another name, now that more is known; nothing without a run.

    A help to people: a Prefect API that fails meanwhile is worth a warning.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    logger = run_logger()
    with forgiving(logger):
        # Prefect's own helper would return a coroutine to a flow that an asynchronous one called.
        get_client(sync_client=True).update_flow_run(context.flow_run.id, name=name)
