"""List, as a flow."""

from __future__ import annotations

from fnmatch import fnmatchcase

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS
from flexai.flows.forms import ListForm
from flexai.tasks import artifacts
from flexai.tasks import list_checkpoints as list_task
from flexai.tasks.options import run_logger

_ALL = ListForm()


@flow(
    name="list-checkpoints",
    description="List the checkpoints that users pushed, and show them as a table.",
    flow_run_name="list {request.names}",
    **OPTIONS,
)
def list_checkpoints(request: ListForm = _ALL) -> list[Document]:
    """List checkpoints, oldest first, and attach them to the run as a table, newest first.

    Args:
        request: Which checkpoints; all that were pushed where left out.

    Returns:
        The rows of ``flexai checkpoint list --json``.

    Raises:
        CheckpointError: StorageUnavailableError where the catalog does not answer.
    """
    pattern = request.names.casefold()
    rows = [row for row in list_task() if fnmatchcase(row["name"].casefold(), pattern)]
    artifacts.create_table(
        "checkpoints", rows[::-1], description=f"Checkpoints {request.names}: {len(rows)}", logger=run_logger()
    )
    return rows
