"""Processes in the background: started, found again, stopped, and never mistaken for another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.prefect_server.processes import (
    Background,
    children,
    end_children,
    forget,
    log_path,
    recall,
    start,
    stop,
    wait_until,
)
from tests.support.waiting import until

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print("ready", child.pid, flush=True)
time.sleep(600)
"""

DILIGENT = """
import subprocess, sys
while True:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("ready", child.pid, flush=True)
    child.wait()
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Background]]:
    """What a test has started: it is gone afterwards."""
    processes: list[Background] = []
    yield processes
    for process in processes:
        if process.is_alive():
            stop(process, grace=0)


def _start(home: Path, *command: str) -> Background:
    return start(home, "server", command, environment=os.environ, cwd=home, url="http://127.0.0.1:1/api")


def _is_there(pid: int) -> bool:
    """Whether a process runs, and is no mere zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_a_process_that_was_started_is_found_until_it_is_stopped(tmp_path: Path, started: list[Background]) -> None:
    process = _start(tmp_path, "sleep", "600")
    started.append(process)
    assert recall(tmp_path, "server") == process
    assert recall(tmp_path, "worker") is None
    assert os.getsid(process.pid) == process.pid
    assert stop(process, grace=30) is True
    assert recall(tmp_path, "server") is None
    assert not _is_there(process.pid)
    forget(tmp_path, "server")
    forget(tmp_path, "server")


def test_a_process_that_does_not_listen_is_killed_with_its_children(tmp_path: Path, started: list[Background]) -> None:
    process = _start(tmp_path, sys.executable, "-c", STUBBORN)
    started.append(process)
    log = log_path(tmp_path, "server")
    wait_until(process, tmp_path, lambda: b"ready" in log.read_bytes(), seconds=60)
    child = int(log.read_text().split()[1])
    assert children(process.pid) == [child]
    assert stop(process, grace=0.2) is False
    until(lambda: not _is_there(child), "the child's end")


def test_what_a_process_has_started_is_ended_and_it_starts_nothing_in_its_place(
    tmp_path: Path, started: list[Background]
) -> None:
    process = _start(tmp_path, sys.executable, "-c", DILIGENT)
    started.append(process)
    log = log_path(tmp_path, "server")
    wait_until(process, tmp_path, lambda: b"ready" in log.read_bytes(), seconds=60)
    child = int(log.read_text().split()[1])
    assert end_children(process, grace=30) == 1
    assert not _is_there(child)
    assert stop(process, grace=30) is True
    assert log.read_text().count("ready") == 1


def test_another_process_with_the_same_id_is_not_taken_for_it(tmp_path: Path, started: list[Background]) -> None:
    process = _start(tmp_path, "sleep", "600")
    started.append(process)
    path = tmp_path / "prefect" / "server.json"
    for other in (replace(process, started="1"), replace(process, host="elsewhere")):
        path.write_text(json.dumps(asdict(other)))
        assert recall(tmp_path, "server") is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": 1}', "\x00"])
def test_a_file_that_says_nothing_of_use_is_no_process(tmp_path: Path, content: str) -> None:
    path = tmp_path / "prefect" / "server.json"
    path.parent.mkdir()
    path.write_text(content)
    assert recall(tmp_path, "server") is None


def test_a_process_that_ends_before_it_is_ready_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    process = _start(tmp_path, "sh", "-c", "echo first; echo the reason >&2; exit 3")
    with pytest.raises(StorageUnavailableError) as failure:
        wait_until(process, tmp_path, lambda: False, seconds=60)
    assert failure.value.message.endswith("\nfirst\nthe reason")
    assert str(log_path(tmp_path, "server")) in failure.value.hint


def test_the_log_before_is_kept_and_both_are_for_their_owner_alone(tmp_path: Path) -> None:
    for word in ("one", "two"):
        process = _start(tmp_path, "sh", "-c", f"echo {word}; sleep 600")
        log = log_path(tmp_path, "server")
        wait_until(process, tmp_path, lambda log=log: log.read_text() != "", seconds=60)  # type: ignore[misc]
        stop(process, grace=30)
    assert (log.read_text(), log.with_suffix(".log.1").read_text()) == ("two\n", "one\n")
    assert log.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "prefect" / "server.json").stat().st_mode & 0o777 == 0o600
