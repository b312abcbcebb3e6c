"""Who is at work on a checkpoint or a job, so that an interrupted one can be taken over and a live one cannot.

A lease ends by itself and has a fencing token. Its holder renews it while it works and writes only where the token is
still its own, so a holder that slept through its lease cannot undo what its successor did. On one machine a dead holder
is known at once, from its process; elsewhere its lease must run out first. The columns of the tables are called
``claim_…``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from flexai.checkpoints.catalog.database import Transaction
from flexai.checkpoints.errors import StorageError
from flexai.checkpoints.models import from_text, now, to_text

_HAS_PROC = sys.platform == "linux"
"""Whether the system tells of its processes in files; elsewhere psutil asks it, which Linux does without."""

LEASE_LENGTH = timedelta(seconds=60)
RENEWAL = timedelta(seconds=15)
_AFTER_FAILURE = timedelta(seconds=1)
"""When a renewal that failed is tried again: a database that comes and goes could miss all that a lease outlasts."""


_DROPPED: set[str] = set()
"""Tokens of leases under which this process works no more, though the catalog shows them."""


class Lease(NamedTuple):
    """Who holds a row."""

    token: str
    host: str
    pid: int
    started: str
    until: str

    @classmethod
    def new(cls) -> Lease:
        """A lease of this process, from now."""
        return cls(
            token=os.urandom(16).hex(),
            host=this_host(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            until=lease_end(),
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Lease | None:
        """The lease that a row shows, if any."""
        if row["claim_token"] is None:
            return None
        return cls(
            token=row["claim_token"],
            host=row["claim_host"],
            pid=row["claim_pid"],
            started=row["claim_started"],
            until=row["claim_until"],
        )

    def columns(self) -> dict[str, Any]:
        """The columns that hold it."""
        return {
            "claim_token": self.token,
            "claim_host": self.host,
            "claim_pid": self.pid,
            "claim_started": self.started,
            "claim_until": self.until,
        }

    def drop(self) -> None:
        """Note that this process has stopped its work under the lease, where the catalog could not be told."""
        _DROPPED.add(self.token)

    @contextlib.contextmanager
    def dropped_on_error(self) -> Iterator[None]:
        """Drop the lease where the block that takes it fails: whether the catalog has it is not known then."""
        try:
            yield
        except BaseException:
            self.drop()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether its holder may still be at work."""
        if self.token in _DROPPED:
            return False
        if self.host == this_host():
            started = process_start(self.pid)
            if started is None:
                return False
            # Where the system does not tell a start, or did not when the lease was taken, the process counts.
            if started == self.started or not (started and self.started):
                return True
            if _HAS_PROC:
                return False
            # psutil corrects a start by what the clock was set by since psutil was imported, so two processes may read
            # two starts of one: a holder of another start is alive as long as it renews its lease.
        return from_text(self.until) > now()

    @property
    def holder(self) -> str:
        """The holder, for people."""
        return f"process {self.pid} on {self.host.split('/')[0]}"


def is_held(row: Mapping[str, Any]) -> bool:
    """Whether a row shows a lease whose holder may still be at work."""
    holder = Lease.of_row(row)
    return holder is not None and holder.is_alive


LEASE_COLUMNS = ("claim_token", "claim_host", "claim_pid", "claim_started", "claim_until")

LEASE = ", ".join(LEASE_COLUMNS)
"""The columns that hold a lease, for a query."""

NO_LEASE: dict[str, Any] = dict.fromkeys(LEASE_COLUMNS, None)
"""Their values where no process holds a row."""


HELD = "id = :id AND claim_token = :token"
"""The condition that a row is still its holder's."""


def update_held(transaction: Transaction, table: str, row_id: str, lease: Lease, new: Mapping[str, Any]) -> int:
    """Set columns of a row that the lease still holds; 0 where it does not."""
    return transaction.update(table, new, HELD, id=row_id, token=lease.token)


def lease_end() -> str:
    """When a lease renewed now runs out."""
    return to_text(now() + LEASE_LENGTH)


def this_host() -> str:
    """Where a pid has a meaning: this machine since its last start, and the process namespace within it."""
    boot, namespace = "", ""
    if _HAS_PROC:
        # Sandboxes such as gVisor lack one or the other.
        with contextlib.suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with contextlib.suppress(OSError):
            namespace = str(Path("/proc/self/ns/pid").readlink())
    return "/".join((os.uname().nodename, boot, namespace))


def process_start(pid: int) -> str | None:
    """When a process of this machine began, as the system counts it; None where there is no such process.

    Empty where the system does not tell.
    """
    if _HAS_PROC:
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the program's name in brackets and may hold anything; the times follow it
        # (man 5 proc: field 3 is the state, field 22 the start).
        state, *rest = fields.rpartition(b")")[2].split()
        return None if state == b"Z" else rest[18].decode()
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return ""


class LeaseKeeper:
    """Renews a lease from a thread of its own while a ``with`` block works."""

    def __init__(self, renew: Callable[[], bool]) -> None:
        """``renew`` extends the lease and says whether it is still ours."""
        self._renew = renew
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        from flexai.checkpoints.storage.patience import without_waiting

        pause = RENEWAL
        while not self._stop.wait(pause.total_seconds()):
            pause = RENEWAL
            try:
                with without_waiting():
                    is_ours = self._renew()
                if not is_ours:
                    return  # taken over: the next write under the old token says so
            except StorageError:
                pause = _AFTER_FAILURE
