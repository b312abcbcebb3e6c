"""Progress of an operation as a Prefect progress artifact and as log lines."""

from __future__ import annotations

import contextvars
import math
import threading
import time
from dataclasses import dataclass, replace
from uuid import UUID

import httpx

from flexai.checkpoints.documents import duration, human_size
from flexai.tasks import artifacts
from flexai.tasks.options import Logger, current_watcher

UPDATE_SECONDS = 1.0
"""Between two updates of the artifact, and before the first: what is done sooner needs none."""
LOG_SECONDS = 30.0
"""Between two lines of the log."""
_LAST_UPDATE_SECONDS = 10.0
"""How long the end of a stage waits for the API to take the last update."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage is."""

    verb: str
    total_bytes: int
    total_files: int
    moved: int = 0
    skipped: int = 0
    files: int = 0
    seconds: float = 0.0

    @property
    def percent(self) -> float:
        """How much is done, from 0 to 100: by bytes, or by files where there are none."""
        done, total = self.moved + self.skipped, self.total_bytes
        if not total:
            done, total = self.files, self.total_files
        return round(min(100.0, 100.0 * done / total), 1) if total else 100.0

    @property
    def seconds_left(self) -> float | None:
        """How long what is left takes at the rate so far, if all of it must move; None where that cannot be told."""
        left = self.total_bytes - self.moved - self.skipped
        return None if not self.moved or self.seconds < 1 or left <= 0 else left * self.seconds / self.moved

    def __str__(self) -> str:
        sizes = f"{human_size(self.moved + self.skipped)} of {human_size(self.total_bytes)}"
        text = f"{self.verb}: {self.percent:.0f} % ({sizes}, {self.files} of {self.total_files} files)"
        if self.skipped:
            text += f", {human_size(self.skipped)} were there already"
        if self.moved and self.seconds >= 1:
            text += f", {human_size(int(self.moved / self.seconds))}/s"
        if self.seconds_left is not None:
            text += f", {duration(math.ceil(self.seconds_left))} left"
        return text


class RunProgress:
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
        self.moved = 0
        """Bytes moved, over all stages."""
        self.skipped = 0
        """Bytes that needed no move, over all stages."""
        self._logger = logger
        self._watching = current_watcher().progress
        self._key = key if artifacts.is_in_a_run() else ""
        self._update_seconds = update_seconds
        self._log_seconds = log_seconds
        self._lock = threading.Lock()
        self._stage = StageProgress("", 0, 0)
        self._files = 0
        self._began = 0.0
        self._artifact_id: UUID | None = None
        self._told: StageProgress | None = None
        self._has_all = False
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins; one that is still going on ends."""
        self.end()
        self._watching.begin(verb, total_bytes=total_bytes, total_files=total_files)
        self._began = time.monotonic()
        with self._lock:
            # Counted from what earlier stages have done.
            self._stage = StageProgress(verb, total_bytes, total_files, self.moved, self.skipped, self._files)
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
        self._watching.advance(moved=moved, skipped=skipped, files=files)
        with self._lock:
            self.moved += moved
            self.skipped += skipped
            self._files += files
            stage = self._stage
            arrived = self.moved + self.skipped - stage.moved - stage.skipped
            has_all = 0 < stage.total_bytes <= arrived and self._files - stage.files >= stage.total_files
            is_news, self._has_all = has_all and not self._has_all, has_all
        if is_news:
            self._news.set()

    def note(self, message: str) -> None:
        """Log something worth knowing."""
        self._watching.note(message)
        self._logger.info("%s", message)

    def end(self) -> None:
        """The stage is over."""
        if self._thread is None:
            return
        self._watching.end()
        self._stop.set()
        self._news.set()
        # A daemon: where the API hangs, the work is done all the same.
        self._thread.join(_LAST_UPDATE_SECONDS)
        self._thread = None
        self._logger.info("%s", self._now())

    def _now(self) -> StageProgress:
        with self._lock:
            stage = self._stage
            return StageProgress(
                stage.verb,
                stage.total_bytes,
                stage.total_files,
                self.moved - stage.moved,
                self.skipped - stage.skipped,
                self._files - stage.files,
                seconds=time.monotonic() - self._began,
            )

    def _report(self, stop: threading.Event, news: threading.Event) -> None:
        next_line = time.monotonic() + self._log_seconds
        while not stop.is_set():
            # That all has arrived is told at once, while the catalog is written, for the end not to wait for it.
            is_over = news.wait(self._update_seconds)
            news.clear()
            standing = self._now()
            self._show(standing, create=not is_over)
            if time.monotonic() >= next_line:
                self._logger.info("%s", standing)
                next_line += self._log_seconds
        if replace(self._now(), seconds=0.0) != self._told:
            self._show(self._now(), create=False)

    def _show(self, standing: StageProgress, *, create: bool) -> None:
        if not self._key:
            return
        self._told = replace(standing, seconds=0.0)
        try:
            if self._artifact_id is not None:
                artifacts.update_progress(self._artifact_id, standing.percent, str(standing))
            elif create:
                self._artifact_id = artifacts.create_progress(self._key, standing.percent, str(standing))
        except (httpx.HTTPError, RuntimeError) as error:
            # RuntimeError: the client was closed, because the run did not wait for us any longer.
            self._logger.warning("the Prefect API does not take the progress any more: %s", error)
            self._key = ""
