"""Recover: rebuild a lost catalog, or bring an old copy of it up to date, from what lies beside the blobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from flexai.checkpoints.catalog.catalog import move_aside
from flexai.checkpoints.catalog.changes import Kind, note_due, write_due
from flexai.checkpoints.catalog.database import ConstraintError, batches
from flexai.checkpoints.catalog.recovery import FoundCheckpoint, described_of, enter_recovered, enter_recovered_job
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import CheckpointError, IntegrityError, NotFoundError
from flexai.checkpoints.foreign_json import MAX_DOCUMENT
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.names import is_uuid
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import catalog_document, check_may_take, note_use, place_of, take_over
from flexai.checkpoints.service.support.manifest_reader import manifest_of, read_manifest_document
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.service.support.record_reader import (
    CheckpointRecord,
    JobRecord,
    read_checkpoint_record,
    read_job_record,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.at_once import at_once
from flexai.checkpoints.storage.managed import StoreCatalog

T = TypeVar("T")

_AS_STORED: dict[str, Any] = {"status": CheckpointStatus.AVAILABLE, "deleted_at": None, "is_protected": False}
"""What a manifest does not decide."""
_BATCH = 100
"""Documents that are read ahead, and checkpoints that are entered in one transaction."""


@dataclass
class RecoverReport:
    """What was found in the store."""

    recovered: dict[str, str] = field(default_factory=dict)
    """Titles of checkpoints that the catalog knows again, or knows more of, by their ids."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Names of training jobs of which the same is true, by their ids."""
    known: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """Why a checkpoint, or a job, could not be recovered as it was, by its id."""
    mended: list[str] = field(default_factory=list)
    """The documents in the store that were lost or damaged, and were written anew from what the catalog knows."""
    damaged_records: dict[str, str] = field(default_factory=dict)
    """What is wrong with the record of a checkpoint, by its id; of one that the catalog knew nothing is lost by it."""
    taken_from: StoreCatalog | None = None
    """The catalog at another place that the store belonged to; None where it belonged to none."""

    def to_dict(self) -> Document:
        """What ``checkpoint recover --json`` prints, but for the store."""
        return {
            "takenFrom": catalog_document(self.taken_from),
            "recoveredCheckpoints": [{"id": one, "title": title} for one, title in self.recovered.items()],
            "recoveredJobs": [{"id": one, "name": name} for one, name in self.jobs.items()],
            "knownCheckpoints": self.known,
            "writtenAnew": list(self.mended),
            "problems": [{"id": one, "problem": problem} for one, problem in self.problems.items()],
        }


def recover(
    system: System,
    *,
    max_manifest_size: int = MAX_DOCUMENT,
    force: bool = False,
    aside: bool = False,
    progress: Progress | None = None,
) -> RecoverReport:
    """Enter every checkpoint and job that the store describes, and make the store this catalog's.

    What the catalog knows already is brought up to the last change that the store knows of. A checkpoint whose manifest
    cannot be used, or whose blobs are not all there, is left out and named. What a manifest says of content is a claim:
    no push takes it for its own content until a verification has compared it. Names that are taken by now are left to
    their holders; such a checkpoint is found by its UUID. What of the store's documents is lost or damaged is written
    anew, as far as the catalog knows it. ``max_manifest_size`` is in bytes: no catalog is there to say
    how large a manifest must be. With ``aside`` the catalog's file is kept under another name first, and the catalog is
    made anew: for one that cannot be read.

    Raises ConflictError where another catalog uses the store (but with ``force``), and what the store raises.
    """
    progress = progress or Progress()
    report = RecoverReport()
    if aside:
        # What is refused has moved nothing.
        check_may_take(system, system.store.read()[1], force=force)
        if (kept := move_aside(system.database_url)) is not None:
            progress.note(f"the catalog's file is kept as {kept}")
    former = take_over(system, force=force)
    # One that was at this very place is lost.
    if former is not None and former.place != place_of(system):
        report.taken_from = former
    store = system.store
    sizes = {blob_id: info.size for blob_id, info in store.list_blobs()}
    ids = list(store.list_manifests())
    jobs = list(store.list_records("job"))
    changed = set(store.list_records("checkpoint"))
    progress.begin("recover", total_bytes=0, total_files=len(ids) + len(jobs))
    try:
        for batch in _read_all(jobs, partial(_job, system), report, progress):
            for name, (job, is_deleted, history) in batch:
                if job.id != name:
                    report.problems[name] = f"the record under this id describes job {job.id}"
                elif enter_recovered_job(system.catalog.database, job, history, deleted=is_deleted):
                    report.jobs[job.id] = job.name
        read = partial(_found, system, sizes=sizes, changed=changed, limit=max_manifest_size, report=report)
        for found in _read_all(ids, read, report, progress):
            _enter(system, [one for _, one in found], sizes, report)
    finally:
        progress.end()
    _mend(system, report, sizes, set(ids), {"checkpoint": changed, "job": set(jobs)})
    note_use(system)
    return report


