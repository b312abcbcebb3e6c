"""Whether an operation runs as a Prefect task run, and how.

Where a Prefect API is configured, an operation that makes, moves, verifies or deletes checkpoints is a task run there:
people see it, its progress and its result in Prefect's UI. Where none is, the same operation runs directly and Prefect
is not even imported; nor is it by commands that only look something up, which would take longer than their work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    ConflictError,
    StorageUnavailableError,
    UsageError,
)
from flexai.cli import failures, terminal
from flexai.prefect_server.finding import NO_TELEMETRY, PrefectAPI, api_variables, find_api

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from prefect.client.schemas.objects import State, TaskRun

    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.storage.connection import StorageConnection
    from flexai.connections.saved import BlockDocuments, SavedConnection

T = TypeVar("T")
_REFUSALS = frozenset({401, 403})


def tracking_api(track: bool | None) -> PrefectAPI | None:
    """The Prefect API to run under, or None to run directly; ``track`` is what the user asked for, if anything.

    Raises UsageError where tracking is asked for and no API is configured.
    """
    if track is False:
        return None
    api = find_api()
    if track and api is None:
        raise UsageError(
            "--track needs a Prefect API, and none is configured",
            hint="flexai up starts one; PREFECT_API_URL names one that is there",
        )
    return api


def required_api(what: str) -> PrefectAPI:
    """The Prefect API, ready for use, of a command that makes no sense without one.

    Raises UsageError where none is configured.
    """
    api = find_api()
    if api is None:
        raise UsageError(
            f"{what} needs a Prefect API, and none is configured",
            hint="flexai up starts one; PREFECT_API_URL names one that is there",
        )
    prepare_prefect(api)
    return api


def run_operation(
    track: bool | None,
    task_name: str,
    request: DataclassInstance,
    directly: Callable[[System, Progress], Document],
    *,
    read_only: bool = False,
    done_before: Callable[[System], Document | None] = lambda _: None,
    only_notes: bool = False,
    on_output: Callable[..., None] | None = None,
    on_verified: Callable[..., None] | None = None,
) -> Document:
    """Run what a request asks for, as a task run where the user or a configured API wants that; returns its document.

    With ``read_only`` a run here writes nothing, and ``done_before`` may find that there is nothing left to do, before
    more code is loaded.
    Progress is shown here in either case; with ``only_notes`` nothing but its remarks. ``on_output`` and
    ``on_verified`` are those of ``flexai.tasks.options.Watcher``, for a task run.

    Raises what the operation raises, and StorageUnavailableError where the API does not answer.
    """
    api = tracking_api(track)
    if api is not None:
        return _run_tracked(
            api, task_name, request, only_notes=only_notes, on_output=on_output, on_verified=on_verified
        )
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.storage.retry import telling_of_retries
    from flexai.cli.looking import tell_places

    with telling_of_retries(terminal.say), System.open(connect=load_connection, read_only=read_only) as system:
        tell_places()
        if (document := done_before(system)) is not None:
            return document
        from flexai.cli.progress_display import Notes, shown_progress

        with shown_progress() as progress:
            return directly(system, Notes() if only_notes else progress)


def _run_tracked(
    api: PrefectAPI,
    task_name: str,
    request: DataclassInstance,
    *,
    only_notes: bool,
    on_output: Callable[..., None] | None,
    on_verified: Callable[..., None] | None,
) -> Document:
    terminal.detail(f"running as a task run of the Prefect API {api.shown} (from {api.origin})")
    prepare_prefect(api)
    from flexai import tasks
    from flexai.checkpoints.service.requests import arguments_of
    from flexai.cli.progress_display import Notes, shown_progress
    from flexai.tasks.options import Watcher, ignore, watched_by

    with _api_errors(api), shown_progress() as progress:
        watcher = Watcher(Notes() if only_notes else progress, on_output or ignore, on_verified or ignore)
        task = getattr(tasks, task_name).with_options(on_running=[_tell_where])
        task.fn = _cancellable(task.fn)
        with watched_by(watcher), _told(api):
            document: Document | State[Any] = task(**arguments_of(request))
    if not isinstance(document, dict):
        raise KeyboardInterrupt
    return document


def _cancellable(work: Callable[..., Any]) -> Callable[..., Any]:
    """A task's work that ends as cancelled where a user interrupts it, and not as crashed."""
    from functools import wraps

    from prefect.states import Cancelled

    @wraps(work)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return work(*arguments, **named)
        except KeyboardInterrupt:
            return Cancelled(message="interrupted at the terminal")

    return run


def _tell_where(_task: object, run: TaskRun, _state: object) -> None:
    """Say where Prefect's UI shows a run, which begins; a program that reads the result can ask the API."""
    from flexai.tasks.artifacts import task_run_url

    if run.run_count <= 1 and not terminal.verbosity.for_program and (url := task_run_url(run.id)):
        terminal.say(f"in Prefect's UI: {url}")


@contextmanager
def _told(api: PrefectAPI) -> Iterator[None]:
    """Wait at the end until the API knows what Prefect tells it in the background, and say so where it does not.

    Without this, Prefect would look for an API that is gone for minutes after the work is done, and say nothing.
    """
    try:
        yield
    except CheckpointError:
        _say_what_is_untold(api)
        raise
    _say_what_is_untold(api)


