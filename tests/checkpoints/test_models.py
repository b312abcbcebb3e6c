from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointStatus,
    JobStatus,
    TrainingFacts,
    canonical_json,
    from_text,
    now,
    plain,
    to_text,
)
from flexai.checkpoints.names import new_id
from tests.checkpoints.samples import checkpoint
from tests.support.documents import reversed_document

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_the_canonical_form_is_the_same_however_a_document_was_built(value: object) -> None:
    canonical = canonical_json(value)
    assert canonical_json(reversed_document(value)) == canonical
    assert canonical_json(json.loads(canonical)) == canonical
    assert b"\n" not in canonical


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_know_is_refused(value: float) -> None:
    for document in (value, [value], {"a": {"b": value}}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json(document)
    for field in ("train_loss", "eval_loss"):
        with pytest.raises(ValueError, match="finite"):
            TrainingFacts(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1])
def test_a_step_that_no_database_holds_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        TrainingFacts(step=step)


def test_no_value_can_be_changed_or_hold_a_field_it_does_not_know() -> None:
    with pytest.raises(FrozenInstanceError):
        checkpoint().name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unknown"):
        checkpoint(unknown=1)


@pytest.mark.parametrize(
    "fields",
    [{"size": -1}, {"size": 2**63}, {"file_count": -1}, {"manifest_digest": "AB" * 32}, {"manifest_digest": "ab" * 31}],
)
def test_a_checkpoint_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"digest|range"):
        checkpoint(**fields)


def test_a_checkpoint_survives_its_json_form() -> None:
    facts = TrainingFacts(
        step=5,
        train_loss=0.1,
        eval_loss=1e-300,
        inference_missing=("weights",),
        resumable=True,
        metrics={"eval_f1": 0.9},
    )
    full = checkpoint(
        facts=facts, job_id=new_id(), parent_id=new_id(), deleted_at=now(), pointers=("last.ckpt", "latest")
    )
    assert TypeAdapter(Checkpoint).validate_json(json.dumps(plain(full))) == full


def test_a_checkpoint_that_was_described_before_there_were_metrics_has_none() -> None:
    document = plain(checkpoint(facts=TrainingFacts(step=5, resumable=False)))
    del document["pointers"], document["facts"]["metrics"], document["facts"]["best_by"]
    read = TypeAdapter(Checkpoint).validate_python(document)
    assert (read.pointers, dict(read.facts.metrics), read.facts.is_unfit) == ((), {}, True)


def test_the_metrics_of_a_checkpoint_do_not_change() -> None:
    told = {"accuracy": 1}
    facts = TrainingFacts(metrics=told)
    told["accuracy"] = 2
    assert dict(facts.metrics) == {"accuracy": 1}
    assert not hasattr(facts.metrics, "__setitem__")


@pytest.mark.parametrize(
    "metrics",
    [
        {"": 1.0},
        {"a" * 101: 1.0},
        {"bell\a": 1.0},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {str(number): 1.0 for number in range(201)},
    ],
)
def test_metrics_that_cannot_be_shown_or_are_too_many_are_refused(metrics: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="metric"):
        TrainingFacts(metrics=metrics)


def test_what_cannot_be_told_is_not_known_to_be_unfit() -> None:
    assert [TrainingFacts(resumable=told).is_unfit for told in (True, False, None)] == [False, True, False]


def test_a_job_is_final_when_nothing_more_happens_by_itself() -> None:
    assert {status for status in JobStatus if not status.is_final} == {
        JobStatus.IN_PROGRESS,
        JobStatus.STOP_IN_PROGRESS,
    }


def test_the_statuses_read_as_in_the_reference() -> None:
    of_reference = ["uploading", "syncing", "available", "failed", "deleting"]
    assert [str(status) for status in CheckpointStatus] == [*of_reference, "incomplete"]


def test_the_present_is_in_utc() -> None:
    assert now().tzinfo is UTC
    assert abs(now() - datetime.now(timezone(timedelta(hours=5)))) < timedelta(minutes=1)


times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))


@given(
    st.text() | st.datetimes().map(str) | st.sampled_from(["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
)
def test_any_text_is_a_time_that_can_be_written_and_compared(text: str) -> None:
    time = from_text(text)
    assert from_text(to_text(time)) == time <= time


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
