"""``flexai training files``."""

from __future__ import annotations

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.local_paths import from_root
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.parameters import job_argument, json_option
from flexai.cli.tracking import load_connection


@command("files", usage="NAME|UUID [-d DIRECTORY [--overwrite]] [--json]")
@job_argument
@click.option(
    "-d",
    "--destination",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="Bring the files below this directory, those of each attempt in a folder of their own.",
)
@click.option("--overwrite", is_flag=True, help="Replace files of other content there.")
@json_option
def files(reference: str, destination: str, overwrite: bool, as_json: bool) -> None:
    """List or fetch what a training job wrote beside its checkpoints.

    Logs, tables, TensorBoard's events: what no framework loads is stored once when an attempt ends, up to
    1 GiB of it.

    \b
    flexai training files my-run
    flexai training files my-run -d ./logs
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import fetch_rest, inspect_job, list_rest

    with System.open(connect=load_connection) as system:
        job = inspect_job(system, reference)
        found = list_rest(system, job.id)
        if destination:
            written = fetch_rest(system, job.id, found, from_root(destination), overwrite=overwrite)
    if as_json:
        rows = [{"archive": one.archive, "path": one.path, "sizeBytes": one.size} for one in found]
        terminal.write_document(rows, as_json=True)
    elif destination:
        terminal.say(
            f"fetched {written} of {terminal.count(len(found), 'file')} of training job {job.name!r} to {destination}"
        )
    else:
        from flexai.cli.tables import Column, table

        shown = table(
            found,
            Column("FROM", lambda one: one.archive, rank=2),
            Column("PATH", lambda one: one.path, is_name=True),
            Column("SIZE", lambda one: human_size(one.size), rank=1, right=True),
        )
        terminal.write(shown)
