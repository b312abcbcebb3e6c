"""What the flows share: their options, and the name that a run gets once more is known."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flexai.checkpoints.catalog.reader import open_reader
from flexai.checkpoints.documents import short_size
from flexai.checkpoints.errors import CheckpointError
from flexai.tasks.artifacts import forgiving
from flexai.tasks.running import run_logger

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


def size_of(reference: str) -> str:
    """How large a checkpoint is, as a run's name has it: `` (12 GB)``; empty where the catalog does not tell.

    Whether the checkpoint can be used at all is for the operation to say.
    """
    try:
        with open_reader() as reader:
            return f" ({short_size(reader.checkpoint(reference).size)})"
    except CheckpointError:
        return ""
