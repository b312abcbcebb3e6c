from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy, retrying, telling_of_retries
from flexai.checkpoints.transfer.crew import CountedBody, Crew, StoppedError, give_way
from flexai.checkpoints.transfer.pace import FIRST_WIDTH
from tests.support.progress import Counter
from tests.support.waiting import until


@pytest.mark.parametrize("size", [1, 4])
def test_all_tasks_are_done(size: int) -> None:
    crew = Crew(size)
    done: set[int] = set()
    for number in range(100):
        crew.add(partial(done.add, number))
    crew.run()
    assert done == set(range(100))


def test_a_crew_without_tasks_ends_at_once() -> None:
    Crew(4).run()


@given(st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_tasks_may_add_tasks_which_may_add_tasks(size: int, shape: list[int]) -> None:
    crew = Crew(size)
    done: list[tuple[int, ...]] = []

    def work(trail: tuple[int, ...]) -> None:
        done.append(trail)
        if len(trail) < 3:
            for number in range(shape[len(trail) % len(shape)]):
                crew.add(partial(work, (*trail, number)), next_up=number % 2 == 0)

    crew.add(partial(work, ()))
    crew.run()
    expected: list[tuple[int, ...]] = [()]
    for trail in expected:
        if len(trail) < 3:
            expected.extend((*trail, number) for number in range(shape[len(trail) % len(shape)]))
    assert sorted(done) == sorted(expected)


def test_a_task_that_is_next_up_comes_before_all_that_wait() -> None:
    crew = Crew(1)
    order: list[str] = []

    def first() -> None:
        order.append("first")
        crew.add(partial(order.append, "urgent"), next_up=True)

    crew.add(first)
    crew.add(partial(order.append, "second"))
    crew.run()
    assert order == ["first", "urgent", "second"]


def test_as_many_tasks_run_at_a_time_as_the_crew_has_threads() -> None:
    crew = Crew(2)
    together = threading.Barrier(2, timeout=30)
    for _ in range(6):
        crew.add(together.wait)  # type: ignore[arg-type]
    crew.run()


def test_while_a_task_waits_aside_another_one_takes_its_place() -> None:
    crew = Crew(1)
    others = threading.Semaphore(0)

    def wait() -> None:
        with crew.aside():
            for _ in range(3):
                assert others.acquire(timeout=30)

    crew.add(wait)
    for _ in range(3):
        crew.add(others.release)
    crew.run()


def test_no_more_threads_work_while_one_that_waits_aside_waits_for_a_passing_failure() -> None:
    crew = Crew(1)
    lock, at_work, most = threading.Lock(), 0, 0
    left = threading.Semaphore(0)

    def refused() -> None:
        with crew.aside():
            crew.wait_after(StorageUnavailableError("slow down"), 0.01)
            assert left.acquire(timeout=30)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.005)
        with lock:
            at_work -= 1
        left.release()

    crew.add(refused)
    for _ in range(10):
        crew.add(work)
    crew.run()
    assert most == 1


def test_no_more_threads_than_may_work_wait_aside_in_the_place_of_others() -> None:
    crew = Crew(2)
    names: set[str] = set()

    def wait() -> None:
        names.add(threading.current_thread().name)
        with crew.aside():
            time.sleep(0.005)

    for _ in range(50):
        crew.add(wait)
    crew.run()
    assert len(names) <= 4


def test_tasks_that_one_task_adds_are_shared_out_while_it_still_runs() -> None:
    # Many times, because it depends on the order in which the threads begin to wait.
    for _ in range(50):
        crew = Crew(2)
        together = threading.Barrier(2, timeout=30)

        def begin(crew: Crew = crew, together: threading.Barrier = together) -> None:
            crew.add(together.wait)  # type: ignore[arg-type]
            together.wait()

        crew.add(begin)
        crew.run()


def test_the_first_error_is_raised_and_ends_the_rest() -> None:
    crew = Crew(2)
    begun: list[int] = []
    others_wait = threading.Event()

    def fail() -> None:
        others_wait.wait(30)
        raise ValueError("first")

    def wait_for_the_end() -> None:
        others_wait.set()
        while True:
            crew.check()
            time.sleep(0.001)

    crew.add(fail)
    crew.add(wait_for_the_end)
    for number in range(100):
        crew.add(partial(begun.append, number))
    with pytest.raises(ValueError, match="first"):
        crew.run()
    assert begun == []


def test_of_two_errors_the_first_one_counts() -> None:
    crew = Crew(2)
    first_is_over = threading.Event()

    def fail_first() -> None:
        try:
            raise ValueError("first")
        finally:
            first_is_over.set()

    def fail_later() -> None:
        first_is_over.wait(30)
        until(lambda: crew._stopped)
        raise ValueError("second")

    crew.add(fail_later)
    crew.add(fail_first)
    with pytest.raises(ValueError, match="first"):
        crew.run()


