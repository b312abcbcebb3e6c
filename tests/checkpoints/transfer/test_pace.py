from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.transfer.pace import FIRST_LOOK, FIRST_LOOKS, FIRST_WIDTH, LOOK, Bandwidth, Width


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Machine:
    """Tasks that move ``rate`` bytes a second and need ``work`` seconds of a processor for each byte."""

    width: Width
    clock: Clock
    processor: Clock
    rate: Callable[[int], float]
    work: float = 0.0

    @classmethod
    def of(cls, most: int, rate: Callable[[int], float], work: float = 0.0) -> Machine:
        clock, processor = Clock(), Clock()
        return cls(Width(most, clock, processor, cores=2), clock, processor, rate, work)

    def run(self, seconds: float) -> int:
        """Go on for some seconds; returns how many tasks run then."""
        end = self.clock.now + seconds
        while self.clock.now < end - 1e-9:
            moved = self.rate(self.width.now) * 0.05
            if self.work:
                moved = min(moved, 2 * 0.05 / self.work)
            self.clock.now += 0.05
            self.processor.now += moved * self.work
            self.width.moved(round(moved))
            self.width.look()
        return self.width.now


def test_where_the_network_is_waited_for_all_run_within_a_tenth_of_a_second() -> None:
    machine = Machine.of(32, lambda tasks: 90e6 * tasks, work=1e-10)
    assert machine.width.now == FIRST_WIDTH
    assert machine.run(0.1) == 32
    assert machine.run(20) == 32


def test_a_look_before_its_time_does_nothing() -> None:
    clock = Clock()
    width = Width(32, clock, Clock(), cores=2)
    for passed, tasks in ((FIRST_LOOK / 2, FIRST_WIDTH), (FIRST_LOOK, 32)):
        clock.now = passed
        width.look()
        assert width.now == tasks


def test_looks_are_close_together_in_the_beginning() -> None:
    clock = Clock()
    width = Width(32, clock, Clock(), cores=2)
    while clock.now < 3 * FIRST_LOOKS:
        assert width.pause == (FIRST_LOOK if clock.now < FIRST_LOOKS else LOOK)
        clock.now += width.pause
        width.look()


def test_a_network_that_the_beginning_hides_is_found_with_the_next_look() -> None:
    clock, processor = Clock(), Clock()
    width = Width(32, clock, processor, cores=2)
    clock.now = FIRST_LOOK
    processor.now = 2 * FIRST_LOOK  # buffers that take the first bytes at once
    width.look()
    assert width.now == FIRST_WIDTH
    clock.now += FIRST_LOOK
    width.look()
    assert width.now == 32


def test_where_the_processor_is_used_no_more_run() -> None:
    machine = Machine.of(32, lambda tasks: 1e9 * tasks, work=1e-9)
    assert machine.run(20) == FIRST_WIDTH


def test_as_many_run_as_the_processor_has_time_for() -> None:
    # One task takes a tenth of a core, so that twenty take two.
    machine = Machine.of(64, lambda tasks: 1e8 * tasks, work=1e-9)
    assert 12 <= machine.run(20) <= 20


def test_what_the_processor_has_no_time_for_any_more_is_given_up() -> None:
    machine = Machine.of(32, lambda tasks: 90e6 * tasks, work=1e-10)
    machine.run(1)
    machine.work = 1e-8
    assert machine.run(5) == FIRST_WIDTH


@pytest.mark.parametrize("enough", [1, 2])
def test_more_tasks_on_a_thin_line_are_taken_back(enough: int) -> None:
    machine = Machine.of(32, lambda tasks: 1e6 * min(tasks, enough))
    machine.run(0.1)
    assert machine.width.now == 32
    assert machine.run(1.5) == FIRST_WIDTH


def test_a_limit_of_our_own_is_no_reason_for_more_tasks() -> None:
    machine = Machine.of(32, lambda tasks: 1e6)
    for _ in range(40):
        machine.width.hold()
        assert machine.run(0.05) == FIRST_WIDTH


def refuse(width: Width, times: int) -> None:
    """Tell it of refusals with nothing that ends well in between."""
    for _ in range(times):
        width.refused()


def test_a_provider_that_is_overloaded_halves_it_and_it_recovers() -> None:
    machine = Machine.of(32, lambda tasks: 1e6 * tasks)
    machine.run(2)
    refuse(machine.width, 8)
    assert machine.width.now == 16
    refuse(machine.width, 24)
    assert machine.width.now == 16, "tasks that are told so together are told once"
    machine.clock.now += 0.3
    refuse(machine.width, 4)
    assert machine.width.now == 8
    assert machine.run(20) == 32


def outcomes(width: Width, clock: Clock, count: int, every: int) -> int:
    """Have tasks end, each ``every``-th of them after a refusal; returns how many run then at the least."""
    least = width.now
    for number in range(count):
        clock.now += 0.01
        if number % every == 0:
            width.refused()
        width.ended()
        least = min(least, width.now)
    return least


@pytest.mark.parametrize("most", [2, 4, 8, 32])
def test_a_refusal_now_and_then_changes_nothing(most: int) -> None:
    machine = Machine.of(most, lambda tasks: 1e6 * tasks)
    machine.run(0.1)
    # As many as the provider refuses by chance: 5 percent, and in the worst case some of them together.
    for _ in range(20):
        refuse(machine.width, 1)
        assert outcomes(machine.width, machine.clock, 40, every=20) == most


@pytest.mark.parametrize("most", [4, 8, 32])
def test_a_good_share_of_refusals_halves_it(most: int) -> None:
    machine = Machine.of(most, lambda tasks: 1e6 * tasks)
    machine.run(0.1)
    assert outcomes(machine.width, machine.clock, 100, every=3) <= most / 2


def test_of_many_tasks_more_are_refused_by_chance() -> None:
    machine = Machine.of(32, lambda tasks: 1e6 * tasks)
    machine.run(0.1)
    refuse(machine.width, 7)
    assert machine.width.now == 32
    refuse(machine.width, 1)
    assert machine.width.now == 16


@pytest.mark.parametrize(("most", "left"), [(1, 1), (2, 2), (32, 2)])
def test_two_tasks_are_left_of_however_many_refusals(most: int, left: int) -> None:
    machine = Machine.of(most, lambda tasks: 1e6 * tasks)
    for _ in range(30):
        machine.clock.now += 0.3
        machine.width.refused()
    assert machine.width.now == left


@given(
    st.integers(1, 64),
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 10**9)),
            st.sampled_from([0.0, 0.01, 0.06, 0.3, 1.1]),
            st.sampled_from([0.0, 0.01, 0.3, 2.0]),
        ),
        max_size=60,
    ),
)
def test_it_is_never_less_than_one_nor_more_than_allowed(
    most: int, events: list[tuple[int | None, float, float]]
) -> None:
    clock, processor = Clock(), Clock()
    width = Width(most, clock, processor)
    for event, passed, worked in events:
        clock.now += passed
        processor.now += worked
        if event is None:
            width.refused()
        else:
            width.moved(event)
            width.look()
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
