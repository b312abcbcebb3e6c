"""Repair: put sound content in the place of damaged content, read from an export of a checkpoint that has it.

The order is that of a push, and for the same reasons. The sound bytes are stored as a new blob and read back. Then, one
checkpoint after the other: it refers to the new blob, so that gc cannot take it; its manifest in the store says where
the content lies now; and one transaction says so in the catalog and gives up the damaged blob, which is gc's. Whatever
the instant it dies, catalog and manifest each lead to the damaged content or to the sound one, both of which are there,
and a rerun, which finds the sound one by its digest, finishes the work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from flexai.checkpoints.contents import NewContent, StoredContent, StoredFile
from flexai.checkpoints.errors import (
    CheckpointError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageFullError,
)
from flexai.checkpoints.manifest import FileEntry
from flexai.checkpoints.models import ExportRecord, canonical_json, now
from flexai.checkpoints.names import some
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import look_again, note_use
from flexai.checkpoints.service.support.export_manifest import read_export_manifest
from flexai.checkpoints.service.support.manifest_reader import document_limit, manifest_of, read_manifest_document
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.digest import Part
from flexai.checkpoints.transfer.sources import ObjectSource
from flexai.checkpoints.transfer.stored_body import StoredBody, holds
from flexai.checkpoints.transfer.upload import upload

_ABANDONED_AFTER = timedelta(days=1)
"""After which no process goes on with a repair that died."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of one damaged content."""

    blob_id: str
    """Where the damaged bytes are."""
    size: int
    """Bytes."""
    users: tuple[tuple[str, str], ...]
    """The files that need it: (checkpoint, path)."""
    source: str
    """Where the sound bytes came from; empty where there were none."""
    problem: str = ""
    """Why it could not be repaired."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did."""

    repaired: tuple[Repair, ...] = ()
    unrepaired: tuple[Repair, ...] = ()

    def raise_if_unrepaired(self) -> None:
        """Raise IntegrityError naming what is still damaged, if anything is."""
        if self.unrepaired:
            raise IntegrityError(
                f"stored content is damaged and could not be repaired: {_users_of(self.unrepaired)}",
                hint=self.unrepaired[0].problem,
                damaged=self.unrepaired,
            )


def repair(system: System, *, progress: Progress | None = None) -> RepairReport:
    """Repair all content that a verification found damaged and that a checkpoint needs.

    Sound bytes are taken from the store, where another content has the same digest, or from an export, compared with
    the digests that were recorded when the content was first read. What cannot be repaired is reported, not raised.
    Raises what the store raises.
    """
    progress = progress or Progress()
    system.soundness.release_abandoned(before=now() - _ABANDONED_AFTER)
    damaged = system.soundness.damaged()
    if damaged:
        look_again(system)
    repairs = _Repairs(system, progress)
    done = []
    progress.begin("repair", total_bytes=sum(content.size for content in damaged), total_files=len(damaged))
    try:
        for content in damaged:
            done.append(repairs.repair(content))
    finally:
        progress.end()
    report = _report(done)
    _note(system, report)
    return report


def heal(system: System, damaged: Iterable[StoredContent], *, progress: Progress) -> bool:
    """Repair damaged contents of which a push has brought sound ones; returns whether any was.

    Tells ``progress`` of the files that are sound again. Raises what the store raises.
    """
    repairs = _Repairs(system, progress)
    report = _report([repairs.repair(content) for content in damaged])
    _note(system, report)
    if report.repaired:
        progress.note(f"healed what was damaged in the store: {_users_of(report.repaired)}")
    return bool(report.repaired)


def _note(system: System, report: RepairReport) -> None:
    """Let an older copy of the catalog be known as one: gc would take what only a repaired checkpoint needs."""
    if report.repaired:
        with contextlib.suppress(StorageFullError):
            note_use(system)


def _report(done: Sequence[Repair]) -> RepairReport:
    return RepairReport(
        repaired=tuple(one for one in done if not one.problem), unrepaired=tuple(one for one in done if one.problem)
    )


def _users_of(repairs: Sequence[Repair]) -> str:
    """The files that need damaged contents, in a sentence."""
    return some(sorted({f"{path} of {checkpoint}" for one in repairs for checkpoint, path in one.users}))


