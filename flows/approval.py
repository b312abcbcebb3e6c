"""Asking a person, in Prefect's UI, before a flow goes on.

A run that was made of a deployment is suspended: its process ends, its worker is free, and when the answer is there
any worker of the pool runs the flow again from its start. That costs little, because each step finds what it has done
already. A run without a deployment cannot be started again by a worker, so it is paused: its process waits.
"""

from __future__ import annotations

from enum import StrEnum

from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from flexai.checkpoints.errors import UsageError

_POLL_SECONDS = 5


class Decision(StrEnum):
    """What a person decides."""

    APPROVE = "approve"
    DECLINE = "decline"


class Approval(RunInput):
    """A person's decision, as Prefect's form asks for it."""

    # No default: a click too fast decides nothing.
    decision: Decision = Field(title="Decision", description="Whether to go on.")
    note: str = Field(default="", max_length=1000, title="Note", description="Why; shown with the flow's result.")


def ask_for_approval(description: str, *, timeout_seconds: int) -> Approval:
    """Wait for a person's decision, which a rerun of the same flow run does not ask for again.

    ``description`` is Markdown, shown above the form. Raises UsageError outside of a flow run, and what Prefect raises
    where nobody answers in time, which fails the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise UsageError(
            "an approval is given in Prefect's UI, and this is no flow run", hint="call the flow, not its function"
        )
    form = Approval.with_initial_data(description=description)
    if context.flow_run.deployment_id is not None:
        answer = suspend_flow_run(wait_for_input=form, timeout=timeout_seconds, key="approval")
    else:
        answer = pause_flow_run(
            wait_for_input=form, timeout=timeout_seconds, poll_interval=_POLL_SECONDS, key="approval"
        )
    assert isinstance(answer, Approval)  # both return None only where no input is waited for
    return answer
