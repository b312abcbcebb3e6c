"""JSON documents in another form."""

from __future__ import annotations

from typing import Any


def reversed_document(document: Any) -> Any:
    """The same JSON document, built in another order."""
    if isinstance(document, dict):
        return {name: reversed_document(document[name]) for name in reversed(document)}
    return [reversed_document(item) for item in document] if isinstance(document, list) else document
