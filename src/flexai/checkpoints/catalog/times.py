"""Times as the catalog holds them: ISO 8601 in UTC with microseconds, which sort as texts."""

from __future__ import annotations

from datetime import UTC, datetime


def to_text(time: datetime) -> str:
    """``2025-02-03T13:14:37.730471Z``."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime:
    """The time that a text of :func:`to_text` names."""
    return datetime.fromisoformat(text)
