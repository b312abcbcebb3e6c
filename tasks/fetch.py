"""Fetch, as a task."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.fetch import fetch as fetch_from_store
from flexai.checkpoints.service.result_documents import fetch_document
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.options import RETRIED, TAGS, run_logger, telling
from flexai.tasks.run_names import sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through


@task(
    name="fetch-checkpoint",
    description="Bring a checkpoint's files to a directory of the machine that runs this.",
    tags=TAGS | {"fetch"},
    task_run_name=sized("fetch {reference}{size}"),
    **RETRIED,
)
def fetch_checkpoint(reference: str, destination: str = ".", overwrite: bool = False) -> Document:
    """Fetch a checkpoint; a rerun continues a broken fetch.

    Args:
        reference: NAME or UUID of the checkpoint.
        destination: The directory, made where it is missing.
        overwrite: Replace files that are there with other content.

    Returns:
        ``checkpoint``, ``destination`` (absolute), ``fetchedFiles``, ``keptFiles`` and ``movedBytes``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.fetch.fetch`` raises.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("fetch", reference))
    target = Path(destination).expanduser().absolute()
    with telling(logger), transfer_through(), System.open(connect=load_connection) as system:
        report = fetch_from_store(system, reference, target, overwrite=overwrite, progress=progress)
    logger.info("fetched %s to %s: %d files, %d kept", reference, target, report.fetched_files, report.kept_files)
    return fetch_document(report)
