"""Asking a person, in Prefect's UI, before a flow goes on.

A run that was made of a deployment is suspended: its process ends, its worker is free, and when the answer is there
any worker of the pool runs the flow again from its start. That costs little, because each step finds what it has done
already. A run without a deployment cannot be started again by a worker, so it is paused: its process waits.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import count

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput, keyset_from_base_key
from pydantic import Field

from flexai.checkpoints.errors import UsageError

_POLL_SECONDS = 5
_MOST_INPUTS = 200
"""As many as Prefect's API gives at a time."""


class ApprovalAnswer(StrEnum):
    """What a person decides."""

    APPROVE = "approve"
    DECLINE = "decline"


class Approval(RunInput):
    """A person's decision, as Prefect's form asks for it."""

    # No default: a click too fast decides nothing.
    decision: ApprovalAnswer = Field(title="Decision", description="Whether to go on.")
    note: str = Field(default="", max_length=1000, title="Note", description="Why; shown with the flow's result.")


def ask_for_approval(description: str, *, timeout_seconds: int) -> Approval:
    """Wait for a person's decision, which a rerun of the same flow run does not ask for again.

    Nor does a retry of the run once it was approved; after a decision to decline, or none in time, a retry asks anew.
    ``description`` is Markdown, shown above the form. Raises UsageError outside of a flow run, and what Prefect raises
    where no answer comes in time, which fails the run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise UsageError(
            "an approval is given in Prefect's UI, and this is no flow run", hint="call the flow, not its function"
        )
    is_deployed = context.flow_run.deployment_id is not None
    key, answer = _find_question(context.flow_run, "suspended" if is_deployed else "paused")
    if answer is not None:
        return answer
    form = Approval.with_initial_data(description=description)
    if is_deployed:
        answer = suspend_flow_run(wait_for_input=form, timeout=timeout_seconds, key=key)
    else:
        answer = pause_flow_run(wait_for_input=form, timeout=timeout_seconds, poll_interval=_POLL_SECONDS, key=key)
    assert isinstance(answer, Approval)  # both return None only where no input is waited for
    return answer


def _find_question(flow_run: FlowRun, state: str) -> tuple[str, Approval | None]:
    """The key of the question to ask now, and the approval that an earlier attempt of the run got, if any.

    A retry makes Prefect forget which questions it has asked, but not their forms, so that none could be asked again.
    """
    with get_client(sync_client=True) as client:
        found = client.filter_flow_run_input(flow_run.id, f"{state}-approval", limit=_MOST_INPUTS, exclude_keys=set())
    inputs = {one.key: one for one in found}
    asked = flow_run.empirical_policy.pause_keys or set()
    for number in count(1):
        key = "approval" if number == 1 else f"approval-{number}"
        keyset = keyset_from_base_key(f"{state}-{key}")
        if key in asked or keyset["schema"] not in inputs:
            break
        if keyset["response"] in inputs:
            answer = Approval.model_validate(inputs[keyset["response"]].decoded_value)
            if answer.decision is ApprovalAnswer.APPROVE:
                return key, answer
    return key, None
