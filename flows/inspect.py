"""Inspect, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS
from flexai.flows.forms import InspectForm
from flexai.tasks import artifacts, inspect_checkpoint
from flexai.tasks.options import run_logger

SHOWN_FILES = 100
"""Rows of the table of files."""


@flow(
    name="inspect-checkpoint",
    description="Look up everything that is known of a checkpoint, and show it as an artifact.",
    flow_run_name="inspect {request.checkpoint}",
    **OPTIONS,
)
def inspect(request: InspectForm) -> Document:
    """Look up a checkpoint, and attach a page about it to the run.

    Args:
        request: Which checkpoint.

    Returns:
        Its document, as ``flexai checkpoint inspect --json`` prints it.

    Raises:
        CheckpointError: NotFoundError where there is none.
    """
    document = inspect_checkpoint(request.checkpoint)
    name = document["metadata"]["name"] or document["metadata"]["id"]
    artifacts.create_markdown(
        artifacts.artifact_key("inspected", name),
        describe_document(document),
        description=f"Checkpoint {name}",
        logger=run_logger(),
    )
    return document


def describe_document(document: Document) -> str:
    """A checkpoint's document as a page of Markdown."""
    metadata, spec, status = document["metadata"], document["spec"], document["status"]
    source = spec["sourcePath"] and f"{spec['storageProvider']}:{spec['sourcePath']}"
    rows = {
        "ID": artifacts.code(metadata["id"]),
        "Status": status["status"] + (f": {artifacts.code(status['reason'])}" if status["reason"] else ""),
        "Size": f"{status['size']} in {status['filesCount']} file{'' if status['filesCount'] == 1 else 's'}",
        "Source": artifacts.code(source or spec["fromCheckpoint"] or ", ".join(spec["fromLocalFiles"])),
        "Created": status["createdAt"],
        "Manifest digest": artifacts.code(status["manifestDigest"]),
    }
    if (captured := status.get("metadata")) is not None:
        rows |= {
            "Training job": artifacts.code(captured["job"]),
            "Step": "" if captured["step"] is None else str(captured["step"]),
            "Eval loss": "" if captured["evalLoss"] is None else f"{captured['evalLoss']:.6g}",
            "Resumable": "yes" if captured["resumable"] else "no",
        }
    lines = [f"# Checkpoint {artifacts.code(metadata['name'] or '.')}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "| File | Size | BLAKE3 |", "|---|---:|---|"]
    for file in status["files"][:SHOWN_FILES]:
        digest = artifacts.code(file["digest"]) if file["digest"] else "(provider's checksum)"
        lines.append(f"| {artifacts.code(file['path'])} | {file['size']} | {digest} |")
    if (more := len(status["files"]) - SHOWN_FILES) > 0:
        lines += ["", f"… and {more} more: `flexai checkpoint inspect {metadata['id']}`"]
    if status["exports"]:
        lines += ["", "| Exported to | At |", "|---|---|"]
        for export in status["exports"]:
            place = artifacts.code(f"{export['storageProvider']}:{export['destinationPath']}")
            lines.append(f"| {place} | {export['exportedAt']} |")
    return "\n".join(lines) + "\n"
