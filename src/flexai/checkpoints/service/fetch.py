"""Fetch: bring a checkpoint's files to a directory of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexai.checkpoints.contents import StoredFile, is_unverified
from flexai.checkpoints.documents import Document, identity
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.fetch import fetch_files
from flexai.checkpoints.transfer.journal import RecordDigests


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did."""

    checkpoint: Checkpoint
    destination: Path
    """The directory, absolute."""
    fetched_files: int
    kept_files: int
    """Files that were there already with the right content."""
    moved_bytes: int
    """Bytes of the files that were fetched; what an interrupted fetch had brought counts too."""
    unverified_files: int
    """Files whose bytes could be compared with nothing."""

    def to_dict(self) -> Document:
        """What ``checkpoint fetch --json`` prints; sizes in bytes."""
        return {
            "checkpoint": identity(self.checkpoint),
            "destination": str(self.destination),
            "fetchedFiles": self.fetched_files,
            "keptFiles": self.kept_files,
            "movedBytes": self.moved_bytes,
            "unverifiedFiles": self.unverified_files,
        }


def fetch(
    system: System, request: FetchRequest, *, progress: Progress | None = None, private: bool = False
) -> FetchReport:
    """Bring a checkpoint's files into a directory, which is made where it is missing; a rerun continues a broken fetch.

    A file that is there with the right content is kept. ``private`` makes files and folders their owner's alone; else
    they have the modes that the umask leaves. Raises NotFoundError for a checkpoint that is not there, ConflictError
    for one that is not available (but with ``node``), DestinationExistsError for other content in the way (unless
    ``overwrite``), IntegrityError for stored content that is damaged, or that nothing is known of to compare it with
    (with ``require_digests``; else it has a note), ExecutableContentError for files that run code when they are loaded
    (with ``refuse_executable``; else a checkpoint from a provider has a note).
    """
    progress = progress or Progress()
    destination = Path(request.destination)
    checkpoint, files = system.available_files(request.reference, request.node)
    unverified = [file.path for file in files if is_unverified(file.content.digest, file.content.checksums)]
    unknown = f"neither a digest nor a checksum is known of {first_of(unverified)}" if unverified else ""
    if unknown and request.require_digests:
        raise IntegrityError(
            f"checkpoint {checkpoint.title!r} was refused: {unknown}",
            hint="push the files again from a source that can be trusted, or fetch without --require-digests",
        )
    if request.refuse_executable:
        from flexai.checkpoints.service.support.code import refuse_code, stored_files

        refuse_code(stored_files(system.store, files), checkpoint.title)
    progress.begin(f"fetch {checkpoint.title}", total_bytes=checkpoint.size, total_files=checkpoint.file_count)
    try:
        done = fetch_files(
            files,
            destination,
            store=system.store,
            record=_recording(system, files),
            limits=system.settings.limits,
            overwrite=request.overwrite,
            progress=progress,
            private=private,
        )
    finally:
        progress.end()
    if checkpoint.pointers:
        from flexai.checkpoints.service.support.pointers import make_links

        make_links(checkpoint, [file.path for file in files], destination.expanduser(), progress)
    if unknown:
        progress.note(f"checkpoint {checkpoint.title!r} is unverified: {unknown}, so its bytes were taken as they lay")
    if checkpoint.source.storage_provider and not request.refuse_executable:
        from flexai.checkpoints.service.support.code import fetched_files, warn_of_code

        warn_of_code(fetched_files(destination.expanduser(), files), checkpoint.title, progress)
    sizes = {file.path: file.content.size for file in files}
    return FetchReport(
        checkpoint=checkpoint,
        destination=destination.expanduser().absolute(),
        fetched_files=len(done.fetched),
        kept_files=len(done.kept),
        moved_bytes=sum(sizes[path] for path in done.fetched),
        unverified_files=len(unverified),
    )


def _recording(system: System, files: Sequence[StoredFile]) -> RecordDigests:
    """Who is told of digests; the catalog itself is opened only where one is missing."""
    return (lambda _: None) if all(file.content.digest for file in files) else system.blobs.learn
