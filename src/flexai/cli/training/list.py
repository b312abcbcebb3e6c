"""``flexai training list``."""

from __future__ import annotations

from flexai.checkpoints.documents import age, duration, job_list_document, running_seconds
from flexai.checkpoints.models import now
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option


@command("list", usage="[--json]")
@json_option
def list_jobs(as_json: bool) -> None:
    """List the training jobs.

    Oldest first.

    \b
    flexai training list
    flexai training list --json
    """
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.training.job_files import as_it_ended

    with Catalog.look() as catalog:
        jobs = [as_it_ended(job) for job in catalog.jobs.list()]
    if as_json:
        terminal.write_document(job_list_document(jobs), as_json=True)
        return
    from flexai.cli.tables import dashed_table

    time = now()
    rows = [
        (
            job.name,
            job.status,
            str(job.checkpoint_count),
            duration(running_seconds(job, time)),
            age(job.created_at, time),
        )
        for job in jobs
    ]
    terminal.write(
        dashed_table(("NAME", "STATUS", "CHECKPOINTS", "DURATION", "CREATED AT"), rows, right=frozenset({2}))
    )
