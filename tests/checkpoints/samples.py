"""Small valid values of the checkpoint system's words, for tests that care about one field at a time."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from flexai.checkpoints.manifest import FileEntry, Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, Source
from flexai.checkpoints.names import new_id, parse_id
from flexai.checkpoints.owner import Owner

TIME = datetime(2025, 2, 3, 13, 14, 37, 730471, tzinfo=UTC)
OWNER = Owner(user_id=parse_id(uuid.UUID(int=1)), org_id=parse_id(uuid.UUID(int=2)))
OTHER_OWNER = Owner(user_id=parse_id(uuid.UUID(int=3)), org_id=parse_id(uuid.UUID(int=2)))


def checkpoint(**fields: Any) -> Checkpoint:
    """An available checkpoint, but for what the caller says otherwise."""
    defaults: dict[str, Any] = {
        "id": new_id(),
        "kind": CheckpointKind.PUSHED,
        "name": "llama",
        "creator_user_id": OWNER.user_id,
        "owner_org_id": OWNER.org_id,
        "source": Source(from_local_files=("model.safetensors",)),
        "status": CheckpointStatus.AVAILABLE,
        "size": 3,
        "file_count": 1,
        "manifest_digest": "ab" * 32,
        "store_id": parse_id(uuid.UUID(int=9)),
        "created_at": TIME,
        "updated_at": TIME,
    }
    return Checkpoint(**defaults | fields)


def file_entry(path: str = "model.safetensors", **fields: Any) -> FileEntry:
    """A file of one part."""
    defaults: dict[str, Any] = {"path": path, "size": 3, "digest": "cd" * 32, "part_size": 1024}
    return FileEntry(**defaults | fields)


def manifest(*paths: str) -> Manifest:
    """A manifest of small files."""
    return Manifest(files=tuple(file_entry(path) for path in sorted(paths or ("model.safetensors",))))
