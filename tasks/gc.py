"""Garbage collection, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.gc import collect_garbage as collect_from_store
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, Logger, open_system, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress

KEY = "garbage"
"""Of the page that shows what was freed; its history is that of the runs."""
_SHOWN = 50
"""Unknown blobs that a page names; the task's result has them all."""


@task(
    name="collect-garbage",
    description="Free the bytes that no checkpoint needs any more, once the grace period is over.",
    tags=TAGS | {"gc"},
    task_run_name="collect garbage",
    **RETRIED,
)
@takes(GarbageRequest)
def collect_garbage(request: GarbageRequest) -> Document:
    """Free what deleted checkpoints, and pushes that were interrupted and never continued, have left.

    Returns:
        What ``flexai checkpoint gc --json`` prints. Tried again, it goes on, and tells what the last try took.

    Raises:
        CheckpointError: What the catalog and the store raise.
    """
    logger = run_logger()
    progress = RunProgress(logger, key="collect-garbage")
    with telling(logger), open_system() as system:
        document = collect_from_store(system, request, progress=progress).to_dict()
    _show(document, logger)
    return document


def describe_garbage(document: Document) -> str:
    """What was freed, as a page of Markdown."""
    lines = [f"# Garbage collection: {_summary_of(document)}", ""]
    if unreferenced := document["unreferenced"]:
        lines += [f"{_left_alone(document)}:", ""]
        lines += [f"- {artifacts.code(blob_id)}" for blob_id in unreferenced[:_SHOWN]]
        if len(unreferenced) > _SHOWN:
            lines.append(f"- … and {len(unreferenced) - _SHOWN} more")
    return "\n".join(lines).rstrip() + "\n"


def _summary_of(document: Document) -> str:
    collected = document["collectedUnreferenced"]
    return (
        f"freed {document['freed']} (blobs: {document['blobs']}, deleted checkpoints: {document['deletedCheckpoints']},"
        f" abandoned pushes: {document['abandonedPushes']}"
        + (f", unreferenced blobs: {len(collected)})" if collected else ")")
    )


def _left_alone(document: Document) -> str:
    return (
        f"Unreferenced blobs, which the catalog does not know and gc has left ({len(document['unreferenced'])};"
        " `flexai checkpoint recover` enters the checkpoints that need them, where there are any, and"
        " `gc --unreferenced` takes the others)"
    )


def _show(document: Document, logger: Logger) -> None:
    summary = _summary_of(document)
    logger.info("%s", summary)
    if document["unreferenced"]:
        logger.warning("%s", _left_alone(document))
    artifacts.create_markdown(
        KEY, describe_garbage(document), description=f"Garbage collection: {summary}", logger=logger
    )
