"""A whole Prefect of one's own: brought up, used, and taken down, with real servers and workers."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from flexai.cli.orchestration.deploy_steps import POOL
from flexai.cli.orchestration.last_deployed import deployed
from flexai.prefect_server.finding import UP, PrefectAPI
from flexai.prefect_server.processes import recall
from tests.cli.conftest import Run
from tests.cli.program import PROGRAM, Program
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

AUTOMATIONS = Path(__file__).parents[3] / "deployments" / "automations.yaml"
SECONDS = 15
"""The interval of the schedule: as short as runs of several seconds allow."""


class Prefect:
    """What ``flexai up`` has brought up."""

    def __init__(self, program: Program) -> None:
        self.program = program
        done = program.run("up")
        assert done.code == 0, done.err
        self.ui = done.out.strip()
        self.said = done.err
        self.url = f"{self.ui}/api"

    def ask(self, path: str, document: Any = None) -> Any:
        """Ask its API."""
        server = PrefectServer(self.url, credential=self.program.credential)
        return server.get(path) if document is None else server.post(path, document)

    def delete(self, path: str) -> None:
        """Remove what its API has."""
        PrefectServer(self.url, credential=self.program.credential).delete(path)

    def is_there(self) -> bool:
        """Whether it answers."""
        try:
            return requests.get(f"{self.url}/health", timeout=10).ok
        except requests.ConnectionError:
            return False


def processes_of(home: Path) -> list[str]:
    """The processes that work for a home folder."""
    mark = f"FLEXAI_HOME={home}\0".encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes():
                found.append((environment.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [command for command in found if command]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The program; what it has brought up goes down with the test."""
    program = Program(tmp_path)
    yield program
    program.run("down", "--grace", "5")


@pytest.mark.xdist_group("waits")
@pytest.mark.slow
def test_it_comes_up_is_used_runs_schedules_and_goes_down_without_a_trace(program: Program, tmp_path: Path) -> None:
    prefect = Prefect(program)
    assert prefect.said.endswith("flexai's need nothing\n")
    _a_second_time_nothing_is_started(prefect)
    _what_is_gone_or_another_is_deployed_again(prefect)
    _commands_find_it_and_are_tracked(prefect)
    _scripts_find_it_as_well(prefect)
    _automations_that_are_missing_are_made_by_deploying(prefect)
    _a_schedule_fires_by_itself_and_its_second_run_moves_nothing(prefect)
    _another_home_uses_it_and_leaves_it_alone(prefect, tmp_path / "other")
    _a_push_ends_well_where_it_is_taken_down_meanwhile(prefect)

    assert not prefect.is_there()
    assert processes_of(program.home) == []
    assert program.run("down").err == "nothing runs that flexai up has started\n"
    status = program.run("status", "--json")
    assert (status.code, status.json()["ready"], status.json()["server"]["apiURL"]) == (1, False, "")


def _a_second_time_nothing_is_started(prefect: Prefect) -> None:
    processes = [recall(prefect.program.home, name) for name in ("server", "worker")]
    for process in processes:
        assert process is not None
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        assert {b"DO_NOT_TRACK=1", b"PREFECT_SERVER_ANALYTICS_ENABLED=false"} <= set(environment)
    again = prefect.program.run("up")
    assert [recall(prefect.program.home, name) for name in ("server", "worker")] == processes
    assert (again.code, again.out.strip()) == (0, prefect.ui)
    assert "the Prefect server runs already" in again.err
    assert "the worker runs already" in again.err
    assert "deploying" not in again.err
    loaded = prefect.program.python(
        "import sys\nfrom flexai.cli.root import cli\n"
        "for name in ('up', 'status'):\n    cli.main([name], standalone_mode=False)\nprint(*sys.modules)"
    )
    assert {"prefect", "fastapi", "sqlalchemy"} & set(loaded.splitlines()[-1].split()) == set()
    assert ("password" in prefect.said, "password" in again.err) == (True, False), "how to log in is said once"
    status = prefect.program.run("status", "--json").json()
    assert (status["ready"], status["server"]["startedByUp"], status["server"]["apiURL"]) == (True, True, prefect.url)
    assert status["worker"]["online"] != []
    assert status["deployments"] == len(prefect.ask("/deployments/filter", {"limit": 200}))
    shown = prefect.program.run("status")
    assert shown.code == 0
    assert all(len(line) <= 80 for line in shown.out.splitlines())