def _mend(
    system: System,
    report: RecoverReport,
    sizes: Mapping[str, int],
    manifests: Set[str],
    records: Mapping[Kind, Set[str]],
) -> None:
    """Write anew what should be in the store, as far as the catalog knows it, and is not, or cannot be used."""
    database = system.catalog.database
    should_be = described_of(database, system.store_id)
    unusable = report.problems.keys() - report.damaged_records.keys() | (should_be.manifests - manifests)
    for checkpoint_id in sorted(should_be.manifests & unusable):
        checkpoint = system.catalog.checkpoints.get_by_id(checkpoint_id)
        files = system.blobs.files_of(checkpoint_id)
        missing = [
            file.path for file in files if sizes.get(file.content.blob_id, -1) < file.content.start + file.content.size
        ]
        if missing:
            report.problems[checkpoint_id] = f"the content of {first_of(sorted(missing))} is not in the store"
        elif manifest_of(files, checkpoint.folders).digest() == checkpoint.manifest_digest:
            write_manifest(system.store, checkpoint, files)
            report.problems.pop(checkpoint_id, None)
            report.mended.append(f"the manifest of {checkpoint.title}")
    due: dict[Kind, Set[str]] = {kind: ids - records[kind] for kind, ids in should_be.records.items()}
    due["checkpoint"] |= report.damaged_records.keys() & should_be.manifests
    due["job"] |= should_be.records["job"] & report.problems.keys()
    note_due(database, due)
    write_due(database)
    titles = system.catalog.checkpoints.names_of(sorted(due["checkpoint"]))
    titles |= {job_id: system.catalog.jobs.get_by_id(job_id).name for job_id in due["job"]}
    report.mended += [f"the record of {titles[one]}" for one in sorted(titles, key=titles.__getitem__)]


def finish_pushes(system: System, checkpoint_ids: Collection[str]) -> dict[str, str]:
    """Make checkpoints available whose pushes were cut off when all was stored; returns the titles of those, by ids.

    Those that another process works on by now, and those whose manifests or blobs cannot be used, are left as they are.
    """
    finished: dict[str, str] = {}
    found, sizes = find_arrived(system, checkpoint_ids)
    for one in found:
        report = RecoverReport()
        _enter(system, [one], sizes, report)
        finished |= report.recovered
    return finished


def find_arrived(system: System, checkpoint_ids: Collection[str]) -> tuple[list[FoundCheckpoint], dict[str, int]]:
    """Those of checkpoints whose manifests and blobs can be used, and the bytes of each blob; nothing is written."""
    if not checkpoint_ids:
        return [], {}
    sizes = {blob_id: info.size for blob_id, info in system.store.list_blobs()}
    changed = set(system.store.list_records("checkpoint"))
    read = partial(_found, system, sizes=sizes, changed=changed, limit=MAX_DOCUMENT, report=RecoverReport())
    arrived = [_outcome(read, checkpoint_id)[0] for checkpoint_id in sorted(checkpoint_ids)]
    return [one for one in arrived if one is not None], sizes


