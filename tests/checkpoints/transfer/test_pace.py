from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.transfer.pace import FIRST_WIDTH, Bandwidth, Width


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _run(width: Width, clock: Clock, rate: Callable[[int], float], seconds: float) -> None:
    """Move bytes at the rate that a number of tasks reaches, in steps of a tenth of a second."""
    end = clock.now + seconds
    while clock.now < end:
        clock.now += 0.1
        width.moved(round(rate(width.now) * 0.1))


def test_it_grows_while_more_tasks_move_more_bytes() -> None:
    clock = Clock()
    width = Width(32, clock)
    assert width.now == FIRST_WIDTH
    _run(width, clock, lambda tasks: 1e6 * tasks, 20)
    assert width.now == 32


@pytest.mark.parametrize("enough", [1, 4, 6, 13])
def test_it_stays_near_what_is_enough(enough: int) -> None:
    clock = Clock()
    width = Width(64, clock)
    _run(width, clock, lambda tasks: 1e6 * min(tasks, enough), 30)
    assert min(enough, FIRST_WIDTH) <= width.now <= 2 * max(enough, FIRST_WIDTH)


def test_a_step_that_makes_things_slower_is_taken_back() -> None:
    clock = Clock()
    width = Width(64, clock)
    _run(width, clock, lambda tasks: 1e6 if tasks <= FIRST_WIDTH else 5e5, 0.6)
    assert width.now > FIRST_WIDTH
    _run(width, clock, lambda tasks: 1e6 if tasks <= FIRST_WIDTH else 5e5, 0.6)
    assert width.now == FIRST_WIDTH


def test_a_provider_that_is_overloaded_halves_it_and_it_recovers() -> None:
    clock = Clock()
    width = Width(32, clock)
    _run(width, clock, lambda tasks: 1e6 * tasks, 20)
    width.slow_down()
    assert width.now == 16
    width.slow_down()
    assert width.now == 8
    _run(width, clock, lambda tasks: 1e6 * tasks, 20)
    assert width.now == 32


@given(st.integers(1, 64), st.lists(st.one_of(st.none(), st.integers(0, 10**9)), max_size=60))
def test_it_is_never_less_than_one_nor_more_than_allowed(most: int, events: list[int | None]) -> None:
    clock = Clock()
    width = Width(most, clock)
    for event in events:
        clock.now += 0.3
        if event is None:
            width.slow_down()
        else:
            width.moved(event)
        assert 1 <= width.now <= most


def test_bytes_within_the_limit_do_not_wait() -> None:
    clock = Clock()
    bandwidth = Bandwidth(1000, clock)
    assert bandwidth.take(500) == 0.0
    clock.now = 0.5
    assert bandwidth.take(500) == 0.0


def test_bytes_beyond_the_limit_wait_for_as_long_as_the_earlier_ones_need() -> None:
    clock = Clock()
    bandwidth = Bandwidth(1000, clock)
    assert [bandwidth.take(500) for _ in range(4)] == [0.0, 0.5, 1.0, 1.5]
    # What was not used before is not made up for.
    clock.now = 100.0
    assert [bandwidth.take(500) for _ in range(2)] == [0.0, 0.5]


def test_without_a_limit_nothing_waits() -> None:
    bandwidth = Bandwidth(0, Clock())
    assert {bandwidth.take(10**12) for _ in range(10)} == {0.0}
