"""Artifacts of a task run: what people see in Prefect's UI besides the log.

They are a help to people, not part of the work, so a Prefect API that fails meanwhile is worth a warning and no more,
and one that does not answer is not waited for long.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_UI_URL
from prefect.utilities.context import get_task_and_flow_run_ids

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.models import Checkpoint, CheckpointKind, ListedCheckpoint
from flexai.checkpoints.names import name_key, printable
from flexai.prefect_server.finding import PrefectAPI
from flexai.prefect_server.ui import CATALOG_KEY, shown_ui, ui_address
from flexai.tasks.options import Logger

PATIENCE_SECONDS = 10.0
"""How long a run waits for the API to take an artifact."""
_MAX_SLUG = 100


def is_in_a_run() -> bool:
    """Whether there is a run that artifacts could belong to."""
    return get_task_and_flow_run_ids() != (None, None)


def artifact_key(*words: str) -> str:
    """A key of lower-case letters, digits and dashes, as Prefect wants it; equal keys are one thing's history.

    Words that differ by more than case have different keys: where letters must be replaced, a part that tells them
    apart follows after two dashes.
    """
    text = "-".join(words).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:_MAX_SLUG].strip("-")
    return slug if slug == text else f"{slug}--{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"


def checkpoint_key(checkpoint: Checkpoint) -> str:
    """The key of all pages about one checkpoint, from its push to its end.

    A pushed checkpoint's is made of its name, and goes on where the name is given again; of captured ones many may have
    one name, so theirs end with a part of the UUID.
    """
    if checkpoint.kind is CheckpointKind.PUSHED:
        return artifact_key("checkpoint", name_key(checkpoint.name))
    slug = artifact_key("checkpoint", checkpoint.job_name, checkpoint.name).partition("--")[0]
    return f"{slug}--{checkpoint.id.replace('-', '')[:12]}"


def ui_url(page: str) -> str:
    """The address of a page of Prefect's UI; empty where no UI is known."""
    base, api = PREFECT_UI_URL.value() or "", PREFECT_API_URL.value() or ""
    if base and base == ui_address(api):  # by Prefect, from the API's address: the user has not set it
        base = _shown_ui(api)
    return f"{base.rstrip('/')}/{page}" if base else ""


@functools.cache
def _shown_ui(api: str) -> str:
    return shown_ui(PrefectAPI(api, "Prefect", PREFECT_API_AUTH_STRING.value() or ""))


def artifact_url(key: str) -> str:
    """Where Prefect's UI shows the history of a key; empty where no UI is known."""
    return ui_url(f"artifacts/key/{key}")


def task_run_url(run_id: UUID) -> str:
    """Where Prefect's UI shows a task run; empty where no UI is known."""
    return ui_url(f"runs/task-run/{run_id}")


