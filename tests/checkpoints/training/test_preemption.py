"""The deadline after a notice that a machine goes away, and by which signals the notice is given."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest

from flexai.checkpoints.errors import InterruptedByUserError, PostponedError, UsageError
from flexai.checkpoints.storage.retry import wait_after
from flexai.checkpoints.training.preemption import END_VARIABLE, LAST_SECONDS, Preemption
from flexai.checkpoints.training.runner import Ended, SignalRelay, TrainingCommand, notice_of
from tests.checkpoints.training.test_runner import READY, Run, run

__all__ = ["run"]


def left_of(preemption: Preemption) -> float:
    """Seconds until the deadline, as they were at the notice."""
    before = time.monotonic()
    return preemption.give() - before


def test_the_deadline_comes_with_the_grace_after_the_first_notice() -> None:
    preemption = Preemption(100)
    assert preemption.ends_at == math.inf
    assert 100 <= left_of(preemption) < 101
    first = preemption.ends_at
    assert preemption.give() == first
    assert not preemption.is_over


@pytest.mark.parametrize(
    ("ends_in", "is_given", "expected"),
    [
        pytest.param(120, False, 120, id="the end is near, though the grace is shorter"),
        pytest.param(20, False, 20, id="the end comes before the grace is over"),
        pytest.param(7200, False, 30, id="the notice is about another end"),
        pytest.param(-5, False, 30, id="the end is past"),
        pytest.param(120, True, 30, id="a user has given the grace"),
    ],
)
def test_the_end_of_slurms_job_is_the_deadline_where_it_is_near(
    monkeypatch: pytest.MonkeyPatch, ends_in: int, is_given: bool, expected: int
) -> None:
    monkeypatch.setenv(END_VARIABLE, str(int(time.time()) + ends_in))
    assert left_of(Preemption(30, is_grace_given=is_given)) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize("text", ["", "soon", "2026-11-29T00:00:00"])
def test_an_end_that_is_no_time_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(END_VARIABLE, text)
    assert left_of(Preemption(30)) == pytest.approx(30, abs=1)


def test_after_the_commands_end_there_are_some_seconds_though_the_deadline_has_come() -> None:
    preemption = Preemption(0)
    preemption.allow_last_seconds()
    assert not preemption.is_noticed, "without a notice there is no deadline"
    preemption.give()
    assert preemption.is_over
    preemption.allow_last_seconds()
    assert 0 < preemption.ends_at - time.monotonic() <= LAST_SECONDS


def test_a_deadline_is_never_moved_towards_us() -> None:
    preemption = Preemption(1000)
    ends_at = preemption.give()
    preemption.allow_last_seconds()
    assert preemption.ends_at == ends_at


def test_a_wait_for_a_store_ends_with_the_deadline() -> None:
    preemption = Preemption(0.2)
    with preemption.bounding_waits() as check:
        check()
        preemption.give()
        wait = wait_after.get()
        assert wait is not None
        with pytest.raises(PostponedError):
            wait(OSError(), 600)  # type: ignore[arg-type] # any failure
        with pytest.raises(PostponedError):
            check()
    assert wait_after.get() is None


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr2", "Int", "HUP", "RTMIN+3"])
def test_a_signal_that_can_give_notice_is_known_by_its_name(name: str) -> None:
    assert notice_of(name) in signal.valid_signals()


@pytest.mark.parametrize("name", ["KILL", "STOP", "SEGV", "CHLD", "10", "NOTHING", "SIG", " "])
def test_a_signal_that_cannot_give_notice_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no signal that can give notice"):
        notice_of(name)


SAVES_AND_GOES_ON = f"""
signal.signal(signal.SIGUSR1, lambda *_: print("saved", flush=True))
{READY}
time.sleep(600)
"""


def test_a_named_signal_reaches_the_command_as_it_is_and_begins_the_deadline(run: Run) -> None:
    with SignalRelay(Preemption(4.0), signal.SIGUSR1) as relay:
        command = relay.start(lambda: run.start_ready(SAVES_AND_GOES_ON))
        os.kill(os.getpid(), signal.SIGUSR1)
        assert command.wait(lambda: False) == Ended(137, "SIGKILL"), "it was not killed at the deadline"
    assert run.text("stdout") == "saved\n"
    assert command.was_stopped
    assert relay.preempted_by == "SIGUSR1"


def test_another_signal_begins_nothing(run: Run) -> None:
    with SignalRelay(Preemption(0), signal.SIGUSR2) as relay:
        command = relay.start(lambda: run.start_ready(SAVES_AND_GOES_ON))
        os.kill(os.getpid(), signal.SIGUSR1)
        while run.text("stdout") != "saved\n":
            time.sleep(0.01)
        assert not relay.preemption.is_noticed and not command.was_stopped
        command.kill()


def test_a_stop_behind_the_notice_is_passed_on_and_kills_nothing(run: Run) -> None:
    text = f"""
def end(*_):
    print("ended", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, lambda *_: print("saved", flush=True))
{READY}
while True:
    time.sleep(0.01)
"""
    with SignalRelay(Preemption(600), signal.SIGUSR1) as relay:
        command = relay.start(lambda: run.start_ready(text, grace=0.0))
        os.kill(os.getpid(), signal.SIGUSR1)
        while run.text("stdout") != "saved\n":
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        assert command.wait(lambda: False) == Ended(0, "")
    assert run.text("stdout") == "saved\nended\n"


def test_a_notice_that_comes_while_the_command_starts_reaches_it_afterwards(run: Run) -> None:
    def start() -> TrainingCommand:
        os.kill(os.getpid(), signal.SIGUSR1)
        return run.start_ready(f"{READY}; time.sleep(600)")

    with SignalRelay(Preemption(600), signal.SIGUSR1) as relay:
        ended = relay.start(start).wait(lambda: False)
    assert ended == Ended(138, "SIGUSR1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_before_the_command_is_an_interruption(number: int) -> None:
    with (
        SignalRelay(Preemption(600), signal.SIGUSR1),
        pytest.raises(InterruptedByUserError, match=r"^preempted by SIG"),
    ):
        os.kill(os.getpid(), number)


def test_a_notice_while_the_last_checkpoints_are_stored_begins_the_deadline_and_interrupts_nothing(run: Run) -> None:
    with SignalRelay(Preemption(600)) as relay:
        relay.start(lambda: run.start(["true"])).wait(lambda: False)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert relay.preemption.is_noticed
        with pytest.raises(InterruptedByUserError, match="last checkpoints"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_hangup_and_an_interrupt_from_the_keyboard_give_no_notice(run: Run) -> None:
    for number in (signal.SIGHUP, signal.SIGINT):
        with SignalRelay(Preemption(600)) as relay:
            command = relay.start(lambda: run.start_ready(f"{READY}; time.sleep(600)"))
            os.kill(os.getpid(), number)
            command.wait(lambda: False)
        assert (relay.preempted_by, relay.preemption.ends_at) == ("", math.inf)
