"""What a page about a checkpoint or a training job says, as Markdown for Prefect's UI."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flexai.checkpoints.choosing import metric_columns
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    HistoryEntry,
    ListedCheckpoint,
    ListedFile,
    TrainingJob,
    to_text,
)
from flexai.tasks.artifacts import artifact_url, block, checkpoint_key, code, plain
from flexai.tasks.charts import Point, data_uri, loss_chart

SHOWN_FILES = 100
"""Rows of a table of files; ``flexai checkpoint inspect`` has them all."""
SHOWN_EXPORTS = 50
SHOWN_CAPTURED = 200
SHOWN_METRICS = 3
"""Columns of a job's table beside the losses; ``flexai training checkpoints --json`` has all of them."""
_MAX_COMMAND = 200
_DIGEST = 16
"""Letters of a digest in a table."""


@dataclass(frozen=True, slots=True)
class Story:
    """What the catalog tells of a checkpoint."""

    checkpoint: Checkpoint
    files: Sequence[ListedFile] = ()
    """The first ones, as many as are shown."""
    exports: Sequence[ExportRecord] = ()
    parent: Checkpoint | None = None
    """The checkpoint that it was pushed from, while that is there."""
    job: TrainingJob | None = None
    """The training job that it comes from, over however many pushes, while that is there."""
    history: Sequence[HistoryEntry] = ()
    """The last changes of it, oldest first."""


def describe_checkpoint(story: Story, happened: str, *, by: str = "", run: str = "", at: datetime | None = None) -> str:
    """The page of a checkpoint: what has just happened to it, and everything known of it.

    Args:
        story: The checkpoint and what belongs to it.
        happened: What was done, in Markdown.
        by: The user who did it.
        run: The run that did it, as a link in Markdown.
        at: When; the present by default.
    """
    checkpoint = story.checkpoint
    moment = at or datetime.now(UTC)
    actors = [one for one in (code(by), run) if one]
    lines = [
        f"# Checkpoint {code(checkpoint.title)}",
        "",
        f"**{_moment(moment)} UTC: {happened}**" + (f" by {', '.join(actors)}" if actors else ""),
        "",
        *_table(_rows(story)),
    ]
    if checkpoint.status is CheckpointStatus.AVAILABLE and checkpoint.deleted_at is None:
        named = checkpoint.name if checkpoint.kind is CheckpointKind.PUSHED else checkpoint.id
        fetch = f"flexai checkpoint fetch {named} --destination {shlex.quote(_folder(checkpoint))}"
        lines += ["", "## Bring it to a machine", "", block(fetch)]
    if story.exports:
        shown = story.exports[-SHOWN_EXPORTS:]
        lines += ["", "## Exported to", "", "| Place | Last exported | Manifest digest |", "|---|---|---|"]
        for export in shown:
            place = code(f"{export.storage_provider}:{export.destination_path}")
            place += " (a part)" if export.is_part else ""
            lines.append(f"| {place} | {_moment(export.exported_at)} | {code(_short(export.manifest_digest))} |")
        if len(story.exports) > len(shown):
            lines += ["", f"… and {len(story.exports) - len(shown)} before these"]
    if story.files:
        lines += ["", "## Files", "", "| File | Size | BLAKE3 |", "|---|---:|---|"]
        for file in story.files[:SHOWN_FILES]:
            digest = code(_short(file.digest)) if file.digest else "(provider's checksum)"
            lines.append(f"| {code(file.path)} | {human_size(file.size)} | {digest} |")
        if (more := checkpoint.file_count - SHOWN_FILES) > 0:
            lines += ["", f"… and {more} more: `flexai checkpoint inspect {checkpoint.id}`"]
        # In full, and below: in the table they would be wider than the page.
        lines += [
            "",
            "The manifest's digest, of all files' names and content:",
            "",
            block(str(checkpoint.manifest_digest)),
        ]
    if story.history:
        lines += ["", "## History", "", "| When (UTC) | By | What |", "|---|---|---|"]
        lines += [f"| {_moment(one.at)} | {code(one.actor)} | {one.action} |" for one in reversed(story.history)]
    return "\n".join(lines) + "\n"


def _folder(checkpoint: Checkpoint) -> str:
    """A folder of its name, or for a captured one of the last part of its path."""
    return checkpoint.name.rpartition("/")[2] or checkpoint.job_name


