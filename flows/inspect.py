"""Inspect, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.requests import InspectRequest
from flexai.flows.running import OPTIONS
from flexai.tasks import artifacts, inspect_checkpoint
from flexai.tasks.running import run_logger


@flow(
    name="inspect-checkpoint",
    description="Look up everything that is known of a checkpoint, and show it as an artifact.",
    flow_run_name="inspect {request.checkpoint}",
    **OPTIONS,
)
def inspect(request: InspectRequest) -> Document:
    """Look up a checkpoint, and attach a page about it to the run.

    Args:
        request: Which checkpoint.

    Returns:
        Its document, as ``flexai checkpoint inspect --json`` prints it.

    Raises:
        CheckpointError: NotFoundError where there is none.
    """
    document = inspect_checkpoint(request.checkpoint)
    name = document["metadata"]["name"] or document["metadata"]["id"]
    artifacts.create_markdown(
        artifacts.artifact_key("inspected", name),
        artifacts.describe_checkpoint(document, moved=0, skipped=0),
        description=f"Checkpoint {name}",
        logger=run_logger(),
    )
    return document
