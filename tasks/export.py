"""Export, as a task."""

from __future__ import annotations

from prefect import task

from flexai.blocks import StorageProvider, load_connection
from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.export import export as export_to_provider
from flexai.checkpoints.service.result_documents import export_document
from flexai.checkpoints.service.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter, destination_of
from flexai.tasks.options import RETRIED, TAGS, run_logger, telling
from flexai.tasks.run_names import sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through


@task(
    name="export-checkpoint",
    description="Bring a checkpoint's files to a storage provider.",
    tags=TAGS | {"export"},
    task_run_name=sized("export {reference}{size} to {storage_provider}"),
    **RETRIED,
)
def export_checkpoint(
    reference: str, storage_provider: str, destination_path: str, overwrite: bool = False
) -> Document:
    """Export a checkpoint; a rerun continues a broken export, and moves nothing where all is there.

    Args:
        reference: NAME or UUID of the checkpoint.
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET/PREFIX`` on that provider.
        overwrite: Replace objects that are there with other content.

    Returns:
        ``checkpoint``, ``storageProvider``, ``destinationPath``, ``manifestDigest``, ``exportedAt`` (ISO 8601),
        ``exportedFiles``, ``skippedFiles`` and ``movedBytes``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.export.export`` and ``flexai.blocks.load_connection`` raise.
    """
    with telling(run_logger()):
        connection = load_connection(storage_provider)
    with transfer_through(storage_provider):
        return export_here(reference, connection, destination_path, overwrite=overwrite)


def export_here(
    reference: str,
    connection: StorageProvider,
    destination_path: str,
    *,
    overwrite: bool = False,
    runner: ShardRunner | None = None,
) -> Document:
    """Export a checkpoint in the run that is going on, and tell of it; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.export.export`` raises.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("export", reference))
    with telling(logger), System.open(connect=load_connection) as system:
        reporter = Reporter(system, logger)
        with reporter.telling_failure(reference, "export", destination_of(connection, destination_path)):
            report = export_to_provider(
                system,
                reference,
                connection,
                destination_path,
                overwrite=overwrite,
                runner=runner,
                progress=progress,
            )
        logger.info(
            "exported %s to %s:%s: %d files, %d there already",
            reference,
            connection.connection_name,
            destination_path,
            report.exported_files,
            report.skipped_files,
        )
        reporter.exported(report, connection)
    return export_document(report)