def _what_is_gone_or_another_is_deployed_again(prefect: Prefect) -> None:
    server = PrefectServer(prefect.url, credential=prefect.program.credential)

    def is_deployed() -> bool:
        """Whether another ``flexai up`` would deploy nothing."""
        return deployed(prefect.program.home, PrefectAPI(prefect.url, UP, prefect.program.credential), POOL) is not None

    deployment = prefect.ask("/deployments/name/export-checkpoint/Export to a provider")
    place = f"/deployments/{deployment['id']}"
    # What a user switches is no reason to deploy.
    prefect.ask(f"{place}/pause_deployment", {})
    assert is_deployed()
    prefect.ask(f"{place}/resume_deployment", {})
    server.patch(place, {"description": "mine"})
    assert not is_deployed()
    server.patch(place, {"description": deployment["description"]})
    assert is_deployed()
    (automation, *_) = yaml.safe_load(AUTOMATIONS.read_text(encoding="utf-8"))["automations"]
    by_name = {"automations": {"name": {"any_": [automation["name"]]}}}
    (made,) = prefect.ask("/automations/filter", by_name)
    prefect.delete(f"/automations/{made['id']}")
    assert not is_deployed()
    prefect.delete(place)
    assert not is_deployed()
    assert "deploying" in prefect.program.run("up").err
    again = prefect.ask("/deployments/name/export-checkpoint/Export to a provider")
    assert (again["id"] != deployment["id"], again["description"]) == (True, deployment["description"])
    assert len(prefect.ask("/automations/filter", by_name)) == 1
    assert is_deployed()


def _commands_find_it_and_are_tracked(prefect: Prefect) -> None:
    prefect.program.file("model/weights.bin", os.urandom(300_000))
    pushed = prefect.program.run("checkpoint", "push", "tracked", "-f", "model")
    assert pushed.code == 0, pushed.err
    assert f"in Prefect's UI: {prefect.ui}/v2/runs/task-run/" in pushed.err
    filter_ = {"task_runs": {"name": {"any_": ["push tracked (293 KiB)"]}}}
    until(lambda: [run for run in prefect.ask("/task_runs/filter", filter_) if run["end_time"]], "the task run")
    # The trainer has not the server's password, and what it runs of flexai's needs none.
    script = f'test -z "$PREFECT_API_AUTH_STRING" && {shlex.quote(str(PROGRAM))} checkpoint push from-within -f model'
    trained = prefect.program.run("training", "run", "within", "--", "sh", "-c", script)
    assert trained.code == 0, trained.err
    filter_ = {"task_runs": {"name": {"any_": ["push from-within (293 KiB)"]}}}
    until(lambda: [run for run in prefect.ask("/task_runs/filter", filter_) if run["end_time"]], "the task run within")
    # Nor has one that the worker runs.
    deployment = prefect.ask("/deployments/name/train-push-export/Train, push, export")["id"]
    training = {"name": "by-worker", "command": ["sh", "-c", 'test -z "$PREFECT_API_AUTH_STRING"']}
    prefect.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": {"training": training}})

    def ended() -> int | None:
        done = prefect.program.run("training", "inspect", "by-worker", "--json")
        return done.json()["runtime"]["exitCode"] if done.code == 0 else None

    assert until(lambda: [code for code in [ended()] if code is not None], "the worker's job") == [0]
    # Connections that are made in the UI are the ones that the program knows.
    (prefect.program.cwd / "share").mkdir()
    assert prefect.program.run("storage", "create", "share", "--provider", "local", "--root", "share").code == 0
    assert [found["name"] for found in prefect.ask("/block_documents/filter", {}) if found["name"] == "share"]


