"""Tasks that run their operation directly where there is no Prefect API that could be told of a task run.

Prefect would start a server for the call, which takes longer than most operations, and end it with the script.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import State, Task
from prefect.futures import PrefectFuture
from prefect.logging import get_logger
from prefect.states import Completed, Failed
from prefect.utilities.collections import visit_collection
from prefect.utilities.visualization import get_task_viz_tracker

from flexai.checkpoints.errors import CheckpointError
from flexai.prefect_client import is_without_api

P = ParamSpec("P")
R = TypeVar("R")


class OperationTask(Task[P, R]):
    """A task whose call, in no run and without a Prefect API, is a call of its function.

    ``submit``, ``map`` and ``delay`` are Prefect's in any case, and so is a call with a future or a state of theirs.
    """

    if not TYPE_CHECKING:  # Prefect's overloads say what they take

        def __call__(
            self, *args: Any, return_state: bool = False, wait_for: object = None, **kwargs: Any
        ) -> R | State[R]:
            """Run the operation: as a task run, or directly."""
            asked = (args, kwargs, wait_for)
            if not is_without_api() or get_task_viz_tracker() is not None or _has_results_of_prefect(asked):
                return super().__call__(*args, return_state=return_state, wait_for=wait_for, **kwargs)
            _say_it_once()
            if not return_state:
                return self.fn(*args, **kwargs)
            try:
                return Completed(data=self.fn(*args, **kwargs))
            except CheckpointError as error:
                return Failed(data=error, message=error.message)

        def with_options(self, **options: Any) -> OperationTask[P, R]:
            """The same operation with other options."""
            made = super().with_options(**options)
            made.__class__ = type(self)  # Prefect makes a plain task
            return made


def task(**options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function an operation's task; the options are those of ``prefect.task``."""
    return lambda function: OperationTask(function, **options)


def _has_results_of_prefect(asked: object) -> bool:
    found: list[object] = []

    def look(value: Any) -> Any:
        if isinstance(value, PrefectFuture | State):
            found.append(value)
        return value

    visit_collection(asked, visit_fn=look, return_data=False)
    return bool(found)


@functools.cache
def _say_it_once() -> None:
    get_logger("flexai").info(
        "no Prefect API is configured, so tasks run directly, without task runs; flexai up starts one,"
        " PREFECT_API_URL names one that is there"
    )
