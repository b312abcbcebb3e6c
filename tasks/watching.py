"""Watching a task that runs in this very process, as the ``flexai`` command does to show what goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from flexai.checkpoints.progress import NoProgress, Progress


def _ignore(_stream: Literal["stdout", "stderr"], _data: bytes) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told, besides the run, how far an operation is and what a training command prints."""

    progress: Progress = field(default_factory=NoProgress)
    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] = _ignore


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
    """Who watches; somebody who shows nothing where nobody does."""
    return _watcher.get(None) or Watcher()
