"""When something is tried again, after which wait, and when no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import AccessDeniedError, StorageError, StorageUnavailableError
from flexai.checkpoints.storage.http import unavailable
from flexai.checkpoints.storage.retry import LEAST_BYTES, Attempts, RetryPolicy, retrying, telling_of_retries


@dataclass
class Flaky:
    """Fails a number of times, then succeeds; notes the waits in between."""

    failures: int
    error: Exception = field(default_factory=lambda: StorageUnavailableError("away"))
    calls: int = 0
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"

    def policy(self, attempts: int = 5) -> RetryPolicy:
        return RetryPolicy(attempts=attempts, sleep=self.waits.append, random=lambda: 1.0)


def test_what_succeeds_at_once_waits_for_nothing() -> None:
    flaky = Flaky(failures=0)
    assert retrying(flaky, flaky.policy()) == "done"
    assert (flaky.calls, flaky.waits) == (1, [])


def test_the_limit_of_the_wait_grows_fourfold_with_each_failure() -> None:
    flaky = Flaky(failures=4)
    assert retrying(flaky, flaky.policy()) == "done"
    assert flaky.waits == pytest.approx([0.1, 0.4, 1.6, 6.4])


def test_the_last_error_comes_out_when_the_tries_are_used_up() -> None:
    flaky = Flaky(failures=99)
    with pytest.raises(StorageUnavailableError) as raised:
        retrying(flaky, flaky.policy(attempts=3))
    assert raised.value is flaky.error
    assert (flaky.calls, len(flaky.waits)) == (3, 2)


@pytest.mark.parametrize("error", [AccessDeniedError("no"), StorageError("broken"), OSError("disk"), KeyError("x")])
def test_what_does_not_pass_is_not_tried_again(error: Exception) -> None:
    flaky = Flaky(failures=1, error=error)
    with pytest.raises(type(error)):
        retrying(flaky, flaky.policy())
    assert (flaky.calls, flaky.waits) == (1, [])


def test_a_service_that_says_how_long_is_given_that_long() -> None:
    flaky = Flaky(failures=2, error=unavailable("slow down", retry_after=30.0))
    retrying(flaky, flaky.policy())
    assert flaky.waits == [30.0, 30.0]


def test_a_service_cannot_make_us_wait_for_ever() -> None:
    flaky = Flaky(failures=1, error=unavailable("slow down", retry_after=1e9))
    retrying(flaky, flaky.policy())
    assert flaky.waits == [RetryPolicy().max_retry_after]


def test_progress_starts_the_count_anew() -> None:
    waits: list[float] = []
    attempts = Attempts(RetryPolicy(attempts=2, sleep=waits.append, random=lambda: 1.0))
    error = StorageUnavailableError("away")
    for _ in range(5):
        attempts.failed(error)
        attempts.progressed()
    assert waits == [0.1] * 5
    attempts.failed(error)
    with pytest.raises(StorageUnavailableError):
        attempts.failed(error)


def test_bytes_are_progress_where_one_try_brings_enough_of_them() -> None:
    attempts = Attempts(RetryPolicy(attempts=3, sleep=lambda _: None))
    error = StorageUnavailableError("away")
    for _ in range(5):
        attempts.failed(error)
        attempts.arrived(LEAST_BYTES - 1)
        attempts.arrived(1)
    for _ in range(2):
        attempts.failed(error)
        attempts.arrived(LEAST_BYTES - 1)
    with pytest.raises(StorageUnavailableError):
        attempts.failed(error)


@given(
    failures=st.integers(1, 10_000),
    drawn=st.floats(0, 1),
    asked=st.floats(0, 1e12),
    base=st.floats(0.001, 60),
    longest=st.floats(0, 600),
)
def test_every_wait_is_within_its_limits(
    failures: int, drawn: float, asked: float, base: float, longest: float
) -> None:
    policy = RetryPolicy(base_delay=base, max_delay=longest, random=lambda: drawn)
    wait = policy.delay(failures, unavailable("away", retry_after=asked))
    assert min(asked, policy.max_retry_after) <= wait <= max(longest, policy.max_retry_after)


def test_waits_are_spread_over_the_whole_range() -> None:
    policy = RetryPolicy()
    waits = [policy.delay(3, StorageUnavailableError("away")) for _ in range(2000)]
    assert min(waits) < 0.16 < 1.44 < max(waits) <= 1.6


def test_what_does_not_pass_with_the_first_wait_is_told_once_in_a_while() -> None:
    told: list[str] = []
    flaky = Flaky(failures=4)
    with telling_of_retries(told.append):
        retrying(flaky, flaky.policy())
        retrying(Flaky(failures=4), flaky.policy())
    retrying(Flaky(failures=4), flaky.policy())
    assert told == ["away; trying again (3 of 5)"]


def test_a_failure_that_passes_at_once_is_not_told() -> None:
    told: list[str] = []
    flaky = Flaky(failures=1)
    with telling_of_retries(told.append):
        retrying(flaky, flaky.policy())
    assert told == []
