"""Fetch, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.fetch import fetch as fetch_from_store
from flexai.checkpoints.service.requests import FetchRequest
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, run_logger, takes
from flexai.tasks.run_names import sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring


@task(
    name="fetch-checkpoint",
    description="Bring a checkpoint's files to a directory of the machine that runs this.",
    tags=TAGS | {"fetch"},
    task_run_name=sized("fetch {reference}{size}"),
    **RETRIED,
)
@takes(FetchRequest)
def fetch_checkpoint(request: FetchRequest) -> Document:
    """Fetch a checkpoint; a rerun continues a broken fetch.

    Returns:
        ``checkpoint``, ``destination`` (absolute), ``fetchedFiles``, ``keptFiles``, ``movedBytes`` and
        ``unverifiedFiles``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.fetch.fetch`` raises.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("fetch", request.reference))
    with transferring(logger) as system:
        report = fetch_from_store(system, request, progress=progress)
    done = report.to_dict()
    logger.info(
        "fetched %s to %s: %d files, %d kept",
        request.reference,
        done["destination"],
        report.fetched_files,
        report.kept_files,
    )
    return done
