"""``flexai checkpoint prune``."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.choosing import check_metric
from flexai.checkpoints.documents import Document, age, short_size
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import from_text, now
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint, complete_job
from flexai.cli.parameters import json_option, read_duration, read_time, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.prune import PruneRequest
    from flexai.checkpoints.service.system import System


def _count(_ctx: click.Context, _option: click.Parameter, value: int | None) -> int:
    return value or 0


def _metric(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    return check_metric(value)


def _span(_ctx: click.Context, option: click.Parameter, text: str) -> timedelta:
    if not text:
        return timedelta(0)
    flag = option.opts[0]
    found = read_duration(flag, text)
    if found < timedelta(seconds=1):
        raise UsageError(f"{flag} {text!r} is shorter than a second", hint="write 90s, 15m, 24h, 7d or 2w")
    return found


def _time(_ctx: click.Context, option: click.Parameter, text: str) -> datetime | None:
    return read_time(option.opts[0], text) if text else None


@command("prune", usage="--keep-… [--job NAME|UUID] [--pushed PATTERN] [--apply] [OPTIONS]", resumable=True)
@click.option(
    "--job",
    "jobs",
    metavar="NAME|UUID",
    multiple=True,
    shell_complete=complete_job,
    help="Judge what this training job captured; of all jobs where neither --job nor --pushed is given. Can be given"
    " several times.",
)
@click.option(
    "--pushed",
    metavar="PATTERN",
    multiple=True,
    shell_complete=complete_checkpoint,
    help="Judge the pushed checkpoints whose names fit the pattern, as one group: 'mistral-*'. Can be given several"
    " times.",
)
@click.option(
    "--keep-last",
    metavar="N",
    type=click.IntRange(min=1),
    callback=_count,
    help="Keep the last N of each job (or pattern).",
)
@click.option(
    "--keep-best",
    metavar="N",
    type=click.IntRange(min=1),
    callback=_count,
    help="Keep the best N of each job (or pattern) by --metric.",
)
@click.option(
    "--metric",
    metavar="NAME[:min|max]",
    default="",
    callback=_metric,
    help="What the best ones have least or most of: eval-loss, eval_accuracy, val/f1:max. By default what the trainer"
    " chooses by, else the eval loss.",
)
@click.option(
    "--keep-every-steps",
    metavar="N",
    type=click.IntRange(min=1),
    callback=_count,
    help="At each multiple of N steps, keep the first checkpoint at or after it.",
)
@click.option(
    "--keep-every",
    metavar="DURATION",
    default="",
    callback=_span,
    help="Keep the first of each 6h, 1d, 1w, … counted in UTC.",
)
@click.option(
    "--keep-within", metavar="DURATION", default="", callback=_span, help="Keep what is younger than 36h, 7d, 2w, …"
)
@click.option(
    "--keep-since",
    metavar="TIME",
    default="",
    callback=_time,
    help="Keep what was made since 2026-01-31 or 2026-01-31T12:00, in UTC.",
)
@click.option(
    "--keep-exported/--no-keep-exported",
    default=True,
    show_default=True,
    help="Keep what was exported to a storage provider.",
)
@click.option(
    "--include-failed",
    is_flag=True,
    help="Let failed pushes and captures, and incomplete checkpoints, go too, unless they are young.",
)
@click.option("--drop-last", is_flag=True, help="Let even a job's last checkpoint go where no rule keeps it.")
@click.option("--drop-best", is_flag=True, help="Let even a job's best checkpoint go where no rule keeps it.")
@click.option("--apply", is_flag=True, help="Do it: without this nothing is deleted.")
@click.option("--force", is_flag=True, help="Let also what other users made go.")
@track_option
@json_option
def prune(track: bool | None, as_json: bool, **options: Any) -> None:
    """Delete the checkpoints that no rule keeps.

    Shows what would stay and go, and why, and deletes only with --apply. What one rule keeps stays, whatever
    the others say. So do protected checkpoints, those that a running training job started from or would be
    resumed from, the last and the best one of each job, and without --force what other users made. What is
    deleted can be brought back until gc has taken its bytes; bytes that another checkpoint needs are not freed.

    \b
    flexai checkpoint prune --keep-last 3 --keep-best 1
    flexai checkpoint prune --job my-run --keep-every-steps 1000 --keep-within 7d --apply
    flexai checkpoint prune --pushed 'nightly-*' --keep-every 1w --keep-last 7 --json
    """
    from flexai.checkpoints.service.prune import PruneRequest

    request = PruneRequest.of(**options)
    # A plan alone changes nothing, so that it is a task run only where one is asked for.
    track = track if request.apply or track else False
    done = run_operation(
        track, "prune_checkpoints", request, partial(_prune, request), read_only=not request.apply, only_notes=True
    )
    if as_json:
        terminal.write_document(done, as_json=True)
    else:
        terminal.write(_table(done["checkpoints"]))
    _conclude(done)


def _prune(request: PruneRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.prune import prune as prune_checkpoints
    from flexai.checkpoints.service.prune import prune_document

    return prune_document(prune_checkpoints(system, request, progress=progress))


def _conclude(done: Document) -> None:
    deleted, spared = done["deletedCount"], done["sparedCount"]
    of_all = f"of {terminal.count(len(done['checkpoints']), 'checkpoint')}"
    if done["applied"]:
        terminal.say(f"deleted {deleted} {of_all}; gc frees {done['freed']} after the grace period")
        if deleted:
            terminal.hint(
                "flexai checkpoint list --deleted shows what can be brought back, until gc has taken its bytes"
            )
        if spared:
            terminal.warn(f"{terminal.count(spared, 'checkpoint')} stayed that should have gone: see above")
    else:
        terminal.say(f"would delete {deleted} {of_all} and free {done['freed']}")
        if deleted:
            terminal.hint("nothing was deleted: --apply does it")


def _table(checkpoints: list[Document]) -> str:
    from flexai.cli.tables import Column, table

    time = now()
    return table(
        checkpoints,
        Column("ACTION", lambda row: str(row["action"])),
        Column("CHECKPOINT", lambda row: str(row["title"]), is_name=True),
        Column("AGE", lambda row: age(from_text(row["createdAt"]), time), rank=2, right=True),
        Column(
            "FREES", lambda row: "" if row["action"] == "keep" else short_size(row["freedBytes"]), rank=3, right=True
        ),
        Column("WHY", _why, rank=1, is_text=True),
    )


def _why(row: Document) -> str:
    return f"stays: {row['spared']}" if row["spared"] else ", ".join(reason["text"] for reason in row["reasons"])
