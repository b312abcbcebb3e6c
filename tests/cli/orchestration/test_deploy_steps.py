"""Deploying: what there is then, and while others deploy."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flexai import blocks
from flexai.cli.orchestration.deploy_steps import put_deployment, register_blocks
from flexai.prefect_client import with_api
from tests.servers.prefect import PrefectServer


def test_kinds_of_connections_that_another_one_registers_at_the_same_moment_are_registered(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = Block.aregister_type_and_schema.__func__  # type: ignore[attr-defined]
    refused: list[type[Block]] = []

    async def register_second(kind: type[Block], client: Any = None) -> None:
        if kind not in refused:
            refused.append(kind)
            raise ObjectAlreadyExists(RuntimeError("409 Conflict"))
        await register(kind, client=client)

    monkeypatch.setattr(Block, "aregister_type_and_schema", classmethod(register_second))
    slugs = register_blocks()
    assert set(refused) == set(blocks.PROVIDERS.values())
    known = {found["slug"] for found in prefect_api.post("/block_types/filter", {})}
    assert set(slugs) <= known


WEEKLY = {"slug": "weekly", "cron": "0 4 * * 0", "timezone": "Etc/UTC", "active": False}
OFTEN = {"slug": "often", "interval": 21600, "anchor_date": "2026-01-01T00:00:00+00:00", "active": False}


def test_schedules_that_a_user_has_changed_stay_and_those_of_a_new_version_are_added(
    prefect_api: PrefectServer,
) -> None:
    title = f"flow-{uuid.uuid4().hex[:8]}/Verify"
    wanted = {"tags": [], "parameters": {}, "concurrency_limit": 1, "parameter_openapi_schema": {"type": "object"}}

    def put(*schedules: dict[str, Any]) -> dict[str, dict[str, Any]]:
        async def put_again(client: PrefectClient) -> str:
            try:
                before = {title: await client.read_deployment_by_name(title)}
            except ObjectNotFound:
                before = {}
            await put_deployment(client, title, wanted, schedules, before)
            return str((await client.read_deployment_by_name(title)).id)

        found = prefect_api.get(f"/deployments/{with_api(put_again)}")
        return {str(schedule["slug"]): schedule for schedule in found["schedules"]}

    (made,) = put(WEEKLY).values()
    assert (made["active"], made["schedule"]["cron"], made["schedule"]["timezone"]) == (False, "0 4 * * 0", "Etc/UTC")
    place = f"/deployments/{made['deployment_id']}"
    changed = {"active": True, "schedule": {"cron": "5 4 * * *"}, "slug": "weekly"}
    prefect_api.patch(f"{place}/schedules/{made['id']}", changed)
    # Prefect's UI makes one without a slug, and a request that names schedules would then replace all.
    prefect_api.post(f"{place}/schedules", [{"schedule": {"interval": 60}, "parameters": {"mine": 1}}])  # type: ignore[arg-type]
    after = put(WEEKLY, OFTEN)
    assert after.keys() == {"weekly", "None", "often"}
    assert (after["weekly"]["id"], after["weekly"]["active"]) == (made["id"], True)
    assert after["weekly"]["schedule"]["cron"] == "5 4 * * *"
    assert after["None"]["parameters"] == {"mine": 1}
    assert (after["often"]["active"], after["often"]["schedule"]["interval"]) == (False, 21600)
    assert put(WEEKLY, OFTEN) == after
    assert put() == after
