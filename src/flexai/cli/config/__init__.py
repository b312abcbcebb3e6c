"""``flexai config``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "config",
    cls=LazyGroup,
    lazy={"show": ("flexai.cli.config.show:show", "Show every setting and where it comes from.")},
)
def config() -> None:
    """Show the settings in force.

    \b
    flexai config show
    """
