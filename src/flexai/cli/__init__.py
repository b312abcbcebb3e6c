"""The ``flexai`` command."""

from flexai.cli.root import cli, main

__all__ = ["cli", "main"]
