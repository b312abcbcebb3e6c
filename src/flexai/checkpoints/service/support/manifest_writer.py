"""Writing the document that lies beside the blobs and says what a checkpoint is made of and where that is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from flexai.checkpoints.contents import DIGEST_SIZE, StoredFile
from flexai.checkpoints.models import (
    Checkpoint,
    ManifestSummary,
    canonical_json,
    canonical_manifest,
    digest_manifest,
    plain,
)
from flexai.checkpoints.paths import check_path_set, parse_path
from flexai.checkpoints.storage.managed import ManagedStore

MANIFEST_FORMAT = 1


def write_manifest(store: ManagedStore, checkpoint: Checkpoint, files: Sequence[StoredFile]) -> ManifestSummary:
    """Store what describes a checkpoint: itself, its manifest, and where each file's content lies.

    It is put together entry by entry: as a whole, 100,000 files would take hundreds of megabytes.
    """
    ordered = sorted(files, key=lambda file: file.path)
    canonical, summary = _summarised(ordered, checkpoint.folders)
    described = plain(checkpoint)
    del described["is_protected"]  # what can change later is the catalog's alone
    contents = _joined(
        b"%s%s" % (b"," if number else b"", json.dumps([file.content.blob_id, file.content.start]).encode())
        for number, file in enumerate(ordered)
    )
    store.write_manifest(
        checkpoint.id,
        b'{"checkpoint":%s,"contents":[' % canonical_json(described),
        contents,
        b'],"format":%d,"manifest":' % MANIFEST_FORMAT,
        canonical,
        b',"manifestDigest":"%s"}' % summary.digest.encode(),
    )
    return summary


def summarise(files: Sequence[StoredFile], folders: Sequence[str] = ()) -> ManifestSummary:
    """What the catalog keeps of the manifest of files and empty folders.

    Raises UnsafePathError for paths that no checkpoint can have.
    """
    return _summarised(sorted(files, key=lambda file: file.path), folders)[1]


def _summarised(ordered: Sequence[StoredFile], folders: Sequence[str]) -> tuple[bytearray, ManifestSummary]:
    check_path_set([parse_path(path) for path in (*(file.path for file in ordered), *folders)])
    canonical = _joined(canonical_manifest(map(entry_of, ordered), sorted(folders)))
    size = sum(file.content.size for file in ordered)
    return canonical, ManifestSummary(digest_manifest([canonical]), size, len(ordered), tuple(sorted(folders)))


def _joined(pieces: Iterable[bytes]) -> bytearray:
    """Pieces one after the other; ``join`` would first keep all of them beside each other."""
    whole = bytearray()
    for piece in pieces:
        whole += piece
    return whole


def entry_of(file: StoredFile) -> dict[str, Any]:
    """The fields of a file's entry in a manifest (``manifest.FileEntry``)."""
    content = file.content
    parts = tuple(
        content.part_digests[start : start + DIGEST_SIZE].hex()
        for start in range(0, len(content.part_digests), DIGEST_SIZE)
    )
    # Of what does not tell contents apart (the part size of a single part, checksums beside a digest) nothing is
    # said, so that equal content has equal manifests however it was stored.
    entry = {
        "checksums": dict(content.checksums) if content.digest is None else {},
        "digest": None if content.digest is None else content.digest.hex(),
        "part_size": content.part_size if content.size > content.part_size else max(content.size, 1),
        "parts": parts if len(parts) > 1 else (),
        "path": file.path,
        "size": content.size,
    }
    return entry | {"executable": True} if file.is_executable else entry
