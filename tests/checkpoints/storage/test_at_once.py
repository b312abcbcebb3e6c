from __future__ import annotations

import threading

import pytest

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.storage.at_once import Beside, at_once
from flexai.checkpoints.storage.retry import RetryPolicy, retrying


def test_answers_come_in_the_order_of_what_was_asked() -> None:
    meet = threading.Barrier(2)

    def ask(number: int) -> int:
        meet.wait(timeout=60)  # so that two are asked at a time
        return number * number

    assert at_once(ask, range(8)) == [number * number for number in range(8)]
    assert at_once(ask, []) == []


def test_the_first_error_is_raised() -> None:
    def ask(number: int) -> int:
        if number > 1:
            raise ValueError(str(number))
        return number

    with pytest.raises(ValueError, match="2"):
        at_once(ask, range(4))


def test_a_question_is_asked_beside_what_the_asker_does() -> None:
    goes_on = threading.Event()
    beside = Beside(lambda: goes_on.wait(60))
    beside.check()
    goes_on.set()
    assert beside.answer() is True
    assert beside.answer() is True


def test_what_a_question_raised_is_raised_where_its_answer_is_needed() -> None:
    def refuse() -> None:
        raise ValueError("refused")

    beside = Beside(refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            beside.answer()
    with pytest.raises(ValueError, match="refused"):
        beside.check()


def test_a_question_that_is_needed_no_more_is_not_asked_again() -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise StorageUnavailableError("away")

    beside = Beside(lambda: retrying(fail, RetryPolicy(base_delay=3600, max_delay=3600, random=lambda: 1.0)))
    assert failed.wait(60)
    beside.give_up()
    with pytest.raises(StorageUnavailableError, match="away"):
        beside.answer()


def test_who_waits_for_an_answer_can_give_up_waiting() -> None:
    goes_on = threading.Event()
    beside = Beside(lambda: goes_on.wait(60))
    looks: list[bool] = []

    def look_up() -> None:
        looks.append(goes_on.is_set())
        if len(looks) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        beside.answer(look_up)
    assert looks == [False, False]
    goes_on.set()
    assert beside.answer(look_up) is True


def test_a_question_has_an_answer_only_once_it_is_answered() -> None:
    goes_on = threading.Event()
    beside = Beside(lambda: goes_on.wait(60))
    told = [beside.has_answer]
    goes_on.set()
    assert beside.answer() is True
    assert [*told, beside.has_answer] == [False, True]
    refused = Beside(lambda: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        refused.answer()
    assert not refused.has_answer
