"""When a task is tried again, and what it tells."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from flexai import tasks
from flexai.checkpoints import errors
from flexai.checkpoints.errors import (
    CheckpointError,
    JobExistsError,
    NameTakenError,
    NotFoundError,
    StorageUnavailableError,
)
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.retry import Attempts, RetryPolicy
from flexai.tasks.options import Watcher, is_passing_failure, run_logger, telling, watched_by

EVERY_TASK = [getattr(tasks, name) for name in tasks.__all__]


EVERY_ERROR = [
    value
    for value in vars(errors).values()
    # The two that carry a record are made of that.
    if isinstance(value, type) and issubclass(value, CheckpointError) and value not in {NameTakenError, JobExistsError}
]


def is_tried_again(error: BaseException) -> bool:
    run = TaskRun(task_key="a-task", dynamic_key="0")
    return is_passing_failure(None, run, Failed(data=error, message=str(error)))


@pytest.mark.parametrize("kind", EVERY_ERROR, ids=lambda kind: kind.__name__)
def test_only_a_store_that_was_unavailable_is_worth_another_try(kind: type[CheckpointError]) -> None:
    # Room is made by a person, and not in the seconds between two tries.
    is_passing = issubclass(kind, StorageUnavailableError) and not issubclass(kind, errors.StorageFullError)
    assert is_tried_again(kind("it went wrong")) == is_passing


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), OSError("x"), MemoryError()])
def test_an_unforeseen_error_is_not_tried_again(error: Exception) -> None:
    assert not is_tried_again(error)


@pytest.mark.parametrize("one", EVERY_TASK, ids=lambda one: one.name)
def test_every_task_can_be_found_in_prefects_ui_and_keeps_no_result(one: Task[..., object]) -> None:
    assert one.name == one.fn.__name__.replace("_", "-")
    assert one.description and "\n" not in one.description
    assert "flexai" in one.tags
    assert one.task_run_name
    assert one.cache_policy == NO_CACHE
    assert one.persist_result is False


@pytest.mark.parametrize("one", EVERY_TASK, ids=lambda one: one.name)
def test_every_task_but_those_of_a_training_job_is_tried_again_with_growing_delays(one: Task[..., object]) -> None:
    if one in {tasks.run_training, tasks.capture_training_job, tasks.delete_training_job}:
        assert one.retries == 0
        return
    assert one.retries == 3
    assert one.retry_delay_seconds == [2, 4, 8]
    assert one.retry_jitter_factor == 0.5
    assert one.retry_condition_fn is is_passing_failure


TAKES_TIME = {
    tasks.push_checkpoint,
    tasks.fetch_checkpoint,
    tasks.export_checkpoint,
    tasks.mirror_checkpoints,
    tasks.verify_checkpoints,
    tasks.scrub_store,
    tasks.prune_checkpoints,
    tasks.collect_garbage,
    tasks.run_training,
    tasks.capture_training_job,
    tasks.delete_training_job,
}
"""Tasks that move bytes, or go over all checkpoints: no time fits them all."""


@pytest.mark.parametrize("one", EVERY_TASK, ids=lambda one: one.name)
def test_a_task_that_only_asks_or_changes_the_catalog_ends_after_five_minutes(one: Task[..., object]) -> None:
    assert (one.timeout_seconds is None) == (one in TAKES_TIME)
    assert one.timeout_seconds in {None, 300.0}


def test_the_hint_of_an_error_is_logged_and_the_error_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test")
    with pytest.raises(NotFoundError), telling(logger):
        raise NotFoundError("there is no checkpoint 'x'", hint="look elsewhere")
    assert caplog.messages == ["there is no checkpoint 'x' (hint: look elsewhere)"]


def test_an_error_without_a_hint_is_left_to_prefect(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError), telling(logging.getLogger("test")):
        raise CheckpointError("it went wrong")
    assert caplog.messages == []


def test_without_a_run_there_is_an_ordinary_logger() -> None:
    assert run_logger().name == "prefect.flexai"


def test_what_is_tried_again_is_logged_and_told_to_the_watcher(caplog: pytest.LogCaptureFixture) -> None:
    class Noting(Progress):
        def note(self, message: str) -> None:
            told.append(message)

    told: list[str] = []
    attempts = Attempts(RetryPolicy(sleep=lambda _: None))
    with watched_by(Watcher(Noting())), telling(logging.getLogger("test")):
        for _ in range(2):
            attempts.failed(StorageUnavailableError("away"))
    assert told == caplog.messages == ["away; trying again (3 of 8)"]


def test_arguments_of_other_types_are_refused_before_the_operation_runs() -> None:
    with pytest.raises(errors.UsageError, match="files takes several, not 'folder'"):
        tasks.push_checkpoint.fn("base", files="folder")
    with pytest.raises(errors.UsageError, match="force takes True or False, not 'no'"):
        tasks.delete_checkpoint.fn("base", force="no")  # type: ignore[arg-type]


def test_runs_are_named_for_what_is_protected_and_whatever_is_given() -> None:
    name: Any = tasks.protect_checkpoints.task_run_name
    assert name(parameters={"references": ["base"], "protected": True}) == "protect base"
    assert name(parameters={"references": ("base", "a", "b"), "protected": False}) == "unprotect base and 2 more"
    assert name(parameters={"references": [], "protected": True}) == "protect nothing"
    assert name(parameters={"references": 5, "protected": True}) == "protect 5"
    name = tasks.delete_checkpoint.task_run_name
    assert name(parameters={"reference": 5, "force": False}) == "delete 5"
    name = tasks.push_checkpoint.task_run_name
    assert name(parameters={"name": "base", "files": 5}) == "push base"
