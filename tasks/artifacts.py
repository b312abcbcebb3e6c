"""Artifacts of a task run: what people see in Prefect's UI besides the log.

They are a help to people, not part of the work, so a Prefect API that fails meanwhile is worth a warning and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.utilities.context import get_task_and_flow_run_ids

from flexai.checkpoints.documents import human_size
from flexai.tasks.running import Logger

SHOWN_FILES = 100
"""Rows of a table of files; ``flexai checkpoint inspect`` has them all."""


def is_in_a_run() -> bool:
    """Whether there is a run that artifacts could belong to."""
    return get_task_and_flow_run_ids() != (None, None)


def artifact_key(*words: str) -> str:
    """A key of lower-case letters, digits and dashes, as Prefect wants it; equal keys are one thing's history."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


@contextmanager
def forgiving(logger: Logger) -> Iterator[None]:
    """Let the work go on where the Prefect API cannot take an artifact."""
    try:
        yield
    except httpx.HTTPError as error:
        logger.warning("the Prefect API did not take an artifact: %s", error)


def create_markdown(key: str, text: str, *, description: str, logger: Logger) -> None:
    """Attach a page of Markdown to the run, if there is one."""
    if is_in_a_run():
        with forgiving(logger):
            _create("markdown", key, text, description)


def create_progress(key: str, percent: float, description: str) -> UUID:
    """Attach a progress bar to the run; raises httpx.HTTPError."""
    return _create("progress", key, percent, description)


def update_progress(artifact_id: UUID, percent: float, description: str) -> None:
    """Move a progress bar; raises httpx.HTTPError."""
    # Prefect's own helpers would return a coroutine to a task that an asynchronous flow called.
    get_client(sync_client=True).update_artifact(artifact_id, ArtifactUpdate(data=percent, description=description))


def _create(kind: str, key: str, data: float | str, description: str) -> UUID:
    task_run_id, flow_run_id = get_task_and_flow_run_ids()
    artifact = ArtifactCreate(
        type=kind, key=key, data=data, description=description, task_run_id=task_run_id, flow_run_id=flow_run_id
    )
    return get_client(sync_client=True).create_artifact(artifact).id


def describe_checkpoint(document: Mapping[str, Any], *, moved: int, skipped: int) -> str:
    """A pushed checkpoint as a page of Markdown, from its document."""
    metadata, spec, status = document["metadata"], document["spec"], document["status"]
    source = spec["sourcePath"] and f"{spec['storageProvider']}:{spec['sourcePath']}"
    rows = {
        "ID": code(metadata["id"]),
        "Status": status["status"],
        "Size": f"{status['size']} in {status['filesCount']} file{'' if status['filesCount'] == 1 else 's'}",
        "Moved": (human_size(moved) if moved else "nothing")
        + (f", {human_size(skipped)} were there" if skipped else ""),
        "Source": code(source or spec["fromCheckpoint"] or ", ".join(spec["fromLocalFiles"])),
        "Manifest digest": code(status["manifestDigest"]),
    }
    lines = [f"# Checkpoint {code(metadata['name'])}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += ["", "| File | Size | BLAKE3 |", "|---|---:|---|"]
    files = status["files"]
    for file in files[:SHOWN_FILES]:
        digest = code(file["digest"]) if file["digest"] else "(provider's checksum)"
        lines.append(f"| {code(file['path'])} | {file['size']} | {digest} |")
    if len(files) > SHOWN_FILES:
        lines += ["", f"… and {len(files) - SHOWN_FILES} more: `flexai checkpoint inspect {metadata['id']}`"]
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    """A text as code in a table's cell, whatever it holds: names of files are other people's."""
    clean = text.replace("|", "\\|").replace("\n", " ")
    fence = "`" * (max((len(run) for run in re.findall("`+", clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{pad}{clean}{pad}{fence}" if clean else ""
