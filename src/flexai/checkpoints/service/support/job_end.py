"""How an attempt at a training job ended: its status, the reason for it in words, and the log as it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flexai.checkpoints.documents import lost_versions
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.models import Checkpoint, JobStatus
from flexai.checkpoints.names import some
from flexai.checkpoints.service.support.leftovers import NOT_STORED
from flexai.checkpoints.storage.files import read_blocks
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.managed_capture import CaptureReport
from flexai.checkpoints.training.runner import Ended

MAX_STORED_LOG = 256 * 1024**2
"""Bytes of a log's end that are stored for other machines."""
MAX_LAST_LOG = 1024**2
"""The same where this machine goes away."""
_MAX_REASONS = 5


def outcome(
    ended: Ended | None, report: CaptureReport, *, stopped: str, durable: Sequence[str], is_strict: bool
) -> tuple[JobStatus, list[str]]:
    """The status of an attempt, and the first reasons for it.

    ``ended`` is None where there was no command; ``stopped`` says by what it was told to end, and is empty where it
    ended by itself; ``durable`` says what is stored and what is not, where this machine goes away.
    """
    if stopped or ended is None:
        return JobStatus.STOPPED, list(durable) or [stopped]
    status, why = JobStatus.FAILED, ""
    if ended.signal_name:
        hint = ", often a sign of too little memory" if ended.signal_name == "SIGKILL" else ""
        why = f"the command was ended by {ended.signal_name}{hint}"
    elif ended.exit_code:
        why = f"the command ended with exit code {ended.exit_code}"
    elif report.failures:
        why = NOT_STORED
    elif report.lost and is_strict:
        why = f"the command succeeded, but {lost_versions(len(report.lost))}"
    else:
        status = JobStatus.SUCCEEDED
    return status, [*([why] if why else []), *(durable if report.postponed else ())]


def what_is_durable(by: str, latest: Checkpoint | None, report: CaptureReport, host: str) -> list[str]:
    """What of an attempt is stored, and what is not, when ``by``, a signal, has told that this machine goes away."""
    stored = "no checkpoint was stored" if latest is None else f"stored {_called(latest.name, latest.facts.step)}"
    sentences = [f"preempted by {by}: {stored}"]
    if report.postponed:
        newest = report.postponed[::-1]
        names = [_called(found.name, _step_of(found)) for found in newest]
        sentences.append(f"not stored: {some(names)} (pins kept on {host})")
    return sentences


def joined(reasons: Sequence[str]) -> str:
    """Reasons as one text, each once, and not too many."""
    distinct = list(dict.fromkeys(reasons))
    left_out = len(distinct) - _MAX_REASONS
    return "; ".join(distinct[:_MAX_REASONS]) + (f"; and {left_out} more in the log" if left_out > 0 else "")


class LogEnd:
    """A log as it is stored: all of it, or its end where it is very long."""

    def __init__(self, path: Path, *, limit: int, check: Callable[[], None]) -> None:
        """``limit`` is in bytes; ``check`` is called on the way, and ends the storing by what it raises."""
        self._path = path
        self._check = check
        size = path.stat().st_size
        self._start = max(0, size - limit)
        self._length = size - self._start
        self._head = f"[flexai] {self._start} bytes before this were not stored\n".encode() if self._start else b""
        self.size = len(self._head) + self._length

    def blocks(self) -> Iterator[Block]:
        """Yield the log from its start."""
        self._check()
        if self._head:
            yield memoryview(self._head)
        with self._path.open("rb") as file:
            for block in read_blocks(file.fileno(), self._start, self._length):
                self._check()
                yield block


def _called(name: str, step: int | None) -> str:
    return f"{name or 'the checkpoint in the root'!r}" if step is None else f"step {step}"


def _step_of(found: Found) -> int | None:
    try:
        return found.facts().step
    except (CheckpointError, OSError):
        return None