class _Repairs:
    def __init__(self, system: System, progress: Progress) -> None:
        self._system = system
        self._progress = progress
        self._began = now()
        self._places: dict[tuple[str, str], tuple[RemotePath, Mapping[str, FileEntry]]] = {}
        """Exports that were looked at: where each is, and what its manifest lists."""

    def repair(self, content: StoredContent) -> Repair:
        """Repair one content, for all checkpoints that need it."""
        users = sorted(self._system.blobs.users_of([content.id]).get(content.id, []))
        names = self._system.catalog.checkpoints.names_of(sorted({user for user, _ in users}))
        titles = tuple(sorted((names[user], path) for user, path in users if user in names))
        outcome = Repair(content.blob_id, content.size, titles, source="")
        try:
            source, sound = self._find_sound(content, users)
        except CheckpointError as error:
            return replace(outcome, problem=error.message)
        for checkpoint_id in dict.fromkeys(user for user, _ in users):
            self._replace(checkpoint_id, content, sound)
            # What an earlier repair began and this one has not gone on with.
            self._system.soundness.release_abandoned(before=self._began, writer_id=checkpoint_id)
        return replace(outcome, source=source)

    def _find_sound(self, content: StoredContent, users: Sequence[tuple[str, str]]) -> tuple[str, StoredContent]:
        """Sound content that a user's checkpoint refers to, and where it was found. Raises IntegrityError for none."""
        if content.digest is None:
            raise IntegrityError("it was never read while it was sound, so no copy can be told to be the right one")
        if not users:
            raise IntegrityError("no checkpoint needs it any more")
        problems = []
        for twin in self._system.blobs.find_by_size(content.size):
            if twin.digest == content.digest and self._system.blobs.hold(users[0][0], twin):
                try:
                    return "the store itself", self._checked(users[0][0], twin, content)
                except IntegrityError as error:
                    problems.append(f"the store itself: {error.message}")
        for checkpoint_id, path in users:
            for record in self._exports_of(checkpoint_id):
                where = f"{record.storage_provider}:{record.destination_path}"
                try:
                    return where, self._bring(content, checkpoint_id, path, record)
                except CheckpointError as error:
                    problems.append(f"{where}: {error.message}")
        raise IntegrityError("; ".join(problems) or "no checkpoint that has it was exported")

    def _exports_of(self, checkpoint_id: str) -> Iterator[ExportRecord]:
        records = self._system.catalog.checkpoints.list_exports(checkpoint_id)
        yield from sorted(records, key=lambda record: record.exported_at, reverse=True)

    def _bring(self, content: StoredContent, checkpoint_id: str, path: str, record: ExportRecord) -> StoredContent:
        """Store what an export has of a file as a new content, and check that it is what was lost."""
        place, listed = self._open(record)
        assert content.digest is not None
        if (entry := listed.get(path)) is None or entry.digest not in {None, content.digest.hex()}:
            raise IntegrityError(f"it does not list {path!r} with this content")
        (claim,) = manifest_of([StoredFile(path, content)]).files
        source = ObjectSource(
            path=parse_path(path),
            storage=place.storage,
            info=place.storage.head(place.prefix + path),
            claim=claim,
        )
        if source.size != content.size:
            raise IntegrityError(f"its {path!r} is of another size")
        stored = upload(
            [source],
            checkpoint_id=checkpoint_id,
            store=self._system.store,
            journal=self._system.blobs,
            limits=self._system.settings.limits,
            progress=self._progress,
        )
        return self._checked(checkpoint_id, stored[path], content)

    def _open(self, record: ExportRecord) -> tuple[RemotePath, Mapping[str, FileEntry]]:
        key = (record.storage_provider, record.destination_path)
        if key not in self._places:
            place = self._system.open_place(record.storage_provider, record.destination_path)
            found = read_export_manifest(place, limit=self._limit(record.checkpoint_id))
            if found is None:
                raise NotFoundError("there is no export any more")
            self._places[key] = place, {entry.path: entry for entry in found.manifest.files}
        return self._places[key]

    def _limit(self, checkpoint_id: str) -> int:
        """Bytes that a checkpoint's manifest may have."""
        known = self._system.catalog.checkpoints.get_by_id(checkpoint_id)
        return document_limit(size=known.size, file_count=known.file_count)

    def _checked(self, checkpoint_id: str, stored: StoredContent, lost: StoredContent) -> StoredContent:
        """Read content back, and describe it as the lost one was: a provider may have copied it unread.

        Raises IntegrityError for content that is damaged as well, which the checkpoint refers to no more.
        """

        def read(part: Part) -> Iterator[Block]:
            return StoredBody(self._system.store, stored.blob_id, stored.start + part.offset, part.size).blocks()

        try:
            if not holds(lost, read, lambda: None):
                raise IntegrityError("what was found there is damaged, too")
        except (IntegrityError, SourceChangedError) as error:
            self._system.soundness.record_verification(damaged={stored.id}, sound=set())
            self._system.soundness.release(checkpoint_id, stored.blob_id)
            raise IntegrityError(error.message) from error
        if (stored.digest, stored.part_size, stored.part_digests) == (lost.digest, lost.part_size, lost.part_digests):
            return stored
        described = NewContent(
            start=stored.start,
            size=lost.size,
            part_size=lost.part_size,
            digest=lost.digest,
            part_digests=lost.part_digests,
            checksums=stored.checksums,
        )
        return self._system.soundness.add_content(stored.blob_id, described)

    def _replace(self, checkpoint_id: str, lost: StoredContent, sound: StoredContent) -> None:
        blobs = self._system.blobs
        try:
            if not blobs.hold(checkpoint_id, sound):
                raise ConflictError(f"blob {sound.blob_id} was given up meanwhile", hint="run the same command again")
        except ConflictError:
            if self._is_gone(checkpoint_id):
                return
            raise
        replaced = self._system.soundness.replace_content(
            checkpoint_id,
            lost,
            sound,
            write_manifest=lambda paths: self._write_manifest(checkpoint_id, paths, lost, sound),
        )
        if not replaced:
            self._system.soundness.release(checkpoint_id, sound.blob_id)
        if self._is_gone(checkpoint_id):
            # gc may have deleted its manifest just before it was written again.
            self._system.store.delete_manifest(checkpoint_id)

    def _is_gone(self, checkpoint_id: str) -> bool:
        """Whether a checkpoint cannot come back."""
        try:
            return self._system.catalog.checkpoints.get_by_id(checkpoint_id).manifest_digest is None
        except NotFoundError:
            return True

    def _write_manifest(
        self, checkpoint_id: str, paths: Sequence[str], lost: StoredContent, sound: StoredContent
    ) -> None:
        """Let a checkpoint's manifest in the store say where the content of these files lies."""
        store = self._system.store
        try:
            document = store.read_manifest(checkpoint_id, limit=self._limit(checkpoint_id))
            read_manifest_document(dict(document))
        except (IntegrityError, NotFoundError):
            self._write_manifest_anew(checkpoint_id, lost, sound)
            return
        moved = set(paths)
        for number, entry in enumerate(document["manifest"]["files"]):
            if entry["path"] in moved:
                document["contents"][number] = [sound.blob_id, sound.start]
        # The rest as it is: what was read since it was written is no part of what its digest is of.
        store.write_manifest(checkpoint_id, canonical_json(document))

    def _write_manifest_anew(self, checkpoint_id: str, lost: StoredContent, sound: StoredContent) -> None:
        """Write a manifest that is damaged itself from what the catalog says."""
        checkpoint = self._system.catalog.checkpoints.get_by_id(checkpoint_id)
        if checkpoint.part_of is not None:
            return  # the store describes what it is a part of
        files = [
            file._replace(content=sound) if file.content.id == lost.id else file
            for file in self._system.blobs.files_of(checkpoint_id)
        ]
        if manifest_of(files, checkpoint.folders).digest() != checkpoint.manifest_digest:
            raise IntegrityError(f"the manifest of checkpoint {checkpoint_id} in the store is damaged")
        write_manifest(self._system.store, checkpoint, files)