def _read_all(
    names: Sequence[str], read: Callable[[str], T], report: RecoverReport, progress: Progress
) -> Iterator[list[tuple[str, T]]]:
    """Yield what is read under names, batch by batch; what cannot be read is reported."""
    for batch in batches(names, _BATCH):
        found = []
        for name, (value, problem) in zip(batch, at_once(partial(_outcome, read), batch), strict=True):
            if value is None:
                report.problems[name] = problem
            else:
                found.append((name, value))
        yield found
        progress.advance(files=len(batch))


def _outcome(read: Callable[[str], T], name: str) -> tuple[T | None, str]:
    try:
        if not is_uuid(name):
            raise IntegrityError("no checkpoint or job has such an id")
        return read(name), ""
    except (IntegrityError, NotFoundError) as error:
        return None, error.message


def _there(document: dict[str, object] | None) -> dict[str, object]:
    if document is None:
        raise NotFoundError("its record is gone again")
    return document


def _job(system: System, job_id: str) -> JobRecord:
    return read_job_record(_there(system.store.read_record("job", job_id)))


def _record(system: System, checkpoint_id: str) -> CheckpointRecord:
    record = read_checkpoint_record(_there(system.store.read_record("checkpoint", checkpoint_id)))
    if record.checkpoint.id != checkpoint_id:
        raise IntegrityError(f"the record under this id describes checkpoint {record.checkpoint.id}")
    return record


def _found(
    system: System, checkpoint_id: str, sizes: dict[str, int], changed: set[str], limit: int, report: RecoverReport
) -> FoundCheckpoint:
    """What the store says of a checkpoint. Raises IntegrityError or NotFoundError."""
    document = system.store.read_manifest(checkpoint_id, limit=limit)
    checkpoint, manifest, ranges = read_manifest_document(document)
    if checkpoint.id != checkpoint_id:
        raise IntegrityError(f"the manifest under this id describes checkpoint {checkpoint.id}")
    unknown = sorted(path for path, (_, content) in ranges.items() if content.digest is None and not content.checksums)
    if unknown:
        raise IntegrityError(f"neither a digest nor a checksum is given of {first_of(unknown)}")
    missing = sorted(
        path for path, (blob_id, content) in ranges.items() if sizes.get(blob_id, -1) < content.start + content.size
    )
    if missing:
        raise IntegrityError(f"the content of {first_of(missing)} is not in the store")
    record = CheckpointRecord(replace(checkpoint, **_AS_STORED), (), ())
    if checkpoint_id in changed:
        try:
            record = _record(system, checkpoint_id)
        except IntegrityError as error:
            # Better that something deleted comes back than that something kept is lost.
            report.damaged_records[checkpoint_id] = error.message
    now_so = replace(record.checkpoint, store_id=system.store_id)
    executable = {entry.path for entry in manifest.files if entry.executable}
    return FoundCheckpoint(now_so, manifest.summary, ranges, record.exports, record.history, executable)


def _enter(system: System, found: Sequence[FoundCheckpoint], sizes: dict[str, int], report: RecoverReport) -> None:
    """Enter all in one transaction, or where one of them cannot be, each in its own."""
    if not found:
        return
    try:
        news = enter_recovered(system.catalog.database, found, sizes)
    except (ConstraintError, IntegrityError) as error:
        if len(found) > 1:
            for one in found:
                _enter(system, [one], sizes, report)
            return
        report.problems[found[0].checkpoint.id] = (
            error.message
            if isinstance(error, CheckpointError)
            else "it contradicts what the catalog has, such as a checkpoint of the same number"
        )
        return
    for one, is_news in zip(found, news, strict=True):
        if is_news:
            report.recovered[one.checkpoint.id] = one.checkpoint.title
            if (flaw := report.damaged_records.get(one.checkpoint.id)) is not None:
                report.problems[one.checkpoint.id] = f"{flaw}; it is recovered as its manifest says"
        else:
            report.known += 1
