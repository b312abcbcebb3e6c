from __future__ import annotations

import threading

import pytest

from flexai.checkpoints.storage.at_once import at_once


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
