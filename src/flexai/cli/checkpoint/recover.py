"""``flexai checkpoint recover``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import IntegrityError
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import read_size
from flexai.cli.tracking import load_connection
from flexai.cli.transfer_options import progress_option, transfer_json_option


@command("recover", usage="[OPTIONS]", resumable=True)
@click.option(
    "--max-manifest-size",
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="The largest manifest to read; it may take four times as much memory. 64MiB are some 110,000 files.",
)
@click.option("--force", is_flag=True, help="Take the store over from a catalog that has used it within the last hour.")
@click.option(
    "--move-aside",
    is_flag=True,
    help="Keep the catalog's file, which cannot be read, under another name beside it, and make the catalog anew.",
)
@progress_option
@transfer_json_option
def recover(max_manifest_size: str, force: bool, move_aside: bool, as_json: bool) -> None:
    """Rebuild a lost catalog from the store.

    The store holds a manifest of every checkpoint, and a record of what has changed since: deletions,
    protection, exports, training jobs, and who did it. Enters what the catalog does not know, brings up to date what
    it knows from before, as of a backup, and makes the store this catalog's. A manifest or a record that is lost or
    damaged is written anew, where the catalog knows what it says. Exits with 6 where a checkpoint's
    content is not all there, or its manifest cannot be used. What the manifests say of content is a claim until
    flexai checkpoint verify has compared it. Of what could not be recovered 20 are named; --json names all, also where
    it exits with 6.

    \b
    flexai checkpoint recover
    flexai checkpoint recover --move-aside
    flexai checkpoint recover --max-manifest-size 1GiB
    flexai checkpoint recover --json | jq .problems
    """
    limit = read_size("--max-manifest-size", max_manifest_size)
    from flexai.checkpoints.service.recover import recover as recover_catalog
    from flexai.checkpoints.service.store_owner import described
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection) as system, shown_progress() as progress:
        report = recover_catalog(system, max_manifest_size=limit, force=force, aside=move_aside, progress=progress)
        store = system.store.location
    if (former := report.taken_from) is not None:
        terminal.warn(f"the store {store} is this catalog's now, and no longer that of the catalog {described(former)}")
    if as_json:
        terminal.write_document({"store": store} | report.to_dict(), as_json=True)
    else:
        for name in report.jobs.values():
            terminal.write(f"recovered training job {name}")
        for title in report.recovered.values():
            terminal.write(f"recovered {title}")
        for what in report.mended:
            terminal.write(f"wrote {what} in the store anew")
    terminal.say(f"recovered {terminal.count(len(report.recovered), 'checkpoint')}; {report.known} known already")
    terminal.say_each([f"{one}: {problem}" for one, problem in report.problems.items()], terminal.warn)
    if report.problems:
        raise IntegrityError(
            f"{terminal.count(len(report.problems), 'checkpoint or job', 'checkpoints or jobs')} could not be recovered"
            " as they were",
            hint="bring missing blobs, or a sound manifest, back into the store, and run the same command again;"
            " flexai checkpoint delete takes one whose content is gone for good off the list;"
            " where a manifest is too large or has too many parts, --max-manifest-size reads it",
        )
