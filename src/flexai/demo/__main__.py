"""The flow of the demo, in a process of its own: it hands the last of its log to the server before it ends."""

from __future__ import annotations

import json
import logging
import shlex

import click

from flexai.demo.story import SUMMARY, TRAIN


class ShortLines(logging.Handler):
    """Shows what a training run says, without times and ids."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the line of a step or of a checkpoint."""
        message = record.getMessage()
        if message.startswith(("step ", "captured ")):
            click.echo(f"| {message.partition(' as ')[0]}")


def main() -> None:
    """Run the flow, showing what the training prints and what is captured, and leave its summary."""
    from flexai.flows.train_push_export import train_push_export
    from flexai.flows.training_forms import ExportSpec, PushSpec, Selection, TrainingSpec

    training = TrainingSpec(name="digits", command=TRAIN)
    push = PushSpec(name_template="{job}-{step}", select=Selection.BEST, metric="eval-loss")
    export = ExportSpec(storage_provider="demo-share", path_template="models/{name}")
    click.echo(f"training  {training.name!r}: {shlex.join(training.command)}")
    click.echo(f"push      {push.select} by {push.metric}, as {push.name_template!r}")
    click.echo(f"export    to {export.storage_provider!r}, {export.path_template!r}")
    logging.getLogger("prefect.task_runs").addHandler(ShortLines())
    summary = train_push_export(training, push, export)
    best = summary["checkpoints"][0]
    click.echo(f"pushed as {best['pushed']['name']!r}, exported to {best['export']['destinationPath']!r}")
    SUMMARY.write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
