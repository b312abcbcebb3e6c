"""The program, with a home and a working directory of its own."""

from __future__ import annotations

from tests.cli.conftest import program

__all__ = ["program"]
