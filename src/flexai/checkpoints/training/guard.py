"""Becomes a training command, and leaves a guard behind that ends the command when its runner dies.

Run as a program of its own, ``python -I -S guard.py CONTROL REPORT GRACE COMMAND…``, as the leader of a new session.
It forks off the guard and then *is* the command (``exec``), so the runner sees the command's own process id, signals
and exit code. The guard lives in another session and waits on the pipe CONTROL: a byte says that the command has
ended, an end of file that the runner is gone, even by SIGKILL. Then the command's process group gets SIGTERM and,
GRACE seconds later, SIGKILL. A signal to the parent's death (``prctl(PR_SET_PDEATHSIG)``) would reach the command
alone, not the processes that it started, and exists on Linux only.

REPORT is a pipe that closes when the command has begun; before that it carries the ``errno`` of a failed ``exec``.
Standard library only, and little of it: this runs before every command.
"""

from __future__ import annotations

import os
import signal
import sys
import time

_CHECK_SECONDS = 0.1


def main(control: int, report: int, grace: float, command: list[str]) -> None:
    """Fork the guard, then become the command."""
    group = os.getpid()
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    child = os.fork()
    if child == 0:
        # Forked twice: a command that waits for its children must not find one that it never started.
        if os.fork() == 0:
            os.close(report)
            guard(control, group, grace)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(control)
    # Python ignores these two, and ignored signals stay ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(report, str(error.errno).encode())
        os._exit(127)


def guard(control: int, group: int, grace: float) -> None:
    """Wait for the command's end or for its runner's; after the latter end the command's process group."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The runner, which reads the command's output, must not wait for the guard to close it.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if not os.read(control, 1):
        end_group(group, grace)
    os._exit(0)


def end_group(group: int, grace: float) -> None:
    """SIGTERM, and SIGKILL to what is left of the group after ``grace`` seconds."""
    deadline = time.monotonic() + grace
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(_CHECK_SECONDS)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # no process is left (macOS says so with EPERM where only a zombie is)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
