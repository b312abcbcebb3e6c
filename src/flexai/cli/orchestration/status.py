"""``flexai status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.errors import CheckpointError, NotFoundError, StorageUnavailableError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option

if TYPE_CHECKING:
    from pathlib import Path

    from flexai.prefect_server.finding import PrefectAPI
    from flexai.prefect_server.processes import Background
    from flexai.prefect_server.rest import PrefectREST

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
            _ask(document, api)
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
    from flexai.prefect_server.ui import ui_address

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
            "catalogURL": "",
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


def _ask(document: dict[str, Any], api: PrefectAPI) -> None:
    from flexai.cli.orchestration.server import answers_without_password
    from flexai.prefect_server.rest import PrefectREST

    try:
        found = _read(PrefectREST(api), document["workPool"]["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageUnavailableError(f"the Prefect API {api.shown} answers in a form that is not known") from error
    document["server"] |= {
        "answers": True,
        "answersWithoutPassword": answers_without_password(api.url),
        "version": found["version"],
        "catalogURL": found["catalog"],
    }
    document["worker"]["online"] = found["workers"]
    document["workPool"] |= found["pool"]
    document |= {key: found[key] for key in ("deployments", "activeSchedules", "flowRuns")}
    document["ready"] = bool(found["workers"]) and not found["pool"]["paused"]


def _read(server: PrefectREST, pool_name: str) -> dict[str, Any]:
    from urllib.parse import quote

    from flexai.cli.orchestration.kept_settings import TAG
    from flexai.cli.orchestration.worker import online_workers
    from flexai.prefect_server.ui import catalog_page

    version = str(server.get("/admin/version"))
    try:
        pool = server.get(f"/work_pools/{quote(pool_name, safe='')}")
        kind = {"type": pool["type"], "paused": bool(pool["is_paused"])}
        workers = sorted(online_workers(server, pool_name))
    except NotFoundError:
        kind, workers = {"type": "", "paused": False}, []
    deployments = server.post("/deployments/filter", {"deployments": {"tags": {"all_": [TAG]}}, "limit": 200})

    def count(*types: str) -> int:
        return int(server.post("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": types}}}}))

    return {
        "version": version,
        "catalog": catalog_page(server),
        "pool": kind,
        "workers": workers,
        "deployments": len(deployments),
        "activeSchedules": sum(
            bool(schedule["active"]) for deployment in deployments for schedule in deployment["schedules"]
        ),
        "flowRuns": {"running": count("RUNNING"), "waiting": count("PENDING", "PAUSED")},
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
    from operator import itemgetter

    from flexai.cli.tables import Column, table

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
    columns = (
        Column[tuple[str, str, str]]("WHAT", itemgetter(0)),
        Column[tuple[str, str, str]]("STATE", itemgetter(1), is_text=True),
        Column[tuple[str, str, str]]("DETAIL", itemgetter(2), is_text=True),
    )
    terminal.write(table(rows, *columns))
    if server["catalogURL"]:
        terminal.write(f"\nthe catalog: {server['catalogURL']}")
    if server["problem"]:
        terminal.warn(server["problem"])
    for warning in document["warnings"]:
        terminal.warn(warning)
    if not document["ready"]:
        terminal.hint("flexai up starts what is missing")
