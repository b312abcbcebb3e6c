"""Watching a task that runs in this very process, as the ``flexai`` command does to show what goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from flexai.checkpoints.progress import NoProgress, Progress
from flexai.checkpoints.service.repair import RepairReport
from flexai.checkpoints.service.verify import Damage


def ignore(*_told: object) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told, besides the run, what only those who stand by can be told: a task that fails returns nothing."""

    progress: Progress = field(default_factory=NoProgress)
    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] = ignore
    """Is handed what a training command prints."""
    on_damage: Callable[[Sequence[Damage], RepairReport], None] = ignore
    """Is handed what a verification found, and what was repaired of it."""


_watcher: ContextVar[Watcher] = ContextVar("flexai_task_watcher")


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell the watcher about the tasks that the block runs."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def current_watcher() -> Watcher:
    """The watcher of this run; one that shows nothing where there is none."""
    return _watcher.get(None) or Watcher()
