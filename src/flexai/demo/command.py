"""``flexai demo``."""

from __future__ import annotations

import click

from flexai.cli.commands import command


@command("demo", usage="[--keep | --trainer [--killed-at STEP]]")
@click.option("--keep", is_flag=True, help="Leave the demo's folder for you to look around in.")
@click.option("--trainer", is_flag=True, help="Only be a small trainer, for `flexai training run` to try.")
@click.option("--killed-at", type=int, metavar="STEP", help="The trainer kills itself after this step, as KILL does.")
def demo(keep: bool, trainer: bool, killed_at: int | None) -> None:
    """See it work: train a real model, keep its checkpoints, go on from one.

    Everything happens in a temporary folder that is removed at the end, on this machine alone: nothing is sent
    anywhere, and no setting of yours is read or changed. It takes about a minute. The training needs numpy and
    scikit-learn, which the extra `demo` brings.

    With `--trainer` it fits a line in plain Python, which needs nothing else: ten checkpoints in a second.

    \b
    flexai demo
    flexai training run line -- flexai demo --trainer
    """
    if killed_at is not None and not trainer:
        raise click.UsageError("--killed-at goes with --trainer only")
    if trainer:
        from flexai.demo.train_line import train

        train(killed_at)
    else:
        from flexai.demo.story import tell

        tell(keep=keep)
