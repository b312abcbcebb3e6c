"""Reading the catalog at once, to show it.

Commands that only show something read here, as rows and without the models. Where the catalog is an SQLite file of
the newest form it is opened read-only as it is; a catalog that is not there yet reads as empty and is not made.
Everything else, PostgreSQL and catalogs that must be migrated first, goes through :class:`Database`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from flexai.checkpoints import setting_sources
from flexai.checkpoints.catalog.opening import has_options, open_database, sqlite_file
from flexai.checkpoints.catalog.schema import BUSY_TIMEOUT_SECONDS, HEAD_REVISION
from flexai.checkpoints.catalog.sqlite import SqliteTransaction, sqlite_errors
from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.documents import CapturedRow, CheckpointDetails, CheckpointRow, ExportRow, FileRow, JobRow
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.names import is_uuid, name_key, parse_name, parse_reference, title_of

Query: TypeAlias = Callable[[str, Mapping[str, object]], Sequence[Sequence[Any]]]
"""Runs an SQL text with its ``:named`` values and returns the rows."""

INTERRUPTED = "interrupted before it was finished: push it again to continue"
RUNNER_GONE = "the process that ran it is gone"

_CLAIM = "{0}.claim_token, {0}.claim_host, {0}.claim_pid, {0}.claim_started, {0}.claim_until"
_CHECKPOINT_CLAIM = _CLAIM.format("c")
_JOB_CLAIM = _CLAIM.format("j")

# What all of them have is left out: a driver takes as long for that as for anything else.
_PUSHED = f"""
    SELECT c.id, c.name, c.status, c.reason, c.size, c.file_count, c.created_at, c.updated_at, c.is_protected,
           {_CHECKPOINT_CLAIM}
    FROM checkpoints c WHERE c.kind = 'pushed' AND c.deleted_at IS NULL
"""

_CREATED_AT = 6
"""The place of that column there."""

_DELETED = f"""
    SELECT c.id, c.kind, c.name, COALESCE(j.name, ''), c.status, c.reason, c.size, c.file_count,
           c.created_at, c.updated_at, c.deleted_at, c.is_protected, {_CHECKPOINT_CLAIM}
    FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id
    WHERE c.deleted_at IS NOT NULL AND c.manifest_digest IS NOT NULL ORDER BY c.deleted_at, c.id
"""

_CAPTURED = f"""
    SELECT c.id, c.name, c.node, c.step, c.train_loss, c.eval_loss, c.model, c.version, c.inference_ready,
           c.resumable, c.status, c.reason, c.size, c.file_count, c.created_at, c.is_protected, {_CHECKPOINT_CLAIM}
    FROM checkpoints c WHERE c.job_id = :job_id AND c.deleted_at IS NULL ORDER BY c.sequence
"""

_DETAILS = f"""
    SELECT c.id, c.kind, c.name, c.creator_user_id, c.owner_org_id, c.source, c.status, c.reason, c.size,
           c.file_count, c.manifest_digest, c.parent_id, c.job_id, COALESCE(j.name, ''), c.node, c.sequence, c.step,
           c.train_loss, c.eval_loss, c.model, c.version, c.inference_ready, c.inference_missing, c.resumable,
           c.resumable_missing, c.created_at, c.updated_at, c.store_id, c.is_protected, {_CHECKPOINT_CLAIM}
    FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id
    WHERE c.deleted_at IS NULL AND
"""

_FILES = """
    SELECT f.path, t.size, t.digest, t.checksums FROM files f JOIN contents t ON t.id = f.content_id
    WHERE f.checkpoint_id = :id
"""

_STORED_FILES = """
    SELECT f.path, t.id, t.blob_id, t.start, t.size, t.part_size, t.digest, t.part_digests, t.checksums, t.origin
    FROM files f JOIN contents t ON t.id = f.content_id WHERE f.checkpoint_id = :id
"""

_EXPORTS = """
    SELECT storage_provider, destination_path, manifest_digest, exported_at FROM exports
    WHERE checkpoint_id = :id ORDER BY exported_at
