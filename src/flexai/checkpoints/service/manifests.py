"""The document that lies beside the blobs and says what a checkpoint is made of and where that is."""

from __future__ import annotations

from typing import Any

from flexai.checkpoints.contents import DIGEST_SIZE, NewContent, StoredContent, StoredFile
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.models import Checkpoint, FileEntry, Manifest

FORMAT = 1


def manifest_of(files: list[StoredFile]) -> Manifest:
    """The manifest of files, in order of their paths."""
    return Manifest(files=tuple(_entry(file) for file in sorted(files, key=lambda file: file.path)))


def _entry(file: StoredFile) -> FileEntry:
    content = file.content
    parts = tuple(
        content.part_digests[start : start + DIGEST_SIZE].hex()
        for start in range(0, len(content.part_digests), DIGEST_SIZE)
    )
    return FileEntry(
        path=file.path,
        size=content.size,
        digest=None if content.digest is None else content.digest.hex(),
        part_size=content.part_size,
        parts=parts if len(parts) > 1 else (),
        checksums=dict(content.checksums),
    )


def manifest_document(checkpoint: Checkpoint, manifest: Manifest, contents: dict[str, StoredContent]) -> dict[str, Any]:
    """What is stored: the checkpoint, its manifest, and where each file's content lies (blob and first byte)."""
    return {
        "format": FORMAT,
        "checkpoint": checkpoint.model_dump(mode="json"),
        "manifest": manifest.model_dump(mode="json"),
        "manifestDigest": manifest.digest(),
        "contents": {path: [content.blob_id, content.start] for path, content in contents.items()},
    }


def read_manifest_document(
    document: dict[str, Any],
) -> tuple[Checkpoint, Manifest, dict[str, tuple[str, NewContent]]]:
    """Read such a document: the checkpoint, its manifest, and each file's blob and range.

    Raises IntegrityError for one that is damaged.
    """
    try:
        if document["format"] != FORMAT:
            raise IntegrityError(f"a manifest is of format {document['format']}; this program knows {FORMAT}")
        checkpoint = Checkpoint.model_validate(document["checkpoint"])
        manifest = Manifest.model_validate(document["manifest"])
        if manifest.digest() != document["manifestDigest"]:
            raise IntegrityError(f"the manifest of checkpoint {checkpoint.id} does not match its digest")
        ranges = {
            entry.path: (str(document["contents"][entry.path][0]), _content(entry, document["contents"][entry.path][1]))
            for entry in manifest.files
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise IntegrityError(f"a manifest in the store is damaged: {error}") from error
    return checkpoint, manifest, ranges


def _content(entry: FileEntry, start: int) -> NewContent:
    digest = None if entry.digest is None else bytes.fromhex(entry.digest)
    parts = b"".join(bytes.fromhex(part) for part in entry.parts) or (digest or b"")
    return NewContent(
        start=start,
        size=entry.size,
        part_size=entry.part_size,
        digest=digest,
        part_digests=parts,
        checksums=entry.checksums,
    )
