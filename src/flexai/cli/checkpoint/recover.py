"""``flexai checkpoint recover``."""

from __future__ import annotations

from flexai.checkpoints.errors import IntegrityError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.tracking import load_connection


@command("recover", usage="", resumable=True)
def recover() -> None:
    """Rebuild a lost catalog from the store.

    The store holds a manifest of every checkpoint. Enters those that the catalog does not know, and leaves
    the others as they are; exits with 6 where a checkpoint's content is not all there, or its manifest cannot be
    used. What the manifests say of content is a claim until flexai checkpoint verify has compared it.

    \b
    flexai checkpoint recover
    """
    from flexai.checkpoints.service.recover import recover as recover_catalog
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection) as system, shown_progress() as progress:
        report = recover_catalog(system, progress=progress)
    for title in report.recovered:
        terminal.write(f"recovered {title}")
    terminal.say(f"recovered {terminal.count(len(report.recovered), 'checkpoint')}; {report.known} known already")
    for checkpoint_id, problem in report.problems.items():
        terminal.warn(f"checkpoint {checkpoint_id} cannot be recovered: {problem}")
    if report.problems:
        raise IntegrityError(
            f"{terminal.count(len(report.problems), 'checkpoint')} could not be recovered",
            hint="bring missing blobs, or a sound manifest, back into the store, and run the same command again",
        )
