"""A manifest as it is read: pydantic checks every entry before its first use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from flexai.checkpoints import paths
from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.models import ManifestSummary, canonical_manifest, digest_manifest, plain

_SafePath = Annotated[str, AfterValidator(paths.parse_path)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Checksums = dict[
    Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")],
    Annotated[str, Field(pattern=r"^[ -~]{1,300}$")],
]


class _Frozen(BaseModel):
    """A value that never changes; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Not a model, of which 100,000 take 70 MiB more.
@dataclass(config=ConfigDict(extra="forbid"), frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a manifest."""

    checksums: _Checksums = Field(default_factory=dict, description="The provider's own checksums, in hex")
    digest: _Digest | None = Field(
        default=None, description="BLAKE3 of the file's parts' digests; None until it is read"
    )
    part_size: int = Field(gt=0, lt=2**63, strict=True, description="Bytes of each part but the last")
    executable: bool = Field(default=False, strict=True, description="Whether its mode lets it be executed")
    parts: Annotated[tuple[_Digest, ...], FailFast()] = Field(
        default=(), description="BLAKE3 of each part, where there is more than one"
    )
    path: _SafePath
    size: int = Field(ge=0, lt=2**63, strict=True, description="Bytes")

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, value: Any) -> Any:
        # pydantic describes each field that is not known, which could be a million.
        if isinstance(value, dict) and len(value) > len(fields(cls)):
            raise ValueError("a file of a manifest has fields that are not known")
        return value

    @field_validator("checksums", mode="before")
    @classmethod
    def _are_few(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > 10:
            raise ValueError("a file of a manifest has more checksums than there are")
        return value

    @field_validator("checksums")
    @classmethod
    def _in_order(cls, value: dict[str, str]) -> dict[str, str]:
        return dict(sorted(value.items()))


class Manifest(_Frozen):
    """The list of a checkpoint's files, in order of their paths; once written it never changes.

    Its digest names the content: two checkpoints with equal manifests hold the same files.
    """

    files: Annotated[tuple[FileEntry, ...], FailFast()]
    folders: Annotated[tuple[_SafePath, ...], FailFast()] = ()
    """The empty ones, in order of their paths."""

    @model_validator(mode="after")
    def _files_lie_beside_each_other(self) -> Manifest:
        names = [paths.CheckpointPath(entry.path) for entry in self.files]
        if names != sorted(names):
            raise ValueError("the files of a manifest are in order of their paths")
        if list(self.folders) != sorted(self.folders):
            raise ValueError("the folders of a manifest are in order of their paths")
        paths.check_path_set([*names, *map(paths.CheckpointPath, self.folders)])
        if self.size >= 2**63:
            raise ValueError("the files of a manifest are larger than all databases know")
        return self

    @classmethod
    def read(cls, document: object) -> Manifest:
        """The manifest that a foreign document describes; ValueError, in words, for one that cannot be."""
        # pydantic describes every flaw, of which there could be a million; FailFast is for lists alone.
        if not isinstance(document, dict) or len(document) > len(cls.model_fields):
            raise ValueError("a manifest has files and empty folders, and nothing else")
        try:
            return cls.model_validate(document)
        except UnsafePathError as error:
            raise ValueError(error.message) from error
        except ValidationError as error:
            raise ValueError(first_flaw(error)) from error

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self.files)

    def canonical(self) -> bytes:
        """The manifest's one byte form: JSON with sorted keys, no spaces, UTF-8."""
        return b"".join(self._canonical())

    def _canonical(self) -> Iterator[bytes]:
        return canonical_manifest(map(_fields_of, self.files), self.folders)

    def digest(self) -> str:
        """BLAKE3 of the canonical form, in hex."""
        return digest_manifest(self._canonical())

    @property
    def summary(self) -> ManifestSummary:
        """What the catalog keeps of it."""
        return ManifestSummary(self.digest(), self.size, len(self.files), tuple(self.folders))


def _fields_of(entry: FileEntry) -> dict[str, Any]:
    """An entry as manifests have it: what is true of few files is said of these alone."""
    found: dict[str, Any] = plain(entry)
    if not entry.executable:
        del found["executable"]
    return found


def first_flaw(error: ValidationError) -> str:
    """What pydantic found first, in one short line: a foreign document can have a million flaws."""
    flaw = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, flaw["loc"]))
    return f"{place[:100]!r}: {flaw['msg'][:200]}" if place else flaw["msg"][:200]
