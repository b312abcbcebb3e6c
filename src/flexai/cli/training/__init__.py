"""``flexai training``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "training",
    cls=LazyGroup,
    lazy={
        "run": ("flexai.cli.training.run:run", "Run a training command and capture its checkpoints."),
        "list": ("flexai.cli.training.list:list_jobs", "List the training jobs."),
        "inspect": ("flexai.cli.training.inspect:inspect", "Show everything about a training job."),
        "checkpoints": ("flexai.cli.training.checkpoints:checkpoints", "List the checkpoints that a job wrote."),
        "logs": ("flexai.cli.training.logs:logs", "Show what a training job printed."),
        "capture": (
            "flexai.cli.training.capture:capture",
            "Store what a training job's attempts have left on this machine, or capture a directory.",
        ),
        "files": ("flexai.cli.training.files:files", "List or fetch what a training job wrote beside its checkpoints."),
        "stop": ("flexai.cli.training.stop:stop", "Stop a running training job."),
        "delete": ("flexai.cli.training.delete:delete", "Delete a training job that has ended."),
    },
)
def training() -> None:
    """Run training commands and capture their checkpoints.

    \b
    flexai training run my-run -- python train.py
    flexai training checkpoints my-run
    flexai training run my-run-2 --checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 -- python train.py
    """
