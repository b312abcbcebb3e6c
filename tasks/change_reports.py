"""What the tasks tell Prefect about a change: an event, a page of the checkpoint's timeline, and its lineage.

All of it comes after the change, which stands whether or not Prefect hears of it: a catalog or an API that fails here
is worth a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from prefect.context import TaskRunContext

from flexai.checkpoints.catalog.history import HistoryFilter
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import CheckpointError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, TrainingJob
from flexai.checkpoints.names import parse_job_reference, parse_reference
from flexai.checkpoints.service.export import ExportReport
from flexai.checkpoints.service.inspect import look_up_history
from flexai.checkpoints.service.overview import overview
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import StorageConnection
from flexai.tasks import artifacts, assets, events
from flexai.tasks.catalog_report import show_catalog
from flexai.tasks.options import Logger
from flexai.tasks.pages import SHOWN_FILES, Story, describe_checkpoint, describe_job, points_of

TOLD_DELETIONS = 500
"""Deletions of one operation that Prefect is told one by one: a server loses records of bursts that are much larger."""
SHOWN_CATALOG = 2000
"""Checkpoints of a catalog whose page each run makes anew; of a larger one the flow of the report makes it."""
NEWEST = 20
"""Checkpoints, jobs and failures that the catalog's page lists."""
_SHOWN_HISTORY = 20
_MAX_ANCESTORS = 20