def _scripts_find_it_as_well(prefect: Prefect) -> None:
    prefect.program.python(
        "from prefect import flow\n"
        "from flexai.tasks import push_checkpoint\n"
        "push_checkpoint('by-script', files=['model'])\n"
        "flow(name='of-the-script')(lambda: push_checkpoint('by-flow', files=['model']))()\n"
    )
    names = {"any_": ["push by-script (293 KiB)", "push by-flow (293 KiB)"]}
    filter_ = {"task_runs": {"name": names}}
    until(lambda: len([run for run in prefect.ask("/task_runs/filter", filter_) if run["end_time"]]) == 2, "the runs")
    (run,) = prefect.ask("/flow_runs/filter", {"flows": {"name": {"any_": ["of-the-script"]}}})
    assert run["state_type"] == "COMPLETED"


def _automations_that_are_missing_are_made_by_deploying(prefect: Prefect) -> None:
    entries = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    names = {entry["name"] for entry in entries}
    assert len(names) == 2
    made = prefect.ask("/automations/filter", {})
    assert {automation["name"] for automation in made} == names, "flexai up has made them"
    for automation in made:
        prefect.delete(f"/automations/{automation['id']}")

    done = prefect.program.run("deploy", "--json")
    assert done.code == 0, done.err
    states = done.json()["automations"]
    assert states == [{"name": entry["name"], "enabled": True, "isNew": True, "problem": ""} for entry in entries]
    found = {automation["name"]: automation for automation in prefect.ask("/automations/filter", {})}
    assert found.keys() == names
    for entry in entries:
        (wanted,), (action,) = entry["actions"], found[entry["name"]]["actions"]
        deployment = prefect.ask(f"/deployments/name/{wanted['deployment']}")
        assert (action["type"], action["deployment_id"]) == ("run-deployment", deployment["id"])
        assert action["parameters"] == wanted["parameters"]
        trigger = found[entry["name"]]["trigger"]
        assert (trigger["expect"], trigger["match"]) == (entry["trigger"]["expect"], entry["trigger"]["match"])


def _a_schedule_fires_by_itself_and_its_second_run_moves_nothing(prefect: Prefect) -> None:
    program = prefect.program
    program.file("scheduled/weights.bin", os.urandom(300_000))
    deployment = prefect.ask("/deployments/name/push-checkpoint/Push a checkpoint")["id"]
    schedule = {"interval": SECONDS, "anchor_date": datetime.now(UTC).isoformat(), "timezone": "UTC"}
    request = {"name": "scheduled", "source": {"files": ["scheduled"]}, "if_not_exists": True}
    prefect.ask(
        f"/deployments/{deployment}/schedules",
        [{"schedule": schedule, "active": True, "parameters": {"request": request}}],
    )
    first = _next_run(prefect, deployment)
    stored = _stored(program.home)
    assert (first["state"]["type"], first["auto_scheduled"]) == ("COMPLETED", True), first["state"]["message"]
    assert program.run("checkpoint", "inspect", "scheduled").code == 0

    # Deployed again meanwhile, the schedule stays switched on, and the automations are left alone.
    deployed = program.run("deploy", "--json")
    assert deployed.code == 0, deployed.err
    entries = {entry["name"]: entry for entry in deployed.json()["deployments"]}
    assert [schedule["active"] for schedule in entries["push-checkpoint/Push a checkpoint"]["schedules"]] == [True]
    assert not any(entry["isNew"] for entry in entries.values())
    assert [automation["isNew"] for automation in deployed.json()["automations"]] == [False, False]

    second = _next_run(prefect, deployment, after=first["end_time"])
    assert (second["state"]["type"], second["auto_scheduled"]) == ("COMPLETED", True), second["state"]["message"]
    assert _stored(program.home) == stored
    (on,) = prefect.ask(f"/deployments/{deployment}")["schedules"]
    prefect.delete(f"/deployments/{deployment}/schedules/{on['id']}")


