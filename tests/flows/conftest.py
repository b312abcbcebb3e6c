"""A user's home folder, as the tasks' tests have it."""

from __future__ import annotations

from tests.tasks.conftest import home

__all__ = ["home"]
