"""``flexai storage``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "storage",
    cls=LazyGroup,
    lazy={
        "create": ("flexai.cli.storage.create:create", "Save a connection to a storage provider."),
        "list": ("flexai.cli.storage.list:list_connections", "List the connections."),
        "inspect": ("flexai.cli.storage.inspect:inspect", "Show everything about a connection."),
        "check": ("flexai.cli.storage.check:check", "Try out what a connection may do."),
        "delete": ("flexai.cli.storage.delete:delete", "Delete a connection."),
    },
)
def storage() -> None:
    """Keep connections to storage providers.

    A connection holds the endpoint and the credentials of a provider, under a name; the bucket is part of the
    path that push and export are given. Connections are saved as Prefect blocks, by the Prefect API that is
    configured, or else by an embedded one.

    \b
    flexai storage create models-share --provider local --root /mnt/models
    flexai storage check models-share checkpoints
    flexai checkpoint push mistral-500 --storage-provider models-share --source-path checkpoints/mistral-500
    """
