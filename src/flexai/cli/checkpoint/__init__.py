"""``flexai checkpoint``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "checkpoint",
    cls=LazyGroup,
    lazy={
        "push": ("flexai.cli.checkpoint.push:push", "Push a new checkpoint."),
        "fetch": ("flexai.cli.checkpoint.fetch:fetch", "Fetch a checkpoint into a directory."),
        "export": ("flexai.cli.checkpoint.export:export", "Copy a checkpoint to a storage provider."),
        "inspect": ("flexai.cli.checkpoint.inspect:inspect", "Show everything about a checkpoint."),
        "diff": ("flexai.cli.checkpoint.diff:diff", "Compare two checkpoints."),
        "history": ("flexai.cli.history:checkpoint_history", "Show what was changed of a checkpoint, and by whom."),
        "list": ("flexai.cli.checkpoint.list:list_checkpoints", "List checkpoints."),
        "delete": ("flexai.cli.checkpoint.delete:delete", "Delete a checkpoint."),
        "undelete": ("flexai.cli.checkpoint.undelete:undelete", "Bring back a deleted checkpoint."),
        "protect": ("flexai.cli.checkpoint.protect:protect", "Keep checkpoints from being deleted."),
        "unprotect": ("flexai.cli.checkpoint.protect:unprotect", "Let protected checkpoints be deleted again."),
        "prune": ("flexai.cli.checkpoint.prune:prune", "Delete the checkpoints that no rule keeps."),
        "verify": ("flexai.cli.checkpoint.verify:verify", "Read checkpoints and compare their digests."),
        "gc": ("flexai.cli.checkpoint.gc:collect_garbage", "Free the room that deleted checkpoints take."),
        "recover": ("flexai.cli.checkpoint.recover:recover", "Rebuild a lost catalog from the store."),
    },
)
def checkpoint() -> None:
    """Push, fetch, export and look after checkpoints.

    A checkpoint is a named set of files that never changes: weights, optimizer state, configuration. Commands
    that take a checkpoint take its NAME or its UUID.

    \b
    flexai checkpoint push mistral-500-checkpoint --file output/ckpt.pt
    flexai checkpoint list
    flexai checkpoint inspect mistral-500-checkpoint
    flexai checkpoint fetch mistral-500-checkpoint --destination restored
    """
