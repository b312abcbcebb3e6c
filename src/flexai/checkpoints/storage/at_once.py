"""Asking a store for many small things at a time, or for one beside other work, since each answer is waited for."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.storage.retry import wait_after

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 16
_LOOK_UP = 0.1
"""Seconds after which a wait looks up."""


def at_once(ask: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """What ``ask`` answers for each value, in their order. Raises what the first of them raises."""
    several = list(values)
    if len(several) < 2:
        return [ask(value) for value in several]
    from concurrent.futures import ThreadPoolExecutor  # which no command that only looks needs

    with ThreadPoolExecutor(min(_THREADS, len(several))) as pool:
        return list(pool.map(ask, several))


class Beside(Generic[R]):
    """A question to a store that a thread of its own asks, while the asker goes on with other work."""

    def __init__(self, ask: Callable[[], R]) -> None:
        """Begin to ask."""
        self._ask = ask
        self._answers: list[R] = []
        self._error: BaseException | None = None
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,), daemon=True)
        self._thread.start()

    def _work(self) -> None:
        wait_after.set(self._wait)
        try:
            self._answers.append(self._ask())
        except BaseException as error:  # noqa: BLE001 - carried to the thread that needs the answer, and raised there
            self._error = error

    def _wait(self, error: StorageUnavailableError, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise error

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer by now; one that ended in an error has none."""
        return bool(self._answers)

    def check(self) -> None:
        """Raise what the question raised, if it has done so by now; waits for nothing."""
        if self._error is not None:
            raise self._error

    def answer(self, look_up: Callable[[], None] | None = None) -> R:
        """Wait for the answer; raises what the question raised, and what ``look_up`` does, called now and then."""
        while look_up is not None and self._thread.is_alive():
            self._thread.join(_LOOK_UP)
            look_up()
        self._thread.join()
        self.check()
        return self._answers[0]

    def give_up(self) -> None:
        """Need the answer no more: what fails is not tried again. Who interrupts does not wait for it."""
        self._given_up.set()
