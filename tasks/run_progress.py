"""Progress of an operation as a Prefect progress artifact and as log lines."""

from __future__ import annotations

import contextvars
import threading
import time
from dataclasses import replace
from uuid import UUID

import httpx

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.progress import CountingProgress, StageProgress
from flexai.tasks import artifacts
from flexai.tasks.options import Logger, current_watcher

UPDATE_SECONDS = 1.0
"""Between two updates of the artifact, and before the first: what is done sooner needs none."""
LOG_SECONDS = 30.0
"""Between two lines of the log."""
_LAST_UPDATE_SECONDS = 10.0
"""How long the end of a stage waits for the API to take the last update."""

_CELLS = 24


class RunProgress(CountingProgress):
    """Reports to the run that it is made in: to its log, and with a ``key`` to a progress artifact.

    A thread of its own talks to the API, so that a slow one never slows the transfer, and one that fails only ends the
    artifact. Without a run there are log lines alone.
    """

    def __init__(
        self,
        logger: Logger,
        *,
        key: str = "",
        update_seconds: float = UPDATE_SECONDS,
        log_seconds: float = LOG_SECONDS,
    ) -> None:
        super().__init__(current_watcher().progress)
        self._logger = logger
        self._key = key if artifacts.is_in_a_run() else ""
        self._update_seconds = update_seconds
        self._log_seconds = log_seconds
        self._artifact_id: UUID | None = None
        self._told: StageProgress | None = None
        self._has_all = False
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins; one that is still going on ends."""
        self.end()
        super().begin(verb, total_bytes=total_bytes, total_files=total_files)
        self._has_all = False
        self._logger.info("%s: %s in %d files", verb, human_size(total_bytes), total_files)
        self._stop, self._news = threading.Event(), threading.Event()
        # The run is part of the context, and so are Prefect's settings.
        context = contextvars.copy_context()
        arguments = (self._report, self._stop, self._news)
        self._thread = threading.Thread(target=context.run, args=arguments, daemon=True)
        self._thread.start()

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done."""
        super().advance(moved=moved, skipped=skipped, files=files)
        if not self._has_all and self._before.total_bytes and self.stage().is_whole:
            self._has_all = True
            self._news.set()

    def note(self, message: str) -> None:
        """Log something worth knowing."""
        super().note(message)
        self._logger.info("%s", message)

    def end(self) -> None:
        """The stage is over."""
        if self._thread is None:
            return
        super().end()
        self._stop.set()
        self._news.set()
        # A daemon: where the API hangs, the work is done all the same.
        self._thread.join(_LAST_UPDATE_SECONDS)
        self._thread = None
        self._logger.info("%s", self.stage().last_line())

    def _report(self, stop: threading.Event, news: threading.Event) -> None:
        next_line = time.monotonic() + self._log_seconds
        while not stop.is_set():
            # That all has arrived is told at once, while the catalog is written, for the end not to wait for it.
            is_over = news.wait(self._update_seconds)
            news.clear()
            standing = self.stage()
            self._show(standing, create=not is_over)
            if time.monotonic() >= next_line:
                self._logger.info("%s", standing)
                next_line += self._log_seconds
        if _without_time(self.stage()) != self._told:
            self._show(self.stage(), create=False)

    def _show(self, standing: StageProgress, *, create: bool) -> None:
        if not self._key:
            return
        self._told = _without_time(standing)
        percent, text = round(100 * standing.fraction, 1), f"{_bar(standing)} {standing}"
        try:
            if self._artifact_id is not None:
                artifacts.update_progress(self._artifact_id, percent, text)
            elif create:
                self._artifact_id = artifacts.create_progress(self._key, percent, text)
        except (httpx.HTTPError, RuntimeError) as error:
            # RuntimeError: the client was closed, because the run did not wait for us any longer.
            self._logger.warning("the Prefect API does not take the progress any more: %s", error)
            self._key = ""


def _without_time(stage: StageProgress) -> StageProgress:
    return replace(stage, seconds=0.0, rate=0.0)


def _bar(stage: StageProgress) -> str:
    """A bar for the page of the artifact, on which Prefect's UI shows a number alone."""
    full = int(stage.fraction * _CELLS)
    return f"`{'█' * full}{'░' * (_CELLS - full)}`"
