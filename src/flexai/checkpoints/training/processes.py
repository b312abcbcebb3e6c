"""What the system tells of a training command's processes: which live, and which handle a signal.

Linux tells it in files (man 5 proc). Elsewhere psutil asks, which cannot say which signals a process handles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_HAS_PROC = sys.platform == "linux"


def is_group_alive(group: int) -> bool:
    """Whether a process of a group is still there; one that has ended and was not waited for is none."""
    if _HAS_PROC:
        return any(theirs == group for _, _, theirs in _living())
    import psutil

    for pid in psutil.pids():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def handlers_of(root: int, number: int) -> list[int]:
    """The processes of a command that handle a signal: the command itself or, where it does not, the next ones below.

    What those have started in turn is theirs to tell: workers of a trainer inherit its handler, and each would save.
    Empty where none handles it, and where the system does not tell.
    """
    if not _HAS_PROC:
        return []
    if _handles(root, number):
        return [root]
    children: dict[int, list[int]] = {}
    for pid, parent, _ in _living():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    pending = list(children.get(root, []))
    while pending:
        pid = pending.pop()
        if _handles(pid, number):
            found.append(pid)
        else:
            pending += children.get(pid, [])
    return found


def _living() -> Iterator[tuple[int, int, int]]:
    """Each process with its parent and its group."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            # The second field is the program's name in brackets and may hold anything.
            state, parent, group, *_ = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if state not in b"ZX":
                yield int(folder.name), int(parent), int(group)


def _handles(pid: int, number: int) -> bool:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(b"SigCgt:"):
                return bool(int(line.partition(b":")[2], 16) >> (number - 1) & 1)
    return False
