"""Export, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.export import export as export_to_provider
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter, destination_of
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, run_logger, takes
from flexai.tasks.run_names import sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring


@task(
    name="export-checkpoint",
    description="Bring a checkpoint's files to a storage provider.",
    tags=TAGS | {"export"},
    task_run_name=sized("export {reference}{size} to {storage_provider}"),
    **RETRIED,
)
@takes(ExportRequest)
def export_checkpoint(request: ExportRequest) -> Document:
    """Export a checkpoint; a rerun continues a broken export, and moves nothing where all is there.

    Returns:
        ``checkpoint``, ``storageProvider``, ``destinationPath``, ``manifestDigest``, ``exportedAt`` (ISO 8601),
        ``exportedFiles``, ``skippedFiles``, ``movedBytes``, ``extraFiles`` (what else lies there), ``deletedFiles``,
        ``leftOutFiles`` and ``leftOutBytes`` (what was not asked for), and ``isPart``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.export.export`` and ``flexai.blocks.load_connection`` raise.
    """
    reference = request.reference
    with transferring(
        run_logger(), request.storage_provider, first=lambda system: system.available(reference)
    ) as system:
        return export_here(system, request)


def export_here(system: System, request: ExportRequest, *, runner: ShardRunner | None = None) -> Document:
    """Export a checkpoint in the run that is going on, and tell of it; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.export.export`` raises.
    """
    logger = run_logger()
    connection = system.connect(request.storage_provider)
    progress = RunProgress(logger, key=artifacts.artifact_key("export", request.reference))
    reporter = Reporter(system, logger)
    with reporter.telling_failure(request.reference, "export", destination_of(connection, request.destination_path)):
        report = export_to_provider(system, request, runner=runner, progress=progress)
    logger.info(
        "exported %s to %s:%s: %d files, %d there already",
        request.reference,
        connection.connection_name,
        request.destination_path,
        report.exported_files,
        report.skipped_files,
    )
    reporter.exported(report, connection)
    reporter.catalog()
    return report.to_dict()
