"""Fetch, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import FetchForm
from flexai.tasks import fetch_checkpoint
from flexai.tasks.run_names import size_of


@flow(
    name="fetch-checkpoint",
    description="Bring a checkpoint's files to a directory of the worker's machine.",
    flow_run_name="fetch {request.checkpoint}",
    **OPTIONS,
)
def fetch(request: FetchForm) -> Document:
    """Fetch a checkpoint; files that are there with the right content stay, and a broken fetch is continued.

    Args:
        request: Which checkpoint to fetch, and where to.

    Returns:
        What ``flexai.tasks.fetch_checkpoint`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.fetch_checkpoint`` raises.
    """
    rename_run(f"fetch {request.checkpoint}{size_of(request.checkpoint)}")
    return run_task(fetch_checkpoint, request.request())
