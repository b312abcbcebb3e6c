"""Prefect events: what happened to checkpoints, with all that an automation needs to go on from there.

An event is sent by a thread of Prefect's own, so it costs the work nothing. Outside of a run none is sent: Prefect
would start a server of its own for it, or look for one that is not there when the process ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.exceptions import EventTooLarge

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.models import Checkpoint, TrainingJob
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import Damage
from flexai.tasks import artifacts

AVAILABLE = "flexai.checkpoint.available"
"""A push or a capture has ended well, or a deleted checkpoint is back."""
EXPORTED = "flexai.checkpoint.exported"
"""An export has sent files."""
FAILED = "flexai.checkpoint.failed"
"""A push, a capture or an export has failed and is not tried again by itself."""
DELETED = "flexai.checkpoint.deleted"
"""A checkpoint was deleted."""
LOST = "flexai.job.lost"
"""Versions of a training job's checkpoints that were whole once could not be kept."""
CORRUPTION = "flexai.store.corruption"
"""Stored content is not what was recorded (`verify`, `scrub`)."""

Resource: TypeAlias = dict[str, str]
"""Labels of a thing that an event is about; Prefect wants texts."""

_MAX_TEXT = 1000
_MAX_DAMAGE = 50
"""Damaged contents that an event names; the log of the run names them all."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a checkpoint is exported to."""

    storage_provider: str
    storage_provider_id: str
    path: str


def emit(event: str, resource: Resource, *, related: Iterable[Resource] = (), payload: Mapping[str, Any]) -> None:
    """Send an event to the API of the run, in the background; nothing without a run.

    It never raises and never waits: what an event tells has happened, whether or not Prefect hears of it.
    """
    if not artifacts.is_in_a_run():
        return
    others = {(one["prefect.resource.id"], one["prefect.resource.role"]): one for one in [*related, *_run_resources()]}
    try:
        emit_event(event=event, resource=resource, related=list(others.values()), payload=dict(payload))
    except EventTooLarge:
        # Long names of many things; what it is about is in the resource.
        emit_event(event=event, resource=resource, payload={})


