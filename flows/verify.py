"""Verify, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import VerifyForm
from flexai.tasks import verify_checkpoints
from flexai.tasks.run_names import size_of

_ALL = VerifyForm()


@flow(
    name="verify-checkpoints",
    description="Read stored content and compare it with its digests; damage fails the run.",
    flow_run_name="verify checkpoints",
    **OPTIONS,
)
def verify(request: VerifyForm = _ALL) -> Document:
    """Verify checkpoints, or the whole store where none is named; damage is all logged before the run fails.

    Args:
        request: Which checkpoints.

    Returns:
        What ``flexai.tasks.verify_checkpoints`` returns.

    Raises:
        CheckpointError: IntegrityError for damaged content, NotFoundError for a checkpoint that is not there.
    """
    named = request.checkpoints
    if not named:
        rename_run("verify the whole store")
    elif len(named) == 1:
        rename_run(f"verify {named[0]}{size_of(named[0])}")
    else:
        rename_run(f"verify {named[0]} and {len(named) - 1} more")
    return run_task(verify_checkpoints, request.request())
