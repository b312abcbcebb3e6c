"""Inspect, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS
from flexai.flows.forms import InspectForm
from flexai.tasks import inspect_checkpoint
from flexai.tasks.change_reports import Reporter
from flexai.tasks.options import open_system, run_logger


@flow(
    name="inspect-checkpoint",
    description="Look up everything that is known of a checkpoint, and show it as an artifact.",
    flow_run_name="inspect {request.checkpoint}",
    **OPTIONS,
)
def inspect(request: InspectForm) -> Document:
    """Look up a checkpoint, and attach a page about it to the run.

    Args:
        request: Which checkpoint.

    Returns:
        Its document, as ``flexai checkpoint inspect --json`` prints it.

    Raises:
        CheckpointError: NotFoundError where there is none.
    """
    document = inspect_checkpoint(request.checkpoint)
    with open_system(read_only=True) as system:
        Reporter(system, run_logger()).inspected(document["metadata"]["id"])
    return document
