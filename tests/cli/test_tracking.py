"""Operations as Prefect task runs, with a real Prefect server, and without one."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import uuid
from typing import Any
from unittest.mock import patch

import pytest

from flexai.cli.tracking import prepare_prefect
from flexai.prefect_server.finding import NO_TELEMETRY
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until


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
    known: list[str] = []

    def are_ended() -> bool:
        found = server.post("/task_runs/filter", {"task_runs": {"name": {"any_": [task_run]}}})
        known[:] = sorted(run["state_type"] for run in found)
        return sum(state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} for state in known) >= count

    until(are_ended, lambda: f"the end of {task_run!r}: {known}", pause=0.2)
    return known


def _operations(server: PrefectServer, checkpoint_id: str, count: int) -> list[str]:
    """What events say was done to a checkpoint, in that order, once there are so many."""
    wanted = {"filter": {"resource": {"id": [f"flexai.checkpoint.{checkpoint_id}"]}}}
    known: list[dict[str, Any]] = []

    def are_there() -> bool:
        known[:] = server.post("/events/filter", wanted)["events"]
        return len(known) >= count

    until(are_there, lambda: f"{count} events: {known}", pause=0.2)
    return [event["payload"]["operation"] for event in sorted(known, key=lambda event: str(event["occurred"]))]


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
    assert _states(prefect_server, f"push {name} (7 bytes)", count=2) == ["COMPLETED", "FAILED"]
    assert _states(prefect_server, f"fetch {name} (7 bytes)") == ["COMPLETED"]


def test_a_tracked_push_that_a_user_interrupts_is_cancelled_and_goes_on_with_the_same_command(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    program.file("a.bin", b"".join(bytes([number]) * 65536 for number in range(8)))
    slow = tracked | {"FLEXAI_BANDWIDTH_LIMIT": "32KiB", "FLEXAI_PART_SIZE": "64KiB", "FLEXAI_PACK_THRESHOLD": "0"}
    push = program.start("checkpoint", "push", name, "a.bin", "--progress", "json", env=slow)
    assert push.stderr is not None
    assert json.loads(push.stderr.readline())["event"] == "begin"
    push.send_signal(signal.SIGINT)
    _, err = push.communicate()
    assert push.returncode == 130, err
    assert f"the same command again goes on where it stopped: flexai checkpoint push {name} a.bin" in err
    assert _states(prefect_server, f"push {name} (512 KiB)") == ["CANCELLED"]


def test_no_command_has_prefect_report(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*NO_TELEMETRY, "PREFECT_API_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    with patch.dict(os.environ):
        prepare_prefect(None)
        assert (os.environ["DO_NOT_TRACK"], os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("1", "false")


def test_a_tracked_training_job_prints_and_exits_as_its_command_does(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    script = "echo result; echo trouble >&2; exit 7"
    shown = tracked | {"PREFECT_UI_URL": "http://ui.example/v2"}
    done = program.run("training", "run", name, "--env", "TOKEN=5ecret", "--", "sh", "-c", script, env=shown)
    assert (done.code, done.out) == (7, "result\n")
    assert "in Prefect's UI: http://ui.example/v2/runs/task-run/" in done.err
    assert "trouble" in done.err.splitlines()
    assert f"training job '{name}' failed" in done.err
    assert "Traceback" not in done.err
    assert _states(prefect_server, f"train {name}") == ["FAILED"]
    assert prefect_server.database_holds("5ecret") == []


@pytest.mark.slow
def test_a_command_that_cannot_be_started_is_an_error(program: Program, tracked: dict[str, str], name: str) -> None:
    done = program.run("training", "run", name, "--", "no-such-program", env=tracked)
    assert done.code == 1
    assert "no-such-program" in done.error


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_changes_checkpoints_is_a_task_run_and_says_what_it_says_without_one(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    program.file("a.bin", name)  # content of its own
    pushed = program.run("checkpoint", "push", name, "-f", "a.bin", "--json", "--no-track")
    checkpoint_id = pushed.json()["metadata"]["id"]

    deleted = program.run("checkpoint", "delete", name, "--json", env=tracked)
    assert (deleted.code, deleted.json()) == (0, {"name": name, "id": checkpoint_id, "job": ""})
    assert deleted.err.splitlines() == [
        f"deleted checkpoint {name}",
        f"hint: flexai checkpoint undelete {checkpoint_id} brings it back, until gc has taken its bytes",
    ]
    again = program.run("checkpoint", "delete", name, env=tracked)
    assert (again.code, again.error) == (3, f"there is no checkpoint '{name}'")

    restored = program.run("checkpoint", "undelete", name, env=tracked)
    assert (restored.code, restored.err) == (0, f"checkpoint '{name}' is available again ({checkpoint_id})\n")

    verified = program.run("checkpoint", "verify", name, env=tracked)
    assert (verified.code, verified.out, verified.err) == (0, "", "verified 1 file, 16 bytes: no damage\n")

    rules = ["--pushed", f"{name}*", "--keep-last", "1", "--keep-best", "1"]
    assert program.run("checkpoint", "push", f"{name}-b", "-f", "a.bin", "--no-track").code == 0
    pruned = program.run("checkpoint", "prune", *rules, "--drop-best", "--apply", "--json", env=tracked)
    assert (pruned.code, pruned.json()["applied"]) == (0, True)
    assert [(row["title"], row["action"]) for row in pruned.json()["checkpoints"]] == [
        (name, "delete"),
        (f"{name}-b", "keep"),
    ]
    assert pruned.err.splitlines()[0] == "deleted 1 of 2 checkpoints; gc frees 0 bytes after the grace period"

    assert program.run("checkpoint", "delete", f"{name}-b", env=tracked).code == 0
    freed = program.run("checkpoint", "gc", "--grace-period", "0s", env=tracked)
    assert (freed.code, freed.out) == (0, "freed 16 bytes in 1 blob: 2 deleted checkpoints, 0 abandoned pushes\n")

    assert _states(prefect_server, f"delete {name} (16 bytes)") == ["COMPLETED"]
    assert _states(prefect_server, f"delete {name}") == ["FAILED"]
    assert _states(prefect_server, f"undelete {name}") == ["COMPLETED"]
    assert _operations(prefect_server, checkpoint_id, 3) == ["delete", "undelete", "delete"]


@pytest.mark.slow
def test_a_tracked_verification_names_all_damage_until_a_push_has_healed_it(
    program: Program, tracked: dict[str, str], name: str
) -> None:
    program.file("a.bin", b"x" * 2048)
    assert program.run("checkpoint", "push", name, "-f", "a.bin", "--no-track").code == 0
    for blob in (program.home / "store/blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"y" * blob.stat().st_size)
    problem = f"{name}: a.bin: bytes 0 to 2048 do not match their digest\n"
    damaged = program.run("checkpoint", "verify", env=tracked)
    assert (damaged.code, damaged.out, damaged.error) == (6, problem, f"stored content is damaged: a.bin of {name}")

    told = program.run("checkpoint", "verify", "--json", env=tracked)
    assert (told.code, told.error) == (6, damaged.error)
    assert [one["files"] for one in told.json()["damaged"]] == [[{"checkpoint": name, "path": "a.bin"}]]

    unrepaired = program.run("checkpoint", "verify", "--repair", env=tracked)
    assert (unrepaired.code, unrepaired.out) == (6, problem)
    assert unrepaired.error == f"stored content is damaged and could not be repaired: a.bin of {name}"

    assert program.run("checkpoint", "push", f"{name}-b", "-f", "a.bin", env=tracked).code == 0
    sound = program.run("checkpoint", "verify", env=tracked)
    assert (sound.code, sound.err) == (0, "verified 2 files, 4 KiB: no damage\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.slow
def test_a_tracked_training_that_answers_a_signal_by_ending_well_gives_its_own_exit_code(
    program: Program, tracked: dict[str, str], name: str, number: signal.Signals
) -> None:
    text = f"signal.signal({number.value}, lambda *_: sys.exit(0)); say('ready'); time.sleep(600)"
    job = program.start("training", "run", name, "--track", "--", *trainer(text), env=tracked)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    job.send_signal(number)
    _, err = job.communicate()
    assert job.returncode == 0, err
    status = "succeeded" if number == signal.SIGUSR1 else "stopped"
    assert f"training job '{name}' {status}" in err


@pytest.mark.slow
def test_a_training_job_is_deleted_with_an_event_for_each_of_its_checkpoints(
    program: Program, prefect_server: PrefectServer, tracked: dict[str, str], name: str
) -> None:
    script = 'cd "$FLEXAI_OUTPUT_CHECKPOINT_DIR"; for one in a b; do mkdir $one; echo $one > $one/weights.bin; done'
    environment = {"FLEXAI_QUIET_PERIOD": "0.05"}
    assert program.run("training", "run", name, "--no-track", "--", "sh", "-c", script, env=environment).code == 0
    captured = [row["id"] for row in program.run("training", "checkpoints", name, "--json").json()]
    assert len(captured) == 2

    job_id = program.run("training", "inspect", name, "--json").json()["metadata"]["id"]

    done = program.run("training", "delete", name, "--json", env=tracked)
    assert (done.code, done.json()) == (0, {"name": name, "id": job_id, "deletedCheckpoints": 2})
    assert f"deleted training job '{name}'\n" in done.err
    assert program.run("training", "inspect", name).code == 3
    assert _states(prefect_server, f"delete training job {name}") == ["COMPLETED"]
    assert [_operations(prefect_server, checkpoint_id, 1) for checkpoint_id in captured] == [["delete"], ["delete"]]


@pytest.mark.slow
def test_looking_something_up_and_a_plan_are_no_task_runs(program: Program) -> None:
    """Everything that needs Prefect would fail: no server listens."""
    program.file("a.bin")
    assert program.run("checkpoint", "push", "here", "-f", "a.bin", "--no-track").code == 0
    for arguments in (["list"], ["inspect", "here"], ["delete", "here", "--dry-run"], ["gc", "--dry-run"]):
        assert program.run("checkpoint", *arguments, env=_no_server_listens()).code == 0
    prune = ["checkpoint", "prune", "--pushed", "*", "--keep-last", "1"]
    assert program.run(*prune, env=_no_server_listens()).code == 0
    assert program.run(*prune, "--track", env=_no_server_listens()).code == 1
    assert program.run(*prune, "--apply", env=_no_server_listens()).code == 1


def test_no_track_runs_without_prefect_where_an_api_is_configured(program: Program) -> None:
    program.file("a.bin")
    done = program.run("checkpoint", "push", "untracked", "-f", "a.bin", "--no-track", env=_no_server_listens())
    assert done.code == 0


def test_an_api_that_does_not_answer_is_one_sentence_and_a_way_out(program: Program) -> None:
    program.file("a.bin")
    environment = _no_server_listens()
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
        ["checkpoint", "delete", "some-name"],
        ["checkpoint", "undelete", "some-name"],
        ["checkpoint", "protect", "some-name"],
        ["checkpoint", "unprotect", "some-name"],
        ["checkpoint", "verify"],
        ["checkpoint", "prune", "--keep-last", "1"],
        ["checkpoint", "gc"],
        ["training", "run", "some-name"],
        ["training", "delete", "some-name"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_tracking_without_an_api_is_refused(flexai: Run, arguments: list[str]) -> None:
    command = ["--", "true"] if arguments[1] == "run" else []
    done = flexai(*arguments, "--track", *command)
    assert (done.code, done.error) == (2, "--track needs a Prefect API, and none is configured")
    assert "PREFECT_API_URL" in done.hint


def _no_server_listens() -> dict[str, str]:
    """The environment of a machine whose Prefect API is down."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
