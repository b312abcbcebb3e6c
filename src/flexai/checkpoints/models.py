"""The words of the checkpoint system as data: checkpoint, training job, export record.

Plain records, since every push needs them: to import pydantic and build models would take it a fifteenth of a second.
What comes from outside is checked by pydantic where it is read (``manifest``, ``manifest_reader``), against the
annotations and rules here.

Annotations are evaluated where they stand: kept as texts, each would be compiled when its class is made, and all
commands make these.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from flexai.checkpoints.names import LONGEST_METRIC, NIL_ID, Id, is_hex, is_metric_name, is_uuid, title_of


class CheckpointStatus(StrEnum):
    """Where a checkpoint is in its life."""

    UPLOADING = "uploading"
    SYNCING = "syncing"
    AVAILABLE = "available"
    FAILED = "failed"
    DELETING = "deleting"
    INCOMPLETE = "incomplete"
    """Of several machines some have not brought their parts, or these are not whole together."""


class CheckpointKind(StrEnum):
    """How a checkpoint came to be: a user pushed it, or a training job wrote it."""

    PUSHED = "pushed"
    CAPTURED = "captured"


class JobStatus(StrEnum):
    """Where a training job is in its life."""

    IN_PROGRESS = "in progress"
    STOP_IN_PROGRESS = "stop in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self not in {JobStatus.IN_PROGRESS, JobStatus.STOP_IN_PROGRESS}


_STRICT = {"extra": "forbid"}
"""Has pydantic refuse a document with fields that are not known."""


class ManifestSummary(NamedTuple):
    """What the catalog keeps of a manifest."""

    digest: str
    """BLAKE3 of the manifest's canonical form, in hex."""
    size: int
    """Bytes of all files."""
    file_count: int
    folders: tuple[str, ...] = ()
    """The paths of its empty folders."""


MOST_METRICS = 200
"""Of one checkpoint."""


class Source(NamedTuple):
    """Where a checkpoint's files came from."""

    from_local_files: tuple[str, ...] = ()
    storage_provider: str = ""
    storage_provider_id: Id = NIL_ID
    source_path: str = ""
    revision: str = ""
    """What a movable source path meant when it was read."""


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a captured checkpoint's own files say about it.

    ValueError for a step that no database holds, for a number that JSON does not know, and for metrics that are too
    many or whose names cannot be shown.
    """

    __pydantic_config__: ClassVar = _STRICT

    step: int | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    model: str = ""
    version: str = ""
    inference_ready: bool = False
    inference_missing: tuple[str, ...] = ()
    resumable: bool | None = None
    """Whether a training can go on from it; None where that cannot be told."""
    resumable_missing: tuple[str, ...] = ()
    """Why it is not resumable, or why that cannot be told."""
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What was measured at its step, by name."""
    best_by: str = ""
    """The metric that its trainer chooses the best checkpoint by, and which way where it says so: ``accuracy:max``."""
    reported: tuple[str, ...] = ()
    """What of it its trainer reported, rather than its files tell: ``step``, and names of metrics."""

    def __post_init__(self) -> None:
        if self.step is not None and not -(2**63) <= self.step < 2**63:
            raise ValueError(f"the step {self.step} is out of range")
        for loss in (self.train_loss, self.eval_loss):
            if loss is not None and not math.isfinite(loss):
                raise ValueError(f"a loss of {loss} is not finite")
        if len(self.metrics) > MOST_METRICS:
            raise ValueError(f"there are more than {MOST_METRICS} metrics")
        for name, value in self.metrics.items():
            if not is_metric_name(name) or not math.isfinite(value):
                raise ValueError(f"a metric is no name of at most {LONGEST_METRIC} characters with a finite number")
        # Records do not change.
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    def __getstate__(self) -> dict[str, Any]:
        # Task runners send records to other processes, which a view of a mapping cannot be.
        return {**vars(self), "metrics": dict(self.metrics)}

    @property
    def is_unfit(self) -> bool:
        """Whether it is known that no training can go on from it; what cannot be told is not known."""
        return self.resumable is False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A named, immutable set of files with a UUID, an owner, a status and a manifest.

    ValueError for an id or a digest that is none, and for a size or a number of files that is out of range.
    """

    __pydantic_config__: ClassVar = _STRICT

    id: Id
    kind: CheckpointKind
    name: str
    """A resource name; for a captured checkpoint its folder's name, which may be empty."""
    creator_user_id: Id
    owner_org_id: Id
    source: Source
    status: CheckpointStatus
    reason: str = ""
    size: int = 0
    """Bytes in all."""
    file_count: int = 0
    manifest_digest: str | None = None
    store_id: str = ""
    parent_id: Id | None = None
    """The checkpoint it was pushed or trained from."""
    job_id: Id | None = None
    job_name: str = ""
    node: str = "0"
    """The machine of its job that wrote it."""
    nodes: str = ""
    """The machines of its job that have brought a part of it, where there are several: ``0-3``, ``0,2``."""
    parts: int = 0
    """How many machines its job has; 0 for one."""
    attempt: int = 0
    """Which attempt of its job, on several machines, wrote it; 0 where that does not matter."""
    creator: str = ""
    """Who made it, for people: ``user@host``."""
    folders: tuple[str, ...] = ()
    """The paths of its empty folders."""
    part_of: Id | None = None
    """The checkpoint that holds what this machine and the others have brought."""
    sequence: int = 0
    """The order in which its job's checkpoints were captured."""
    pointers: tuple[str, ...] = ()
    """What the trainer's links and pointer files called it, relative to the folder that it lies in: ``last.ckpt``, and
    ``last.ckpt -> epoch=3.ckpt`` for a symbolic link."""
    facts: TrainingFacts = TrainingFacts()
    is_protected: bool = False
    """Whether it is kept from being deleted."""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    def __post_init__(self) -> None:
        ids = (self.id, self.creator_user_id, self.owner_org_id, self.parent_id, self.job_id, self.part_of)
        for found in (*ids, self.source.storage_provider_id):
            if found is not None and (not is_uuid(found) or found != found.lower()):
                raise ValueError(f"the id {found!r} is no UUID")
        if not all(0 <= number < 2**63 for number in (self.size, self.file_count)):
            raise ValueError("the size or the number of files of a checkpoint is out of range")
        digest = self.manifest_digest
        if digest is not None and (not is_hex(digest, 64) or digest != digest.lower()):
            raise ValueError("the manifest's digest is none")

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)


