"""Mirror, as a task."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.service.mirror import (
    JobCheckpoints,
    Mirrored,
    MirrorReport,
    MirrorSet,
    NamedCheckpoints,
    PushedCheckpoints,
)
from flexai.checkpoints.service.mirror import mirror as mirror_to_provider
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.options import RETRIED, TAGS, Logger, run_logger, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through

_SHOWN = 500
"""Rows of the page about a mirror; the log has them all."""


@task(
    name="mirror-checkpoints",
    description="Bring a set of checkpoints to a storage provider; what is there already is left as it is.",
    tags=TAGS | {"mirror"},
    task_run_name="mirror to {storage_provider}",
    **RETRIED,
)
def mirror_checkpoints(
    storage_provider: str,
    destination_path: str,
    names: str = "*",
    checkpoints: Sequence[str] = (),
    job: str = "",
    overwrite: bool = False,
) -> Document:
    """Mirror checkpoints; one that fails does not stop the others, and fails the task at its end.

    Args:
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET[/PREFIX]`` on that provider.
        names: A pattern of the names of pushed checkpoints: all of them where nothing else is said.
        checkpoints: Instead of it: NAME or UUID of each checkpoint.
        job: Instead of it: NAME or UUID of the training job whose checkpoints are meant.
        overwrite: Replace objects that are there with other content.

    Returns:
        ``copied`` and ``skipped`` (``name``, ``id`` and ``destinationPath`` each) and ``movedBytes``.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.mirror.mirror`` raises, and one that names what failed.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("mirror", storage_provider))
    with telling(logger), System.open(connect=load_connection) as system, contextlib.ExitStack() as places:
        connection = load_connection(storage_provider)
        places.enter_context(transfer_through(storage_provider))
        reporter = Reporter(system, logger)
        report = mirror_to_provider(
            system,
            _chosen(names, checkpoints, job),
            connection,
            destination_path,
            overwrite=overwrite,
            on_copied=lambda done: reporter.exported(done, connection),
            progress=progress,
        )
        _show(report, storage_provider, logger)
        report.raise_if_failed()
    return {
        "copied": [_document(one) for one in report.copied],
        "skipped": [_document(one) for one in report.skipped],
        "movedBytes": report.moved_bytes,
    }


def _chosen(names: str, checkpoints: Sequence[str], job: str) -> MirrorSet:
    if checkpoints and job:
        raise UsageError("checkpoints and a training job are given", hint="give one of: names; checkpoints; job")
    if checkpoints:
        return NamedCheckpoints(tuple(checkpoints))
    return JobCheckpoints(job) if job else PushedCheckpoints(names)


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
