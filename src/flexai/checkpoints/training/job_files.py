"""Where one attempt of a training job keeps things on this machine, and the mark that something of it is left.

::

    jobs/ID/attempt-N/running.json    there while the attempt runs, and afterwards until nothing of it is left to do
    jobs/ID/attempt-N/log.txt         what the command printed
    jobs/ID/attempt-N/output/         FLEXAI_OUTPUT_CHECKPOINT_DIR, unless the user names another directory
    jobs/ID/attempt-N/input/          FLEXAI_INPUT_CHECKPOINT_DIR
    jobs/ID/attempt-N/pins/           hard links to files of the output directory, on the same file system
    jobs/ID/attempt-N/reports/        what the command reports that it has saved (``reports.py``)
    jobs/ID/attempt-N/unfinished/     files of the output directory that no rule could call whole or torn
    jobs/ID/attempt-N/removed/        what is being removed

Where several machines run the command together, ``attempt-N-node-R`` is that of one of them: they may share the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flexai.checkpoints.catalog.leases import process_start, this_host
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.models import JobStatus, Node, TrainingJob, now
from flexai.checkpoints.names import Id
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.private_folders import make_private_file, make_private_folder
from flexai.checkpoints.training.launchers import NODE_SUFFIX, folder_suffix
from flexai.checkpoints.training.output_dir import Excluded, place_beside

_ATTEMPT = "attempt-"
_MARK = "running.json"
_REMOVED = "removed"
_KEPT = frozenset({"log.txt", "unfinished"})
"""What stays of an attempt of which nothing is left to do."""


def job_folder(jobs_path: Path, job_id: Id) -> Path:
    """The folder of a job."""
    return jobs_path / job_id


@contextmanager
def alone_with(folder: Path) -> Iterator[None]:
    """Wait until no other process works on what a job has left in its folder, and keep others from it.

    A job that has no folder has left nothing. Raises OSError.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt ended: kept beside its output until the catalog knows, and nothing is left."""

    status: JobStatus
    exit_code: int | None
    reason: str
    lost: int
    ended_at: datetime
    is_swept: bool
    """Whether its capture was finished, so that all that is pinned still is whole."""


@dataclass(frozen=True, slots=True)
class AttemptPlaces:
    """The folders and files of one attempt."""

    folder: Path
    output: Path
    is_users_output: bool = False
    """Whether the user named the output directory: then it is never removed."""
    node: Node | None = None
    """Which of several machines this is."""
    exclude: Sequence[str] = ()
    """The user's patterns of what of the output is not captured; what takes over a left attempt goes by them too."""

    @classmethod
    def of(
        cls,
        jobs_path: Path,
        job_id: Id,
        attempt: int,
        output: Path | None = None,
        node: Node | None = None,
        *,
        exclude: Sequence[str] = (),
    ) -> AttemptPlaces:
        """The places of a job's attempt; ``output`` is a directory that the user named."""
        folder = job_folder(jobs_path, job_id) / f"{_ATTEMPT}{attempt}{folder_suffix(node)}"
        return cls(folder, output or folder / "output", is_users_output=output is not None, node=node, exclude=exclude)

    def excluded(self, own: OwnFolders) -> Excluded:
        """What of the output is not captured, the folders in which flexai keeps its own among it."""
        return Excluded(self.output, self.exclude, own if self.is_users_output else None)

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
        return self._beside_output("pins")

    @property
    def reports(self) -> Path:
        """What the trainer reports that it has saved: beside the output directory, as the pins are."""
        return self._beside_output("reports")

    def _beside_output(self, what: str) -> Path:
        if not self.is_users_output:
            return self.folder / what
        return place_beside(self.output, what, self.node)

    def make(self) -> None:
        """Make the folders, readable by their owner alone. Raises OSError."""
        make_private_folder(self.folder)
        if self.is_users_output:
            self.output.mkdir(parents=True, exist_ok=True)
        else:
            make_private_folder(self.output)
        make_private_folder(self.reports)

    def mark_running(self, pid: int | None = None) -> None:
        """Note that the attempt runs, and as which process, for the next attempt to find after its runner's death.

        Raises OSError.
        """
        self._mark(
            {
                "host": this_host(),
                "pid": pid,
                "processStarted": process_start(pid) if pid else None,
                "startedAt": now().isoformat(),
                "output": str(self.output),
                "isUsersOutput": self.is_users_output,
                "node": None if self.node is None else list(self.node),
                "exclude": list(self.exclude),
            }
        )

    def mark_ended(self, end: AttemptEnd) -> None:
        """Note how the attempt ended. Raises OSError."""
        document = parse_json((self.folder / _MARK).read_bytes())
        self._mark(
            document
            | {
                "ended": {
                    "status": end.status,
                    "exitCode": end.exit_code,
                    "reason": end.reason,
                    "lost": end.lost,
                    "endedAt": end.ended_at.isoformat(),
                    "isSwept": end.is_swept,
                }
            }
        )

    def unmark(self) -> None:
        """Take the mark away: nothing of the attempt is left to do. Raises OSError."""
        (self.folder / _MARK).unlink(missing_ok=True)

    def clean(self, *, keep_output: bool, keep_reports: bool = False) -> None:
        """Remove the input, what became of reports, and the output unless it is the user's. Raises OSError."""
        self._remove(self.folder / _REMOVED)
        self._remove(self.input)
        if not keep_reports:
            self._remove_reports()
        if not keep_output and not self.is_users_output:
            # In one step: half an output could look like whole checkpoints to who comes after us.
            with suppress(FileNotFoundError):
                self.output.rename(self.folder / _REMOVED)
            self._remove(self.folder / _REMOVED)

    def _remove_reports(self) -> None:
        from flexai.checkpoints.training.reports import Reports

        Reports(self.reports).remove_empty()

    def set_aside(self, paths: Iterable[str]) -> Path:
        """Move files of the output to where no capture looks again, and return that place. Raises OSError."""
        place = self.folder / "unfinished"
        make_private_folder(place)
        for path in paths:
            with suppress(FileNotFoundError):
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (self.output / path).rename(place / path)
        return place

    def _mark(self, document: Mapping[str, object]) -> None:
        temporary = self.folder / f".{_MARK}"
        make_private_file(temporary)
        temporary.write_text(json.dumps(document), encoding="utf-8")
        temporary.replace(self.folder / _MARK)

    def _remove(self, folder: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


@dataclass(frozen=True, slots=True)
class LeftAttempt:
    """An attempt of which something is left: its runner died, or could not store or tell everything."""

    number: int
    places: AttemptPlaces
    started_at: datetime
    host: str = ""
    pid: int | None = None
    process_started: str | None = None
    end: AttemptEnd | None = None
    """How it ended, where its runner lived to tell."""

    @property
    def name(self) -> str:
        """What to call it: ``attempt-2``."""
        return self.places.folder.name

    def end_command(self, grace: float) -> None:
        """End its command if that outlived its runner: no process may write to its output any more."""
        if self.end is None and self.pid is not None and self.process_started and self.host == this_host():
            from flexai.checkpoints.training.runner import end_orphan

            is_same: Callable[[], bool] = lambda: process_start(self.pid or 0) == self.process_started  # noqa: E731
            end_orphan(self.pid, grace, is_same)


def left_attempts(
    jobs_path: Path, job_id: Id, *, before: int, own: AttemptPlaces | None = None
) -> Iterator[LeftAttempt]:
    """Yield the attempts of a job before one of which something is left on this machine, oldest first.

    ``own`` are the places of one in that attempt itself, of a machine that has come again. Earlier versions took the
    mark away with the end, whatever was left.
    """
    for attempt in range(1, before):
        for folder in sorted(job_folder(jobs_path, job_id).glob(f"{_ATTEMPT}{attempt}{NODE_SUFFIX}*")):
            if (left := _read_mark(AttemptPlaces(folder, folder / "output"), attempt)) is not None:
                yield left
        places = AttemptPlaces.of(jobs_path, job_id, attempt)
        left = _read_mark(places, attempt)
        if left is not None:
            yield left
        elif places.folder.is_dir() and any(entry.name not in _KEPT for entry in places.folder.iterdir()):
            yield LeftAttempt(attempt, places, datetime.min.replace(tzinfo=UTC))
    if own is not None and (left := _read_mark(own, before)) is not None:
        yield left


def end_of(folder: Path) -> AttemptEnd | None:
    """How the attempt of a folder ended, where that is kept there."""
    left = _read_mark(AttemptPlaces(folder, folder / "output"), 0)
    return None if left is None else left.end


def nodes_as_they_ended(job: TrainingJob) -> dict[int, AttemptEnd]:
    """How machines of a job ended that the catalog takes for interrupted, by their numbers, as this one knows."""
    here = this_host().partition("/")[0]
    ends = {
        one.node: end_of(Path(one.log_path).parent)
        for one in job.nodes
        if one.status is JobStatus.INTERRUPTED and one.ended_at is None and one.host == here
    }
    return {node: end for node, end in ends.items() if end is not None}


def is_here(job: TrainingJob) -> bool:
    """Whether this is the machine of a job's last attempt, and no other user's home is closed around it."""
    if job.host != this_host().partition("/")[0]:
        return False
    try:
        Path(job.log_path).stat()
    except PermissionError:
        return False
    except OSError:
        pass  # it is gone, which is another matter
    return True


def as_it_ended(job: TrainingJob) -> TrainingJob:
    """A job that the catalog knows as interrupted, as this machine knows that it ended.

    Of several machines each knows only how its own part of the job did.
    """
    if job.node_count > 1:
        return job
    end = end_of(Path(job.log_path).parent) if job.status is JobStatus.INTERRUPTED and is_here(job) else None
    if end is None:
        return job
    return job._replace(
        status=end.status,
        exit_code=end.exit_code,
        reason=end.reason,
        ended_at=end.ended_at,
        lost=job.lost + end.lost,
    )


def _read_mark(places: AttemptPlaces, attempt: int) -> LeftAttempt | None:
    try:
        document = parse_json((places.folder / _MARK).read_bytes())
        output = Path(document["output"]) if document["isUsersOutput"] else places.output
        ended = document.get("ended")
        return LeftAttempt(
            number=attempt,
            places=AttemptPlaces(
                places.folder,
                output,
                is_users_output=bool(document["isUsersOutput"]),
                node=_node(document.get("node")),
                exclude=tuple(map(str, document.get("exclude", ()))),
            ),
            started_at=datetime.fromisoformat(document["startedAt"]),
            host=document["host"],
            pid=document["pid"],
            process_started=document["processStarted"],
            end=None
            if ended is None
            else AttemptEnd(
                status=JobStatus(ended["status"]),
                exit_code=ended["exitCode"],
                reason=ended["reason"],
                lost=ended["lost"],
                ended_at=datetime.fromisoformat(ended["endedAt"]),
                is_swept=ended["isSwept"],
            ),
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _node(document: Any) -> Node | None:
    if document is None:
        return None
    rank, total = document
    return Node(int(rank), int(total))
