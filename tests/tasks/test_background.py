"""Work beside a run's own."""

from __future__ import annotations

import logging
import threading
from contextvars import ContextVar

import pytest

from flexai.tasks.background import Aside

LOGGER = logging.getLogger("test-aside")
RUN: ContextVar[str] = ContextVar("run", default="")


def test_things_are_done_in_order_in_the_context_of_the_run() -> None:
    RUN.set("mine")
    done: list[tuple[int, str]] = []
    with Aside(LOGGER) as aside:
        threads = [threading.Thread(target=aside.do, args=(lambda: done.append((1, RUN.get())),))]
        threads[0].start()
        threads[0].join()
        aside.do(lambda: done.append((2, RUN.get())))
    assert done == [(1, "mine"), (2, "mine")]


def test_one_that_fails_is_logged_and_the_next_ones_are_done(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def fail() -> None:
        raise RuntimeError("it went wrong")

    with Aside(LOGGER) as aside:
        aside.do(fail)
        aside.do(lambda: done.append(1))
    assert done == [1]
    assert caplog.messages == ["a report to Prefect has failed"]


def test_one_that_takes_too_long_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    answers = threading.Event()
    with Aside(LOGGER, patience=0.05) as aside:
        aside.do(lambda: answers.wait(60))
    answers.set()
    assert caplog.messages == ["Prefect was not told of everything, because it takes too long"]
