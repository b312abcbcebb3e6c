"""Reading the document that lies beside the blobs (see ``manifest_writer``), which may have been damaged since."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flexai.checkpoints.contents import NewContent, StoredFile
from flexai.checkpoints.errors import IntegrityError, InvalidNameError
from flexai.checkpoints.foreign_json import MAX_DOCUMENT
from flexai.checkpoints.manifest import FileEntry, Manifest, first_flaw
from flexai.checkpoints.models import MOST_METRICS, YEARS, Checkpoint, CheckpointKind, canonical_json
from flexai.checkpoints.names import MAX_CAPTURED_NAME, is_captured_name, parse_name
from flexai.checkpoints.service.support.manifest_writer import MANIFEST_FORMAT, entry_of
from flexai.checkpoints.settings import LEAST_PART_SIZE, MOST_PART_SIZE
from flexai.checkpoints.transfer.digest import MAX_PARTS, digest_parts

_CHECKPOINT = TypeAdapter(Checkpoint)
_BLOB_ID = re.compile(r"[0-9a-f]{32}")
_MOST_PARTS = 1_000_000
"""Parts of a file: those of the storage that takes the most, a directory."""
_MAX_FIELDS = 100
_MAX_TEXTS = 100_000
"""Of what was pushed: more arguments than a command takes."""


def manifest_of(files: Iterable[StoredFile], folders: Iterable[str] = ()) -> Manifest:
    """The manifest of files and empty folders."""
    ordered = sorted(files, key=lambda file: file.path)
    return Manifest(files=tuple(FileEntry(**entry_of(file)) for file in ordered), folders=tuple(sorted(folders)))


def read_manifest_document(
    document: dict[str, Any],
) -> tuple[Checkpoint, Manifest, dict[str, tuple[str, NewContent]]]:
    """Read such a document: the checkpoint, its manifest, which is taken out of it, and each file's blob and range.

    Raises IntegrityError for one that is damaged.
    """
    try:
        if document["format"] != MANIFEST_FORMAT:
            raise IntegrityError(
                f"a manifest is of another format than {MANIFEST_FORMAT}, the one that this program knows"
            )
        checkpoint = checkpoint_in(document["checkpoint"])
        # Taken out, because the rest takes memory too.
        manifest = Manifest.read(document.pop("manifest"))
        if manifest.digest() != document["manifestDigest"]:
            raise IntegrityError(f"the manifest of checkpoint {checkpoint.id} does not match its digest")
        ranges = {
            entry.path: (_blob_id(blob_id), _content(entry, start))
            for entry, (blob_id, start) in zip(manifest.files, document["contents"], strict=True)
        }
    except KeyError as error:
        raise IntegrityError(f"a manifest in the store is damaged: it has no {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise IntegrityError(f"a manifest in the store is damaged: {error}") from error
    return checkpoint, manifest, ranges


def part_digests_of(entry: FileEntry) -> bytes:
    """The digests of a file's parts, one after the other; none where the manifest gives none.

    Raises ValueError for parts of a size that is never written, and where the file's digest is not theirs: else a file
    that is compared part by part would pass for another one.
    """
    count = max(1, -(-entry.size // entry.part_size))
    # A part is doubled, beyond the largest setting too, while a file would have more of them than its storage takes.
    most = max(MOST_PART_SIZE, entry.size // (MAX_PARTS // 2))
    if entry.part_size > most or count > _MOST_PARTS or (count > 1 and entry.part_size < LEAST_PART_SIZE):
        raise ValueError(f"the parts of {entry.path!r} are of a size that is never written")
    if entry.digest is None:
        return b""
    parts = [bytes.fromhex(part) for part in entry.parts or (entry.digest,)]
    if len(parts) != count or digest_parts(parts).hex() != entry.digest:
        raise ValueError(f"the digest of {entry.path!r} is not that of its parts")
    return b"".join(parts)


def document_limit(*, size: int, file_count: int) -> int:
    """Bytes that a manifest may have which is known to list ``file_count`` files of ``size`` bytes in all."""
    # A path and an ETag of their longest, twice; and a digest of each of the smallest parts.
    return max(MAX_DOCUMENT, 4096 * file_count + size // LEAST_PART_SIZE * 70)


def checkpoint_in(document: object) -> Checkpoint:
    """Read what a manifest says of its checkpoint; ValueError for what no checkpoint of ours says."""
    if not isinstance(document, dict) or len(document) > _MAX_FIELDS:
        raise ValueError("it describes no checkpoint")
    # pydantic describes every flaw, of which there could be a million.
    for one in ("source", "facts"):
        part = document.get(one)
        if not isinstance(part, dict) or len(part) > _MAX_FIELDS or not all(map(_is_short, part.values())):
            raise ValueError(f"the {one} of its checkpoint cannot be")
    if not _is_short(document.get("pointers", [])):
        raise ValueError("the pointers to its checkpoint cannot be")
    folders = document.get("folders", [])
    if not isinstance(folders, list) or not all(isinstance(path, str) for path in folders):
        raise ValueError("the folders of its checkpoint cannot be")
    if b"\\u0000" in canonical_json(document):
        raise ValueError("a text of its checkpoint has a NUL, which PostgreSQL does not take")
    try:
        checkpoint = _CHECKPOINT.validate_python(document)
    except ValidationError as error:
        raise ValueError(first_flaw(error)) from error
    for time in filter(None, (checkpoint.created_at, checkpoint.updated_at, checkpoint.deleted_at)):
        if time.year not in YEARS or time.tzinfo is None:
            raise ValueError("a time of its checkpoint is out of range")
    if not 0 <= checkpoint.sequence < 2**63:
        raise ValueError("the place of its checkpoint among its job's is out of range")
    try:
        if checkpoint.kind is CheckpointKind.PUSHED:
            parse_name(checkpoint.name)
        if checkpoint.job_id is not None:
            parse_name(checkpoint.job_name)
    except InvalidNameError as error:
        raise ValueError(error.message) from error
    # A captured checkpoint is called by its path below the output directory, and nothing for that itself.
    called = [checkpoint.name] if checkpoint.name else []
    if not all(map(is_captured_name, [*called, checkpoint.node])) or "/" in checkpoint.node:
        raise ValueError("a name of its checkpoint is none")
    if not all(pointer.isprintable() and len(pointer) <= MAX_CAPTURED_NAME for pointer in checkpoint.pointers):
        raise ValueError("a pointer to its checkpoint is none")
    return checkpoint


def _is_short(value: object) -> bool:
    if isinstance(value, dict):
        return len(value) <= MOST_METRICS
    return not isinstance(value, list) or (len(value) <= _MAX_TEXTS and all(isinstance(text, str) for text in value))


def _blob_id(found: object) -> str:
    if not isinstance(found, str) or not _BLOB_ID.fullmatch(found):
        raise ValueError("it names a blob that is none")
    return found


def _content(entry: FileEntry, start: object) -> NewContent:
    if not isinstance(start, int) or not 0 <= start < 2**63 - entry.size:
        raise ValueError(f"the content of {entry.path!r} begins out of its blob")
    return NewContent(
        start=start,
        size=entry.size,
        part_size=entry.part_size,
        digest=None if entry.digest is None else bytes.fromhex(entry.digest),
        part_digests=part_digests_of(entry),
        checksums=entry.checksums,
    )