def run_link() -> str:
    """The flow run around us, else the task run, as a link in Markdown; empty without a run."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    run_id, kind, name = None, "", ""
    if flow and flow.flow_run:
        run_id, kind, name = flow.flow_run.id, "flow-run", flow.flow_run.name
    elif task and task.task_run.flow_run_id:
        run_id, kind = task.task_run.flow_run_id, "flow-run"
    elif task:
        run_id, kind, name = task.task_run.id, "task-run", task.task_run.name
    if run_id is None:
        return ""
    url = ui_url(f"runs/{kind}/{run_id}")
    shown = plain(name or str(run_id))
    what = kind.replace("-", " ")
    return f"{what} [{shown}]({url})" if url else f"{what} {shown}"


@contextmanager
def forgiving(logger: Logger) -> Iterator[None]:
    """Let the work go on where the Prefect API cannot take an artifact."""
    try:
        yield
    except (httpx.HTTPError, RuntimeError) as error:
        # RuntimeError: the client was closed, because the run did not wait for us any longer.
        logger.warning("the Prefect API did not take an artifact: %s", error)


def create_markdown(key: str, text: str | Callable[[], str], *, description: str, logger: Logger) -> bool:
    """Attach a page of Markdown to the run, if there is one; whether the API took it.

    It ends with a link to the catalog's page, which nothing in the menu of Prefect's UI leads to. A function makes the
    text where that asks the API too.
    """

    def create() -> UUID:
        written = text if isinstance(text, str) else text()
        return _create("markdown", key, written + _way_to_catalog(key), description)

    return _attach(create, logger)


def _way_to_catalog(key: str) -> str:
    url = artifact_url(CATALOG_KEY)
    return f"\n[Catalog: all checkpoints]({url})\n" if url and key != CATALOG_KEY else ""


def known_keys(keys: Iterable[str]) -> set[str]:
    """Those of some keys that there are pages of; raises httpx.HTTPError."""
    keys = list(keys)
    if not keys:
        return set()
    filter_ = {"artifacts": {"key": {"any_": keys}}, "limit": len(keys)}
    # Prefect's own helper would return a coroutine to a task that an asynchronous flow called.
    answer = get_client(sync_client=True).request("POST", "/artifacts/latest/filter", json=filter_)
    return {str(found["key"]) for found in answer.json()}


def create_table(
    key: str, rows: Sequence[Mapping[str, str | int | float | bool | None]], *, description: str, logger: Logger
) -> bool:
    """Attach a table to the run, if there is one: a row for each mapping, whose keys are the columns."""
    data = json.dumps(
        [{name: printable(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows],
        allow_nan=False,
    )
    return _attach(lambda: _create("table", key, data, description), logger)


def catalog_table(rows: Iterable[ListedCheckpoint]) -> list[dict[str, str | int | float | bool | None]]:
    """Checkpoints of the catalog as the rows of :func:`create_table`."""
    return [
        {
            "Name": row.title,
            "Kind": row.kind,
            "Status": row.status,
            "Size": human_size(row.size),
            "Bytes": row.size,
            "Files": row.file_count,
            "Created": row.created_at,
            "Created by": row.creator,
            "Deleted": row.deleted_at or "",
            "Reason": row.reason,
            "ID": row.id,
        }
        for row in rows
    ]


def create_progress(key: str, percent: float, description: str) -> UUID:
    """Attach a progress bar to the run; raises httpx.HTTPError."""
    return _create("progress", key, percent, description)


def update_progress(artifact_id: UUID, percent: float, description: str) -> None:
    """Move a progress bar; raises httpx.HTTPError."""
    # Prefect's own helpers would return a coroutine to a task that an asynchronous flow called.
    get_client(sync_client=True).update_artifact(artifact_id, ArtifactUpdate(data=percent, description=description))


def _attach(create: Callable[[], object], logger: Logger) -> bool:
    if not is_in_a_run():
        return False
    is_taken = threading.Event()

    def attach() -> None:
        with forgiving(logger):
            create()
            is_taken.set()

    # A daemon: where the API hangs, the work is done all the same.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(attach,), daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        logger.warning("the Prefect API did not take an artifact within %d seconds", PATIENCE_SECONDS)
    return is_taken.is_set()


def _create(kind: str, key: str, data: float | str, description: str) -> UUID:
    task_run_id, flow_run_id = get_task_and_flow_run_ids()
    artifact = ArtifactCreate(
        type=kind,
        key=key,
        # The one door to the UI: what other people named shows itself in no other order than it has.
        data=printable(data) if isinstance(data, str) else data,
        description=printable(description),
        task_run_id=task_run_id,
        flow_run_id=flow_run_id,
    )
    return get_client(sync_client=True).create_artifact(artifact).id


def code(text: str) -> str:
    """A text as code in a table's cell, whatever it holds: names of files are other people's."""
    clean = text.replace("|", "\\|").replace("\n", " ")
    fence = "`" * (max((len(run) for run in re.findall("`+", clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{pad}{clean}{pad}{fence}" if clean else ""


def block(text: str) -> str:
    """A text of several lines as a block of code."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def plain(text: str) -> str:
    """A text as it is, in Markdown: nothing in it is a mark, a link or the end of a table's cell."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&])", r"\\\1", " ".join(text.split()))