DAMAGED = "content of it is damaged in the store"
"""The reason that an available or deleted checkpoint has while the catalog knows that."""


class ListedCheckpoint(NamedTuple):
    """What lists show of a checkpoint: a tuple of texts and numbers, because a long list is made of thousands.

    Times are as ``to_text`` writes them. What a job's checkpoints alone have stays empty in the other lists.
    """

    id: Id
    kind: str
    name: str
    job_name: str
    status: str
    reason: str
    size: int
    """Bytes in all."""
    file_count: int
    created_at: str
    updated_at: str
    deleted_at: str | None
    is_protected: bool
    node: str = "0"
    step: int | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    model: str = ""
    version: str = ""
    inference_ready: bool = False
    resumable: bool | None = None
    metrics: Mapping[str, float] = MappingProxyType({})
    best_by: str = ""
    pointers: Sequence[str] = ()
    creator: str = ""

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)

    @property
    def standing(self) -> str:
        """Its status, and whether stored content of it is damaged, in a word or two."""
        return f"{self.status}, damaged" if self.reason == DAMAGED else self.status


class ListedFile(NamedTuple):
    """One file of a checkpoint, as it is shown."""

    path: str
    size: int
    """Bytes."""
    digest: str | None
    """BLAKE3 in hex; None where only the provider's checksums are known."""
    checksums: Mapping[str, str] = MappingProxyType({})
    executable: tuple[str, ...] | None = None
    """What its loading imports or calls that is not known to be harmless; None where it was not looked into."""
    not_followed: tuple[str, ...] = ()
    """What of it could not be looked into, and so may run anything."""
    is_executable: bool = False
    """Whether its mode lets it be executed."""
    is_damaged: bool = False
    """Whether its stored content was found damaged."""


class Node(NamedTuple):
    """One of the machines that run a training job together."""

    rank: int
    """From 0."""
    total: int
    """How many they are: more than one."""


class JobNode(NamedTuple):
    """What one of several machines does, or did, in a job's last attempt."""

    node: int
    status: JobStatus
    host: str
    output_dir: str
    log_path: str
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""


class TrainingJob(NamedTuple):
    """One run of a user's training command."""

    id: Id
    name: str
    creator_user_id: Id
    owner_org_id: Id
    status: JobStatus
    command: tuple[str, ...]
    output_dir: str
    log_path: str
    created_at: datetime
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    env_names: tuple[str, ...] = ()
    """Names only: values may be secrets."""
    attempt: int = 1
    exit_code: int | None = None
    input_checkpoint_id: Id | None = None
    input_checkpoint_name: str = ""
    """Its name while it is there."""
    checkpoint_count: int = 0
    """How many of its checkpoints were available when the job was read."""
    host: str = ""
    code_commit: str = ""
    """The commit of the command's code, and whether it was changed."""
    lost: int = 0
    """Versions of its checkpoints that were whole once and could not be stored, of all attempts."""
    node_count: int = 1
    """How many machines its last attempt has."""
    creator: str = ""
    """Who made it, for people: ``user@host``."""
    nodes: tuple[JobNode, ...] = ()
    """Those of them that have come, where there are several; in order of their numbers."""


