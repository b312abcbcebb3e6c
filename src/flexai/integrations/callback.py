"""What the callbacks of all frameworks do: open a run, report to it, and end it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import is_metric_name
from flexai.training import HOUR, Run


class ReportingCallback:
    """Reports what a trainer saves to a run: one that it is given, that it is below, or that it opens itself.

    Args:
        run: A Run, which its maker closes; or the name of the training job, whose run is opened when the training
            begins and closed when it ends. Below ``flexai training run`` that command's job is meant, and this may be
            left out.
        output_dir: The directory below which the trainer saves, for a name.
    """

    def __init__(self, run: Run | str = "", output_dir: str | os.PathLike[str] | None = None) -> None:
        self._given = run
        self._output_dir = output_dir
        self._run: Run | None = None if isinstance(run, str) else run

    @property
    def run(self) -> Run:
        """The run that is reported to; opened by the first use.

        Raises:
            UsageError: There is no name or no output directory, or the name cannot be one.
            OSError: The folder for the reports cannot be made.
        """
        if self._run is None:
            self._run = Run.current() or self._opened()
        return self._run

    def resume_path(self, timeout: float | None = 4 * HOUR) -> Path | None:
        """What the training goes on from, as ``--checkpoint latest`` gives it; None to start from scratch.

        Args:
            timeout: Seconds to wait for it at most, four hours where left out; with None without end.

        Raises:
            CheckpointError: What ``Run.resume_path`` raises, and what opening the run does.
        """
        return self.run.resume_path(timeout)

    def _opened(self) -> Run:
        if not isinstance(self._given, str) or not self._given or self._output_dir is None:
            raise UsageError(
                "the callback has no training job to report to",
                hint='give it a name and a directory, FlexAICallback("my-run", output_dir="out"), or a Run; '
                "below flexai training run it needs neither",
            )
        return Run(self._given, self._output_dir)

    def _end(self, status: str, reason: str = "") -> None:
        """Close the run that was opened here; another training with this callback opens one anew."""
        if self._run is not None and isinstance(self._given, str):
            run, self._run = self._run, None
            run.close(status, reason)


def numbers(metrics: Mapping[str, object]) -> dict[str, float]:
    """Those of a framework's metrics that are one number under a name that can be shown."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, (str, bool)) or not isinstance(value, SupportsFloat) or not is_metric_name(name):
            continue
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
            continue
    return found
