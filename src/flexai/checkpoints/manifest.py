"""A manifest as it is read: pydantic checks every entry before its first use."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from flexai.checkpoints import paths
from flexai.checkpoints.models import ManifestSummary, canonical_manifest, digest_manifest

_SafePath = Annotated[str, AfterValidator(paths.parse_path)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """One file of a manifest."""

    checksums: dict[str, str] = Field(default_factory=dict, description="The provider's own checksums, in hex")
    digest: _Digest | None = Field(
        default=None, description="BLAKE3 of the file's parts' digests; None until it is read"
    )
    part_size: int = Field(gt=0, description="Bytes of each part but the last")
    parts: tuple[_Digest, ...] = Field(default=(), description="BLAKE3 of each part, where there is more than one")
    path: _SafePath
    size: int = Field(ge=0, description="Bytes")

    @field_validator("checksums")
    @classmethod
    def _in_order(cls, value: dict[str, str]) -> dict[str, str]:
        return dict(sorted(value.items()))


class Manifest(_Frozen):
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
        return canonical_manifest(entry.model_dump(mode="json") for entry in self.files)

    def digest(self) -> str:
        """BLAKE3 of the canonical form, in hex."""
        return digest_manifest(self.canonical())

    @property
    def summary(self) -> ManifestSummary:
        """What the catalog keeps of it."""
        return ManifestSummary(digest=self.digest(), size=self.size, file_count=len(self.files))
