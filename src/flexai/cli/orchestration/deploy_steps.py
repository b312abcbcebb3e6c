"""Deploying: the work pool, the blocks, the flows and the ready automations, each only where it is missing or old."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.errors import CheckpointError, NotFoundError
from flexai.cli.orchestration.kept_settings import has_settings, known_as, old_title, take_over, with_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL = "flexai-local"
"""The work pool that ``prefect.yaml`` names."""

_FILE = "prefect.yaml"


@dataclass
class Deployed:
    """What there is after deploying."""

    pool: str
    pool_type: str
    pool_created: bool
    block_types: list[str]
    deployments: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    """Deployments of old names that stay until their runs have ended, as ``FLOW/NAME``."""


def deploy(pool: str = POOL, *, pool_ready: bool = False) -> Deployed:
    """Deploy every flow of this installation to the API in force.

    What a user has set on a deployment that is there already stays, whatever the file says, and so do its schedules,
    on or off. A deployment that an earlier version has made under another name is taken over. Raises what the API
    raises.
    """
    from flexai.prefect_client import with_api
    from flexai.prefect_server.finding import find_api
    from flexai.prefect_server.rest import PrefectREST
    from flexai.prefect_server.ui import catalog_page

    document = read_document()
    entries = {
        f"{flow.name}/{entry['name']}": (flow, entry) for entry in document["deployments"] for flow in [_flow_of(entry)]
    }
    found = Deployed(pool, *(("", False) if pool_ready else create_pool(pool)), register_blocks())
    page = catalog_page(PrefectREST(api), create=True) if (api := find_api()) is not None else ""

    async def deploy_all(client: PrefectClient) -> None:
        existing = await _read_deployments(client, {*entries, *map(old_title, entries)})
        before = {title: known_as(title, existing) for title in entries}
        for title, (flow, entry) in entries.items():
            wanted = fields_of(flow, entry) | {"work_pool_name": pool, "pull_steps": document["pull"]}
            # Nothing in the menu of Prefect's UI leads there.
            wanted["description"] += f"\n\n[Catalog: all checkpoints]({page})" if page else ""
            await put_deployment(client, title, wanted, entry.get("schedules", ()), before[title])
        now = await _read_deployments(client, entries)
        for title, deployment in now.items():
            for name, known in before[title].items():
                if name != title and not await take_over(client, known, deployment):
                    found.replaced.append(name)
        now = await _read_deployments(client, entries)
        found.deployments = [
            _describe(title, now[title], is_new=not before[title]) for title in entries if title in now
        ]

    with_api(deploy_all)
    return found


def read_document() -> dict[str, Any]:
    """The deployments of this installation, as the file has them."""
    import yaml

    with as_file(files("flexai") / "deployments" / _FILE) as path:
        if not path.is_file():
            raise NotFoundError(f"{path} is missing", hint="install flexai-checkpoints again")
        document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def create_pool(name: str) -> tuple[str, bool]:
    """Make the process work pool if there is none of that name; returns its type, and whether it was made now.

    A pool that is there is left as it is, of whatever type: with a Docker or Kubernetes pool others run the flows.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    from flexai.prefect_client import with_api

    async def create(client: PrefectClient) -> tuple[str, bool]:
        try:
            return (await client.read_work_pool(name)).type, False
        except ObjectNotFound:
            pass
        wanted = WorkPoolCreate(
            name=name,
            type=ProcessWorker.type,
            description="Runs flexai's flows as processes of the machine that its worker is on.",
            base_job_template=ProcessWorker.get_default_base_job_template(),
        )
        try:
            return (await client.create_work_pool(wanted)).type, True
        except ObjectAlreadyExists:
            return (await client.read_work_pool(name)).type, False

    return with_api(create)


def register_blocks() -> list[str]:
    """Make the kinds of connections known to the API, for the forms of its UI; returns their slugs."""
    from prefect.exceptions import ObjectAlreadyExists

    from flexai import blocks
    from flexai.prefect_client import with_api

    async def register(client: PrefectClient) -> list[str]:
        slugs = []
        for kind in blocks.PROVIDERS.values():
            try:
                await kind.aregister_type_and_schema(client=client)
            except ObjectAlreadyExists:
                # Another deployment registered it at this very moment: now it is there.
                await kind.aregister_type_and_schema(client=client)
            slugs.append(kind.get_block_type_slug())
        return slugs

    return with_api(register)


