"""Operations as Prefect task runs, with a real Prefect server, and without one."""

from __future__ import annotations

import json
import socket
import time
import uuid

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer


@pytest.fixture
def tracked(prefect_server: PrefectServer) -> dict[str, str]:
    """The environment of a machine with a Prefect API."""
    return {"PREFECT_API_URL": prefect_server.api_url}


@pytest.fixture
def name() -> str:
    """A name that no other test's run has."""
    return f"run-{uuid.uuid4().hex[:12]}"


def _states(server: PrefectServer, task_run: str, count: int = 1) -> list[str]:
    """The final states of the task runs of a name; the server records them a while after they ended."""
    deadline = time.monotonic() + 60
    while True:
        found = server.post("/task_runs/filter", {"task_runs": {"name": {"any_": [task_run]}}})
        states = sorted(run["state_type"] for run in found)
        ended = [state for state in states if state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}]
        if len(ended) >= count or time.monotonic() > deadline:
            return states
        time.sleep(0.2)


def test_push_fetch_and_a_failure_are_task_runs(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    program.file("a.bin")
    pushed = program.run("checkpoint", "push", name, "-f", "a.bin", "--json", env=tracked)
    assert (pushed.code, pushed.json()["metadata"]["name"]) == (0, name)
    *events, last = pushed.err.splitlines()
    assert last == f"checkpoint '{name}' is available: 1 file, 7 bytes ({pushed.json()['metadata']['id']})"
    assert [json.loads(event)["event"] for event in events] == ["begin", "end"]

    fetched = program.run("checkpoint", "fetch", name, "-d", "out", env=tracked)
    assert (fetched.code, fetched.err) == (0, f"fetched {name} to out: 1 file, 7 bytes\n")
    assert (program.cwd / "out/a.bin").read_text() == "content"

    again = program.run("checkpoint", "push", name, "-f", "a.bin", env=tracked)
    assert again.code == 4
    assert again.err.splitlines() == [
        f"error: checkpoint '{name}' already exists with the same content",
        "hint: nothing needs to be pushed; with --if-not-exists this is no error",
    ]
    assert _states(prefect_server, f"push {name}", count=2) == ["COMPLETED", "FAILED"]
    assert _states(prefect_server, f"fetch {name} (7 bytes)") == ["COMPLETED"]


def test_a_tracked_training_job_prints_and_exits_as_its_command_does(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    script = "echo result; echo trouble >&2; exit 7"
    done = program.run("training", "run", name, "--env", "TOKEN=5ecret", "--", "sh", "-c", script, env=tracked)
    assert (done.code, done.out) == (7, "result\n")
    assert "trouble" in done.err.splitlines()
    assert f"training job '{name}' failed" in done.err
    assert "Traceback" not in done.err
    assert _states(prefect_server, f"train {name}") == ["FAILED"]
    assert prefect_server.database_holds("5ecret") == []


def test_a_command_that_cannot_be_started_is_an_error(program: Program, tracked: dict[str, str], name: str) -> None:
    done = program.run("training", "run", name, "--", "no-such-program", env=tracked)
    assert done.code == 1
    assert "no-such-program" in done.error


def test_export_reads_its_connection_from_the_api(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    program.file("a.bin")
    (program.cwd / "share").mkdir()
    created = program.run("storage", "create", name, "--provider", "local", "--root", "share", env=tracked)
    assert created.code == 0, created.err
    assert program.run("checkpoint", "push", name, "-f", "a.bin", "--no-track").code == 0
    exported = program.run(
        "checkpoint", "export", name, "--storage-provider", name, "--destination-path", "bucket/x", env=tracked
    )
    assert (exported.code, exported.err) == (0, f"exported {name} to {name}:bucket/x: 1 file, 7 bytes\n")
    assert (program.cwd / "share/bucket/x/a.bin").read_text() == "content"
    assert _states(prefect_server, f"export {name} (7 bytes) to {name}") == ["COMPLETED"]


def test_no_track_runs_without_prefect_where_an_api_is_configured(program: Program) -> None:
    program.file("a.bin")
    done = program.run("checkpoint", "push", "untracked", "-f", "a.bin", "--no-track", env=_nobody_listens())
    assert done.code == 0


def test_an_api_that_does_not_answer_is_one_sentence_and_a_way_out(program: Program) -> None:
    program.file("a.bin")
    environment = _nobody_listens()
    done = program.run("checkpoint", "push", "unreached", "-f", "a.bin", env=environment)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        f"error: the Prefect API {environment['PREFECT_API_URL']} does not answer",
        "hint: --no-track runs the same without Prefect",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["checkpoint", "push", "some-name", "-f", "a.bin"],
        ["checkpoint", "fetch", "some-name"],
        ["checkpoint", "export", "some-name", "--storage-provider", "c", "--destination-path", "b/p"],
        ["training", "run", "some-name"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_tracking_without_an_api_is_refused(flexai: Run, arguments: list[str]) -> None:
    command = ["--", "true"] if arguments[0] == "training" else []
    done = flexai(*arguments, "--track", *command)
    assert (done.code, done.error) == (2, "--track needs a Prefect API, and none is configured")
    assert "PREFECT_API_URL" in done.hint


def _nobody_listens() -> dict[str, str]:
    """The environment of a machine whose Prefect API is down."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