def _say_what_is_untold(api: PrefectAPI) -> None:
    is_told = _hand_over(api)
    # Its threads have nothing left to tell, or would try for minutes.
    failures.leave_behind()
    if not is_told:
        terminal.warn(
            f"the Prefect API {api.shown} does not answer any more: it may show this as still running, without its end,"
            " its last log lines and its page; what was done is not affected"
        )


def _hand_over(api: PrefectAPI) -> bool:
    """Hand over events and logs; whether the API has taken all, as far as can be known."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    if not answers(api):
        return False
    for worker in (EventsWorker, APILogWorker):
        waited = worker.drain_all(timeout=_HAND_OVER_SECONDS, at_exit=False)
        if isinstance(waited, tuple) and waited[1]:
            return False
    return answers(api)


def answers(api: PrefectAPI) -> bool:
    """Whether a Prefect API answers. Raises AccessDeniedError where it refuses to."""
    from flexai.prefect_server.rest import PrefectREST

    try:
        PrefectREST(api).get("/hello")
    except StorageUnavailableError:
        return False
    return True


def load_connection(name: str) -> StorageConnection:
    """Load a storage provider connection for an operation that runs directly.

    Connections are saved as Prefect blocks. They are read without Prefect, where that is sure to give the same.
    """
    from flexai.connections import saved

    def by_prefect() -> StorageConnection:
        from flexai import blocks

        return blocks.load_connection(name)

    return read_saved(
        "to read the connection", lambda found: saved.load_connection(name, found, _read_blocks), by_prefect
    )


def list_connections(purpose: str) -> list[SavedConnection]:
    """Every saved connection; ``purpose`` is said where Prefect has to be started for it."""
    from flexai.connections import saved

    def by_prefect() -> list[SavedConnection]:
        from flexai import blocks

        return blocks.list_connections()

    return read_saved(purpose, saved.list_connections, by_prefect)


def saved_connection(name: str) -> SavedConnection:
    """The saved connection of a name, also one that cannot be used. Raises NotFoundError and ConflictError."""
    every = list_connections("to read the connection")
    found = [connection for connection in every if connection.name == name]
    if not found:
        from flexai.connections.saved import not_there

        raise not_there(name, [connection.name for connection in every])
    if len(found) > 1:
        # Prefect keeps a name for each kind of block; ours is one for all.
        kinds = " and ".join(repr(connection.provider) for connection in found)
        raise ConflictError(
            f"connection {name!r} is there more than once, as {kinds}",
            hint="flexai storage list --json shows them all; delete all but one in Prefect's UI",
        )
    return found[0]


def read_saved(purpose: str, read: Callable[[BlockDocuments], T], by_prefect: Callable[[], T]) -> T:
    """Read what is saved in Prefect without importing it; by Prefect itself where only that can tell."""
    from flexai.prefect_server.block_documents import UnsureError, saved_blocks

    try:
        return read(saved_blocks())
    except UnsureError as reason:
        terminal.detail(f"Prefect itself is asked: {reason}")
    open_api(purpose)
    return by_prefect()


def _read_blocks(kinds: Sequence[str], name: str) -> list[tuple[str, Mapping[str, Any]]]:
    def by_prefect() -> list[tuple[str, Mapping[str, Any]]]:
        from flexai.prefect_client import read_blocks

        return read_blocks(kinds, name)

    return read_saved(
        "to read the credentials",
        lambda saved: [(kind, block.data) for kind in kinds if (block := saved.named(kind, name)) is not None],
        by_prefect,
    )


def open_api(purpose: str) -> PrefectAPI | None:
    """Make Prefect ready for saved connections: by the configured API, or else by one that it starts itself."""
    api = find_api()
    if api is None:
        terminal.say(f"starting an embedded Prefect API {purpose}…")
    prepare_prefect(api)
    return api


def prepare_prefect(api: PrefectAPI | None) -> None:
    """Set what Prefect has to know before it is imported; ``api`` None lets it start an API of its own."""
    if api is not None:
        os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
        os.environ |= api_variables(api, os.environ)
    elif "PREFECT_SERVER_EPHEMERAL_ENABLED" not in os.environ:
        os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # Prefect would also say, above a progress bar, that it reports.
    os.environ |= NO_TELEMETRY
    # Its colours would be spelled out like those of other people's texts.
    os.environ["PREFECT_LOGGING_COLORS"] = "false"
    # A task run without a flow has no log of its own there, and no warning is needed that says so.
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    if not (terminal.verbosity.verbose or terminal.verbosity.debug):
        # What fails is reported here, in one sentence.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
        import logging

        # Nor of a log line that could not be sent.
        logging.raiseExceptions = False


@contextmanager
def _api_errors(api: PrefectAPI) -> Iterator[None]:
    """Say in our words that a Prefect API does not answer, or refuses."""
    import httpx

    name, hint = f"the Prefect API {api.shown}", "--no-track runs the same without Prefect"
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code in _REFUSALS:
            raise AccessDeniedError(f"{name} refused the credentials", hint=hint) from error
        raise StorageUnavailableError(f"{name} answered {error.response.status_code}", hint=hint) from error
    except httpx.TransportError as error:
        raise StorageUnavailableError(f"{name} does not answer", hint=hint) from error
    except RuntimeError as error:
        if "Failed to reach API" not in str(error):
            raise
        raise StorageUnavailableError(f"{name} does not answer", hint=hint) from error


_HAND_OVER_SECONDS = 60.0
