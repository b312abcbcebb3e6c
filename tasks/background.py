"""Work that goes on beside a run's own, which does not wait for it: reports to an API that may be slow."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from types import TracebackType

from flexai.tasks.options import Logger

PATIENCE_SECONDS = 20.0
"""How long the end waits for what is still to be done."""


class Aside:
    """Does one thing after the other in a thread of its own, in the context that it was made in."""

    def __init__(self, logger: Logger, *, patience: float = PATIENCE_SECONDS) -> None:
        self._logger = logger
        self._patience = patience
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # A daemon: where the API hangs, the work is done all the same.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="aside", daemon=True)
        self._thread.start()

    def do(self, act: Callable[[], object]) -> None:
        """Have something done, soon."""
        self._queue.put(act)

    def close(self) -> None:
        """Wait a while for what is still to be done."""
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._logger.warning("Prefect was not told of everything, because it takes too long")

    def _run(self) -> None:
        while (act := self._queue.get()) is not None:
            try:
                act()
            except Exception:
                # A report that fails must not end the reports to come, nor the training that they are about.
                self._logger.exception("a report to Prefect has failed")

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
