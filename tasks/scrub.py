"""Scrub, as a task."""

from __future__ import annotations

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.scrub import ScrubReport
from flexai.checkpoints.service.scrub import scrub as scrub_part
from flexai.checkpoints.service.store_requests import ScrubRequest
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.events import emit_corruption
from flexai.tasks.options import RETRIED, TAGS, Logger, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring
from flexai.tasks.verify import describe_damage, log_damage, log_repair


@task(
    name="scrub-store",
    description="Verify a part of the store, what was not read for the longest time first, and repair rot.",
    tags=TAGS | {"verify"},
    task_run_name="scrub the store",
    **RETRIED,
)
@takes(ScrubRequest)
def scrub_store(request: ScrubRequest) -> Document:
    """Scrub the store; damage that cannot be repaired fails the task, after it is all logged.

    Returns:
        What ``flexai checkpoint verify --json`` prints, and ``roundComplete``.

    Raises:
        CheckpointError: IntegrityError for damage that is left, UsageError for a budget of nothing.
    """
    logger = run_logger()
    progress = RunProgress(logger, key="scrub-store")
    with transferring(logger) as system:
        report = scrub_part(
            system, request, on_damage=lambda damaged: emit_corruption(system, damaged), progress=progress
        )
    with telling(logger):
        log_damage(report.damaged, logger)
        log_repair(report.repair, logger)
        _show(report, logger)
        report.raise_if_damaged()
    return report.to_dict()


def _show(report: ScrubReport, logger: Logger) -> None:
    summary = (
        f"verified {report.checked_contents} contents, {human_size(report.checked_bytes)}:"
        f" {len(report.damaged)} damaged, {len(report.repair.repaired)} repaired"
    )
    rest = "all that checkpoints need was read" if report.is_round_complete else "the next run goes on from here"
    logger.info("%s; %s", summary, rest)
    artifacts.create_markdown(
        "scrub",
        f"# Scrub\n\n{summary}; {rest}.\n{describe_damage(report.damaged, report.repair)}",
        description=f"Scrub: {summary}",
        logger=logger,
    )
