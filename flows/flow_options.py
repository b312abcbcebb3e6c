"""What the flows share: their options, and the name that a run gets once more is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.tasks import Task

from flexai.checkpoints.service.requests import arguments_of
from flexai.flows import flow_results
from flexai.flows.run_leases import keep_leases
from flexai.tasks.artifacts import forgiving
from flexai.tasks.options import run_logger

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")

keep_leases()
flow_results.take_as_they_are()

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


def run_task(task: Task[..., R], request: DataclassInstance) -> R:
    """Run the task that takes a request, and return its result; raises what the task raises."""
    result: R = task(**arguments_of(request))
    return result
