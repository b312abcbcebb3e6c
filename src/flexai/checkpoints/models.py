"""The words of the checkpoint system as data: checkpoint, manifest, file, training job, export record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from flexai.checkpoints import paths
from flexai.checkpoints.names import title_of

NIL_UUID = UUID(int=0)
"""Stands for "no storage provider" in the reference's documents."""


class CheckpointStatus(StrEnum):
    """Where a checkpoint is in its life."""

    UPLOADING = "uploading"
    SYNCING = "syncing"
    AVAILABLE = "available"
    FAILED = "failed"
    DELETING = "deleting"


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


class DigestOrigin(StrEnum):
    """Who computed a file's digest."""

    COMPUTED = "computed"
    PROVIDER = "provider"


SafePath = Annotated[str, AfterValidator(paths.parse_path)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(Frozen):
    """One file of a manifest.

    The fields stand in order of their names, so that pydantic writes them in canonical order.
    """

    checksums: dict[str, str] = Field(default_factory=dict, description="The provider's own checksums, in hex")
    digest: Digest | None = Field(
        default=None, description="BLAKE3 of the file's parts' digests; None until it is read"
    )
    part_size: int = Field(gt=0, description="Bytes of each part but the last")
    parts: tuple[Digest, ...] = Field(default=(), description="BLAKE3 of each part, where there is more than one")
    path: SafePath
    size: int = Field(ge=0, description="Bytes")

    @field_validator("checksums")
    @classmethod
    def _in_order(cls, value: dict[str, str]) -> dict[str, str]:
        return dict(sorted(value.items()))

    @property
    def digest_origin(self) -> DigestOrigin:
        """Whether the digest was computed here or only the provider's checksum is known."""
        return DigestOrigin.PROVIDER if self.digest is None else DigestOrigin.COMPUTED


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What the catalog keeps of a manifest."""

    digest: str
    """BLAKE3 of the manifest's canonical form, in hex."""
    size: int
    """Bytes of all files."""
    file_count: int


class Manifest(Frozen):
    """The list of a checkpoint's files, in order of their paths; once written it never changes.

    Its digest names the content: two checkpoints with equal manifests hold the same files.
    """

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def _files_lie_beside_each_other(self) -> Manifest:
        names = [paths.CheckpointPath(entry.path) for entry in self.files]
        if names != sorted(names):
            raise ValueError("the files of a manifest are in order of their paths")
        paths.check_path_set(names)
        return self

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self.files)

    def canonical(self) -> bytes:
        """The manifest's one byte form: JSON with sorted keys, no spaces, UTF-8."""
        return canonical_manifest(self.files)

    def digest(self) -> str:
        """BLAKE3 of the canonical form, in hex."""
        return digest_manifest(self.canonical())

    @property
    def summary(self) -> ManifestSummary:
        """What the catalog keeps of it."""
        return ManifestSummary(digest=self.digest(), size=self.size, file_count=len(self.files))


def canonical_manifest(entries: Iterable[FileEntry]) -> bytes:
    """The one byte form of the manifest of entries, which may be made one at a time."""
    return b'{"files":[' + b",".join(entry.model_dump_json().encode() for entry in entries) + b"]}"


def digest_manifest(canonical: bytes) -> str:
    """BLAKE3 of a manifest's canonical form, in hex."""
    from blake3 import blake3

    return blake3(canonical).hexdigest()


class Source(Frozen):
    """Where a checkpoint's files came from."""

    from_local_files: tuple[str, ...] = ()
    storage_provider: str = ""
    storage_provider_id: UUID = NIL_UUID
    source_path: str = ""
    revision: str = Field(default="", description="What a movable source path meant when it was read")


class TrainingFacts(Frozen):
    """What a captured checkpoint's own files say about it."""

    step: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    train_loss: float | None = Field(default=None, allow_inf_nan=False)
    eval_loss: float | None = Field(default=None, allow_inf_nan=False)
    model: str = ""
    version: str = ""
    inference_ready: bool = False
    inference_missing: tuple[str, ...] = ()
    resumable: bool = False
    resumable_missing: tuple[str, ...] = ()


class Checkpoint(Frozen):
    """A named, immutable set of files with a UUID, an owner, a status and a manifest."""

    id: UUID
    kind: CheckpointKind
    name: str = Field(description="A resource name; for a captured checkpoint its folder's name, which may be empty")
    creator_user_id: UUID
    owner_org_id: UUID
    source: Source
    status: CheckpointStatus
    reason: str = ""
    size: int = Field(default=0, ge=0, description="Bytes in all")
    file_count: int = Field(default=0, ge=0)
    manifest_digest: Digest | None = None
    store_id: str = ""
    parent_id: UUID | None = Field(default=None, description="The checkpoint it was pushed or trained from")
    job_id: UUID | None = None
    job_name: str = ""
    node: str = "0"
    sequence: int = Field(default=0, description="The order in which its job's checkpoints were captured")
    facts: TrainingFacts = TrainingFacts()
    is_protected: bool = Field(default=False, description="Whether it is kept from being deleted")
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)


class TrainingJob(Frozen):
    """One run of a user's training command."""

    id: UUID
    name: str
    creator_user_id: UUID
    owner_org_id: UUID
    status: JobStatus
    reason: str = ""
    command: tuple[str, ...]
    env_names: tuple[str, ...] = Field(default=(), description="Names only: values may be secrets")
    attempt: int = 1
    exit_code: int | None = None
    input_checkpoint_id: UUID | None = None
    output_dir: str
    log_path: str
    host: str = ""
    code_commit: str = Field(default="", description="The commit of the command's code, and whether it was changed")
    created_at: datetime
    started_at: datetime
    ended_at: datetime | None = None
    updated_at: datetime


class ExportRecord(Frozen):
    """That a checkpoint was exported, and where to."""

    id: UUID
    checkpoint_id: UUID
    storage_provider: str
    destination_path: str
    manifest_digest: Digest
    exported_at: datetime


def canonical_json(document: Any) -> bytes:
    """The one byte form of a JSON document: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)
