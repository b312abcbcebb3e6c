"""The document that lies beside the blobs and says what a checkpoint is made of and where that is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from flexai.checkpoints.contents import DIGEST_SIZE, NewContent, StoredFile
from flexai.checkpoints.errors import IntegrityError, UnsafePathError
from flexai.checkpoints.models import (
    Checkpoint,
    FileEntry,
    Manifest,
    ManifestSummary,
    canonical_manifest,
    digest_manifest,
)
from flexai.checkpoints.paths import check_path_set, parse_path
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.transfer.digest import digest_parts

FORMAT = 1


def manifest_of(files: Iterable[StoredFile]) -> Manifest:
    """The manifest of files."""
    return Manifest(files=tuple(_entry(file) for file in sorted(files, key=lambda file: file.path)))


def _entry(file: StoredFile) -> FileEntry:
    content = file.content
    parts = tuple(
        content.part_digests[start : start + DIGEST_SIZE].hex()
        for start in range(0, len(content.part_digests), DIGEST_SIZE)
    )
    # Of what does not tell contents apart (the part size of a single part, checksums beside a digest) nothing is
    # said, so that equal content has equal manifests however it was stored.
    return FileEntry(
        checksums=dict(content.checksums) if content.digest is None else {},
        digest=None if content.digest is None else content.digest.hex(),
        part_size=content.part_size if content.size > content.part_size else max(content.size, 1),
        parts=parts if len(parts) > 1 else (),
        path=file.path,
        size=content.size,
    )


def write_manifest(store: ManagedStore, checkpoint: Checkpoint, files: Sequence[StoredFile]) -> ManifestSummary:
    """Store what describes a checkpoint: itself, its manifest, and where each file's content lies.

    It is put together entry by entry: as models, 100,000 files would take hundreds of megabytes.
    """
    ordered = sorted(files, key=lambda file: file.path)
    check_path_set([parse_path(file.path) for file in ordered])
    canonical = canonical_manifest(map(_entry, ordered))
    digest = digest_manifest(canonical)
    contents = ",".join(json.dumps([file.content.blob_id, file.content.start]) for file in ordered)
    store.write_manifest(
        str(checkpoint.id),
        b'{"checkpoint":%s,"contents":[%s],"format":%d,"manifest":%s,"manifestDigest":"%s"}'
        % (
            # What can change later is the catalog's alone.
            checkpoint.model_dump_json(exclude={"is_protected"}).encode(),
            contents.encode(),
            FORMAT,
            canonical,
            digest.encode(),
        ),
    )
    return ManifestSummary(digest=digest, size=sum(file.content.size for file in ordered), file_count=len(ordered))


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
            entry.path: (str(blob_id), _content(entry, int(start)))
            for entry, (blob_id, start) in zip(manifest.files, document["contents"], strict=True)
        }
    except (KeyError, TypeError, ValueError, IndexError, UnsafePathError) as error:
        raise IntegrityError(f"a manifest in the store is damaged: {error}") from error
    return checkpoint, manifest, ranges


def _content(entry: FileEntry, start: int) -> NewContent:
    digest = None if entry.digest is None else bytes.fromhex(entry.digest)
    parts = b"".join(bytes.fromhex(part) for part in entry.parts) or (digest or b"")
    if start < 0:
        raise ValueError(f"the content of {entry.path!r} begins before its blob")
    if digest is not None and (
        len(parts) // DIGEST_SIZE != max(1, -(-entry.size // entry.part_size))
        or digest_parts([parts[at : at + DIGEST_SIZE] for at in range(0, len(parts), DIGEST_SIZE)]) != digest
    ):
        raise ValueError(f"the digest of {entry.path!r} is not that of its parts")
    return NewContent(
        start=start,
        size=entry.size,
        part_size=entry.part_size,
        digest=digest,
        part_digests=parts,
        checksums=entry.checksums,
    )
