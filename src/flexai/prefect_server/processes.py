"""Processes in the background that a later command finds again, and does not confuse with others.

A process is known by its host, its id and the time it began: an id alone may be another process's by now. What is
known of it lies in a file in the folder ``prefect`` of the home folder, beside its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flexai.checkpoints.errors import CheckpointError, StorageUnavailableError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.private_folders import make_private_folder

FOLDER = "prefect"
_CHECK_SECONDS = 0.1
_TAIL_LINES = 12
_UMASK = 0o077
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Background:
    """A process that was started in the background."""

    name: str
    """``server`` or ``worker``: also what its file and its log are called."""
    host: str
    pid: int
    started: str
    url: str
    """The address of the Prefect API that it serves or works for."""
    pool: str = ""
    guarded: bool = False
    """Whether the server wants the credential of its home folder."""

    def is_alive(self) -> bool:
        """Whether it runs: this very process, not another one with its id."""
        from flexai.checkpoints.catalog.leases import this_host

        return self.host == this_host() and _began(self.pid) == self.started


def folder(home: Path) -> Path:
    """Where the state and the logs of the background processes are."""
    return home / FOLDER


def log_path(home: Path, name: str) -> Path:
    """The log of a background process."""
    return folder(home) / f"{name}.log"


def recall(home: Path, name: str) -> Background | None:
    """The background process of a name, if it was started from this home folder and runs."""
    try:
        document = parse_json(_state_path(home, name).read_bytes())
        found = Background(**document)
    except (OSError, ValueError, TypeError):
        return None  # never started, or a file of another version: nothing that could be relied on
    return found if found.is_alive() else None


def forget(home: Path, name: str) -> None:
    """Remove what is known of a background process."""
    _state_path(home, name).unlink(missing_ok=True)


def start(
    home: Path,
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    url: str,
    pool: str = "",
    guarded: bool = False,
    private: bool = False,
    keep_open: Sequence[int] = (),
) -> Background:
    """Start a process that outlives this one and its terminal, and write down which it is.

    ``keep_open`` are file descriptors that it inherits. What a ``private`` one makes is its owner's alone.
    """
    from flexai.checkpoints.catalog.leases import this_host

    log = log_path(home, name)
    make_private_folder(log.parent)
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_suffix(".log.1"))
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keep_open),
            umask=_UMASK if private else -1,
        )
    # It is not our child any more as far as Python is concerned: it is meant to outlive us.
    process.returncode = 0
    began = Background(name, this_host(), process.pid, _began(process.pid) or "", url, pool, guarded)
    _remember(home, began)
    return began


def wait_until(process: Background, home: Path, is_ready: Callable[[], bool], *, seconds: float) -> None:
    """Wait for what a background process was started for.

    Raises StorageUnavailableError where it ends before, with the end of its log, or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not is_ready():
        if not process.is_alive():
            raise StorageUnavailableError(
                f"the Prefect {process.name} ended at once; the end of its log:\n{tail(log_path(home, process.name))}",
                hint=f"the whole log is {log_path(home, process.name)}",
            )
        if time.monotonic() > deadline:
            raise StorageUnavailableError(
                f"the Prefect {process.name} is not ready after {seconds:.0f} seconds; the end of its log:\n"
                f"{tail(log_path(home, process.name))}",
                hint="flexai status says whether it is by now; flexai down stops it",
            )
        time.sleep(_CHECK_SECONDS)


def stop(process: Background, *, grace: float) -> bool:
    """End a background process: ask it, and after ``grace`` seconds end it and its children.

    Returns whether it ended by itself. Raises CheckpointError where it may not be signalled.
    """
    born = [(child, _began(child)) for child in children(process.pid)]
    try:
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)  # where it was held
        deadline = time.monotonic() + grace
        while process.is_alive():
            if time.monotonic() > deadline:
                _kill(process, born)
                return False
            time.sleep(_CHECK_SECONDS)
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise CheckpointError(
            f"the Prefect {process.name} (process {process.pid}) is another user's to stop"
        ) from error
    return True


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    if platform.system() == "Linux":
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # Behind the program's name, which may hold anything: the state and the parent (man 5 proc).
                if stat.read_bytes().rpartition(b")")[2].split()[1] == str(pid).encode():
                    found.append(int(stat.parent.name))
        return found
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def end_children(process: Background, *, grace: float) -> int:
    """End what a background process has started, asking first; returns how many there were.

    The process itself is held still, so that it starts nothing in their place, until :func:`stop` ends it.
    """
    itself = [(process.pid, process.started)]
    _signal(itself, signal.SIGSTOP)
    try:
        born = [(child, _began(child)) for child in children(process.pid)]
        _signal(born, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and any(began and _began(child) == began for child, began in born):
            time.sleep(_CHECK_SECONDS)
        _signal(born, signal.SIGKILL)
    except BaseException:
        _signal(itself, signal.SIGCONT)
        raise
    return len(born)


def _signal(born: Sequence[tuple[int, str | None]], number: signal.Signals) -> None:
    """Signal those that still are the processes that they were."""
    for child, began in born:
        if began is not None and _began(child) == began:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, number)


def _kill(process: Background, born: Sequence[tuple[int, str | None]]) -> None:
    """End a process that did not listen, and what it has started: those have sessions of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    while process.is_alive():
        time.sleep(_CHECK_SECONDS)
    _signal(born, signal.SIGKILL)


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").rstrip().splitlines()
    except OSError:
        return "(there is no log)"
    return "\n".join(lines[-_TAIL_LINES:]) or "(it is empty)"


def _state_path(home: Path, name: str) -> Path:
    return folder(home) / f"{name}.json"


def _remember(home: Path, process: Background) -> None:
    path = _state_path(home, process.name)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(process), file, indent=2)
    Path(temporary).replace(path)


def _began(pid: int) -> str | None:
    """When a process began; None where there is none."""
    from flexai.checkpoints.catalog.leases import process_start

    return process_start(pid)
