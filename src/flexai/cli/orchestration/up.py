"""``flexai up``."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.tracking import answers, prepare_prefect
from flexai.prefect_server.finding import UP, PrefectAPI, configured_api, started_api

if TYPE_CHECKING:
    from flexai.prefect_server.processes import Background


_OPEN = "the server has no password: every user of this machine can read its secrets and run commands"


@command("up", usage="[--port PORT] [--pool NAME] [--open] [--no-auth]")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    help="Where the server listens on this machine; by default 4200, or a free port where that is taken.",
)
@click.option("--pool", metavar="NAME", default="flexai-local", show_default=True, help="The work pool of the worker.")
@click.option("--open", "opens", is_flag=True, help="Open Prefect's UI in a browser, logged in.")
@click.option(
    "--no-auth",
    is_flag=True,
    help="Start the server without a password: for a container that is thrown away. Every user of the machine can then"
    " read all secrets and run commands.",
)
def up(port: int | None, pool: str, opens: bool, no_auth: bool) -> None:
    """Start Prefect on this machine: a server, a worker, every flow.

    Starts only what does not run yet. Where a Prefect API is configured (PREFECT_API_URL, a Prefect profile) and
    answers, that one is used and only the worker is started. Runs work in the directory in which this was
    started. Server and worker stay when the terminal is closed; every flexai command finds the server.

    The server answers to this user alone: its password is in a file of the home folder that every flexai command
    and the worker read by themselves. Prefect's UI asks for it once.

    \b
    flexai up
    flexai up --open
    flexai up --port 4300
    """
    from flexai.checkpoints.settings import home_path, load_settings

    load_settings()  # what is wrong with them is better said now than in the worker's log
    home = home_path()
    environment = dict(os.environ)  # before it is made ready for Prefect in this process
    from flexai.prefect_server.credential import credential_path, read_credential

    is_new = not read_credential(home)
    api = _server(home, port, environment, has_password=not no_auth)
    from flexai.cli.orchestration.last_deployed import deployed
    from flexai.cli.orchestration.worker import await_worker
    from flexai.prefect_server.ui import ui_address

    found = deployed(home, api, pool)
    if found is None:
        worker, count = _deploy(home, api, pool, environment)
    else:
        worker, count = _worker(home, api, pool, found.pool_type, environment), found.count
    if worker is not None:
        await_worker(worker, home, api)
    terminal.say(f"{terminal.count(count, 'deployment')} in work pool {pool!r}")
    address = ui_address(api.url)
    terminal.say("Prefect's UI, with a form for every flow:")
    terminal.write(ui_address(api.shown))
    if page := _catalog_page(api):
        terminal.say(f"what was pushed and captured: {page}")
    if api.credential and is_new:
        terminal.say(f"it asks for a password once: {credential_path(home)} has it, and flexai up --open fills it in")
    if opens:
        _open(home, address, api.credential)
    if api.origin == UP:
        password = f' PREFECT_API_AUTH_STRING="$(cat {credential_path(home)})"' if api.credential else ""
        terminal.hint(
            f"export PREFECT_API_URL={api.url}{password} is for prefect's own commands; flexai's need nothing"
        )


def _deploy(home: Path, api: PrefectAPI, pool: str, environment: Mapping[str, str]) -> tuple[Background | None, int]:
    """Deploy everything; returns the worker that was started now, and how many deployments there are."""
    prepare_prefect(api)
    from prefect.context import refresh_global_settings_context

    from flexai.cli.orchestration.automations import create_automations
    from flexai.cli.orchestration.deploy_steps import create_pool, deploy
    from flexai.cli.orchestration.last_deployed import forget_deployed, remember_deployed

    refresh_global_settings_context()  # where it was imported to start the server
    forget_deployed(home)
    pool_type, _ = create_pool(pool)
    worker = _worker(home, api, pool, pool_type, environment)
    terminal.say("deploying the flows…")
    done = deploy(pool, pool_ready=True)
    for automation in create_automations():
        if automation["problem"]:
            terminal.detail(f"automation {automation['name']!r} is not there: {automation['problem']}")
    remember_deployed(home, api, pool)
    return worker, len(done.deployments)


def _catalog_page(api: PrefectAPI) -> str:
    """Where the page about the catalog is; a help, without which everything is up all the same."""
    from flexai.checkpoints.errors import CheckpointError
    from flexai.prefect_server.rest import PrefectREST
    from flexai.prefect_server.ui import catalog_page

    try:
        return catalog_page(PrefectREST(api), create=True)
    except CheckpointError as error:
        terminal.detail(f"the catalog has no page yet: {error.message}")
        return ""


def _open(home: Path, address: str, credential: str) -> None:
    """Open the UI in a browser, logged in."""
    import webbrowser

    from flexai.prefect_server.credential import write_login_page

    page = write_login_page(home, address, credential).as_uri() if credential else address
    if not webbrowser.open(page):
        terminal.warn(f"no browser could be started; {page} logs one in")


def _server(home: Path, port: int | None, environment: Mapping[str, str], *, has_password: bool) -> PrefectAPI:
    """The API to use: a configured one, the one that runs, or a new one."""
    from flexai.cli.orchestration.server import SERVER, await_server, is_here, listen, port_of, start_server
    from flexai.prefect_server.credential import make_credential

    configured, started = configured_api(), started_api()
    if started is not None and (configured is None or configured.url == started.url):
        terminal.say(f"the Prefect server runs already: {started.url}")
        if not started.credential:
            terminal.warn(f"{_OPEN}; flexai down and flexai up start one with a password")
        return started
    if configured is not None:
        if answers(configured):
            terminal.say(f"the Prefect API is configured and runs: {configured.shown} (from {configured.origin})")
            return configured
        if not is_here(configured.url):
            raise StorageUnavailableError(
                f"the Prefect API {configured.shown} (from {configured.origin}) does not answer",
                hint="start it, or unset it: then flexai up starts a server of your own",
            )
        port = port_of(configured.url)
    listener = listen(port)
    prepare_prefect(None)
    terminal.say(
        f"starting a Prefect {SERVER} on port {listener.getsockname()[1]} (the first time this takes some seconds)…"
    )
    credential = make_credential(home) if has_password else ""
    if not credential:
        terminal.warn(f"{_OPEN}: --no-auth is for containers that are thrown away")
    server = start_server(home, listener, environment, credential=credential)
    # What deploying needs is loaded while the server makes its database.
    for module in ("prefect.workers.process", "flexai.blocks"):
        importlib.import_module(module)
    await_server(server, home)
    api = PrefectAPI(server.url, UP, credential)
    terminal.say(f"the Prefect server runs: {api.url}")
    return api


def _worker(
    home: Path, api: PrefectAPI, pool: str, pool_type: str, environment: Mapping[str, str]
) -> Background | None:
    """A worker that was started now, or None where none is needed."""
    from flexai.checkpoints.settings import hide_secrets
    from flexai.cli.orchestration.worker import WORKER, start_worker
    from flexai.prefect_server.processes import recall

    running = recall(home, WORKER)
    if running is not None and (running.url, running.pool) == (api.url, pool):
        terminal.say(f"the worker runs already: process {running.pid}, for work pool {pool!r}")
        return None
    if running is not None:
        raise StorageUnavailableError(
            f"a worker runs already, but for work pool {running.pool!r} of {hide_secrets(running.url)}",
            hint="flexai down stops it",
        )
    if pool_type != "process":
        terminal.warn(f"work pool {pool!r} is of the type {pool_type}: its worker is not this machine's to start")
        return None
    worker = start_worker(home, api, pool, environment)
    terminal.say(f"started a worker: process {worker.pid}, for work pool {pool!r}")
    return worker
