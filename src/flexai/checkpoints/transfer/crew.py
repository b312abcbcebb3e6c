"""Threads that share out tasks, where the first error stops all."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.protocol import Block, Body
from flexai.checkpoints.storage.retry import wait_after
from flexai.checkpoints.transfer.pace import FIRST_WIDTH, Bandwidth, Width

Task = Callable[[], None]

_LOOK_UP = 0.5
"""Seconds after which a wait looks up."""

give_way: ContextVar[Callable[[], None]] = ContextVar("flexai_give_way", default=lambda: None)
"""Asked at each look up of what waits for a crew; what it raises ends the work, as an error of a task does."""


class StoppedError(Exception):
    """Another task failed, or the user interrupted: this one ends early."""


class Crew:
    """Threads working off tasks, which may add further tasks; as many as gain something, up to a number.

    Tasks are descriptions, not data, so any number may wait; what is in memory is what the threads have in hand.
    """

    def __init__(self, size: int, *, bandwidth: int = 0) -> None:
        """``size`` threads work at a time at most, at least 1; ``bandwidth`` bytes a second at most, 0 for no limit."""
        self._width = Width(size)
        self._bandwidth = Bandwidth(bandwidth)
        self._tasks: deque[Task] = deque()
        self._lock = threading.Lock()
        # Apart, so that a task that is added wakes a thread that can do it.
        self._added = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._waiting = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._aside: set[int] = set()
        """Those of the busy ones that wait, and move no bytes meanwhile."""
        self._replaced = 0
        """How many of these others are started for."""
        self._limited = 0
        """How many of the busy ones wait since bytes moved too fast."""
        self._stopped = False
        self._context = contextvars.Context()
        self._error: BaseException | None = None

    def add(self, task: Task, *, next_up: bool = False) -> None:
        """Add a task; ``next_up`` puts it before all that wait (the parts of a file that is open already)."""
        with self._lock:
            (self._tasks.appendleft if next_up else self._tasks.append)(task)
            self._added.notify()
            if self._threads:
                self._start_threads()

    @property
    def has_more(self) -> bool:
        """Whether tasks wait for a thread."""
        return bool(self._tasks)

    @property
    def width(self) -> int:
        """How many threads may work at a time now."""
        return self._width.now

    @property
    def is_wide(self) -> bool:
        """Whether a network is what the work waits for: many more threads work than in the beginning."""
        return self._width.now > 2 * FIRST_WIDTH

    def check(self) -> None:
        """Raise StoppedError where the work is being given up."""
        if self._stopped:
            raise StoppedError

    def moved(self, size: int) -> None:
        """Count bytes that have moved, and wait where they moved too fast; StoppedError as ``check``."""
        with self._lock:
            self._width.moved(size)
            seconds = self._bandwidth.take(size)
            self._limited += 1
        try:
            self._pause(seconds)
        finally:
            with self._lock:
                self._limited -= 1

    def wait_after(self, error: StorageUnavailableError, seconds: float) -> None:
        """Wait after a passing failure, of which many let fewer threads work from now on; StoppedError as ``check``.

        Another thread works meanwhile: a part that has to wait holds up no other.
        """
        with self._lock:
            self._width.refused()
        with self._set_aside():
            self._pause(seconds)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Have another thread work in the place of this one, which waits in the block and moves no bytes."""
        with self._set_aside():
            try:
                with self._lock:
                    self._replaced += 1
                    self._start_threads()
                yield
            finally:
                with self._lock:
                    self._replaced -= 1

    @contextlib.contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Let a thread that is there already work in the place of this one."""
        me = threading.get_ident()
        with self._lock:
            is_outer = me not in self._aside
            self._aside.add(me)
            self._added.notify()
        try:
            yield
        finally:
            if is_outer:
                with self._lock:
                    self._aside.discard(me)

    def run(self, *, may_leave: Callable[[], bool] = lambda: False) -> None:
        """Work until no task is left; raises the first error, after every thread has ended.

        A thread that waits for a network ends no sooner than that answers. ``may_leave`` tells whether threads may be
        left behind: each of them does nothing any more but ``check``.
        """
        try:
            with self._lock:
                # Who is told of what happens is part of it.
                self._context = contextvars.copy_context()
                self._start_threads()
                looked_up = time.monotonic()
                while not self._stopped and (self._tasks or self._busy):
                    # A signal that comes just before the wait would not be seen until it ends.
                    has_ended = self._ended.wait(self._width.pause)
                    self._look()
                    if has_ended or time.monotonic() - looked_up >= _LOOK_UP:
                        looked_up = time.monotonic()
                        give_way.get()()
        finally:
            with self._lock:
                self._stopped = True
                self._added.notify_all()
                self._waiting.notify_all()
            for thread in self._threads:
                while thread.ident is not None and thread.is_alive() and not may_leave():
                    thread.join(_LOOK_UP)
        if self._error is not None:
            raise self._error

    @property
    def _working(self) -> int:
        """How many threads are busy and do not wait; the lock is held."""
        return self._busy - len(self._aside)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self._waiting.wait_for(lambda: self._stopped, timeout=seconds)
        self.check()

    def _look(self) -> None:
        """Let more threads work, or fewer, where that helps; the lock is held."""
        before = self._width.now
        if self._limited:
            self._width.hold()
        self._width.look()
        if self._width.now > before:
            self._added.notify(self._width.now - before)
            self._start_threads()

    def _start_threads(self) -> None:
        """Let as many threads work as the width says, in the place of as many at most; the lock is held."""
        most = self._width.now + min(self._replaced, self._width.now)
        # One that has not worked yet takes the next task, and threads cost memory each.
        wanted = min(most, self._busy + len(self._tasks))
        while len(self._threads) < wanted and not self._stopped:
            name = f"transfer-{len(self._threads)}"
            thread = threading.Thread(target=self._context.copy().run, args=(self._work,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        outer = wait_after.get()

        def wait(error: StorageUnavailableError, seconds: float) -> None:
            if outer is not None:
                outer(error, 0.0)  # which raises where nothing is waited for any more
            self.wait_after(error, seconds)

        wait_after.set(wait)
        while True:
            with self._lock:
                while not (self._stopped or (self._tasks and self._working < self._width.now)):
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
                    self._waiting.notify_all()
            else:
                with self._lock:
                    self._width.ended()
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
            yield block
            self._crew.moved(len(block))
            self._counted += len(block)
            self._progress.advance(moved=len(block))
