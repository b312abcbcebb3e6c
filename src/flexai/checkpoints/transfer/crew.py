"""Threads that share out tasks, where the first error stops all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.protocol import Block, Body

Task = Callable[[], None]


class StoppedError(Exception):
    """Another task failed, or the user interrupted: this one ends early."""


class Crew:
    """A fixed number of threads working off tasks, which may add further tasks.

    Tasks are descriptions, not data, so any number may wait; what is in memory is what the threads have in hand.
    """

    def __init__(self, size: int) -> None:
        """``size`` threads, at least 1."""
        self._size = size
        self._tasks: deque[Task] = deque()
        self._lock = threading.Lock()
        # Apart, so that a task that is added wakes a thread that can do it.
        self._added = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._busy = 0
        self._stopped = False
        self._error: BaseException | None = None

    def add(self, task: Task, *, next_up: bool = False) -> None:
        """Add a task; ``next_up`` puts it before all that wait (the parts of a file that is open already)."""
        with self._lock:
            (self._tasks.appendleft if next_up else self._tasks.append)(task)
            self._added.notify()

    def check(self) -> None:
        """Raise StoppedError where the work is being given up."""
        if self._stopped:
            raise StoppedError

    def run(self) -> None:
        """Work until no task is left; raises the first error, after every thread has ended."""
        threads = [threading.Thread(target=self._work, name=f"transfer-{n}", daemon=True) for n in range(self._size)]
        try:
            for thread in threads:
                thread.start()
            with self._lock:
                while not self._stopped and (self._tasks or self._busy):
                    self._ended.wait()
        finally:
            with self._lock:
                self._stopped = True
                self._added.notify_all()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._lock:
                while not (self._tasks or self._stopped):
                    self._added.wait()
                if self._stopped:
                    return
                task = self._tasks.popleft()
                self._busy += 1
            try:
                task()
            except StoppedError:
                pass
            except BaseException as error:  # noqa: BLE001 - carried to the thread that waits, and raised there
                with self._lock:
                    self._error = self._error or error
                    self._stopped = True
            finally:
                with self._lock:
                    self._busy -= 1
                    if self._stopped or not (self._tasks or self._busy):
                        self._ended.notify()


class CountedBody:
    """A body that reports its bytes as they move, ends early when the crew stops, and can start over."""

    def __init__(self, body: Body, *, crew: Crew, progress: Progress) -> None:
        self._body = body
        self._crew = crew
        self._progress = progress
        self._counted = 0
        self.size = body.size

    def blocks(self) -> Iterator[Block]:
        """Yield the content; what an earlier reading reported is taken back first."""
        if self._counted:
            self._progress.advance(moved=-self._counted)
            self._counted = 0
        for block in self._body.blocks():
            self._crew.check()
            yield block
            self._counted += len(block)
            self._progress.advance(moved=len(block))