def _another_home_uses_it_and_leaves_it_alone(prefect: Prefect, folder: Path) -> None:
    """To whom the API is configured, it is the user's own server."""
    other = Program(folder)
    configured = {"PREFECT_API_URL": prefect.url}
    refused = other.run("up", "--pool", "another", env=configured)
    assert (refused.code, "401" in refused.error) == (5, True)
    configured["PREFECT_API_AUTH_STRING"] = prefect.program.credential
    up = other.run("up", "--pool", "another", env=configured)
    assert (up.code, up.out.strip()) == (0, prefect.ui), up.err
    assert f"the Prefect API is configured and runs: {prefect.url} (from environment PREFECT_API_URL)" in up.err
    status = other.run("status", "--json", env=configured).json()
    assert (status["ready"], status["server"]["startedByUp"], status["worker"]["startedByUp"]) == (True, False, True)
    down = other.run("down", env=configured)
    assert down.err.startswith("stopped the worker (process")
    assert "server" not in down.err
    assert processes_of(other.home) == []
    assert prefect.is_there()
    assert recall(prefect.program.home, "worker") is not None


def _a_push_ends_well_where_it_is_taken_down_meanwhile(prefect: Prefect) -> None:
    program = prefect.program
    program.file("large.bin", os.urandom(1024) * 300_000)
    push = program.start("checkpoint", "push", "interrupted-api", "-f", "large.bin")
    until(lambda: _is_uploading(program.home / "catalog.db", "interrupted-api"), "the push", pause=0.01)
    push.send_signal(signal.SIGSTOP)
    try:
        assert program.run("down").code == 0
    finally:
        push.send_signal(signal.SIGCONT)
    _, said = push.communicate(timeout=180)
    assert push.returncode == 0, said
    assert "checkpoint 'interrupted-api' is available" in said
    assert "Traceback" not in said
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "Prefect" in warning
    assert program.run("checkpoint", "verify", "interrupted-api").code == 0


def _is_uploading(catalog: Path, name: str) -> bool:
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as database:
        found = database.execute("SELECT 1 FROM checkpoints WHERE name = ? AND status = 'uploading'", [name])
        return found.fetchone() is not None


def _next_run(prefect: Prefect, deployment_id: str, after: str = "") -> Any:
    """The first run of a deployment that has ended, after another one has."""
    filter_ = {
        "deployments": {"id": {"any_": [deployment_id]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        "sort": "END_TIME_DESC",
    }
    runs = until(
        lambda: [run for run in prefect.ask("/flow_runs/filter", filter_) if not after or run["end_time"] > after],
        "the scheduled run",
    )
    return min(runs, key=lambda run: run["end_time"])


def _stored(home: Path) -> dict[str, tuple[int, int]]:
    """Every file in the store."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in (home / "store").rglob("*")
        if path.is_file()
    }


def test_a_port_that_is_taken_is_refused_before_anything_is_started(flexai: Run, program: Program) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = flexai("up", "--port", str(port))
    assert (done.code, done.error) == (4, f"another program listens on port {port} of this machine")
    assert "without --port" in done.hint
    assert not (program.home / "prefect").exists()


def test_a_configured_api_that_is_elsewhere_and_silent_is_an_error(program: Program) -> None:
    done = program.run("up", env={"PREFECT_API_URL": "http://127.0.0.1:1/prefect/api"})
    assert done.code == 1
    assert done.error.startswith("the Prefect API http://127.0.0.1:1/prefect/api (from environment PREFECT_API_URL)")


@pytest.mark.slow
def test_a_server_that_dies_at_once_shows_the_end_of_its_log(program: Program) -> None:
    database = f"sqlite+aiosqlite:///{program.cwd}/no/such/folder/prefect.db"
    done = program.run("up", env={"PREFECT_SERVER_DATABASE_CONNECTION_URL": database})
    assert done.code == 1
    assert "the Prefect server ended at once; the end of its log:" in done.err
    assert "unable to open database file" in done.err
    assert done.hint == f"the whole log is {program.home}/prefect/server.log"
    assert processes_of(program.home) == []


@pytest.mark.parametrize("command", ["deploy", "status"])
def test_without_an_api_a_command_says_what_starts_one(flexai: Run, command: str) -> None:
    done = flexai(command)
    assert done.code == {"deploy": 2, "status": 1}[command]
    assert "flexai up starts" in done.hint
