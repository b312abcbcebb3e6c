"""Mirror, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.mirror import Mirrored, MirrorReport
from flexai.checkpoints.service.mirror import mirror as mirror_to_provider
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, Logger, run_logger, takes
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring

_SHOWN = 500
"""Rows of the page about a mirror; the log has them all."""


@task(
    name="mirror-checkpoints",
    description="Bring a set of checkpoints to a storage provider; what is there already is left as it is.",
    tags=TAGS | {"mirror"},
    task_run_name="mirror to {storage_provider}",
    **RETRIED,
)
@takes(MirrorRequest)
def mirror_checkpoints(request: MirrorRequest) -> Document:
    """Mirror checkpoints; one that fails does not stop the others, and fails the task at its end.

    Returns:
        ``copied`` and ``skipped`` (``name``, ``id`` and ``destinationPath`` each) and ``movedBytes``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.mirror.mirror`` raises, and one that names what failed.
    """
    with transferring(run_logger(), request.storage_provider) as system:
        return mirror_here(system, request)


def mirror_here(system: System, request: MirrorRequest, *, runner: ShardRunner | None = None) -> Document:
    """Mirror checkpoints in the run that is going on, and tell of them; ``runner`` runs many or large ones in shards.

    Raises what ``flexai.checkpoints.service.mirror.mirror`` raises, and an error that names what failed.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("mirror", request.storage_provider))
    connection = system.connect(request.storage_provider)
    reporter = Reporter(system, logger)
    report = mirror_to_provider(
        system, request, runner=runner, on_copied=lambda done: reporter.exported(done, connection), progress=progress
    )
    _show(report, request.storage_provider, logger)
    report.raise_if_failed()
    return {
        "copied": [_document(one) for one in report.copied],
        "skipped": [_document(one) for one in report.skipped],
        "movedBytes": report.moved_bytes,
    }


def _document(mirrored: Mirrored) -> Document:
    return {
        "name": mirrored.checkpoint.title,
        "id": mirrored.checkpoint.id,
        "destinationPath": mirrored.path,
    }


def _show(report: MirrorReport, storage_provider: str, logger: Logger) -> None:
    for name, error in report.failed.items():
        logger.error("%s could not be mirrored: %s", name, error.message)
    summary = (
        f"{len(report.copied)} copied ({human_size(report.moved_bytes)}), {len(report.skipped)} there already,"
        f" {len(report.failed)} failed"
    )
    logger.info("mirror %s: %s", storage_provider, summary)
    rows = [(name, "failed", artifacts.code(error.message)) for name, error in report.failed.items()]
    rows += [(one.checkpoint.title, "copied", artifacts.code(one.path)) for one in report.copied]
    rows += [(one.checkpoint.title, "there already", artifacts.code(one.path)) for one in report.skipped]
    lines = [f"# Mirror {artifacts.code(storage_provider)}", "", summary, "", "| Checkpoint | | |", "|---|---|---|"]
    lines += [f"| {artifacts.code(name)} | {outcome} | {detail} |" for name, outcome, detail in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines += ["", f"… and {len(rows) - _SHOWN} more"]
    artifacts.create_markdown(
        artifacts.artifact_key("mirrored-to", storage_provider),
        "\n".join(lines) + "\n",
        description=f"Mirror {storage_provider}: {summary}",
        logger=logger,
    )
