"""Fetch, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.fetch import fetch as fetch_from_store
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
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
        ``checkpoint``, ``destination`` (absolute), ``fetchedFiles``, ``keptFiles``, ``movedBytes``,
        ``unverifiedFiles``, ``extraFiles`` (what else lies there), ``deletedFiles``, and ``leftOutFiles`` and
        ``leftOutBytes`` (what of the checkpoint was not asked for).

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.fetch.fetch`` raises.
    """
    with transferring(run_logger()) as system:
        return fetch_here(system, request)


def fetch_here(system: System, request: FetchRequest, *, runner: ShardRunner | None = None) -> Document:
    """Fetch a checkpoint in the run that is going on; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.fetch.fetch`` raises.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("fetch", request.reference))
    report = fetch_from_store(system, request, runner=runner, progress=progress)
    done = report.to_dict()
    logger.info(
        "fetched %s to %s: %d files, %d kept",
        request.reference,
        done["destination"],
        report.fetched_files,
        report.kept_files,
    )
    return done