class Reporter:
    """Tells Prefect what happened to checkpoints of a system. Without a run it does nothing."""

    def __init__(self, system: System, logger: Logger) -> None:
        self._system = system
        self._logger = logger
        self._deletions = 0

    def pushed(self, checkpoint: Checkpoint, *, began: datetime, moved: int, skipped: int) -> None:
        """A push has ended well; a checkpoint that was there before it began is no news."""
        there = f", {human_size(skipped)} were there" if skipped else ""
        with self._forgiving() as works:
            if works:
                is_new = checkpoint.updated_at >= began
                happened = f"pushed; {human_size(moved) if moved else 'nothing'} moved{there}"
                self._available(checkpoint, "push", happened, is_new=is_new, facts={"movedBytes": moved})

    def captured(self, checkpoint: Checkpoint) -> None:
        """A training job's checkpoint was stored."""
        with self._forgiving() as works:
            if works:
                self._available(checkpoint, "capture", "captured from the training job")

    def undeleted(self, checkpoint: Checkpoint) -> None:
        """A deleted checkpoint is back."""
        with self._forgiving() as works:
            if works:
                self._available(checkpoint, "undelete", "brought back")

    def exported(self, report: ExportReport, connection: StorageConnection) -> None:
        """An export has ended well; one that had nothing to send is no news."""
        checkpoint, record = report.checkpoint, report.record
        with self._forgiving() as works:
            if not works:
                return
            story = self._story(checkpoint)
            destination = destination_of(connection, record.destination_path)
            if report.exported_files:
                events.emit_checkpoint(
                    events.EXPORTED,
                    checkpoint,
                    operation="export",
                    store=self._store,
                    by=self._by,
                    job=story.job,
                    destination=destination,
                    facts={
                        "exportedAt": record.exported_at.isoformat(),
                        "isPart": record.is_part,
                        "exportedFiles": report.exported_files,
                        "skippedFiles": report.skipped_files,
                        "movedBytes": report.moved_bytes,
                    },
                )
                assets.materialized(
                    assets.place_asset(destination.storage_provider, destination.path),
                    [assets.checkpoint_asset(checkpoint)],
                )
            place = artifacts.code(f"{destination.storage_provider}:{destination.path}")
            there = f", {report.skipped_files} were there" if report.skipped_files else ""
            what = "a part exported" if record.is_part else "exported"
            self._page(story, f"{what} to {place}; {report.exported_files} files sent{there}")

    def deleted(self, checkpoint: Checkpoint) -> None:
        """A checkpoint was deleted."""
        self._deletions += 1
        if self._deletions > TOLD_DELETIONS:
            if self._deletions == TOLD_DELETIONS + 1:
                self._logger.warning("only the first %d deletions have pages and events of their own", TOLD_DELETIONS)
            return
        with self._forgiving() as works:
            if works:
                story = self._story(checkpoint)
                events.emit_checkpoint(
                    events.DELETED, checkpoint, operation="delete", store=self._store, by=self._by, job=story.job
                )
                self._page(story, f"deleted; `flexai checkpoint undelete {checkpoint.id}` brings it back for a while")

    def protected(self, checkpoint: Checkpoint, happened: str) -> None:
        """A checkpoint was protected, or is so no more: a word on its page, and no event."""
        with self._forgiving() as works:
            if works:
                self._page(self._story(checkpoint), happened)

    def failed(
        self,
        checkpoint: Checkpoint,
        operation: str,
        reason: str,
        destination: events.Destination | None = None,
    ) -> None:
        """An operation on a checkpoint has failed, and will not be tried again by itself."""
        with self._forgiving() as works:
            if works:
                story = self._story(checkpoint)
                events.emit_checkpoint(
                    events.FAILED,
                    checkpoint,
                    operation=operation,
                    store=self._store,
                    by=self._by,
                    job=story.job,
                    destination=destination,
                    reason=reason,
                )
                self._page(story, f"{operation} failed: {artifacts.plain(reason)}")

    def catalog(self) -> None:
        """Checkpoints have changed: make the catalog's page anew, unless looking through the catalog takes long."""
        with self._forgiving() as works:
            if works and self._system.catalog.checkpoints.count() <= SHOWN_CATALOG:
                show_catalog(overview(self._system), newest=NEWEST, logger=self._logger)

    @contextmanager
    def telling_failure(
        self, reference: str, operation: str, destination: events.Destination | None = None
    ) -> Iterator[None]:
        """Tell about the failure of the block, if the task is not tried again.

        A push that fails before it has taken its name has changed no checkpoint, so there is nothing to tell.
        """
        try:
            yield
        except BaseException as error:
            if artifacts.is_in_a_run() and is_last_try(error):
                with self._forgiving():
                    checkpoint = self._find(reference)
                    is_about_it = operation != "push" or (
                        checkpoint is not None and checkpoint.status is CheckpointStatus.FAILED
                    )
                    if checkpoint is not None and is_about_it:
                        message = error.message if isinstance(error, CheckpointError) else type(error).__name__
                        self.failed(checkpoint, operation, checkpoint.reason or message, destination)
            raise

    def inspected(self, checkpoint_id: str) -> None:
        """A checkpoint was looked up, which is no part of its timeline."""
        with self._forgiving() as works:
            if works and (checkpoint := self._find(checkpoint_id)) is not None:
                artifacts.create_markdown(
                    artifacts.artifact_key("inspected", checkpoint.title),
                    describe_checkpoint(self._story(checkpoint), "looked up"),
                    description=f"Checkpoint {checkpoint.title}",
                    logger=self._logger,
                )

    def lost(self, job: TrainingJob, lost: int) -> None:
        """Versions of a job's checkpoints are lost, so many in this attempt."""
        with self._forgiving() as works:
            if works:
                events.emit_lost(job, lost, store_id=self._system.store_id, store=self._store)

    def job_ended(self, job_id: str) -> None:
        """A training job has ended: its page, with a chart where there are two losses to draw, and its lineage."""
        with self._forgiving() as works:
            if not works:
                return
            job = self._system.catalog.jobs.get_by_id(job_id)
            captured = self._system.catalog.checkpoints.list_captured(job_id)
            if captured:
                begun_with = self._find(job.input_checkpoint_id) if job.input_checkpoint_id else None
                upstream = [assets.checkpoint_asset(begun_with)] if begun_with else []
                assets.materialized(assets.job_asset(self._system.store_id, job.name), upstream)
            if len({point.step for point in points_of(captured) if point.has_loss}) >= 2:
                key = artifacts.artifact_key("training", job.name)
                description = f"Losses of training job {job.name}"
                if artifacts.create_markdown(
                    key, describe_job(job, captured), description=description, logger=self._logger
                ):
                    self._tell_where(f"losses of training job {job.name}", key)

    def _available(
        self,
        checkpoint: Checkpoint,
        operation: str,
        happened: str,
        *,
        is_new: bool = True,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        story = self._story(checkpoint)
        if is_new:
            events.emit_checkpoint(
                events.AVAILABLE,
                checkpoint,
                operation=operation,
                store=self._store,
                by=self._by,
                job=story.job,
                facts=facts,
            )
            assets.checkpoint_materialized(checkpoint, parent=story.parent, job=story.job)
        self._page(story, happened if is_new else "was there already, with the same content")

    def _page(self, story: Story, happened: str) -> None:
        key = artifacts.checkpoint_key(story.checkpoint)
        run = artifacts.run_link()
        is_there = artifacts.create_markdown(
            key,
            describe_checkpoint(story, happened, by=self._by, run=run),
            description=f"{happened[:1].upper()}{happened[1:]}" + (f" ({run})" if run else ""),
            logger=self._logger,
        )
        if is_there:
            self._tell_where(f"checkpoint {story.checkpoint.title}", key)

    def _tell_where(self, what: str, key: str) -> None:
        if url := artifacts.artifact_url(key):
            self._logger.info("%s in Prefect's UI: %s", what, url)

    @property
    def _by(self) -> str:
        return self._system.owner.name

    @property
    def _store(self) -> str:
        return self._system.settings.effective_store

    def _story(self, checkpoint: Checkpoint) -> Story:
        parent = None
        if checkpoint.parent_id and checkpoint.kind is CheckpointKind.PUSHED:
            parent = self._find(checkpoint.parent_id)
        known = self._system.catalog
        return Story(
            checkpoint,
            known.checkpoints.list_files(checkpoint.id, first=SHOWN_FILES),
            known.checkpoints.list_exports(checkpoint.id),
            parent,
            self._job(checkpoint, parent),
            look_up_history(known, HistoryFilter(limit=_SHOWN_HISTORY, ids=(checkpoint.id,))),
        )

    def _job(self, checkpoint: Checkpoint, parent: Checkpoint | None) -> TrainingJob | None:
        """The job that a checkpoint comes from; None once that, or a checkpoint on the way, was deleted."""
        origin: Checkpoint | None = parent or checkpoint
        for _ in range(_MAX_ANCESTORS):
            if origin is None or origin.kind is CheckpointKind.CAPTURED or not origin.parent_id:
                break
            origin = self._find(str(origin.parent_id))
        if origin is None or not origin.job_id:
            return None
        try:
            return self._system.catalog.jobs.get(parse_job_reference(origin.job_id))
        except NotFoundError:
            return None

    def _find(self, reference: str) -> Checkpoint | None:
        try:
            return self._system.catalog.checkpoints.get(parse_reference(reference))
        except CheckpointError as error:
            if isinstance(error, StorageUnavailableError):
                raise
            return None

    @contextmanager
    def _forgiving(self) -> Iterator[bool]:
        """Whether there is a run to tell; what cannot be found out about a change does not undo it."""
        try:
            yield artifacts.is_in_a_run()
        except CheckpointError as error:
            self._logger.warning("Prefect could not be told all about it: %s", error.message)
        except Exception:
            # The change stands: a run that failed now would say that it does not.
            self._logger.exception("Prefect could not be told all about it")


def destination_of(connection: StorageConnection, path: str) -> events.Destination:
    """A place on a storage provider, as events name it."""
    return events.Destination(connection.connection_name, str(connection.connection_id), path)


def is_last_try(error: BaseException) -> bool:
    """Whether a task that fails with this error is not tried again by itself."""
    context = TaskRunContext.get()
    if context is None or not isinstance(error, StorageUnavailableError):
        return True
    return context.task_run.run_count > (context.task.retries or 0)
