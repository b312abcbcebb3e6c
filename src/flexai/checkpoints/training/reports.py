"""What a trainer reports that it has saved: its files, held in a folder from which the capturing process takes them.

::

    REPORTS/NAME/report.json    what was saved: path, step, metrics, and by which of how many ranks
    REPORTS/NAME/files/…        its files, by their paths below the output directory
    REPORTS/.NAME/              one that is being made or removed
    REPORTS/expected            there once the trainer has said that it will report what it saves; its job's name
    REPORTS/ending              there while what a training has reported is stored, after its end
    REPORTS/outcomes            a line of JSON for each report: what became of it

A report is complete when its folder gets its name, and is removed when it is stored, so that it outlives the trainer
and the process that captures. Each trainer holds a lock on the folder, so that none removes it under another one's
hands: a training may begin again while the helper of the one before still stores. The first of a job's holds one on
``expected`` as well. While a report is being stored, that process holds a lock on its ``report.json``; a report without
one may be dropped by the trainer that wrote it.

Its files are links, which cost nothing. What the trainer may write over next (a name that tells no number) is cloned
where the file system can, and copied where it is small; else it is linked, and the process that captures copies it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import itertools
import json
import math
import os
import posixpath
import reprlib
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import SupportsInt

from flexai.checkpoints.choosing import losses_of
from flexai.checkpoints.errors import ConflictError, SourceError
from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.models import MOST_METRICS, TrainingFacts
from flexai.checkpoints.names import is_metric_name
from flexai.checkpoints.private_folders import make_private_folder
from flexai.checkpoints.training.output_dir import Stamp
from flexai.checkpoints.training.units import DEEPSPEED_LATEST, MEGATRON_LATEST, TENSORFLOW_LATEST, has_number

_REPORT, _FILES = "report.json", "files"
_EXPECTED, _ENDING, _OUTCOMES = "expected", "ending", "outcomes"
_COPIED_BYTES = 4 * 1024 * 1024
"""Copied by the trainer itself: a few milliseconds."""
_DATABASE_BITS = 64
"""A whole number of a database takes fewer than this, without its sign."""
_TEXT_BYTES = 4096
_TEXTS = (DEEPSPEED_LATEST, MEGATRON_LATEST, TENSORFLOW_LATEST)
_FICLONE = 0x40049409
"""``ioctl_ficlone(2)``: one file shares another one's content until either is written."""


@dataclass(frozen=True, slots=True)
class Report:
    """One that is complete."""

    name: str
    folder: Path
    path: str
    """What was saved, below the output directory; empty for that itself."""
    step: int | None
    metrics: Mapping[str, float]
    rank: int
    ranks: int
    """How many ranks of this machine report the same."""
    output: Path
    """The output directory that it means."""
    originals: Mapping[str, Stamp]
    """Its files as they were, by their paths below the output directory."""
    is_linked: bool
    """Whether the trainer may yet write into the very files that are held."""
    left_out: Sequence[str]
    """What is no file, and is not held: links that lead elsewhere, FIFOs and the like."""

    @property
    def files(self) -> Path:
        """The folder of the files that are held."""
        return self.folder / _FILES

    def over(self, facts: TrainingFacts) -> TrainingFacts:
        """What its files tell, but for what the trainer knows better."""
        # The reported ones first, so that these stay where there are too many.
        metrics = dict(list((dict(self.metrics) | dict(facts.metrics) | dict(self.metrics)).items())[:MOST_METRICS])
        train_loss, eval_loss = losses_of(metrics)
        return replace(
            facts,
            step=facts.step if self.step is None else self.step,
            metrics=metrics,
            train_loss=train_loss,
            eval_loss=eval_loss,
            reported=(*(["step"] if self.step is not None else []), *self.metrics),
        )


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """What became of a report."""

    report: str
    path: str
    step: int | None
    checkpoint: str
    """The UUID of the checkpoint that it is; empty where there is none."""
    error: str
    """Why it is not stored; empty where it is."""


