"""Waiting for what another process or a server does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 300.0
"""Seconds in which a machine that does something else meanwhile gets round to anything: nothing depends on how soon."""


def until(find: Callable[[], T], what: str | Callable[[], object] = "it", *, pause: float = 0.1) -> T:
    """What is found, once that is something; fails where ``what`` never happens. ``pause`` is in seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (found := find()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} seconds: {what() if callable(what) else what}"
        time.sleep(pause)
    return found
