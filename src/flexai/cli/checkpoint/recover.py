"""``flexai checkpoint recover``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import IntegrityError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import read_size
from flexai.cli.tracking import load_connection


@command("recover", usage="[OPTIONS]", resumable=True)
@click.option(
    "--max-manifest-size",
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="The largest manifest to read; it may take four times as much memory. 64MiB are some 110,000 files.",
)
def recover(max_manifest_size: str) -> None:
    """Rebuild a lost catalog from the store.

    The store holds a manifest of every checkpoint. Enters those that the catalog does not know, and leaves
    the others as they are; exits with 6 where a checkpoint's content is not all there, or its manifest cannot be
    used. What the manifests say of content is a claim until flexai checkpoint verify has compared it.

    \b
    flexai checkpoint recover
    flexai checkpoint recover --max-manifest-size 1GiB
    """
    limit = read_size("--max-manifest-size", max_manifest_size)
    from flexai.checkpoints.service.recover import recover as recover_catalog
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection) as system, shown_progress() as progress:
        report = recover_catalog(system, max_manifest_size=limit, progress=progress)
    for title in report.recovered:
        terminal.write(f"recovered {title}")
    terminal.say(f"recovered {terminal.count(len(report.recovered), 'checkpoint')}; {report.known} known already")
    for checkpoint_id, problem in report.problems.items():
        terminal.warn(f"checkpoint {checkpoint_id} cannot be recovered: {problem}")
    if report.problems:
        raise IntegrityError(
            f"{terminal.count(len(report.problems), 'checkpoint')} could not be recovered",
            hint="bring missing blobs, or a sound manifest, back into the store, and run the same command again;"
            " where a manifest is too large or has too many parts, --max-manifest-size reads it",
        )
