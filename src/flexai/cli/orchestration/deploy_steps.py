"""Deploying: the work pool, the blocks, the flows and the ready automations, each only where it is missing or old."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.errors import CheckpointError, ConflictError, NotFoundError
from flexai.cli.orchestration.kept_settings import (
    has_settings,
    keep_settings,
    known_as,
    old_title,
    take_over,
)

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL = "flexai-local"
"""The work pool that ``prefect.yaml`` names."""

_FILE = "prefect.yaml"
_LAST_LINES = 15


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


def deploy(url: str, pool: str = POOL, *, pool_ready: bool = False) -> Deployed:
    """Deploy every flow of this installation to the API in force.

    What a user has set on a deployment that is there already stays, whatever the file says, and so do its schedules,
    on or off. A deployment that an earlier version has made under another name is taken over. Raises ConflictError
    where ``prefect deploy`` refuses, and what the API raises.
    """
    from flexai.prefect_client import with_api
    from flexai.prefect_server.finding import find_api
    from flexai.prefect_server.rest import PrefectREST
    from flexai.prefect_server.ui import catalog_page

    document = read_document()
    titles = [_title(entry) for entry in document["deployments"]]
    wanted = {*titles, *map(old_title, titles)}
    found = Deployed(pool, *(("", False) if pool_ready else create_pool(pool)), register_blocks())
    existing = with_api(lambda client: _read_deployments(client, wanted))
    before = {title: known_as(title, existing) for title in titles}
    page = catalog_page(PrefectREST(api), create=True) if (api := find_api()) is not None else ""
    for title, entry in zip(titles, document["deployments"], strict=True):
        entry.setdefault("work_pool", {})["name"] = pool
        # Nothing in the menu of Prefect's UI leads there.
        entry["description"] += f"\n\n[Catalog: all checkpoints]({page})" if page else ""
        _keep_schedules(entry, [schedule for known in before[title].values() for schedule in known.schedules])
    _run_prefect_deploy(document, url)

    async def carry_over(client: PrefectClient) -> dict[str, Any]:
        now = await _read_deployments(client, titles)
        for title in titles:
            for name, known in before[title].items():
                if title in now and has_settings(known):
                    await keep_settings(client, known, now[title])
                if title in now and name != title and not await take_over(client, known, now[title]):
                    found.replaced.append(name)
        return await _read_deployments(client, titles)

    now = with_api(carry_over)
    found.deployments = [_describe(title, now[title], is_new=not before[title]) for title in titles if title in now]
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


def _keep_schedules(entry: dict[str, Any], existing: Sequence[Any]) -> None:
    """Leave out the schedules that there are, so that deploying changes nothing about them.

    One that the user has made in the UI may have no slug; then Prefect would replace all by those it is sent.
    """
    slugs = {schedule.slug for schedule in existing}
    if slugs:
        entry["schedules"] = (
            []
            if None in slugs or "" in slugs
            else [schedule for schedule in entry.get("schedules", ()) if schedule["slug"] not in slugs]
        )


def _run_prefect_deploy(document: Mapping[str, Any], url: str) -> None:
    """Deploy as ``prefect deploy --all`` does, since what it makes of the file is its own affair."""
    import yaml

    environment = os.environ | {
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }
    with tempfile.TemporaryDirectory(prefix="flexai-deploy-") as folder:
        path = Path(folder) / _FILE
        path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).rstrip().splitlines()[-_LAST_LINES:]
        raise ConflictError(
            "prefect deploy failed; the end of what it said:\n" + "\n".join(f"  {line}" for line in said)
        )


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


def _title(entry: Mapping[str, Any]) -> str:
    """``FLOW/NAME``, as Prefect calls a deployment."""
    from importlib import import_module

    module, _, attribute = str(entry["entrypoint"]).rpartition(".")
    try:
        flow = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"{entry['entrypoint']} is no flow of this installation: {error}") from error
    return f"{flow.name}/{entry['name']}"
