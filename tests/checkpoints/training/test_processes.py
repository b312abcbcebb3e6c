"""Which processes live and which handle a signal, asked of the system about real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from flexai.checkpoints.training import processes
from flexai.checkpoints.training.processes import handlers_of, is_group_alive

SLEEPS = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.mark.parametrize("has_proc", [True, False])
def test_a_group_lives_until_its_last_process_has_ended_whether_or_not_it_was_waited_for(
    has_proc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_HAS_PROC", has_proc)
    process = subprocess.Popen(SLEEPS, start_new_session=True)
    assert is_group_alive(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_group_alive(process.pid)
    process.wait()
    assert not is_group_alive(process.pid)


def test_a_process_that_handles_nothing_has_no_handlers() -> None:
    with subprocess.Popen(SLEEPS, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert handlers_of(process.pid, signal.SIGUSR1) == []
        assert handlers_of(process.pid, signal.SIGINT) == [process.pid], "Python itself does that"
        process.kill()


def test_a_process_that_is_gone_has_no_handlers() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert handlers_of(process.pid, signal.SIGUSR1) == []


def test_where_the_system_does_not_tell_none_is_known_to_handle_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_HAS_PROC", False)
    assert handlers_of(os.getpid(), signal.SIGINT) == []
