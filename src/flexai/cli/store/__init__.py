"""``flexai store``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "store",
    cls=LazyGroup,
    lazy={"adopt": ("flexai.cli.store.adopt:adopt", "Let the managed store belong to this catalog.")},
)
def store() -> None:
    """Look after the managed store.

    A store belongs to one catalog: another one, which does not know what the first one needs, would collect it.

    \b
    flexai store adopt
    """
