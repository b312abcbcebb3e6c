"""A year of training jobs under retention, by a clock that is only a number."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from flexai.checkpoints.service.support.retention import (
    EPOCH,
    BlobUse,
    RetentionPlan,
    RetentionPolicy,
    RetentionRow,
    plan_retention,
)

pytestmark = pytest.mark.slow

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = 7 * DAY
YEAR = 365 * DAY
SAVE_STEPS = 170
POLICY = RetentionPolicy(
    keep_last=3, keep_best=2, keep_every_steps=5000, keep_every=WEEK, keep_within=2 * DAY, include_failed=True
)


@dataclass
class Job:
    """A training that saves every few hours, breaks down now and then, and goes on from an earlier step."""

    name: str
    begins: datetime
    ends: datetime
    interval: timedelta
    tells_losses: bool
    step: int = 0
    saved: int = 0


@dataclass
class Year:
    """What happened by now."""

    chance: random.Random
    now: datetime = START
    there: dict[str, RetentionRow] = field(default_factory=dict)
    blobs: dict[str, BlobUse] = field(default_factory=dict)
    ever: dict[str, RetentionRow] = field(default_factory=dict)
    written: int = 0
    freed: int = 0

    def __post_init__(self) -> None:
        self.jobs = [self._job(number) for number in range(10)]

    def _job(self, number: int) -> Job:
        begins = START + self.chance.randrange(300) * DAY
        return Job(
            name=f"job {number}",
            begins=begins,
            ends=begins + self.chance.randrange(2, 60) * DAY,
            interval=self.chance.choice([1, 2, 3, 6]) * HOUR,
            tells_losses=number % 4 != 0,
        )

    def days(self) -> Iterator[RetentionPlan]:
        """Live through the year, pruning once a day; yields each day's plan before it is carried out."""
        while self.now < START + YEAR:
            for hour in range(24):
                for job in self.jobs:
                    moment = self.now + hour * HOUR
                    if job.begins <= moment < job.ends and (moment - job.begins) % job.interval == timedelta(0):
                        self._save(job, moment)
            self.now += DAY
            self._people()
            found = plan_retention(self.there.values(), self.blobs, POLICY, now=self.now)
            yield found
            self._carry_out(found)

    def _save(self, job: Job, moment: datetime) -> None:
        if self.chance.random() < 0.01:
            job.step = max(0, job.step - self.chance.randrange(1, 20) * SAVE_STEPS)
        job.step += SAVE_STEPS
        job.saved += 1
        loss = 5 * math.exp(-job.step / 30_000) + self.chance.random() / 10
        made = RetentionRow(
            id=f"{job.name}/{job.saved:05}",
            title=f"{job.name}/{job.step}",
            groups=frozenset({job.name}),
            status="available" if self.chance.random() > 0.005 else "failed",
            size=130,
            created_at=moment,
            sequence=job.saved,
            step=job.step,
            eval_loss=loss if job.tells_losses and job.saved % 3 == 0 else None,
            train_loss=loss,
            is_unfit=job.saved % 10 == 0,
        )
        self.there[made.id] = self.ever[made.id] = made
        # Weights of its own; a base that all of the job share; a pack with what the one before had as well.
        self._write(f"weights {made.id}", 100, made.id)
        self._write(f"base of {job.name}", 1000, made.id)
        self._write(f"pack {job.name} {job.saved // 2}", 30, made.id)

    def _write(self, blob_id: str, size: int, user: str) -> None:
        known = self.blobs.get(blob_id)
        if known is None:
            self.written += size
        self.blobs[blob_id] = BlobUse(size, (known.users if known else frozenset()) | {user})

    def _people(self) -> None:
        """Now and then a user protects or exports what there is."""
        usable = sorted(one.id for one in self.there.values() if one.is_available)
        if usable and self.chance.random() < 0.1:
            chosen = self.chance.choice(usable)
            done: dict[str, Any] = {"is_protected": True} if self.chance.random() < 0.5 else {"is_exported": True}
            self.there[chosen] = self.ever[chosen] = replace(self.there[chosen], **done)

    def _carry_out(self, found: RetentionPlan) -> None:
        gone = {decision.row.id for decision in found.deleted}
        self.there = {name: one for name, one in self.there.items() if name not in gone}
        needed = {name: BlobUse(blob.size, blob.users - gone) for name, blob in self.blobs.items()}
        self.freed += sum(blob.size for blob in needed.values() if not blob.users)
        self.blobs = {name: blob for name, blob in needed.items() if blob.users}


def weeks(job: Job) -> int:
    """How many weeks a job has had a part in."""
    first, last = ((moment - EPOCH) // WEEK for moment in (job.begins, job.ends))
    return last - first + 1


@cache
def lived(seed: int) -> tuple[Year, list[RetentionPlan]]:
    """A year at its end, and the plan of each of its days."""
    year = Year(random.Random(seed))
    return year, list(year.days())


@pytest.mark.parametrize("seed", range(3))
def test_a_year_of_training_stays_within_bounds_and_loses_nothing_that_counts(seed: int) -> None:
    year, plans = lived(seed)
    for found in plans:
        gone = {decision.row.id for decision in found.deleted}
        assert not any(decision.row.is_protected or decision.row.is_exported for decision in found.deleted)
        assert sum(decision.row.status == "failed" for decision in found.kept) < 20
        for job in year.jobs:
            judged = [decision.row for decision in found.decisions if job.name in decision.row.groups]
            before = [one for one in judged if one.is_available]
            after = [one for one in before if one.id not in gone]
            assert bool(after) == bool(before)
            if not before:
                continue
            assert max(before, key=lambda one: (one.step or 0, one.sequence)) in after
            best = min(before, key=lambda one: (one.eval_loss is None, one.eval_loss, one.sequence))
            assert best.eval_loss is None or best in after
            reached = max(one.step or 0 for one in before)
            marked = sum(one.is_protected or one.is_exported for one in before)
            young = 2 * DAY // job.interval + 1
            # The last 3, the best 2, what those could be resumed from, and what the other rules keep.
            assert len(after) <= 3 + 2 + 3 + reached // 5000 + weeks(job) + young + marked
    assert len(year.ever) > 1000
    assert len(year.there) < len(year.ever) / 5


@pytest.mark.parametrize("seed", range(3))
def test_what_was_written_is_there_or_was_freed_as_planned(seed: int) -> None:
    year, plans = lived(seed)
    assert sum(found.freed_bytes for found in plans) == year.freed
    assert year.written == year.freed + sum(blob.size for blob in year.blobs.values())


@pytest.mark.parametrize("seed", range(3))
def test_pruning_every_day_leaves_what_pruning_once_would(seed: int) -> None:
    year, _ = lived(seed)
    at_once = plan_retention(year.ever.values(), {}, POLICY, now=year.now)
    assert {decision.row.id for decision in at_once.kept} == set(year.there)


@pytest.mark.parametrize("seed", range(3))
def test_the_milestones_of_a_job_are_there_for_ever(seed: int) -> None:
    year, plans = lived(seed)
    milestones: dict[tuple[str, int], int] = {}
    for decision in (decision for found in plans for decision in found.kept):
        one = decision.row
        if one.step is None or one.step < 5000 or not one.is_available:
            continue
        (job,) = one.groups
        milestone = (job, one.step // 5000)
        milestones[milestone] = min(milestones.get(milestone, one.step), one.step)
    left = {(job, (one.step or 0) // 5000, one.step) for one in year.there.values() for job in one.groups}
    assert milestones
    assert {(job, number, step) for (job, number), step in milestones.items()} <= left
