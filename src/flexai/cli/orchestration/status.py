"""``flexai status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.errors import CheckpointError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option

if TYPE_CHECKING:
    from pathlib import Path

    from prefect.client.orchestration import PrefectClient

    from flexai.prefect_server.finding import PrefectAPI
    from flexai.prefect_server.processes import Background

_NOT_READY = 1


@command("status", usage="[--json]")
@json_option
def status(as_json: bool) -> None:
    """Show what runs: server, worker, deployments, flow runs.

    Exits with 0 where deployed flows would run now: the API answers and a worker of the work pool is online.
    Otherwise with 1.

    \b
    flexai status
    flexai status --json
    """
    from flexai.checkpoints.settings import home_path
    from flexai.prefect_server.finding import find_api
    from flexai.prefect_server.processes import recall

    home = home_path()
    api = find_api()
    worker = recall(home, "worker")
    document = _nothing(api, recall(home, "server"), worker)
    if api is not None:
        try:
            _ask(document, api, worker)
        except CheckpointError as error:
            document["server"]["problem"] = error.message
    document["warnings"] = _warnings(document, home)
    if as_json:
        terminal.write_document(document, as_json=True)
    else:
        _show(document)
    if not document["ready"]:
        raise click.exceptions.Exit(_NOT_READY)


def _nothing(api: PrefectAPI | None, server: Background | None, worker: Background | None) -> dict[str, Any]:
    """What is known without asking."""
    from flexai.cli.orchestration.server import ui_address

    is_ours = api is not None and server is not None and server.url == api.url
    return {
        "ready": False,
        "server": {
            "apiURL": api.shown if api else "",
            "uiURL": ui_address(api.shown) if api else "",
            "origin": api.origin if api else "",
            "answers": False,
            "answersWithoutPassword": False,
            "version": "",
            "startedByUp": is_ours,
            "pid": server.pid if is_ours and server else None,
            "problem": "" if api else "no Prefect API is configured, and flexai up has started none",
        },
        "worker": {
            "startedByUp": worker is not None,
            "pid": worker.pid if worker else None,
            "online": [],
        },
        "workPool": {"name": worker.pool if worker else "flexai-local", "type": "", "paused": False},
        "deployments": 0,
        "activeSchedules": 0,
        "flowRuns": {"running": 0, "waiting": 0},
    }


def _ask(document: dict[str, Any], api: PrefectAPI, worker: Background | None) -> None:
    from flexai.cli.tracking import prepare_prefect

    prepare_prefect(api)
    from flexai.blocks.api import with_api

    pool = document["workPool"]["name"]
    found = with_api(lambda client: _read(client, pool))
    from flexai.cli.orchestration.server import answers_without_password

    document["server"] |= {
        "answers": True,
        "answersWithoutPassword": answers_without_password(api.url),
        "version": found["version"],
    }
    document["worker"]["online"] = found["workers"]
    document["workPool"] |= found["pool"]
    document |= {key: found[key] for key in ("deployments", "activeSchedules", "flowRuns")}
    document["ready"] = bool(found["workers"]) and not found["pool"]["paused"]


async def _read(client: PrefectClient, pool_name: str) -> dict[str, Any]:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.exceptions import ObjectNotFound

    from flexai.cli.orchestration.deploy_steps import TAG
    from flexai.cli.orchestration.worker import online_workers

    version = await client.api_version()
    try:
        pool = await client.read_work_pool(pool_name)
        kind = {"type": pool.type, "paused": bool(pool.is_paused)}
        workers = sorted(worker.name for worker in await online_workers(client, pool_name))
    except ObjectNotFound:
        kind, workers = {"type": "", "paused": False}, []
    deployments = await client.read_deployments(
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), limit=200
    )

    async def count(*types: StateType) -> int:
        return await client.count_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
        )

    return {
        "version": version,
        "pool": kind,
        "workers": workers,
        "deployments": len(deployments),
        "activeSchedules": sum(
            bool(schedule.active) for deployment in deployments for schedule in deployment.schedules
        ),
        "flowRuns": {
            "running": await count(StateType.RUNNING),
            "waiting": await count(StateType.PENDING, StateType.PAUSED),
        },
    }


def _warnings(document: dict[str, Any], home: Path) -> list[str]:
    """What others could read or do."""
    from flexai.prefect_server.home import open_places

    warnings = open_places(home)
    if document["server"]["answersWithoutPassword"]:
        warnings.append(
            f"{document['server']['apiURL']} answers without a password: a program that reaches it"
            " reads its secrets and runs commands"
        )
    return warnings


def _show(document: dict[str, Any]) -> None:
    from flexai.cli.tables import dashed_table

    server, worker, pool = document["server"], document["worker"], document["workPool"]
    by_up = "started by flexai up, process {pid}"
    rows = [
        (
            "server",
            "answers" if server["answers"] else "does not answer" if server["apiURL"] else "none",
            by_up.format(**server) if server["startedByUp"] else server["origin"] and f"from {server['origin']}",
        )
    ]
    if server["answers"]:
        rows += [
            ("", server["uiURL"], f"Prefect {server['version']}"),
            (
                "worker",
                "online" if worker["online"] else "starting" if worker["pid"] else "none",
                by_up.format(**worker) if worker["startedByUp"] else ", ".join(worker["online"]),
            ),
            (
                "work pool",
                pool["name"] if pool["type"] else f"{pool['name']} is missing",
                f"{pool['type']}{', paused' if pool['paused'] else ''}",
            ),
            (
                "deployments",
                str(document["deployments"]),
                terminal.count(document["activeSchedules"], "schedule") + " on",
            ),
            (
                "flow runs",
                f"{document['flowRuns']['running']} running",
                f"{document['flowRuns']['waiting']} waiting",
            ),
        ]
    elif worker["pid"]:
        rows.append(("worker", "runs", by_up.format(**worker)))
    terminal.write(dashed_table(("WHAT", "STATE", "DETAIL"), rows))
    if server["problem"]:
        terminal.warn(server["problem"])
    for warning in document["warnings"]:
        terminal.warn(warning)
    if not document["ready"]:
        terminal.hint("flexai up starts what is missing")
