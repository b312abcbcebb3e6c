"""The object that describes an export, so that a reader can tell a whole export from a torn one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from flexai.checkpoints.errors import IntegrityError, NotFoundError
from flexai.checkpoints.foreign_json import MAX_DOCUMENT, TooMuchError, parse_json, read_bounded
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, canonical_json
from flexai.checkpoints.service.support.manifest_reader import part_digests_of
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import BytesBody, ObjectInfo

EXPORT_MANIFEST = "flexai-manifest.json"
"""Its name below the export's prefix."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExportManifest:
    """What an export says of itself."""

    complete: bool
    """Whether everything is there: written as true only after everything else."""
    manifest: Manifest
    etags: Mapping[str, str]
    """The ETags that the files were left with, by path; none where the provider has no versions worth trusting."""
    is_part: bool = False
    """Whether the checkpoint has more files than are listed."""

    def has_files_of(self, manifest: Manifest) -> bool:
        """Whether another manifest lists the same files.

        A file that a provider copied has no digest in the manifest that was written before its first reading.
        """
        same_names = self.manifest.folders == manifest.folders and len(self.manifest.files) == len(manifest.files)
        return same_names and all(
            (mine.path, mine.size, mine.executable) == (other.path, other.size, other.executable)
            and (mine == other or mine.digest is None or other.digest is None)
            for mine, other in zip(self.manifest.files, manifest.files, strict=True)
        )

    def is_within(self, manifest: Manifest) -> bool:
        """Whether it says that it is a part of which another manifest lists all files, and folders, and more."""
        if not self.is_part or not {*self.manifest.folders} <= {*manifest.folders}:
            return False
        listed = {entry.path for entry in self.manifest.files}
        rest = Manifest(
            files=tuple(entry for entry in manifest.files if entry.path in listed), folders=self.manifest.folders
        )
        return self.has_files_of(rest)


def write_export_manifest(
    place: RemotePath,
    checkpoint: Checkpoint,
    manifest: Manifest,
    *,
    is_part: bool = False,
    infos: Mapping[str, ObjectInfo] | None = None,
) -> None:
    """Say what is being exported or, with the objects by their paths, that it is all there.

    ``is_part`` says that the checkpoint has more than the manifest lists.
    """
    document = {
        "kind": "CheckpointExport",
        "format": FORMAT,
        "complete": infos is not None,
        **({"isPart": True} if is_part else {}),
        # The time of a file's last write, which a directory has instead, is nothing to rely on.
        "etags": {path: info.etag for path, info in (infos or {}).items() if place.storage.service_identity},
        "checkpoint": {"id": checkpoint.id, "name": checkpoint.title},
        "manifest": json.loads(manifest.canonical()),
        "manifestDigest": manifest.digest(),
    }
    place.storage.put(place.prefix + EXPORT_MANIFEST, BytesBody(canonical_json(document)))


def read_export_manifest(place: RemotePath, *, limit: int = MAX_DOCUMENT) -> ExportManifest | None:
    """What the export at a place says of itself; None where there is no export.

    ``limit`` is in bytes. Raises IntegrityError for an object of that name that is longer, damaged or none of ours.
    """
    where = f"{place.storage.location}/{place.prefix}{EXPORT_MANIFEST}"
    try:
        document = parse_json(read_bounded(place.storage.get(place.prefix + EXPORT_MANIFEST), limit), limit=limit)
        manifest = Manifest.read(document["manifest"])
        listed = {str(entry.path) for entry in manifest.files}
        found = ExportManifest(
            complete=document["complete"] is True,
            manifest=manifest,
            etags={path: etag for path, etag in document["etags"].items() if path in listed and isinstance(etag, str)},
            is_part=document.get("isPart") is True,
        )
        if document["format"] != FORMAT or found.manifest.digest() != document["manifestDigest"]:
            raise IntegrityError(f"{where} does not match its digest")
        for entry in found.manifest.files:
            part_digests_of(entry)
    except NotFoundError:
        return None
    except TooMuchError as error:
        raise IntegrityError(f"{where} was not read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{where} is not the manifest of an export", hint="remove it, or export again with --overwrite"
        ) from error
    return found
