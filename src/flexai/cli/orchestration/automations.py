"""The ready automations: made once, and from then on the user's."""

from __future__ import annotations

from functools import partial
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_FILE = "automations.yaml"


def create_automations() -> list[dict[str, Any]]:
    """Make the ready automations that are not there yet; returns each one's name, state and problem.

    In the file an action names a deployment (``deployment: FLOW/NAME``) or a notification block
    (``notification_block: TYPE/NAME``), for which Prefect wants ids. An automation whose block is missing is not made,
    and its problem says so.
    """
    from flexai.prefect_client import with_api

    return [with_api(partial(_create, entry=entry)) for entry in read_automations()]


def read_automations() -> list[dict[str, Any]]:
    """The automations of this installation, as the file has them."""
    import yaml

    with as_file(files("flexai") / "deployments" / _FILE) as path:
        document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries: list[dict[str, Any]] = document["automations"]
    return entries


async def _create(client: PrefectClient, entry: dict[str, Any]) -> dict[str, Any]:
    from prefect.events.schemas.automations import AutomationCore

    name = str(entry["name"])
    found = await client.read_automations_by_name(name)
    if found:
        return _state(name, enabled=found[0].enabled, is_new=False)
    actions = []
    for action in entry["actions"]:
        resolved, problem = await _with_ids(client, action)
        if problem:
            return _state(name, enabled=False, is_new=False, problem=problem)
        actions.append(resolved)
    await client.create_automation(AutomationCore.model_validate(entry | {"actions": actions}))
    return _state(name, enabled=bool(entry.get("enabled", True)), is_new=True)


async def _with_ids(client: PrefectClient, action: dict[str, Any]) -> tuple[dict[str, Any], str]:
    from prefect.exceptions import ObjectNotFound

    resolved = dict(action)
    try:
        if deployment := resolved.pop("deployment", None):
            resolved["deployment_id"] = str((await client.read_deployment_by_name(deployment)).id)
        if block := resolved.pop("notification_block", None):
            kind, _, name = str(block).partition("/")
            resolved["block_document_id"] = str((await client.read_block_document_by_name(name, kind)).id)
    except ObjectNotFound:
        what = f"deployment {deployment}" if deployment and "deployment_id" not in resolved else f"block {block}"
        return resolved, f"there is no {what}"
    return resolved, ""


def _state(name: str, *, enabled: bool, is_new: bool, problem: str = "") -> dict[str, Any]:
    return {"name": name, "enabled": enabled, "isNew": is_new, "problem": problem}
