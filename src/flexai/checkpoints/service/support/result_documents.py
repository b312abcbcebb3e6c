"""What operations have done, as documents for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexai.checkpoints.documents import Document, human_size

if TYPE_CHECKING:
    from flexai.checkpoints.models import Checkpoint
    from flexai.checkpoints.service.export import ExportReport
    from flexai.checkpoints.service.fetch import FetchReport
    from flexai.checkpoints.service.gc import GarbageReport
    from flexai.checkpoints.service.verify import VerifyReport


def identity(checkpoint: Checkpoint) -> Document:
    """Which checkpoint a result is about."""
    return {"name": checkpoint.name, "id": checkpoint.id, "job": checkpoint.job_name}


def undelete_document(checkpoint: Checkpoint) -> Document:
    """What came back, and what it is now."""
    return identity(checkpoint) | {"title": checkpoint.title, "status": str(checkpoint.status)}


def fetch_document(report: FetchReport) -> Document:
    """What a fetch did; sizes in bytes."""
    return {
        "checkpoint": identity(report.checkpoint),
        "destination": str(report.destination.expanduser().absolute()),
        "fetchedFiles": report.fetched_files,
        "keptFiles": report.kept_files,
        "movedBytes": report.moved_bytes,
        "unverifiedFiles": report.unverified_files,
    }


def export_document(report: ExportReport) -> Document:
    """What an export did; sizes in bytes, times in ISO 8601."""
    return {
        "checkpoint": identity(report.checkpoint),
        "storageProvider": report.record.storage_provider,
        "destinationPath": report.record.destination_path,
        "manifestDigest": report.record.manifest_digest,
        "exportedAt": report.record.exported_at.isoformat(),
        "exportedFiles": report.exported_files,
        "skippedFiles": report.skipped_files,
        "movedBytes": report.moved_bytes,
    }


def garbage_document(report: GarbageReport) -> Document:
    """What gc took; sizes in bytes beside those for people."""
    return {
        "deletedCheckpoints": report.checkpoints,
        "abandonedPushes": report.abandoned,
        "blobs": report.blobs,
        "freed": human_size(report.freed_bytes),
        "freedBytes": report.freed_bytes,
        "unreferenced": list(report.unreferenced),
    }


def verify_document(report: VerifyReport) -> Document:
    """What a verification found; sizes in bytes."""
    return {
        "checkedContents": report.checked_contents,
        "checkedBytes": report.checked_bytes,
        "damagedContents": len(report.damaged),
        "repairedContents": len(report.repair.repaired),
    }