def fields_of(flow: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of a deployment, as Prefect's API takes it; its schedules are made apart."""
    from prefect.utilities.callables import parameter_schema

    limit = entry["concurrency_limit"]
    return {
        "version": entry["version"],
        "description": entry["description"],
        "tags": entry["tags"],
        "entrypoint": entry["entrypoint"],
        "parameters": entry.get("parameters", {}),
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "enforce_parameter_schema": True,
        "concurrency_limit": limit["limit"],
        "concurrency_options": {"collision_strategy": limit["collision_strategy"]},
    }


async def put_deployment(
    client: PrefectClient,
    title: str,
    wanted: Mapping[str, Any],
    schedules: Sequence[Mapping[str, Any]],
    before: Mapping[str, Any],
) -> None:
    """Make a deployment, ``FLOW/NAME``, or bring the one that is there up to date.

    ``before`` has what there was of it, by its names: what its user has set there stays, and of ``schedules`` only
    those are made whose slugs it lacks. It is done without ``prefect deploy``, which takes some requests more for each,
    and by which a future Prefect removes the schedules that a file does not name.
    """
    import httpx
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate

    flow, _, name = title.partition("/")
    slugs = {schedule.slug for known in before.values() for schedule in known.schedules}
    missing = [
        DeploymentScheduleCreate.model_validate(_schedule_of(schedule))
        for schedule in schedules
        if schedule["slug"] not in slugs
    ]
    kept = dict(wanted)
    for known in filter(has_settings, before.values()):
        kept = with_settings(kept, known)
    if title not in before:
        flow_id = await client.create_flow_from_name(flow)
        made = await client.create_deployment(flow_id, name, schedules=missing, **wanted)
        if kept == wanted:
            return
    else:
        made = before[title].id
        if missing:
            await client.create_deployment_schedules(made, missing)
    try:
        await client.update_deployment(made, DeploymentUpdate(**kept))
    except httpx.HTTPStatusError as error:
        # What its user had set fits the flow no more.
        if error.response.status_code != httpx.codes.CONFLICT or kept["parameters"] == wanted["parameters"]:
            raise
        await client.update_deployment(made, DeploymentUpdate(**kept | {"parameters": wanted["parameters"]}))


def _schedule_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: entry[name] for name in ("slug", "active", "parameters") if name in entry}
    return about | {"schedule": {name: value for name, value in entry.items() if name not in about}}


async def _read_deployments(client: PrefectClient, titles: Collection[str]) -> dict[str, Any]:
    """Those of some deployments that there are, by ``FLOW/NAME``."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowFilter, FlowFilterId

    names = sorted({title.partition("/")[2] for title in titles})
    found = await client.read_deployments(
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=names)), limit=200
    )
    flow_ids = list({deployment.flow_id for deployment in found})
    if not flow_ids:
        return {}
    flows = await client.read_flows(flow_filter=FlowFilter(id=FlowFilterId(any_=flow_ids)), limit=200)
    flow_names = {flow.id: flow.name for flow in flows}
    named = {f"{flow_names[deployment.flow_id]}/{deployment.name}": deployment for deployment in found}
    return {title: deployment for title, deployment in named.items() if title in titles}


def _describe(title: str, deployment: Any, *, is_new: bool) -> dict[str, Any]:
    return {
        "name": title,
        "id": str(deployment.id),
        "version": deployment.version or "",
        "tags": list(deployment.tags),
        "workPool": deployment.work_pool_name or "",
        "isNew": is_new,
        "schedules": [
            {
                "slug": schedule.slug or "",
                "active": bool(schedule.active),
                "schedule": schedule.schedule.model_dump(mode="json", exclude_none=True),
            }
            for schedule in deployment.schedules
        ],
    }


def _flow_of(entry: Mapping[str, Any]) -> Any:
    from importlib import import_module

    module, _, attribute = str(entry["entrypoint"]).rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{entry['entrypoint']} is no flow of this installation: {error}") from error
