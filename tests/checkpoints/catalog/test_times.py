from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.catalog.times import from_text, to_text

times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))


@given(times)
def test_a_time_survives_its_text(time: datetime) -> None:
    assert from_text(to_text(time)) == time


@given(times, times)
def test_texts_sort_as_their_times_do(one: datetime, other: datetime) -> None:
    assert (to_text(one) < to_text(other)) == (one < other)


@given(times, st.integers(-23, 23))
def test_a_time_of_another_zone_is_the_same_instant(time: datetime, hours: int) -> None:
    elsewhere = time.astimezone(timezone(timedelta(hours=hours)))
    assert to_text(elsewhere) == to_text(time)


def test_a_text_is_iso_8601_in_utc_with_microseconds() -> None:
    assert to_text(datetime(2025, 2, 3, 13, 14, 37, tzinfo=UTC)) == "2025-02-03T13:14:37.000000Z"