class ExportRecord(NamedTuple):
    """That a checkpoint was exported, and where to."""

    id: Id
    checkpoint_id: Id
    storage_provider: str
    destination_path: str
    manifest_digest: str
    """Of what is there."""
    exported_at: datetime
    is_part: bool = False
    """Whether only some of the checkpoint's files are there."""


class Actor(NamedTuple):
    """Who changes something, and from where."""

    name: str = ""
    """``user@host``, or what the setting ``owner`` says."""
    host: str = ""
    """The machine that the command runs on."""
    flow_run_id: str = ""
    """The Prefect flow run that it is a part of; empty where it is of none."""


class HistoryEntry(NamedTuple):
    """One change of a checkpoint, a training job or the store."""

    at: datetime
    actor: str
    host: str
    flow_run_id: str
    action: str
    """``push``, ``delete``, ``protect``, …"""
    kind: str
    """What was changed: ``checkpoint``, ``job``, ``store``."""
    subject_id: Id
    title: str
    """What it was called then."""
    before: Mapping[str, Any]
    """The fields that changed, as they were."""
    after: Mapping[str, Any]
    """The same fields as they are since."""


_PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types of nearly all values, told first: a list of thousands feels it."""


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def plain(value: Any) -> Any:
    """One of these records, or a value of theirs, in JSON's own types; times are ISO 8601 texts."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if is_dataclass(value):
        kind: Any = type(value)
        found = ((name, getattr(value, name)) for name in _field_names(kind))
        return {name: item if type(item) in _PLAIN else plain(item) for name, item in found}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, StrEnum) else value


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(document: Any) -> bytes:
    """The one byte form of a JSON document: sorted keys, no spaces, UTF-8, no NaN."""
    return _CANONICAL.encode(document).encode()


def canonical_manifest(entries: Iterable[dict[str, Any]], folders: Sequence[str] = ()) -> Iterator[bytes]:
    """The one byte form of the manifest of entries and empty folders, piece by piece.

    As a whole it takes as much as all of them.
    """
    before = b'{"files":['
    for entry in entries:
        yield before + canonical_json(entry)
        before = b","
    yield b"]" if before == b"," else before + b"]"
    # Only where there are any: manifests without them are what they were before these were known.
    yield b',"folders":%s}' % canonical_json(list(folders)) if folders else b"}"


def digest_manifest(canonical: Iterable[bytes | bytearray]) -> str:
    """BLAKE3 of the pieces of a manifest's canonical form, in hex."""
    from blake3 import blake3

    hasher = blake3()
    for piece in canonical:
        hasher.update(piece)
    return hasher.hexdigest()


YEARS = range(1970, 9999)
"""Of a time that is taken from outside: languages and databases know others, but each ends at another one."""

UNKNOWN_TIME = datetime(1900, 1, 1, tzinfo=UTC)
"""Stands for a time that the catalog has and that cannot be read."""


_followed: tuple[datetime, float] | None = None
"""What another clock said, and how long this machine had run by then, in seconds."""


def now() -> datetime:
    """The present, in UTC: by the catalog's clock, where the catalog is on a server, and else by this machine's."""
    if _followed is None:
        return machine_time()
    present_then, ran_then = _followed
    return present_then + timedelta(seconds=_running() - ran_then)


def follow_clock(present: datetime) -> None:
    """Go on from what another clock says now, where this machine's is set otherwise by a second or more.

    Machines that share a catalog judge by its times whether a lease has run out, or a grace period.
    """
    global _followed  # noqa: PLW0603 - a process has one present
    is_off = abs(present - machine_time()) >= timedelta(seconds=1)
    _followed = (present.astimezone(UTC), _running()) if is_off else None


def machine_time() -> datetime:
    """What this machine's clock says, in UTC."""
    return datetime.now(UTC)


def _running() -> float:
    """Seconds that the machine has run, those that it has slept included where the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def to_text(time: datetime) -> str:
    """A time as the catalog and the documents write it, which sorts as a text: ``2025-02-03T13:14:37.730471Z``."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time that a text of :func:`to_text` names; UNKNOWN_TIME for any other text, which no list may fail for."""
    try:
        time = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return UNKNOWN_TIME
    return time if time.tzinfo is not None and time.year in YEARS else UNKNOWN_TIME
