"""The catalog as a page and a table in Prefect's UI, as a task."""

from __future__ import annotations

from collections.abc import Set
from datetime import UTC, datetime

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus
from flexai.checkpoints.service.overview import Overview, overview
from flexai.prefect_server.ui import CATALOG_KEY
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.options import QUICK, TAGS, Logger, open_system, run_logger, telling

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
    with telling(logger), open_system() as system:
        found = overview(system)
        rows = system.catalog.checkpoints.list_pushed()
    show_catalog(found, newest=newest, logger=logger)
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


def show_catalog(found: Overview, *, newest: int, logger: Logger) -> None:
    """Make the page about the whole catalog anew, as a page of the run."""

    def describe() -> str:
        keys = artifacts.known_keys(map(artifacts.checkpoint_key, _newest(found, newest)))
        return describe_catalog(found, newest=newest, with_page=keys)

    artifacts.create_markdown(CATALOG_KEY, describe, description=f"Store {found.location}", logger=logger)


def _newest(found: Overview, newest: int) -> list[Checkpoint]:
    available = [one for one in found.checkpoints if one.status is CheckpointStatus.AVAILABLE]
    return available[: -newest - 1 : -1]


def describe_catalog(found: Overview, *, newest: int, with_page: Set[str] = frozenset()) -> str:
    """What there is, as a page of Markdown; ``with_page`` are the keys of pages that can be linked."""
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
    moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    lines = [
        "# Catalog",
        "",
        f"As of {moment}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    if found.jobs:
        lines += ["", "## Training jobs", "", "| Job | Checkpoints | Size | Last step | Best eval loss |"]
        lines += ["|---|---:|---:|---:|---:|"]
        for job in found.jobs[:newest]:
            loss = "" if job.best_eval_loss is None else f"{job.best_eval_loss:.6g}"
            step = "" if job.last_step is None else str(job.last_step)
            lines.append(
                f"| {artifacts.code(job.job)} | {job.checkpoints} | {human_size(job.size)} | {step} | {loss} |"
            )
    if latest := _newest(found, newest):
        lines += ["", "## Newest", "", "| Checkpoint | Size | Created (UTC) | Owner |", "|---|---:|---|---|"]
        for one in latest:
            key = artifacts.checkpoint_key(one)
            url = artifacts.artifact_url(key) if key in with_page else ""
            name = f"[{artifacts.plain(one.title)}]({url})" if url else _name(one)
            cells = (name, human_size(one.size), f"{one.created_at:%Y-%m-%d %H:%M}", artifacts.code(one.creator))
            lines.append(f"| {' | '.join(cells)} |")
    if found.failed:
        lines += ["", "## Failed", "", "| Name | Reason |", "|---|---|"]
        lines += [f"| {_name(one)} | {artifacts.code(one.reason)} |" for one in found.failed[: -newest - 1 : -1]]
    return "\n".join(lines) + "\n"


def _name(checkpoint: Checkpoint) -> str:
    return artifacts.code(checkpoint.title)


def _shared(found: Overview, total: int) -> str:
    stored = found.blob_sizes.get("stored", 0)
    return f" ({human_size(total - stored)} less than its checkpoints' files)" if 0 < stored < total else ""
