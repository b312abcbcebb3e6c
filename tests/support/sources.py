"""Sources that are only planned with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flexai.checkpoints.paths import CheckpointPath
from flexai.checkpoints.transfer.sources import FileSource, OpenSource


@dataclass(frozen=True)
class PlannedSource:
    """A source that is never opened: what plans looks at paths and sizes alone."""

    path: CheckpointPath
    size: int
    is_executable: bool = False
    is_local: bool = True
    version: str = ""
    origin: str = ""
    digest: str = ""
    checksums: Mapping[str, str] = field(default_factory=dict, compare=False)
    claim: None = None

    def open(self) -> OpenSource:
        raise AssertionError("nothing that only plans opens a source")


def planned_sources(sizes: list[int]) -> list[FileSource]:
    """One of each size in bytes."""
    return [PlannedSource(CheckpointPath(f"f{number:05}"), size) for number, size in enumerate(sizes)]