def test_an_error_s_traceback_shows_where_it_was_raised() -> None:
    def culprit() -> None:
        raise ValueError("here")

    crew = Crew(1)
    crew.add(culprit)
    with pytest.raises(ValueError, match="here") as caught:
        crew.run()
    assert any(entry.name == "culprit" for entry in caught.traceback)


def test_an_interruption_ends_the_tasks_before_it_is_raised() -> None:
    crew = Crew(2)
    ended = threading.Event()

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            while True:
                crew.check()
                time.sleep(0.001)
        finally:
            ended.set()

    crew.add(work)
    with pytest.raises(KeyboardInterrupt):
        crew.run()
    assert ended.is_set()


def test_no_thread_is_left_after_an_error_or_an_end() -> None:
    before = set(threading.enumerate())
    for fails in (False, True):
        crew = Crew(3)
        crew.add(partial(int, "no number" if fails else "1"))  # type: ignore[arg-type]
        if fails:
            with pytest.raises(ValueError, match="no number"):
                crew.run()
        else:
            crew.run()
    assert set(threading.enumerate()) <= before


def test_work_that_was_stopped_says_so_at_the_next_check() -> None:
    crew = Crew(1)
    crew.check()
    crew.run()
    with pytest.raises(StoppedError):
        crew.check()


def test_bytes_are_reported_as_they_move() -> None:
    progress = Counter()
    body = CountedBody(BytesBody(bytes(3 * BLOCK_SIZE + 1)), crew=Crew(1), progress=progress)
    assert body.size == 3 * BLOCK_SIZE + 1
    reading = body.blocks()
    next(reading)
    next(reading)
    assert progress.moved == BLOCK_SIZE
    for _ in reading:
        pass
    assert progress.moved == body.size


def test_bytes_that_are_sent_again_are_counted_once() -> None:
    progress = Counter()
    body = CountedBody(BytesBody(bytes(3 * BLOCK_SIZE)), crew=Crew(1), progress=progress)
    broken = body.blocks()
    next(broken)
    next(broken)
    for _ in range(2):
        assert b"".join(bytes(block) for block in body.blocks()) == bytes(body.size)
        assert progress.moved == body.size


def test_a_body_ends_early_when_the_crew_stops() -> None:
    crew = Crew(1)
    reading = CountedBody(BytesBody(bytes(2 * BLOCK_SIZE)), crew=crew, progress=Progress()).blocks()
    next(reading)
    crew.run()
    with pytest.raises(StoppedError):
        next(reading)


def test_a_wait_between_tries_ends_when_another_task_fails() -> None:
    crew = Crew(2)
    is_waiting = threading.Event()
    tries: list[int] = []

    def unavailable() -> None:
        tries.append(1)
        is_waiting.set()
        raise StorageUnavailableError("not now", hint="")

    crew.add(lambda: retrying(unavailable, RetryPolicy(base_delay=3600, max_delay=3600, random=lambda: 1.0)))

    def fail() -> None:
        is_waiting.wait(30)
        raise ValueError("first")

    crew.add(fail)
    with pytest.raises(ValueError, match="first"):
        crew.run()
    assert tries == [1]


def test_bytes_wait_for_their_turn_where_the_bandwidth_is_limited() -> None:
    crew = Crew(2, bandwidth=1)
    moved = Counter()
    begun = threading.Event()

    def read() -> None:
        for _ in CountedBody(BytesBody(bytes(9 * BLOCK_SIZE)), crew=crew, progress=moved).blocks():
            begun.set()

    def stop() -> None:
        begun.wait(30)
        raise ValueError("enough")

    crew.add(read)
    crew.add(stop)
    # The second block's turn would be in twelve days, unless the work is given up.
    with pytest.raises(ValueError, match="enough"):
        crew.run()
    # The first block's turn was at once, and the second has not moved before its own.
    assert moved.moved <= BLOCK_SIZE


def test_no_more_threads_than_at_first_wait_for_their_turn() -> None:
    crew = Crew(32, bandwidth=1)
    waiting: set[int] = set()
    looked = 0

    def read() -> None:
        waiting.add(threading.get_ident())
        for _ in CountedBody(BytesBody(bytes(9 * BLOCK_SIZE)), crew=crew, progress=Counter()).blocks():
            pass

    def look_up() -> None:
        nonlocal looked
        looked += 1
        if looked == 3:
            raise ValueError("enough")

    for _ in range(32):
        crew.add(read)
    asked = give_way.set(look_up)
    try:
        with pytest.raises(ValueError, match="enough"):
            crew.run()
    finally:
        give_way.reset(asked)
    assert len(waiting) == FIRST_WIDTH


def test_what_a_thread_tries_again_is_told_to_the_listener_where_the_crew_runs() -> None:
    told: list[str] = []
    failures = iter([StorageUnavailableError("away"), StorageUnavailableError("away")])

    def task() -> None:
        if error := next(failures, None):
            raise error

    crew = Crew(2)
    crew.add(lambda: retrying(task, RetryPolicy(random=lambda: 0.0)))
    with telling_of_retries(told.append):
        crew.run()
    assert told == ["away; trying again (3 of 8)"]
