"""The patience of a job's end: spent once by all steps together, and whole again when something succeeds."""

from __future__ import annotations

import pytest

from flexai.checkpoints.errors import StorageError, StorageUnavailableError
from flexai.checkpoints.service.support.patience import Patience


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
