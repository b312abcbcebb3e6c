"""What the commands show of a connection. Secrets are never part of it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from flexai.checkpoints.documents import Document

if TYPE_CHECKING:
    from flexai.blocks import SavedConnection

_SHOWN_ELSEWHERE = {"capabilities", "schema_version", "block_type_slug"}


def connection_document(connection: SavedConnection) -> Document:
    """A connection as a document; secret fields show only whether they are set."""
    block = connection.block
    spec: Document = {"provider": connection.provider}
    if block is not None:
        spec["location"] = block.location
        fields = block.model_dump(mode="json", exclude=_SHOWN_ELSEWHERE)
        # What a saved block remembers of its document is among its fields as well.
        spec |= {name: value for name, value in fields.items() if not name.startswith("_")}
    return {
        "kind": "StorageProviderConnection",
        "metadata": {"name": connection.name, "id": str(connection.id)},
        "spec": spec,
        "status": {
            "problem": connection.problem,
            "capabilities": dict(block.capabilities) if block is not None else {},
            "createdAt": _time(connection.created_at),
            "updatedAt": _time(connection.updated_at),
        },
    }


def _time(time: datetime | None) -> str:
    from flexai.checkpoints.models import to_text

    return "" if time is None else to_text(time)