def _short(digest: str) -> str:
    """As much of a digest as tells it from any other that a person compares it with."""
    return f"{digest[:_DIGEST]}…" if len(digest) > _DIGEST else digest


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _rows(story: Story) -> dict[str, str]:
    checkpoint, job = story.checkpoint, story.job
    facts, source = checkpoint.facts, checkpoint.source
    files = f"{checkpoint.file_count} file{'' if checkpoint.file_count == 1 else 's'}"
    rows = {
        "ID": code(checkpoint.id),
        "Status": f"{checkpoint.status}" + (f": {plain(checkpoint.reason)}" if checkpoint.reason else ""),
        "Size": f"{human_size(checkpoint.size)} in {files}" if checkpoint.manifest_digest else "",
        "Owner": code(checkpoint.creator),
    }
    if story.parent is not None:
        rows["Pushed from"] = checkpoint_link(story.parent)
    elif checkpoint.parent_id and checkpoint.kind is CheckpointKind.PUSHED:
        rows["Pushed from"] = code(checkpoint.parent_id)
    elif checkpoint.parent_id:
        rows["Trained from"] = code(checkpoint.parent_id)
    if source.storage_provider:
        revision = f" at {code(source.revision)}" if source.revision else ""
        rows["Source"] = code(f"{source.storage_provider}:{source.source_path}") + revision
    elif source.from_local_files and not checkpoint.parent_id:
        rows["Source"] = code(", ".join(source.from_local_files))
    if job is not None:
        rows["Training job"] = f"{code(job.name)}, attempt {job.attempt}"
        rows["Command"] = code(_command(job))
        rows["Code commit"] = code(job.code_commit)
    elif checkpoint.job_name:
        rows["Training job"] = code(checkpoint.job_name)
    rows |= {
        "Step": _number(facts.step),
        "Train loss": _number(facts.train_loss),
        "Eval loss": _number(facts.eval_loss),
        "Metrics": ", ".join(f"{code(name)} {_number(facts.metrics[name])}" for name in metric_columns([facts])),
        "Model": code(f"{facts.model} {facts.version}".strip()),
    }
    return {name: value for name, value in rows.items() if value}


def checkpoint_link(checkpoint: Checkpoint) -> str:
    """A checkpoint's title, as a link to its page where the UI is known."""
    url = artifact_url(checkpoint_key(checkpoint))
    return f"[{plain(checkpoint.title)}]({url})" if url else code(checkpoint.title)


def points_of(captured: Sequence[ListedCheckpoint]) -> list[Point]:
    """What a job's checkpoints measured, where they tell their step."""
    return [
        Point(row.step, row.train_loss, row.eval_loss, row.metrics, row.best_by)
        for row in captured
        if row.step is not None
        and row.status == "available"
        and (row.train_loss is not None or row.eval_loss is not None or row.metrics)
    ]


def describe_job(job: TrainingJob, captured: Sequence[ListedCheckpoint]) -> str:
    """The page of a training job: its losses by step as a chart, and its checkpoints."""
    ended = f"{job.status}, attempt {job.attempt}" + (f": {plain(job.reason)}" if job.reason else "")
    rows = {
        "ID": code(job.id),
        "Command": code(_command(job)),
        "Code commit": code(job.code_commit),
        "Started": to_text(job.started_at),
        "Ended": to_text(job.ended_at) if job.ended_at else "",
        "Host": code(job.host),
        "Created by": code(job.creator),
    }
    metrics = metric_columns(captured)[:SHOWN_METRICS]
    chart = loss_chart(points_of(captured), title=f"Losses of {job.name}")
    lines = [
        f"# Training job {code(job.name)}",
        "",
        f"**{ended}**",
        "",
        # An image of its own would be shown with its whole address below it.
        f"![losses by step]({data_uri(chart)})",
        "",
        *_table({name: value for name, value in rows.items() if value}),
        "",
        f"| Checkpoint | Step | Train loss | Eval loss {''.join(f'| {code(name)} ' for name in metrics)}"
        "| Size | Status | ID |",
        f"|---|---:|---:|---:|{'---:|' * len(metrics)}---:|---|---|",
    ]
    for row in captured[-SHOWN_CAPTURED:]:
        cells = (
            code(row.name or "."),
            _number(row.step),
            _number(row.train_loss),
            _number(row.eval_loss),
            *(_number(row.metrics.get(name)) for name in metrics),
            human_size(row.size),
            row.status,
            code(row.id),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if len(captured) > SHOWN_CAPTURED:
        lines += ["", f"… and {len(captured) - SHOWN_CAPTURED} before these: `flexai training checkpoints {job.name}`"]
    return "\n".join(lines) + "\n"


def _command(job: TrainingJob) -> str:
    text = shlex.join(job.command)
    return text if len(text) <= _MAX_COMMAND else f"{text[:_MAX_COMMAND]}…"


def _table(rows: Mapping[str, str]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _number(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
