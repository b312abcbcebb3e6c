"""``flexai down``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.checkpoints.errors import CheckpointError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.prefect_api import UP, PrefectAPI
from flexai.cli.tracking import prepare_prefect

if TYPE_CHECKING:
    from flexai.cli.orchestration.processes import Background

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
    from flexai.cli.orchestration.processes import forget, recall

    home = home_path()
    stopped = []
    for name in ("worker", "server"):
        process = recall(home, name)
        if process is not None:
            (_stop_worker if name == "worker" else _stop)(process, grace)
            stopped.append(f"the {name} (process {process.pid})")
        forget(home, name)
    terminal.say(f"stopped {' and '.join(stopped)}" if stopped else "nothing runs that flexai up has started")


def _stop(process: Background, grace: float) -> None:
    from flexai.cli.orchestration.processes import stop

    if not stop(process, grace=grace):
        terminal.warn(f"the Prefect {process.name} (process {process.pid}) did not end in time and was killed")


def _stop_worker(worker: Background, grace: float) -> None:
    from flexai.cli.orchestration.processes import children

    if not children(worker.pid):
        _stop(worker, grace)
        return
    from flexai.cli.orchestration.worker import bury_runs, cancel_runs

    prepare_prefect(PrefectAPI(worker.url, UP))
    runs = []
    try:
        runs = cancel_runs(worker, grace=grace)
    except CheckpointError as error:
        terminal.warn(f"flow runs are stopped without a word to Prefect: {error.message}")
    for run in runs:
        terminal.say(f"cancelled flow run {run.name!r}")
    _stop(worker, grace)
    try:
        bury_runs(worker, runs)
    except CheckpointError as error:
        terminal.warn(f"Prefect may show flow runs as running that have ended: {error.message}")