def emit_checkpoint(
    event: str,
    checkpoint: Checkpoint,
    *,
    operation: str,
    store: str,
    by: str,
    job: TrainingJob | None = None,
    destination: Destination | None = None,
    reason: str = "",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Send an event about a checkpoint.

    Args:
        event: ``AVAILABLE``, ``EXPORTED``, ``FAILED`` or ``DELETED``.
        checkpoint: As it is after what happened.
        operation: What was done: ``push``, ``capture``, ``export``, ``delete`` or ``undelete``.
        store: Where the managed store is, as the settings have it.
        by: The user who did it.
        job: The training job that it comes from.
        destination: Where it was exported to.
        reason: Why the operation failed.
        facts: More of what the operation did: bytes moved, files sent.
    """
    emit(
        event,
        checkpoint_resource(checkpoint, job) | {"operation": operation},
        related=_related(checkpoint, store, job, destination),
        payload=checkpoint_payload(checkpoint, job)
        | {"operation": operation, "reason": (reason or checkpoint.reason)[:_MAX_TEXT], "store": store, "by": by}
        | ({} if destination is None else {"destination": _place(destination)})
        | dict(facts or {}),
    )


def emit_corruption(system: System, damaged: Sequence[Damage]) -> None:
    """Send an event about damaged content of the managed store, if there is any."""
    if not damaged:
        return
    users = sorted({checkpoint for damage in damaged for checkpoint, _ in damage.users})
    emit(
        CORRUPTION,
        store_resource(system.store_id, system.settings.effective_store) | {"damaged": str(len(damaged))},
        related=_named(system, users[:_MAX_DAMAGE]),
        payload={
            "store": system.settings.effective_store,
            "damagedContents": len(damaged),
            "checkpoints": users[:_MAX_DAMAGE],
            "damage": [
                {
                    "blob": damage.blob_id,
                    "problem": damage.problem[:_MAX_TEXT],
                    "files": [
                        {"checkpoint": checkpoint, "path": path} for checkpoint, path in damage.users[:_MAX_DAMAGE]
                    ],
                }
                for damage in damaged[:_MAX_DAMAGE]
            ],
        },
    )


def emit_lost(job: TrainingJob, lost: int, *, store_id: str, store: str) -> None:
    """Send an event about versions of checkpoints that an attempt has lost: they were whole once."""
    emit(
        LOST,
        {
            "prefect.resource.id": f"flexai.job.{job.id}",
            "prefect.resource.name": job.name,
            "name": job.name,
            "status": str(job.status),
            "lost": str(lost),
            "owner": job.creator_user_id,
            "organization": job.owner_org_id,
            "creator": job.creator,
        },
        related=[store_resource(store_id, store) | {"prefect.resource.role": "store"}],
        payload={
            "job": job.name,
            "jobID": job.id,
            "attempt": job.attempt,
            "lost": lost,
            "lostInAll": job.lost,
            "reason": job.reason[:_MAX_TEXT],
        },
    )


def checkpoint_resource(checkpoint: Checkpoint, job: TrainingJob | None = None) -> Resource:
    """What automations match a checkpoint by."""
    return {
        "prefect.resource.id": f"flexai.checkpoint.{checkpoint.id}",
        "prefect.resource.name": checkpoint.title,
        "name": checkpoint.name,
        "kind": str(checkpoint.kind),
        "status": str(checkpoint.status),
        "job": job.name if job else checkpoint.job_name,
        "size": str(checkpoint.size),
        "owner": checkpoint.creator_user_id,
        "organization": checkpoint.owner_org_id,
        "creator": checkpoint.creator,
    }


def store_resource(store_id: str, store: str) -> Resource:
    """The managed store."""
    return {"prefect.resource.id": f"flexai.store.{store_id}", "prefect.resource.name": store}


def checkpoint_payload(checkpoint: Checkpoint, job: TrainingJob | None) -> dict[str, Any]:
    """All that is known of a checkpoint but its files, in the words of its document."""
    facts = checkpoint.facts
    return {
        "id": checkpoint.id,
        "name": checkpoint.name,
        "title": checkpoint.title,
        "kind": str(checkpoint.kind),
        "status": str(checkpoint.status),
        "size": human_size(checkpoint.size),
        "sizeBytes": checkpoint.size,
        "filesCount": checkpoint.file_count,
        "manifestDigest": checkpoint.manifest_digest or "",
        "creator": checkpoint.creator,
        "source": {
            "storageProvider": checkpoint.source.storage_provider,
            "sourcePath": checkpoint.source.source_path,
            "revision": checkpoint.source.revision,
            "fromCheckpoint": str(checkpoint.parent_id or ""),
        },
        "job": job.name if job else checkpoint.job_name,
        "jobID": job.id if job else str(checkpoint.job_id or ""),
        "codeCommit": job.code_commit if job else "",
        "node": checkpoint.node,
        "step": facts.step,
        "trainLoss": facts.train_loss,
        "evalLoss": facts.eval_loss,
        "metrics": dict(facts.metrics),
        "model": facts.model,
        "version": facts.version,
        "inferenceReady": facts.inference_ready,
        "resumable": facts.resumable,
    }


def _related(
    checkpoint: Checkpoint, store: str, job: TrainingJob | None, destination: Destination | None
) -> list[Resource]:
    found = [store_resource(checkpoint.store_id, store) | {"prefect.resource.role": "store"}]
    job_id = job.id if job else checkpoint.job_id
    if job_id:
        name = job.name if job else checkpoint.job_name
        found.append(_role("training-job", f"flexai.job.{job_id}", name))
    if checkpoint.parent_id:
        found.append(_role("parent", f"flexai.checkpoint.{checkpoint.parent_id}", ""))
    if checkpoint.source.storage_provider:
        found.append(_connection(checkpoint.source.storage_provider_id, checkpoint.source.storage_provider, "source"))
    if destination is not None:
        found.append(_connection(destination.storage_provider_id, destination.storage_provider, "destination"))
        place = f"{destination.storage_provider}:{destination.path}"
        found.append(_role("export", f"flexai.export.{place}", place))
    return found


def _named(system: System, titles: Sequence[str]) -> list[Resource]:
    """The checkpoints that have names of their own; a captured one's title may mean several."""
    found = []
    for one in titles:
        with suppress(CheckpointError):
            checkpoint = system.catalog.checkpoints.get(parse_reference(one))
            found.append(_role("checkpoint", f"flexai.checkpoint.{checkpoint.id}", one))
    return found


def _role(role: str, resource_id: str, name: str) -> Resource:
    named = {"prefect.resource.name": name} if name else {}
    return {"prefect.resource.id": resource_id, "prefect.resource.role": role} | named


def _connection(connection_id: object, name: str, role: str) -> Resource:
    """A storage provider connection, under the id that Prefect's own events have for its block."""
    return _role(role, f"prefect.block-document.{connection_id}", name)


def _place(destination: Destination) -> dict[str, str]:
    return {"storageProvider": destination.storage_provider, "destinationPath": destination.path}


def _run_resources() -> list[Resource]:
    """The runs around us and their tags, as Prefect itself relates them to events.

    Prefect does so only within a flow, and adds the flow, the deployment and the work pool to these.
    """
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    found, tags = [], set()
    for role, run in (("flow-run", flow and flow.flow_run), ("task-run", task and task.task_run)):
        if run:
            found.append(_role(role, f"prefect.{role}.{run.id}", run.name))
            tags |= set(run.tags)
    return found + [_role("tag", f"prefect.tag.{tag}", "") for tag in sorted(tags)]
