"""What users have set on deployments, when those are deployed again or get another name."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient

from flexai.cli.orchestration.deploy_steps import put_deployment
from flexai.cli.orchestration.kept_settings import known_as, old_title, take_over
from flexai.prefect_client import with_api
from tests.servers.prefect import PrefectServer

SCHEMA = {"type": "object", "properties": {"notify": {"type": "string"}}}
FIELDS = {"tags": ["flexai"], "parameters": {}, "concurrency_limit": 8}
HOURLY = {"interval": 3600, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}


class Deployments:
    """The deployments of a flow of this test's own."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        self.flow_id = server.post("/flows/", {"name": f"flow-{uuid.uuid4().hex[:8]}"})["id"]

    def make(self, name: str, **fields: Any) -> str:
        """Make a deployment, and return its id."""
        common = {"flow_id": self.flow_id, "name": name, "tags": ["flexai"], "parameter_openapi_schema": SCHEMA}
        return str(self.server.post("/deployments/", common | fields)["id"])

    def get(self, deployment_id: str) -> dict[str, Any]:
        """A deployment as the API has it."""
        return dict(self.server.get(f"/deployments/{deployment_id}"))

    def ids(self) -> list[str]:
        """All there are."""
        wanted = {"flows": {"id": {"any_": [self.flow_id]}}}
        return [found["id"] for found in self.server.post("/deployments/filter", wanted)]

    def replace(self, old: str, new: str) -> bool:
        """Carry over to the new one what the old one has, as deploying does."""

        async def carry(client: PrefectClient) -> bool:
            before, now = [await client.read_deployment(uuid.UUID(one)) for one in (old, new)]
            flow = (await client.read_flow(now.flow_id)).name
            titles = [f"{flow}/{one.name}" for one in (now, before)]
            wanted = FIELDS | {"parameter_openapi_schema": now.parameter_openapi_schema}
            await put_deployment(client, titles[0], wanted, (), dict(zip(titles, (now, before), strict=True)))
            return await take_over(client, before, await client.read_deployment(now.id))

        return with_api(carry)


@pytest.fixture
def deployments(prefect_api: PrefectServer) -> Deployments:
    return Deployments(prefect_api)


def test_every_deployment_has_had_another_name() -> None:
    assert old_title("push-checkpoint/Push a checkpoint") == "push-checkpoint/default"
    assert old_title("train-push-export/Train the digits example") == "train-push-export/digits"


def test_one_of_an_old_name_is_replaced_with_all_that_its_user_has_set(deployments: Deployments) -> None:
    server = deployments.server
    old = deployments.make(
        "default",
        parameters={"notify": "slack-webhook/team"},
        tags=["flexai", "mine"],
        job_variables={"env": {"A": "b"}},
        concurrency_limit=3,
        paused=True,
        schedules=[
            {"schedule": HOURLY, "active": True, "parameters": {"notify": "slack-webhook/hourly"}},
            {"schedule": {"cron": "0 3 * * *"}, "active": True, "slug": "nightly"},
        ],
    )
    trigger = {
        "type": "event",
        "posture": "Reactive",
        "threshold": 1,
        "match": {"prefect.resource.id": f"prefect.deployment.{old}"},
    }
    action = {"type": "run-deployment", "source": "selected", "deployment_id": old}
    automation = server.post("/automations/", {"name": "mine", "trigger": trigger, "actions": [action]})["id"]
    new = deployments.make("Raise an alert", concurrency_limit=8)
    assert deployments.replace(old, new)
    assert deployments.ids() == [new]
    found = deployments.get(new)
    assert found["parameters"] == {"notify": "slack-webhook/team"}
    assert found["tags"] == ["flexai", "mine"]
    assert found["job_variables"] == {"env": {"A": "b"}}
    assert (found["global_concurrency_limit"]["limit"], found["paused"]) == (3, True)
    schedules = {schedule["slug"]: schedule for schedule in found["schedules"]}
    assert (schedules["nightly"]["active"], schedules["nightly"]["schedule"]["cron"]) == (True, "0 3 * * *")
    assert (schedules[None]["active"], schedules[None]["schedule"]["interval"]) == (True, 3600)
    assert schedules[None]["parameters"] == {"notify": "slack-webhook/hourly"}
    led = server.get(f"/automations/{automation}")
    server.delete(f"/automations/{automation}")
    assert led["actions"][0]["deployment_id"] == new
    assert led["trigger"]["match"]["prefect.resource.id"] == f"prefect.deployment.{new}"


def test_one_whose_runs_have_not_ended_stays_without_schedules_until_they_have(deployments: Deployments) -> None:
    old = deployments.make("default", schedules=[{"schedule": HOURLY, "active": True, "slug": "hourly"}])
    new = deployments.make("Raise an alert")
    server = deployments.server
    run = server.post(f"/deployments/{old}/create_flow_run", {"state": {"type": "PAUSED", "name": "Suspended"}})["id"]
    assert not deployments.replace(old, new)
    kept = deployments.get(old)
    assert (kept["schedules"], kept["tags"]) == ([], ["flexai-replaced"])
    assert kept["description"].startswith("Replaced by 'Raise an alert'. ")
    assert [schedule["slug"] for schedule in deployments.get(new)["schedules"]] == ["hourly"]
    # The user goes on with the new one, and deploys again.
    server.patch(f"/deployments/{new}", {"parameters": {"notify": "slack-webhook/new"}})
    server.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    assert deployments.replace(old, new)
    assert deployments.ids() == [new]
    assert deployments.get(new)["parameters"] == {"notify": "slack-webhook/new"}
    assert server.get(f"/flow_runs/{run}")["state_type"] == "CANCELLED"


def test_what_is_taken_over_twice_is_there_once(deployments: Deployments) -> None:
    schedules = [{"schedule": HOURLY, "active": True}, {"schedule": HOURLY, "active": True, "slug": "hourly"}]
    old = deployments.make("default", schedules=schedules)
    new = deployments.make("Raise an alert")
    assert deployments.replace(old, new)
    again = deployments.make("default", schedules=schedules)
    assert deployments.replace(again, new)
    assert len(deployments.get(new)["schedules"]) == 2


def test_parameters_that_no_longer_fit_do_not_keep_it_from_being_deployed(deployments: Deployments) -> None:
    old = deployments.make("default", parameters={"notify": "team", "gone": 1}, paused=True)
    numbers = {"type": "object", "properties": {"notify": {"type": "integer"}}}
    new = deployments.make("Raise an alert", parameter_openapi_schema=numbers, enforce_parameter_schema=True)
    assert deployments.replace(old, new)
    assert (deployments.get(new)["parameters"], deployments.get(new)["paused"]) == ({}, True)


def test_one_that_a_user_has_called_so_is_left_alone(deployments: Deployments) -> None:
    old = deployments.make("default", tags=["mine"])

    async def read(client: PrefectClient) -> Any:
        return await client.read_deployment(uuid.UUID(old))

    title = "alert/Raise an alert"
    assert known_as(title, {old_title(title): with_api(read)}) == {}
