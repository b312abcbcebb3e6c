"""What users have set on a deployment stays when it is deployed again, and when it gets another name.

Prefect cannot rename a deployment. So the one of an old name is replaced: the new one gets its settings and its
schedules, automations lead to the new one, and the old one is deleted. It stays, out of use, while runs of it have not
ended: no worker could run them without it. Runs that have ended stay among the runs of the flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

TAG = "flexai"
"""The tag of everything that is deployed."""
REPLACED = "flexai-replaced"
"""The tag of a deployment that is replaced, and that stays for its runs."""

_OLD_NAMES: Mapping[str, str] = {"Train the digits example": "digits"}
_OLD_NAME = "default"
"""What earlier versions called every other deployment."""
_PAGE = 200


def old_title(title: str) -> str:
    """What earlier versions called a deployment, as ``FLOW/NAME``."""
    flow, _, name = title.partition("/")
    return f"{flow}/{_OLD_NAMES.get(name, _OLD_NAME)}"


def known_as(title: str, existing: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of a deployment: under its name, and under its old one where this program has made that."""
    known = {title: existing[title]} if title in existing else {}
    old = existing.get(old_title(title))
    return known | ({old_title(title): old} if old is not None and {TAG, REPLACED} & set(old.tags) else {})


def has_settings(deployment: Any) -> bool:
    """Whether a deployment's settings count: one that is replaced has handed them over."""
    return REPLACED not in deployment.tags


def with_settings(wanted: Mapping[str, Any], before: Any) -> dict[str, Any]:
    """The fields of a deployment with what its user had set: parameters, tags, job variables, the limit, and pausing.

    Parameters that the flow does not take any more are left out.
    """
    taken = wanted["parameter_openapi_schema"].get("properties", {})
    limit = before.global_concurrency_limit
    return {
        **wanted,
        "parameters": wanted["parameters"] | {name: one for name, one in before.parameters.items() if name in taken},
        "tags": [*wanted["tags"], *(tag for tag in before.tags if tag not in wanted["tags"])],
        "job_variables": dict(before.job_variables or {}),
        "paused": before.paused,
        "concurrency_limit": limit.limit if limit else None,
    }


async def take_over(client: PrefectClient, old: Any, new: Any) -> bool:
    """Put a deployment in the place of an old one; whether the old one is gone.

    Interrupted at any point it can be done again.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType

    there = {_sameness(schedule) for schedule in new.schedules}
    fields = set(DeploymentScheduleCreate.model_fields) - {"replaces"}
    missing = [
        DeploymentScheduleCreate.model_validate(schedule.model_dump(include=fields))
        for schedule in old.schedules
        if _sameness(schedule) not in there
    ]
    if missing:
        await client.create_deployment_schedules(new.id, missing)
    await _redirect_automations(client, str(old.id), str(new.id))
    for schedule in old.schedules:
        await client.delete_deployment_schedule(old.id, schedule.id)
    unfinished = FlowRunFilterStateType(any_=[state for state in StateType if state not in TERMINAL_STATES])
    if await client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[old.id])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=unfinished)),
        limit=1,
    ):
        said = f"Replaced by {new.name!r}. It stays until its runs have ended, and the flows are deployed again."
        await client.update_deployment(old.id, DeploymentUpdate(description=said, tags=[REPLACED]))
        return False
    await client.delete_deployment(old.id)
    return True


def _sameness(schedule: Any) -> str:
    return schedule.slug or f"{schedule.schedule.model_dump_json()} {sorted(schedule.parameters.items())!r}"


async def _redirect_automations(client: PrefectClient, old_id: str, new_id: str) -> None:
    """Have automations run, or wait for, the new deployment: its id stands in their actions and triggers."""
    from prefect.events.schemas.automations import AutomationCore

    offset = 0
    while found := await client.read_automations(limit=_PAGE, offset=offset):
        offset += len(found)
        for automation in found:
            text = automation.model_dump_json(exclude={"id", "created", "updated", "owner_resource"})
            if old_id in text:
                changed = AutomationCore.model_validate_json(text.replace(old_id, new_id))
                await client.update_automation(automation.id, changed)
