"""Reading the document that lies beside the blobs (see ``manifest_writer``), which may have been damaged since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from flexai.checkpoints.contents import NewContent, StoredFile
from flexai.checkpoints.errors import IntegrityError, UnsafePathError
from flexai.checkpoints.manifest import FileEntry, Manifest
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.service.support.manifest_writer import FORMAT, entry_of
from flexai.checkpoints.transfer.digest import digest_parts

_CHECKPOINT = TypeAdapter(Checkpoint)


def manifest_of(files: Iterable[StoredFile]) -> Manifest:
    """The manifest of files."""
    return Manifest(files=tuple(FileEntry(**entry_of(file)) for file in sorted(files, key=lambda file: file.path)))


def read_manifest_document(
    document: dict[str, Any],
) -> tuple[Checkpoint, Manifest, dict[str, tuple[str, NewContent]]]:
    """Read such a document: the checkpoint, its manifest, and each file's blob and range.

    Raises IntegrityError for one that is damaged.
    """
    try:
        if document["format"] != FORMAT:
            raise IntegrityError(f"a manifest is of format {document['format']}; this program knows {FORMAT}")
        checkpoint = _CHECKPOINT.validate_python(document["checkpoint"])
        manifest = Manifest.model_validate(document["manifest"])
        if manifest.digest() != document["manifestDigest"]:
            raise IntegrityError(f"the manifest of checkpoint {checkpoint.id} does not match its digest")
        ranges = {
            entry.path: (str(blob_id), _content(entry, int(start)))
            for entry, (blob_id, start) in zip(manifest.files, document["contents"], strict=True)
        }
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, UnsafePathError) as error:
        raise IntegrityError(f"a manifest in the store is damaged: {error}") from error
    return checkpoint, manifest, ranges


def part_digests_of(entry: FileEntry) -> bytes:
    """The digests of a file's parts, one after the other; none where the manifest gives none.

    Raises ValueError where the file's digest is not theirs: else a file that is compared part by part would pass for
    another one.
    """
    if entry.digest is None:
        return b""
    parts = [bytes.fromhex(part) for part in entry.parts or (entry.digest,)]
    if len(parts) != max(1, -(-entry.size // entry.part_size)) or digest_parts(parts).hex() != entry.digest:
        raise ValueError(f"the digest of {entry.path!r} is not that of its parts")
    return b"".join(parts)


def _content(entry: FileEntry, start: int) -> NewContent:
    if start < 0:
        raise ValueError(f"the content of {entry.path!r} begins before its blob")
    return NewContent(
        start=start,
        size=entry.size,
        part_size=entry.part_size,
        digest=None if entry.digest is None else bytes.fromhex(entry.digest),
        part_digests=part_digests_of(entry),
        checksums=entry.checksums,
    )
