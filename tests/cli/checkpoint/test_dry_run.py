"""Dry runs and progress, from the command line."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.support.trees import read_tree


@pytest.fixture(autouse=True)
def pushed(flexai: Run, program: Program) -> None:
    program.file("source/model.bin", b"x" * 3000)
    program.file("source/deep/config.json", "{}")
    assert flexai("checkpoint", "push", "llama", "-f", "source").code == 0


def _files(program: Program) -> dict[str, bytes]:
    return {path: content for path, content in read_tree(program.cwd.parent).items() if "catalog.db" not in path}


def _actions(table: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    return {row[1]: row[0] for row in rows if row[0]}


@pytest.mark.parametrize(
    ("arguments", "action", "told"),
    [
        (
            ["push", "other", "-f", "source", "--rehash"],
            "compare",
            "push would compare 2 files (2.93 KiB): at most 2.93 KiB",
        ),
        (["fetch", "llama", "-d", "out"], "move", "fetch would move 2 files (2.93 KiB): at most 2.93 KiB through"),
        (["delete", "llama"], "free", "delete would free 2 files (2.93 KiB): 2.93 KiB freed after the grace period"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_dry_run_prints_a_plan_and_does_nothing(
    flexai: Run, program: Program, arguments: list[str], action: str, told: str
) -> None:
    before, listed = _files(program), flexai("checkpoint", "list", "--json").out
    done = flexai("checkpoint", *arguments, "--dry-run")
    assert done.code == 0, done.err
    assert _actions(done.out) == {"deep/config.json": action, "model.bin": action}
    assert done.err.startswith(told)
    assert done.hint == "nothing was done: the same command without --dry-run does it"
    assert (_files(program), flexai("checkpoint", "list", "--json").out) == (before, listed)
    document = flexai("checkpoint", *arguments, "--dry-run", "--json").json()
    assert (document["dryRun"], document["operation"]) == (True, arguments[0])
    assert {step["name"]: step["action"] for step in document["steps"]} == _actions(done.out)


def test_a_conflict_is_shown_and_ends_as_the_command_does(flexai: Run, program: Program) -> None:
    program.file("out/model.bin", "mine")
    for arguments in (["fetch", "llama", "-d", "out"], ["push", "llama", "-f", "out"]):
        planned = flexai("checkpoint", *arguments, "--dry-run")
        document = flexai("checkpoint", *arguments, "--dry-run", "--json")
        done = flexai("checkpoint", *arguments)
        assert (planned.code, planned.error, planned.hint) == (4, done.error, done.hint)
        assert _actions(planned.out)["model.bin"] == "conflict"
        assert (document.code, document.json()["conflict"]) == (4, done.error)


def test_many_files_are_shown_in_part_and_fit_80_columns(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(100):
        program.file(f"many/{'a-long-name-' * 6}{number:03}.bin", f"{number:03} new")
    program.file("many/known.bin", b"x" * 3000)
    done = flexai("checkpoint", "push", "many", "-f", "many", "--dry-run")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert len([line for line in done.out.splitlines()[2:] if line.split("|")[0].strip()]) <= 41
    assert "compare" in done.out
    assert done.out.splitlines()[-1] == "  … and 61 more, which --json shows"
    document = flexai("checkpoint", "push", "many", "-f", "many", "--dry-run", "--json").json()
    assert len(document["steps"]) == 101


def test_a_dry_run_is_no_task_run(flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.settimeout(0)
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}/api")
        assert flexai("checkpoint", "fetch", "llama", "-d", "out", "--dry-run").code == 0
        with pytest.raises(BlockingIOError):
            nobody.accept()
    refused = flexai("checkpoint", "fetch", "llama", "--dry-run", "--track")
    assert (refused.code, refused.error) == (2, "--dry-run and --track cannot be used together")


@pytest.mark.slow
def test_a_dry_run_of_an_export_says_what_would_move(program: Program) -> None:
    (program.cwd / "share").mkdir()
    assert program.run("storage", "create", "share", "--provider", "local", "--root", "share").code == 0
    arguments = ["llama", "--storage-provider", "share", "--destination-path", "bucket/out", "--dry-run", "--json"]
    done = program.run("checkpoint", "export", *arguments)
    assert done.code == 0, done.err
    assert done.json()["summary"] == [{"action": "move", "count": 2, "size": "2.93 KB", "sizeBytes": 3002}]
    assert list((program.cwd / "share").iterdir()) == []


def test_with_json_a_program_gets_the_result_and_events(flexai: Run, program: Program) -> None:
    done = flexai("checkpoint", "fetch", "llama", "-d", "out", "--json")
    assert done.json()["fetchedFiles"] == 2
    assert Path(done.json()["destination"]) == program.cwd / "out"
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["begin", "end"]
    assert (events[-1]["movedBytes"], events[-1]["files"], events[-1]["complete"]) == (3002, 2, True)
    again = flexai("checkpoint", "fetch", "llama", "-d", "out", "--json", "--progress", "none")
    assert (again.json()["keptFiles"], "{" in again.err) == (2, False)


def test_events_can_be_had_without_a_result_in_json(flexai: Run) -> None:
    done = flexai("checkpoint", "push", "other", "-f", "source", "--progress", "json")
    assert done.out == ""
    assert [json.loads(line)["event"] for line in done.err.splitlines()[:-1]] == ["begin", "end"]
    assert flexai("checkpoint", "verify").err.startswith("verified"), "what one command was told, the next forgets"


def test_delete_and_gc_print_their_results_as_json(flexai: Run) -> None:
    deleted = flexai("checkpoint", "delete", "llama", "--json").json()
    assert deleted["name"] == "llama"
    planned = flexai("checkpoint", "gc", "--grace-period", "0s", "--dry-run", "--json").json()
    taken = flexai("checkpoint", "gc", "--grace-period", "0s", "--json").json()
    nothing = flexai("checkpoint", "gc", "--dry-run")
    assert (nothing.out, nothing.err.splitlines()[0]) == ("", "gc would do nothing: 0 bytes freed")
    assert taken["deletedCheckpoints"] == 1
    assert taken["freedBytes"] == planned["freedBytes"] == 3002
