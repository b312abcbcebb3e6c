"""The patience of a job's end: spent once by all steps together."""

from __future__ import annotations

import pytest

from flexai.checkpoints.errors import StorageError, StorageUnavailableError
from flexai.checkpoints.storage.patience import Patience
from flexai.checkpoints.storage.retry import RetryPolicy, retrying
from flexai.checkpoints.transfer.crew import Crew


def _fail(patience: Patience) -> None:
    with pytest.raises(StorageUnavailableError), patience.spent():
        raise StorageUnavailableError("away")


def test_it_is_not_over_before_anything_has_failed() -> None:
    patience = Patience(0.0)
    assert not patience.is_over
    with patience.spent():
        pass
    assert not patience.is_over


def test_steps_that_fail_spend_it_together_and_the_next_one_does_not_begin() -> None:
    patience = Patience(0.0)
    _fail(patience)
    assert patience.is_over
    with pytest.raises(StorageError, match="not waited for any more") as caught, patience.spent():
        raise AssertionError("it began")
    assert not isinstance(caught.value, StorageUnavailableError), "it is not tried again"


def test_a_step_that_succeeds_makes_it_whole_again() -> None:
    patience = Patience(600.0)
    _fail(patience)
    left = patience.left
    _fail(patience)
    assert patience.left <= left
    with patience.spent():
        pass
    assert patience.left == 600.0


def test_an_error_of_another_kind_spends_nothing() -> None:
    patience = Patience(0.0)
    with pytest.raises(ValueError, match="odd"), patience.spent():
        raise ValueError("odd")
    assert not patience.is_over


def test_one_that_is_spent_once_keeps_only_what_is_left_when_a_step_succeeds() -> None:
    patience = Patience(600.0, once=True)
    _fail(patience)
    with patience.spent():
        pass
    assert patience.left < 600.0
    over = Patience(0.0, once=True)
    _fail(over)
    over.succeeded()
    assert over.is_over


def test_the_tries_of_a_step_end_with_its_patience() -> None:
    patience, tries = Patience(0.0), list[int]()

    def step() -> None:
        tries.append(1)
        raise StorageUnavailableError("away")

    with pytest.raises(StorageUnavailableError), patience.spent():
        retrying(step, RetryPolicy())
    assert len(tries) == 1


def test_the_tries_of_threads_of_a_step_end_with_its_patience() -> None:
    patience, tries = Patience(0.0), list[int]()

    def part() -> None:
        tries.append(1)
        raise StorageUnavailableError("away")

    crew = Crew(2)
    crew.add(lambda: retrying(part, RetryPolicy()))
    with pytest.raises(StorageUnavailableError), patience.spent():
        crew.run()
    assert len(tries) == 1
