"""Giving a job's checkpoints what its logs say of their steps."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.names import Id
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.logged import is_log, metrics_by_step
from flexai.checkpoints.training.output_dir import Excluded, OutputTree

_LEAST_PAUSE_SECONDS = 5.0
_SHARE = 50
"""A look at the logs is followed by a pause of so many times the time that it took."""


class LoggedMetrics:
    """The logs in an attempt's output directory, which loggers write beside the checkpoints, often after those."""

    def __init__(self, system: System, job_id: Id, output: Path, *, since: datetime, excluded: Excluded) -> None:
        """``since`` is when the attempt began: an earlier one's checkpoints have its own logs.

        ``excluded`` logs are not read.
        """
        self._excluded = excluded
        self._system = system
        self._job_id = job_id
        self._output = output
        self._since = since
        self._next = 0.0

    def add_now_and_then(self) -> None:
        """Add what is there, unless that was done just now."""
        began = time.monotonic()
        if began >= self._next:
            self.add()
            ended = time.monotonic()
            self._next = ended + max(_LEAST_PAUSE_SECONDS, _SHARE * (ended - began))

    def add(self) -> None:
        """Add what is there to the attempt's checkpoints. What cannot be read or recorded now is left for later."""
        with suppress(OSError, CheckpointError):
            tree = OutputTree(Beneath(self._output), excluded=self._excluded)
            tree.refresh()
            sizes = {path: stamp.size for path, stamp in tree.wanted_files() if is_log(path)}
            if sizes and (found := metrics_by_step(CheckpointFolder("", sizes, Beneath(self._output).at))):
                self._system.catalog.checkpoints.add_metrics(self._job_id, found, since=self._since)
