"""``flexai down``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.cli import terminal
from flexai.cli.commands import command

if TYPE_CHECKING:
    from flexai.prefect_server.processes import Background

_GRACE_SECONDS = 30.0
_IDLE_SECONDS = 8.0


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
    from flexai.checkpoints.settings import home_path
    from flexai.prefect_server.credential import forget_login_page
    from flexai.prefect_server.processes import forget, recall

    home = home_path()
    stopped = []
    for name, stop in (("worker", _stop_worker), ("server", _stop_server)):
        process = recall(home, name)
        if process is not None:
            stop(process, grace)
            stopped.append(f"the {name} (process {process.pid})")
        forget(home, name)
    forget_login_page(home)
    terminal.say(f"stopped {' and '.join(stopped)}" if stopped else "nothing runs that flexai up has started")


def _stop_worker(worker: Background, grace: float) -> None:
    from flexai.prefect_server.processes import end_children, stop

    # Its runs first: they say in Prefect that they were ended, which a worker that ends would keep them from. Meanwhile
    # it is held still, or it would take up what waits for their places.
    ended = end_children(worker, grace=grace)
    if ended:
        terminal.say(f"ended {terminal.count(ended, 'flow run')}: run again, each goes on from what is stored")
    # After a run that was ended, Prefect's worker may wait for ever; nothing is lost with it.
    stop(worker, grace=min(grace, _IDLE_SECONDS))


def _stop_server(server: Background, grace: float) -> None:
    from flexai.prefect_server.processes import stop

    if not stop(server, grace=grace):
        terminal.warn(f"the server (process {server.pid}) did not end in time and was killed")
