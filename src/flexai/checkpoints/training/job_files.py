"""Where one attempt of a training job keeps things on this machine, and the mark that it has not ended in order.

::

    jobs/ID/attempt-N/running.json    there while the attempt runs; still there afterwards if its runner died
    jobs/ID/attempt-N/log.txt         what the command printed
    jobs/ID/attempt-N/output/         FLEXAI_OUTPUT_CHECKPOINT_DIR, unless the user names another directory
    jobs/ID/attempt-N/input/          FLEXAI_INPUT_CHECKPOINT_DIR
    jobs/ID/attempt-N/pins/           hard links to files of the output directory, on the same file system
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flexai.checkpoints.catalog.leases import process_start, this_host
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.models import now
from flexai.checkpoints.names import Id
from flexai.checkpoints.private_folders import make_private_file, make_private_folder
from flexai.checkpoints.training.runner import end_orphan

_ATTEMPT = "attempt-"
_MARK = "running.json"


def job_folder(jobs_path: Path, job_id: Id) -> Path:
    """The folder of a job."""
    return jobs_path / job_id


@dataclass(frozen=True, slots=True)
class AttemptPlaces:
    """The folders and files of one attempt."""

    folder: Path
    output: Path
    is_users_output: bool = False
    """Whether the user named the output directory: then it is never removed."""

    @classmethod
    def of(cls, jobs_path: Path, job_id: Id, attempt: int, output: Path | None = None) -> AttemptPlaces:
        """The places of a job's attempt; ``output`` is a directory that the user named."""
        folder = job_folder(jobs_path, job_id) / f"{_ATTEMPT}{attempt}"
        return cls(folder, output or folder / "output", is_users_output=output is not None)

    @property
    def log(self) -> Path:
        """The log."""
        return self.folder / "log.txt"

    @property
    def input(self) -> Path:
        """Where the checkpoint to start from is fetched to."""
        return self.folder / "input"

    @property
    def pins(self) -> Path:
        """The pins: beside the output directory, because hard links cannot leave a file system."""
        return self.output.parent / f".{self.output.name}.flexai-pins" if self.is_users_output else self.folder / "pins"

    def make(self) -> None:
        """Make the folders, readable by their owner alone. Raises OSError."""
        make_private_folder(self.folder)
        if self.is_users_output:
            self.output.mkdir(parents=True, exist_ok=True)
        else:
            make_private_folder(self.output)

    def mark_running(self, pid: int | None = None) -> None:
        """Note that the attempt runs, and as which process, for the next attempt to find after its runner's death."""
        document = {
            "host": this_host(),
            "pid": pid,
            "processStarted": process_start(pid) if pid else None,
            "startedAt": now().isoformat(),
            "output": str(self.output),
            "isUsersOutput": self.is_users_output,
        }
        temporary = self.folder / f".{_MARK}"
        make_private_file(temporary)
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.replace(self.folder / _MARK)

    def mark_ended(self) -> None:
        """Take the mark away: the attempt has ended in order."""
        (self.folder / _MARK).unlink(missing_ok=True)

    def clean(self, *, keep_output: bool) -> None:
        """Remove the input, and the output unless it is to be kept or the user's. Raises OSError."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.input)
        if not keep_output and not self.is_users_output:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.output)


@dataclass(frozen=True, slots=True)
class BrokenAttempt:
    """An attempt whose runner died."""

    places: AttemptPlaces
    started_at: datetime
    host: str
    pid: int | None
    process_started: str | None

    @property
    def name(self) -> str:
        """What to call it: ``attempt-2``."""
        return self.places.folder.name

    def end_command(self, grace: float) -> None:
        """End its command if that outlived its runner: no process may write to its output any more."""
        if self.pid is not None and self.process_started and self.host == this_host():
            is_same: Callable[[], bool] = lambda: process_start(self.pid or 0) == self.process_started  # noqa: E731
            end_orphan(self.pid, grace, is_same)


def broken_attempts(jobs_path: Path, job_id: Id, *, before: int) -> Iterator[BrokenAttempt]:
    """Yield the attempts of a job before one that did not end in order, oldest first."""
    for attempt in range(1, before):
        places = AttemptPlaces.of(jobs_path, job_id, attempt)
        try:
            document = parse_json((places.folder / _MARK).read_bytes())
            users_output = Path(document["output"]) if document["isUsersOutput"] else None
            yield BrokenAttempt(
                places=AttemptPlaces.of(jobs_path, job_id, attempt, users_output),
                started_at=datetime.fromisoformat(document["startedAt"]),
                host=document["host"],
                pid=document["pid"],
                process_started=document["processStarted"],
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
