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
    from flexai.checkpoints.training.job_files import as_it_ended
    from flexai.cli.looking import look

    with look() as catalog:
        jobs = [as_it_ended(job) for job in catalog.job_queries.list()]
    if as_json:
        terminal.write_document(job_list_document(jobs), as_json=True)
        return
    from flexai.cli.tables import Column, table

    time = now()
    shown = table(
        jobs,
        Column("NAME", lambda job: job.name, is_name=True),
        Column("STATUS", lambda job: job.status),
        Column("CHECKPOINTS", lambda job: str(job.checkpoint_count), rank=1, right=True),
        Column("DURATION", lambda job: duration(running_seconds(job, time)), rank=3),
        Column("CREATED AT", lambda job: age(job.created_at, time), rank=2),
        Column("CREATED BY", lambda job: job.creator, rank=4, is_name=True),
    )
    terminal.write(shown)
