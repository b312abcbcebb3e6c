"""What every task shares: when it is tried again, where it logs, what it tells when it fails, and who watches it."""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, get_type_hints

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from flexai.checkpoints.arguments import bound
from flexai.checkpoints.errors import CheckpointError, StorageFullError, StorageUnavailableError
from flexai.checkpoints.names import printable
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import VerifyReport
from flexai.checkpoints.storage.connection import StorageConnection
from flexai.checkpoints.storage.retry import telling_of_retries

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"

TAGS = frozenset({"flexai"})


def is_passing_failure(_task: object, _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task is worth another try.

    Only a store that was unavailable is, unless it is full. Wrong usage, a missing or conflicting name, refused
    credentials, a digest that does not match: the same call would fail the same way.
    """
    failure = state.result(raise_on_failure=False)
    return isinstance(failure, StorageUnavailableError) and not isinstance(failure, StorageFullError)


ONCE: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "retries": 0}
"""Options of a task that is never tried again by itself."""

RETRIED: dict[str, Any] = ONCE | {
    "retries": 3,
    # 2, 4 and 8 seconds, each up to half as long again, so that many tasks do not come back at once.
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_passing_failure,
}
"""Options of a task that goes on where it stopped when it is tried again."""


class RunLogger(logging.LoggerAdapter[Any]):
    """A run's logger that any thread may use, and the door to it: texts of others cannot command who reads the log.

    Prefect looks for the run in the context of the thread that logs, and drops what a transfer's own threads say.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger, {})
        self._context = contextvars.copy_context()

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log in the context of the run."""
        # A copy, because two threads cannot be in one context.
        text = printable(str(msg) % args if args else str(msg))
        self._context.copy().run(self.logger.log, level, "%s", text, **kwargs)


QUICK: dict[str, Any] = RETRIED | {"timeout_seconds": 300}
"""Options of a task that only asks or changes the catalog: one that takes five minutes will not end."""


def run_logger() -> Logger:
    """The logger of the task run, or an ordinary one where a task's function is called without a run."""
    try:
        return RunLogger(get_run_logger())
    except MissingContextError:
        return get_logger("flexai")


def load_connection(name: str) -> StorageConnection:
    """Load a storage provider connection. Without one a run does not wait for the blocks' import."""
    from flexai import blocks

    return blocks.load_connection(name)


def open_system(*, read_only: bool = False) -> System:
    """The checkpoint system as this run uses it: the history of what it changes names the flow run, if it is of one."""
    return System.open(connect=load_connection, read_only=read_only, flow_run_id=flow_run.id or "")


def ignore(*_told: object) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is told, besides the run, what only those who stand by can be told: a task that fails returns nothing."""

    progress: Progress = field(default_factory=Progress)
    on_output: Callable[[Literal["stdout", "stderr"], bytes], None] = ignore
    """Is handed what a training command prints."""
    on_verified: Callable[[VerifyReport], None] = ignore
    """Is handed what a verification found, and what was repaired of it."""


_watcher: contextvars.ContextVar[Watcher] = contextvars.ContextVar("flexai_task_watcher")


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell the watcher about the tasks that the block runs."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def current_watcher() -> Watcher:
    """The watcher of this run; one that shows nothing where there is none."""
    return _watcher.get(None) or Watcher()


@contextmanager
def telling(logger: Logger) -> Iterator[None]:
    """Log what is tried again, and what helps when the operation fails: Prefect knows nothing of an error's hint."""

    def note(message: str) -> None:
        current_watcher().progress.note(message)
        logger.warning("%s", message)

    try:
        with telling_of_retries(note):
            yield
    except CheckpointError as error:
        if error.hint:
            logger.error("%s (hint: %s)", error.message, error.hint)
        raise


P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")


def takes(request: Callable[P, R]) -> Callable[[Callable[[R], D]], Callable[P, D]]:
    """Give a function of a request the request's fields for its parameters, and their documentation.

    What makes no sense together, and what is of another type, is refused before the function runs, and logged with
    what helps.
    """
    hints = get_type_hints(request)
    written = inspect.signature(request)
    parameters = [one.replace(annotation=hints[one.name]) for one in written.parameters.values()]
    signature = written.replace(parameters=parameters)
    documentation = inspect.getdoc(request) or ""

    def decorate(run: Callable[[R], D]) -> Callable[P, D]:
        @functools.wraps(run)
        def call(*args: P.args, **kwargs: P.kwargs) -> D:
            with telling(run_logger()):
                given = bound(signature, args, kwargs)
                made = request(*given.args, **given.kwargs)
            return run(made)

        returned = get_type_hints(run)["return"]
        # Prefect, cloudpickle and readers of the signature see the fields, and not the request.
        del call.__wrapped__
        call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": returned}
        call.__doc__ = _with_arguments(inspect.getdoc(run) or "", documentation)
        return call

    return decorate


def _with_arguments(text: str, documentation: str) -> str:
    """A function's documentation with the arguments of its request, before what it returns and raises."""
    arguments = next(part for part in documentation.split("\n\n") if part.startswith("Args:"))
    parts = text.split("\n\n")
    place = next((index for index, part in enumerate(parts) if part.startswith(("Returns:", "Raises:"))), len(parts))
    return "\n\n".join([*parts[:place], arguments, *parts[place:]])