"""

_JOBS = f"""
    SELECT j.id, j.name, j.creator_user_id, j.owner_org_id, j.status, j.reason, j.command, j.env_names, j.attempt,
           j.exit_code, j.input_checkpoint_id, COALESCE(i.name, ''), j.output_dir, j.log_path,
           j.host, j.code_commit,
           (SELECT COUNT(*) FROM checkpoints c
            WHERE c.job_id = j.id AND c.deleted_at IS NULL AND c.status = 'available'),
           j.created_at, j.started_at, j.ended_at, j.updated_at, {_JOB_CLAIM}
    FROM jobs j LEFT JOIN checkpoints i ON i.id = j.input_checkpoint_id
    WHERE j.name_key IS NOT NULL
"""

_CLAIM_COLUMNS = 5


class CatalogReader:
    """What a catalog says about checkpoints and training jobs."""

    def __init__(self, query: Query) -> None:
        self._query = query

    def pushed_checkpoints(self) -> list[CheckpointRow]:
        """The checkpoints that users pushed, oldest first."""
        # Not ORDER BY: by the rules of a language that takes PostgreSQL longer than all the rest.
        rows = sorted(self._query(_PUSHED, {}), key=itemgetter(_CREATED_AT, 0))
        return [_pushed(row) for row in rows]

    def deleted_checkpoints(self) -> list[CheckpointRow]:
        """The deleted checkpoints that can still come back, captured ones too; the longest deleted first."""
        return [_deleted(row) for row in self._query(_DELETED, {})]

    def checkpoint(self, reference: str) -> CheckpointDetails:
        """The checkpoint of a NAME or UUID.

        Raises InvalidNameError for a text that can be neither, NotFoundError where there is none.
        """
        wanted = parse_reference(reference)
        if wanted.id is not None:
            rows = self._query(_DETAILS + "c.id = :id", {"id": wanted.id})
        else:
            rows = self._query(_DETAILS + "c.name_key = :key", {"key": name_key(wanted.text)})
        if not rows:
            raise NotFoundError(f"there is no checkpoint {reference!r}")
        return _details(rows[0])

    def files(self, checkpoint_id: str) -> list[FileRow]:
        """The files of a checkpoint, in order of their paths."""
        rows = self._query(_FILES, {"id": checkpoint_id})
        # Not ORDER BY: PostgreSQL orders texts by its locale.
        return sorted(
            (FileRow(path, size, digest, json.loads(checksums)) for path, size, digest, checksums in rows),
            key=lambda file: file.path,
        )

    def stored_files(self, checkpoint_id: str) -> list[StoredFile]:
        """The files of a checkpoint with their contents, in order of their paths."""
        rows = self._query(_STORED_FILES, {"id": checkpoint_id})
        return sorted((StoredFile(path, StoredContent.of_row(row)) for path, *row in rows), key=lambda file: file.path)

    def exports(self, checkpoint_id: str) -> list[ExportRow]:
        """Where a checkpoint was exported, oldest first."""
        return [ExportRow(*row) for row in self._query(_EXPORTS, {"id": checkpoint_id})]

    def jobs(self) -> list[JobRow]:
        """The training jobs, oldest first."""
        return [_job(row) for row in self._query(_JOBS + "ORDER BY j.created_at, j.id", {})]

    def job(self, reference: str) -> JobRow:
        """The training job of a NAME or UUID.

        Raises InvalidNameError for a text that can be neither, NotFoundError where there is none.
        """
        if is_uuid(reference):
            rows = self._query(_JOBS + "AND j.id = :id", {"id": reference.lower()})
        else:
            key = name_key(parse_name(reference, what="training job"))
            rows = self._query(_JOBS + "AND j.name_key = :key", {"key": key})
        if not rows:
            raise NotFoundError(
                f"there is no training job {reference!r}", hint="flexai training list shows what there is"
            )
        return _job(rows[0])

    def captured_checkpoints(self, job_id: str) -> list[CapturedRow]:
        """The checkpoints that a training job wrote, in the order of their capture."""
        return [_captured(row) for row in self._query(_CAPTURED, {"job_id": job_id})]

    def checkpoint_names(self) -> list[str]:
        """The names of pushed checkpoints."""
        pushed = "SELECT name FROM checkpoints WHERE kind = 'pushed' AND deleted_at IS NULL"
        return [row[0] for row in self._query(pushed, {})]

    def captured_ids(self) -> list[tuple[str, str]]:
        """The ids of captured checkpoints that can be used, newest first, with their ``JOB/FOLDER`` titles."""
        rows = self._query(
            "SELECT c.id, j.name, c.name FROM checkpoints c JOIN jobs j ON j.id = c.job_id"
            " WHERE c.kind = 'captured' AND c.status = 'available' ORDER BY c.created_at DESC",
            {},
        )
        return [(checkpoint_id, title_of("captured", name, job)) for checkpoint_id, job, name in rows]

    def job_names(self) -> list[str]:
        """The names of training jobs."""
        return [row[0] for row in self._query("SELECT name FROM jobs WHERE name_key IS NOT NULL", {})]


@contextlib.contextmanager
def open_reader(url: str | None = None) -> Iterator[CatalogReader]:
    """Open the catalog at an SQLAlchemy URL (the setting ``database_url`` by default) for one consistent look.

    Raises SettingsError for a URL that cannot be used, StorageUnavailableError for a catalog that does not answer.
    """
    url = setting_sources.database_url() if url is None else url
    path = sqlite_file(url)
    # Options mean what SQLAlchemy says they mean.
    if path is not None and not has_options(url):
        if not path.exists():
            yield CatalogReader(_nothing)
            return
        with sqlite_errors(path), contextlib.closing(_connect(path)) as connection:
            connection.execute("BEGIN")
            if SqliteTransaction(connection).revision() == HEAD_REVISION:
                yield CatalogReader(lambda sql, values: connection.execute(sql, values).fetchall())
                return
    database = open_database(url)
    try:
        with database.reading() as transaction:
            yield CatalogReader(lambda sql, values: transaction.rows(sql, **values))
    finally:
        database.close()


def _nothing(_sql: str, _values: Mapping[str, object]) -> Sequence[Sequence[Any]]:
    return ()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
    )


def _pushed(row: Sequence[Any]) -> CheckpointRow:
    checkpoint_id, name, status, reason, size, count, created_at, updated_at, is_protected = row[:-_CLAIM_COLUMNS]
    status, reason = _checkpoint_status(status, reason, row)
    # By their places: by their names they would take twice as long. SQLite has no booleans.
    return CheckpointRow(
        checkpoint_id, "pushed", name, "", status, reason, size, count, created_at, updated_at, None, bool(is_protected)
    )


def _deleted(row: Sequence[Any]) -> CheckpointRow:
    found = CheckpointRow(*row[:-_CLAIM_COLUMNS])
    found.is_protected = bool(found.is_protected)
    found.status, found.reason = _checkpoint_status(found.status, found.reason, row)
    return found


def _captured(row: Sequence[Any]) -> CapturedRow:
    found = CapturedRow(*row[:-_CLAIM_COLUMNS])
    found.inference_ready, found.resumable = bool(found.inference_ready), bool(found.resumable)
    found.is_protected = bool(found.is_protected)
    found.status, found.reason = _checkpoint_status(found.status, found.reason, row)
    return found


def _details(row: Sequence[Any]) -> CheckpointDetails:
    found = CheckpointDetails(*row[:-_CLAIM_COLUMNS])
    found.source = json.loads(str(found.source))
    found.inference_ready, found.resumable = bool(found.inference_ready), bool(found.resumable)
    found.is_protected = bool(found.is_protected)
    found.inference_missing = json.loads(str(found.inference_missing))
    found.resumable_missing = json.loads(str(found.resumable_missing))
    found.status, found.reason = _checkpoint_status(found.status, found.reason, row)
    return found


def _job(row: Sequence[Any]) -> JobRow:
    found = JobRow(*row[:-_CLAIM_COLUMNS])
    found.command, found.env_names = json.loads(str(found.command)), json.loads(str(found.env_names))
    if found.status in {"in progress", "stop in progress"} and not _is_held(row):
        found.status, found.reason = "interrupted", RUNNER_GONE
    return found


def _checkpoint_status(status: str, reason: str, row: Sequence[Any]) -> tuple[str, str]:
    """Status and reason as they are: what was being pushed by a process that is gone has failed.

    Nobody is left to record it, and whoever waits for the push to end should not wait for ever.
    """
    if status in {"uploading", "syncing"} and not _is_held(row):
        return "failed", INTERRUPTED
    return status, reason


def _is_held(row: Sequence[Any]) -> bool:
    token, host, pid, started, until = row[-_CLAIM_COLUMNS:]
    if token is None:
        return False
    from flexai.checkpoints.catalog.claims import Claim

    return Claim(token=token, host=host, pid=pid, started=started, until=until).is_alive
