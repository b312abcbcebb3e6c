"""``flexai training list``."""

from __future__ import annotations

from flexai.checkpoints.documents import age, duration, job_list_document, present, running_seconds
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
    from flexai.checkpoints.catalog.reader import open_reader

    with open_reader() as reader:
        jobs = reader.jobs()
    if as_json:
        terminal.write_document(job_list_document(jobs), as_json=True)
        return
    from flexai.cli.tables import dashed_table

    now = present()
    rows = [
        (job.name, job.status, str(job.checkpoint_count), duration(running_seconds(job, now)), age(job.created_at, now))
        for job in jobs
    ]
    terminal.write(
        dashed_table(("NAME", "STATUS", "CHECKPOINTS", "DURATION", "CREATED AT"), rows, right=frozenset({2}))
    )
