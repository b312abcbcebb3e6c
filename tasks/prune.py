"""Prune, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.prune import PruneRequest, prune, prune_document
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, Logger, open_system, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress

KEY = "retention"
"""Of the page that shows the plan; its history is that of the runs."""
SHOWN_ROWS = 500
"""Rows of the page; the task's result has them all."""


@task(
    name="prune-checkpoints",
    description="Plan by rules which checkpoints stay, and delete the others where that is wanted.",
    tags=TAGS | {"prune"},
    task_run_name="prune checkpoints",
    **RETRIED,
)
@takes(PruneRequest)
def prune_checkpoints(request: PruneRequest) -> Document:
    """Plan what the rules let go, attach the plan to the run as a table, and delete where ``apply`` says so.

    Tried again, it goes on: what was deleted is gone, and everything else is judged anew.

    Returns:
        What ``flexai checkpoint prune --json`` prints.

    Raises:
        CheckpointError: UsageError for a policy without rules, NotFoundError for a job that is not there.
    """
    logger = run_logger()
    with telling(logger), open_system() as system:
        reporter = Reporter(system, logger)
        report = prune(system, request, on_deleted=reporter.deleted, progress=RunProgress(logger))
        reporter.catalog()
    document = prune_document(report)
    _show(document, logger)
    return document


def summary_of(document: Document) -> str:
    """What was done, or would be, in one line."""
    spared = f", {document['sparedCount']} stayed after all" if document["sparedCount"] else ""
    freed = human_size(document["freedBytes"])
    what = f"{document['deletedCount']} of {len(document['checkpoints'])}"
    if document["applied"]:
        return f"{what} deleted{spared}; gc frees {freed}"
    return f"{what} would be deleted, which would free {freed}"


def describe_plan(document: Document) -> str:
    """A plan as a page of Markdown: what goes, then what stays, each with its reasons."""
    rows = sorted(document["checkpoints"], key=lambda row: bool(row["action"] == "keep"))
    lines = [f"# Retention: {summary_of(document)}", ""]
    if not document["applied"] and document["deletedCount"]:
        lines += ["Nothing was deleted.", ""]
    lines += ["| | Checkpoint | Step | Eval loss | Created | Frees | Why |", "|---|---|---:|---:|---|---:|---|"]
    for row in rows[:SHOWN_ROWS]:
        reasons = ", ".join(reason["text"] for reason in row["reasons"])
        cells = (
            row["action"],
            artifacts.code(row["title"]),
            "" if row["step"] is None else str(row["step"]),
            "" if row["evalLoss"] is None else f"{row['evalLoss']:.6g}",
            row["createdAt"].partition(".")[0],
            "" if row["action"] == "keep" else human_size(row["freedBytes"]),
            artifacts.plain(f"stays: {row['spared']}" if row["spared"] else reasons),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > SHOWN_ROWS:
        lines += ["", f"… and {len(rows) - SHOWN_ROWS} more: `flexai checkpoint prune`"]
    return "\n".join(lines) + "\n"


def _show(document: Document, logger: Logger) -> None:
    summary = summary_of(document)
    verb = "deleted" if document["applied"] else "would delete"
    gone = [row for row in document["checkpoints"] if row["action"] == "delete" and not row["spared"]]
    for row in gone[:SHOWN_ROWS]:
        logger.info("%s %s (%s)", verb, row["title"], row["id"])
    logger.info("retention: %s", summary)
    artifacts.create_markdown(KEY, describe_plan(document), description=f"Retention: {summary}", logger=logger)
