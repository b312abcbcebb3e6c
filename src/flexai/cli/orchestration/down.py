"""``flexai down``."""

from __future__ import annotations

import click

from flexai.cli import terminal
from flexai.cli.commands import command

_GRACE_SECONDS = 30.0


@command("down", usage="[--grace SECONDS]")
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=_GRACE_SECONDS,
    show_default=True,
    help="How long each may take to end by itself.",
)
def down(grace: float) -> None:
    """Stop what flexai up has started.

    From this home folder, and nothing else. The worker first, and with it the runs that it is at; what they have
    moved is not lost, and a run that is started again goes on from there. Connections, deployments and the
    history of runs stay.

    \b
    flexai down
    """
    from flexai.checkpoints.setting_sources import home_path
    from flexai.cli.orchestration.processes import forget, recall, stop

    home = home_path()
    stopped = []
    for name in ("worker", "server"):
        process = recall(home, name)
        if process is not None:
            if not stop(process, grace=grace):
                terminal.warn(f"the Prefect {name} (process {process.pid}) did not end in time and was killed")
            stopped.append(f"the {name} (process {process.pid})")
        forget(home, name)
    terminal.say(f"stopped {' and '.join(stopped)}" if stopped else "nothing runs that flexai up has started")