class Reports:
    """The reports on one output directory, as they are taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._are_expected = False

    def are_expected(self) -> bool:
        """Whether the trainer reports what it saves."""
        self._are_expected = self._are_expected or (self.folder / _EXPECTED).exists()
        return self._are_expected

    def mark_ending(self) -> None:
        """Say that the training has ended, and that what it has reported is being stored. Raises OSError."""
        (self.folder / _ENDING).touch()

    def unmark_ending(self) -> None:
        """Say so no more: a training begins. Raises OSError."""
        (self.folder / _ENDING).unlink(missing_ok=True)

    def are_ending(self) -> bool:
        """Whether it is said."""
        return (self.folder / _ENDING).exists()

    def names(self) -> list[str]:
        """The complete ones, oldest first."""
        try:
            found = sorted(path.name for path in self.folder.iterdir() if path.name[0].isdigit())
            # A pin that is made while its report is dropped leaves a folder that is none.
            return [name for name in found if (self.folder / name / _REPORT).exists()]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> Report | None:
        """A report; None where it was dropped. Raises ValueError for one that no trainer of ours wrote."""
        folder = self.folder / name
        try:
            document = parse_json((folder / _REPORT).read_bytes())
        except FileNotFoundError:
            return None
        try:
            step, metrics = document["step"], checked_metrics(document["metrics"])
            files = {str(path): Stamp(*map(int, values)) for path, values in document["files"].items()}
            if not (step is None or isinstance(step, int)) or any(_is_outside(path) for path in files):
                raise ValueError("a step or a path that cannot be")
            return Report(
                name=name,
                folder=folder,
                path=str(document["path"]),
                step=step,
                metrics=metrics,
                rank=int(document["rank"]),
                ranks=int(document["ranks"]),
                output=Path(document["output"]),
                originals=files,
                is_linked=bool(document["linked"]),
                left_out=tuple(map(str, document["leftOut"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it lacks what a report says: {error}") from error

    @contextmanager
    def held(self, report: Report) -> Iterator[bool]:
        """Keep the trainer from dropping a report; False where it has done so. Raises OSError."""
        try:
            descriptor = os.open(report.folder / _REPORT, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield report.folder.is_dir()
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a report, in one step. Raises OSError."""
        gone = self.folder / f".{name}"
        with suppress(FileNotFoundError):
            (self.folder / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def tell(self, outcome: ReportOutcome) -> None:
        """Say what became of a report. Raises OSError."""
        line = json.dumps(
            {
                "report": outcome.report,
                "path": outcome.path,
                "step": outcome.step,
                "checkpoint": outcome.checkpoint,
                "error": outcome.error,
            }
        )
        with (self.folder / _OUTCOMES).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    def remove_empty(self) -> bool:
        """Remove the folder, unless a report is left or a trainer uses it; whether none is left. Raises OSError."""
        if self.names():
            return False
        with suppress(FileNotFoundError, BlockingIOError):
            descriptor = _locked(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                shutil.rmtree(self.folder)
            finally:
                os.close(descriptor)
        return True


class ReportWriter:
    """One rank's reports. Used by one thread at a time."""

    def __init__(self, folder: Path, output: Path, *, job: str = "", rank: int = 0, ranks: int = 1) -> None:
        """Raises OSError where the folder cannot be made."""
        self._locks = [_used(folder)]
        self._job = job
        self.folder = folder
        self._reports = Reports(folder)
        self._output = Path(os.path.realpath(output))
        self._rank, self._ranks = rank, ranks
        self._numbers = itertools.count(1)
        self._read = 0
        self._told: set[str] = set()
        self._of_ours = f"-{rank}-{os.getpid()}-"

    def close(self) -> None:
        """Let the folder be removed."""
        for lock in self._locks:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a forked process may have it open too
            os.close(lock)

    def expect(self) -> None:
        """Say that what is saved will be reported. Raises ConflictError where another job's trainer does, and OSError.

        What both save would be captured for one of the jobs, whichever takes it first.
        """
        place = self.folder / _EXPECTED
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # until the first one has written
                other = file.read()
            if self._job and other not in {"", self._job}:
                raise ConflictError(
                    f"training job {other!r} is running with the output directory {self._output}",
                    hint="name another directory for each job, or close the run of the other one first",
                ) from None
        else:
            self._locks.append(descriptor)
            try:
                place.write_text(self._job, "utf-8")
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_SH)

    def write(self, saved: str | os.PathLike[str], *, step: int | None, metrics: Mapping[str, float]) -> str:
        """Report what was saved, and return its path below the output directory.

        Raises SourceError for what is not there or not below the output directory, and OSError.
        """
        path = self._below(saved)
        if not self._reports.are_expected():
            self.expect()
        name = f"{time.time_ns():020d}{self._of_ours}{next(self._numbers)}"
        building = self.folder / f".{name}"
        files = building / _FILES
        files.mkdir(parents=True)
        try:
            found, empty, left_out = self._find(path)
            for folder in empty:
                (files / folder).mkdir(parents=True)
            is_rewritten = not has_number(posixpath.basename(path))
            is_small = sum(stamp.size for stamp in found.values()) <= _COPIED_BYTES
            is_linked = False
            for relative, stamp in found.items():
                held = files / relative
                held.parent.mkdir(parents=True, exist_ok=True)
                is_text = posixpath.basename(relative) in _TEXTS and stamp.size <= _TEXT_BYTES
                is_linked |= not _hold(
                    self._output / relative, held, copies=is_text or (is_rewritten and is_small), clones=is_rewritten
                )
            document = {
                "path": path,
                "step": step,
                "metrics": dict(metrics),
                "rank": self._rank,
                "ranks": self._ranks,
                "output": str(self._output),
                "files": {relative: stamp.identity for relative, stamp in found.items()},
                "linked": is_linked and is_rewritten,
                "leftOut": left_out,
            }
            (building / _REPORT).write_text(json.dumps(document), encoding="utf-8")
            building.rename(self.folder / name)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return path

    def waiting(self) -> list[str]:
        """This writer's reports of which it has not learnt what became of them, oldest first."""
        return [name for name in self._reports.names() if self._of_ours in name and name not in self._told]

    def drop(self, name: str) -> bool:
        """Remove a report; False where it is being stored, or is not there. Raises OSError."""
        try:
            descriptor = os.open(self.folder / name / _REPORT, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._reports.remove(name)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def outcomes(self) -> list[ReportOutcome]:
        """What became of this writer's reports since the last call."""
        try:
            with (self.folder / _OUTCOMES).open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        every = [ReportOutcome(**parse_json(line)) for line in whole.splitlines()]
        ours = [one for one in every if self._of_ours in one.report]
        self._told |= {one.report for one in ours}
        return ours

    def _below(self, saved: str | os.PathLike[str]) -> str:
        """The path of what was saved, below the output directory; a link means what it leads to."""
        place = Path(os.path.realpath(saved))
        if not place.is_relative_to(self._output):
            raise SourceError(
                f"{os.fspath(saved)!r} is not below the output directory {self._output}",
                hint="save below the output_dir of the Run, or name another one",
            )
        path = place.relative_to(self._output).as_posix()
        return "" if path == "." else path

    def _find(self, path: str) -> tuple[dict[str, Stamp], list[str], list[str]]:
        """The files of what was saved, as they are now, its empty folders, and what is left out."""
        found: dict[str, Stamp] = {}
        empty: list[str] = []
        left_out: list[str] = []
        place, name = posixpath.split(path)
        folder = self._output / place
        try:
            status = (self._output / path).stat()
        except FileNotFoundError:
            # TensorFlow saves by the prefix of several files.
            parts = [one for kind in ("index", "data-*") for one in folder.glob(f"{glob.escape(name)}.{kind}")]
            if not parts:
                raise SourceError(f"{str(self._output / path)!r} is not there", hint="report what is saved") from None
            found = {posixpath.join(place, one.name): Stamp.of(one.stat()) for one in parts}
        else:
            if stat.S_ISREG(status.st_mode):
                return {path: Stamp.of(status)}, [], []
            for relative, entry in _walk(self._output / path, path):
                if entry.is_file(follow_symlinks=False):
                    found[relative] = Stamp.of(entry.stat(follow_symlinks=False))
                elif entry.is_dir(follow_symlinks=False):
                    empty.append(relative)
                elif not (entry.is_symlink() and Path(os.path.realpath(entry)).is_relative_to(self._output / path)):
                    left_out.append(relative)
        if path:
            # What the loader of a folder wants beside it: DeepSpeed's `latest`, and its like.
            for text in _TEXTS:
                with suppress(FileNotFoundError):
                    status = (folder / text).lstat()
                    if stat.S_ISREG(status.st_mode) and status.st_size <= _TEXT_BYTES:
                        found[posixpath.join(place, text)] = Stamp.of(status)
        return found, empty, left_out


def checked_step(step: SupportsInt) -> int:
    """A step as a whole number that databases hold. Raises ValueError for another one."""
    number = int(step)
    if number.bit_length() >= _DATABASE_BITS:
        raise ValueError(f"{reprlib.repr(number)} is no step")
    return number


def checked_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as plain finite numbers; what has none, such as a loss that is not a number, is left out.

    Raises ValueError for a name that cannot be shown, and for what is no number.
    """
    found = {}
    for name, value in metrics.items():
        if not is_metric_name(name):
            raise ValueError(f"{name!r} is no name of a metric")
        number = float(value)
        if math.isfinite(number):
            found[name] = number
    return found


def _used(folder: Path) -> int:
    """A lock on the folder for reports, which is made where it is not there. Raises OSError."""
    while True:
        make_private_folder(folder)
        with suppress(FileNotFoundError):
            descriptor = _locked(folder, fcntl.LOCK_SH)
            if folder.exists() and os.path.samestat(folder.stat(), os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)  # it was removed in this moment


def _locked(folder: Path, how: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_outside(path: str) -> bool:
    return path.startswith("/") or any(part in {"", ".", ".."} for part in path.split("/"))


def _walk(folder: Path, path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what is in a folder that is no folder itself, and the folders that hold nothing."""
    with os.scandir(folder) as entries:
        for entry in entries:
            relative = f"{path}/{entry.name}" if path else entry.name
            if entry.is_dir(follow_symlinks=False):
                is_empty = True
                for inner in _walk(folder / entry.name, relative):
                    is_empty = False
                    yield inner
                if is_empty:
                    yield relative, entry
            else:
                yield relative, entry


def _hold(source: Path, held: Path, *, copies: bool, clones: bool) -> bool:
    """Hold a file by what no process writes to; False where it is the file itself that is held, or it is not held."""
    is_copied = clones and _clone(source, held)
    if copies and not is_copied:
        shutil.copyfile(source, held)
        is_copied = True
    if is_copied:
        held.chmod(stat.S_IMODE(source.stat().st_mode) & stat.S_IRWXU | stat.S_IRUSR | stat.S_IWUSR)
        return True
    try:
        os.link(source, held, follow_symlinks=False)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}:
            raise
        # It is read where it is, then, by the process that captures.
    return False


def _clone(source: Path, held: Path) -> bool:
    with source.open("rb") as read, held.open("xb") as written, suppress(OSError):
        fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
        return True
    held.unlink()
    return False
