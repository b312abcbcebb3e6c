"""The catalog as a page and a table in Prefect's UI, as a task."""

from __future__ import annotations

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus
from flexai.checkpoints.service.overview import Overview, overview
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.options import QUICK, TAGS, run_logger, telling

TABLE_ROWS = 5000
"""Rows of the table, the newest: what a browser shows in good time."""


@task(
    name="report-catalog",
    description="Show what the catalog and the store hold.",
    tags=TAGS | {"report"},
    task_run_name="report the catalog",
    **QUICK,
)
def report_catalog(newest: int = 20) -> Document:
    """Attach a page and a table about the catalog to the run, and return its numbers.

    Args:
        newest: How many of the newest checkpoints the page shows.

    Returns:
        ``pushed``, ``captured``, ``failed``, ``deleted`` (checkpoints), ``storedBytes``, ``unverifiedBytes``,
        ``damagedContents`` and ``freeBytes`` (None where that is not known).

    Raises:
        CheckpointError: What the catalog and the store raise.
    """
    logger = run_logger()
    with telling(logger), System.open(connect=load_connection) as system:
        found = overview(system)
        rows = system.catalog.checkpoints.list_pushed()
    artifacts.create_markdown(
        "catalog", describe_catalog(found, newest=newest), description=f"Store {found.location}", logger=logger
    )
    artifacts.create_table(
        "catalog-table",
        artifacts.catalog_table(rows[: -TABLE_ROWS - 1 : -1]),
        description="The pushed checkpoints, newest first",
        logger=logger,
    )
    return {
        "pushed": len(found.of(CheckpointKind.PUSHED, CheckpointStatus.AVAILABLE)),
        "captured": len(found.of(CheckpointKind.CAPTURED, CheckpointStatus.AVAILABLE)),
        "failed": len(found.failed),
        "deleted": found.deleted,
        "storedBytes": found.blob_sizes.get("stored", 0),
        "unverifiedBytes": found.verification.unverified_size,
        "damagedContents": found.verification.damaged,
        "freeBytes": found.free_room,
    }


def describe_catalog(found: Overview, *, newest: int) -> str:
    """What there is, as a page of Markdown."""
    pushed = found.of(CheckpointKind.PUSHED, CheckpointStatus.AVAILABLE)
    captured = found.of(CheckpointKind.CAPTURED, CheckpointStatus.AVAILABLE)
    verification = found.verification
    total = sum(one.size for one in pushed + captured)
    rows = {
        "Store": artifacts.code(found.location),
        "Pushed": f"{len(pushed)}, {human_size(sum(one.size for one in pushed))}",
        "Captured": f"{len(captured)}, {human_size(sum(one.size for one in captured))}",
        "Bytes in the store": human_size(found.blob_sizes.get("stored", 0)) + _shared(found, total),
        "Arriving": human_size(found.blob_sizes.get("writing", 0)),
        "Free room": "unknown" if found.free_room is None else human_size(found.free_room),
        "Deleted, can come back": str(found.deleted),
        "Failed": str(len(found.failed)),
        "Never verified": f"{human_size(verification.unverified_size)} of {human_size(verification.size)}",
        "Longest unverified since": verification.oldest or "–",
        "Damaged": f"**{verification.damaged} files' contents**" if verification.damaged else "nothing known",
    }
    lines = ["# Checkpoints", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    if found.jobs:
        lines += ["", "## Training jobs", "", "| Job | Checkpoints | Size | Last step | Best eval loss |"]
        lines += ["|---|---:|---:|---:|---:|"]
        for job in found.jobs[:newest]:
            loss = "" if job.best_eval_loss is None else f"{job.best_eval_loss:.6g}"
            step = "" if job.last_step is None else str(job.last_step)
            lines.append(
                f"| {artifacts.code(job.job)} | {job.checkpoints} | {human_size(job.size)} | {step} | {loss} |"
            )
    if pushed:
        lines += ["", "## Newest", "", "| Name | Size | Created |", "|---|---:|---|"]
        lines += [
            f"| {_name(one)} | {human_size(one.size)} | {one.created_at:%Y-%m-%d %H:%M} |"
            for one in pushed[: -newest - 1 : -1]
        ]
    if found.failed:
        lines += ["", "## Failed", "", "| Name | Reason |", "|---|---|"]
        lines += [f"| {_name(one)} | {artifacts.code(one.reason)} |" for one in found.failed[: -newest - 1 : -1]]
    return "\n".join(lines) + "\n"


def _name(checkpoint: Checkpoint) -> str:
    return artifacts.code(checkpoint.title)


def _shared(found: Overview, total: int) -> str:
    stored = found.blob_sizes.get("stored", 0)
    return f" ({human_size(total - stored)} less than its checkpoints' files)" if 0 < stored < total else ""
