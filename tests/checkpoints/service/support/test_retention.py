"""Which checkpoints rules keep: computed from rows, without a catalog."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.choosing import in_order
from flexai.checkpoints.documents import finite
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.service.support.retention import (
    BlobUse,
    RetentionPlan,
    RetentionPolicy,
    RetentionRow,
    Rule,
    plan_retention,
)

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
JOB = frozenset({"job a"})


def row(number: int, **fields: Any) -> RetentionRow:
    """The checkpoint of a job, made ``number`` hours after the job began, at step 100 times ``number``."""
    defaults: dict[str, Any] = {
        "id": f"{number:03}",
        "title": f"a/checkpoint-{number}",
        "groups": JOB,
        "status": "available",
        "size": 10,
        "created_at": NOW - 30 * DAY + number * HOUR,
        "sequence": number,
        "step": 100 * number,
    }
    return RetentionRow(**defaults | fields)


def plan(rows: Iterable[RetentionRow], blobs: dict[str, BlobUse] | None = None, **rules: Any) -> RetentionPlan:
    return plan_retention(rows, blobs or {}, RetentionPolicy(**rules), now=NOW)


def kept(rows: Iterable[RetentionRow], **rules: Any) -> list[int]:
    """The numbers of the checkpoints that stay by these rules alone."""
    without_guards = {"drop_last": True, "drop_best": True}
    return [int(decision.row.id) for decision in plan(rows, **without_guards | rules).kept]


def rules_for(found: RetentionPlan, number: int) -> list[Rule]:
    (decision,) = [one for one in found.decisions if int(one.row.id) == number]
    return [reason.rule for reason in decision.reasons]


TEN = [row(number, eval_loss=abs(number - 6.2), train_loss=20.0 - number) for number in range(1, 11)]


def test_the_last_ones_stay() -> None:
    assert kept(TEN, keep_last=3) == [8, 9, 10]
    assert kept(TEN, keep_last=100) == list(range(1, 11))


def test_the_last_ones_are_those_of_the_highest_steps() -> None:
    resumed = [*TEN, row(11, step=50), row(12, step=1000)]
    assert kept(resumed, keep_last=3) == [9, 10, 12]


def test_of_those_that_tell_no_step_the_last_ones_were_captured_last() -> None:
    assert kept([row(number, step=None) for number in (1, 2, 3)], keep_last=2) == [2, 3]
    assert kept([*TEN, row(11, step=None)], keep_last=1) == [11]


def test_the_last_of_pushed_ones_were_made_last_whatever_their_steps() -> None:
    assert kept([row(number, sequence=0, step=100 - number) for number in (1, 2, 3)], keep_last=2) == [2, 3]


def test_what_gives_the_last_one_its_place_stays_where_another_would_be_later_without_it() -> None:
    rows = [row(1, step=10), row(2, step=None), row(3, step=5), row(4, step=6)]
    assert kept(rows, keep_last=1) == [2]
    protected = [*rows[:3], replace(rows[3], is_protected=True)]
    assert kept(protected, keep_last=1) == kept([*protected[:2], protected[3]], keep_last=1) == [1, 2, 4]


def test_the_best_ones_stay_by_either_metric() -> None:
    assert kept(TEN, keep_best=2) == [6, 7]
    assert kept(TEN, keep_best=2, metric="train-loss") == [9, 10]


def test_of_equally_good_ones_the_earlier_stays() -> None:
    assert kept([row(1, eval_loss=1.0), row(2, eval_loss=1.0), row(3, eval_loss=2.0)], keep_best=1) == [1]


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_what_tells_no_loss_is_never_best(nothing: float | None) -> None:
    assert kept([row(1, eval_loss=5.0), row(2, eval_loss=nothing), row(3)], keep_best=2) == [1]


def test_one_stays_at_each_multiple_of_a_step() -> None:
    assert kept(TEN, keep_every_steps=400) == [4, 8]
    off_the_beat = [row(number, step=step) for number, step in enumerate((180, 360, 540, 720, 900, 1080, 2160), 1)]
    assert kept(off_the_beat, keep_every_steps=500) == [3, 6, 7]


def test_the_untrained_model_is_at_a_multiple_of_every_step() -> None:
    assert kept([row(1, step=0), row(2, step=100), row(3, step=None), row(4, step=1000)], keep_every_steps=1000) == [
        1,
        4,
    ]


def test_of_a_step_that_was_written_twice_the_newest_stays() -> None:
    assert kept([row(1, step=400), row(2, step=500), row(3, step=400), row(4, step=450)], keep_every_steps=400) == [3]


def test_the_first_of_each_stretch_of_time_stays() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    hours = {1: 0, 2: 1, 3: 5, 4: 6, 5: 11, 6: 24}
    rows = [row(number, created_at=start + hour * HOUR) for number, hour in hours.items()]
    assert kept(rows, keep_every=6 * HOUR) == [1, 4, 6]
    assert kept(rows, keep_every=DAY) == [1, 6]


def test_what_is_young_enough_stays() -> None:
    rows = [row(number, created_at=NOW - number * DAY) for number in range(1, 6)]
    assert kept(rows, keep_within=2 * DAY) == [1, 2]
    assert kept(rows, keep_since=NOW - 3 * DAY) == [1, 2, 3]


def test_a_checkpoint_from_the_future_is_young_enough() -> None:
    assert 2 in kept([row(1), row(2, created_at=NOW + DAY)], keep_within=DAY)


def test_rules_add_up() -> None:
    assert kept(TEN, keep_last=1, keep_best=1, keep_every_steps=400) == [4, 6, 8, 10]
    found = plan(TEN, keep_last=3, keep_best=1, keep_every_steps=400)
    assert rules_for(found, 8) == [Rule.LAST_N, Rule.EVERY_STEPS]
    assert rules_for(found, 10) == [Rule.LAST_N, Rule.LAST]
    assert rules_for(found, 1) == [Rule.NO_RULE]


def test_protected_exported_and_used_ones_stay() -> None:
    rows = [row(1, is_protected=True), row(2, is_exported=True), row(3, in_use=("job 'b' started from it",)), *TEN[3:]]
    assert kept(rows, keep_last=1) == [1, 2, 3, 10]
    assert kept(rows, keep_last=1, keep_exported=False) == [1, 3, 10]


def test_what_is_not_available_is_no_candidate_and_takes_no_other_ones_place() -> None:
    rows = [row(1), row(2, status="failed"), row(3, status="uploading"), row(4, status="syncing")]
    found = plan(rows, keep_last=1, drop_last=True)
    assert [decision.keep for decision in found.decisions] == [True] * 4
    assert rules_for(found, 1) == [Rule.LAST_N]
    assert rules_for(found, 2) == [Rule.STATUS]


def test_failed_ones_go_on_request_unless_they_are_young() -> None:
    rows = [row(1), row(2, status="failed"), row(3, status="failed", created_at=NOW), row(4, status="uploading")]
    assert kept(rows, keep_within=DAY, include_failed=True) == [1, 3, 4]


def test_the_last_and_the_best_one_stay_unless_they_are_given_up() -> None:
    rows = [row(1, eval_loss=0.1), row(2, eval_loss=0.5), row(3), row(4, is_protected=True), row(5)]
    young = {"keep_within": HOUR}
    assert kept(rows, **young, drop_last=False, drop_best=False) == [1, 4, 5]
    assert kept(rows, **young, drop_last=True, drop_best=False) == [1, 4]
    assert kept(rows, **young, drop_last=False, drop_best=True) == [4, 5]
    assert kept(rows, **young) == [4]


def test_without_an_eval_loss_the_best_one_is_that_by_train_loss() -> None:
    rows = [row(1, train_loss=0.1), row(2, train_loss=0.5), row(3)]
    assert kept(rows, keep_last=1, drop_best=False) == [1, 3]


def test_what_a_training_would_be_resumed_from_stays_as_well() -> None:
    rows = [
        row(1, eval_loss=0.5),
        row(2, eval_loss=0.1, is_unfit=True),
        row(3),
        row(4, is_unfit=True),
        row(5, is_unfit=True),
    ]
    found = plan(rows, keep_within=HOUR)
    assert [int(decision.row.id) for decision in found.kept] == [1, 2, 3, 5]
    assert {reason.text for decision in found.kept for reason in decision.reasons} == {
        "the best to resume from",
        "the best one",
        "the last to resume from",
        "the last one",
    }


def test_a_job_is_never_emptied_whatever_is_given_up() -> None:
    found = plan([row(1), row(2)], keep_within=HOUR, drop_last=True, drop_best=True)
    assert rules_for(found, 2) == [Rule.NEVER_EMPTY]
    assert rules_for(found, 1) == [Rule.NO_RULE]


def test_each_group_has_its_own_last_ones() -> None:
    rows = [replace(one, groups=frozenset({f"job {int(one.id) % 2}"})) for one in TEN]
    assert sorted(kept(rows, keep_last=1)) == [9, 10]


def test_what_is_in_two_groups_stays_where_either_keeps_it() -> None:
    rows = [row(1, groups=frozenset({"x"})), row(2, groups=frozenset({"x", "y"})), row(3, groups=frozenset({"x"}))]
    assert kept(rows, keep_last=1) == [2, 3]


def test_a_blob_is_freed_when_all_who_need_it_go() -> None:
    ids = [one.id for one in TEN]
    blobs = {
        "own": BlobUse(100, frozenset({ids[0]})),
        "shared by two that go": BlobUse(1000, frozenset(ids[:2])),
        "a pack that one of those that stay needs": BlobUse(10_000, frozenset({ids[0], ids[-1]})),
        "needed by a push on its way": BlobUse(100_000, frozenset({ids[0], "another"})),
        "unused": BlobUse(1_000_000, frozenset()),
    }
    found = plan(TEN, blobs, keep_last=1, drop_best=True)
    assert found.freed_bytes == 1100
    assert {one.row.id: one.freed_bytes for one in found.decisions if one.freed_bytes} == {ids[0]: 100, ids[1]: 1000}
    assert found.freed_by([ids[0]]) == 100
    assert found.freed_by(ids[:2]) == 1100


def test_no_rule_is_wrong_usage_and_never_means_everything() -> None:
    policies: list[dict[str, Any]] = [
        {},
        {"include_failed": True},
        {"drop_last": True, "drop_best": True, "keep_exported": False},
    ]
    for policy in policies:
        with pytest.raises(UsageError, match="no rule") as caught:
            plan(TEN, **policy)
        assert "--keep-last" in caught.value.hint


@pytest.mark.parametrize("rules", [{"keep_last": -1}, {"keep_within": -DAY}, {"keep_since": datetime(2026, 1, 1)}])
def test_rules_that_make_no_sense_are_wrong_usage(rules: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan(TEN, **rules)


def test_nothing_is_planned_for_nothing() -> None:
    assert plan([], keep_last=1) == RetentionPlan((), {})


LOSSES = st.one_of(st.none(), st.floats(0, 9), st.just(float("nan")))


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[list[RetentionRow], dict[str, BlobUse]]:
    """Checkpoints of some groups, and blobs that they and others need."""
    rows = []
    for number in range(draw(st.integers(0, 9))):
        groups = draw(
            st.frozensets(st.sampled_from(["job a", "job b", "pushed x", "pushed y"]), min_size=1, max_size=2)
        )
        rows.append(
            row(
                number,
                groups=groups,
                status=draw(st.sampled_from(["available"] * 5 + ["failed", "uploading"])),
                created_at=NOW - draw(st.integers(0, 40)) * 7 * HOUR,
                sequence=draw(st.integers(0, 8)),
                step=draw(st.one_of(st.none(), st.integers(0, 30))),
                train_loss=draw(LOSSES),
                eval_loss=draw(LOSSES),
                is_unfit=draw(st.booleans()),
                is_protected=draw(st.sampled_from([False] * 4 + [True])),
                is_exported=draw(st.sampled_from([False] * 4 + [True])),
                in_use=draw(st.sampled_from([()] * 4 + [("job 'b' started from it",)])),
            )
        )
    ids = [one.id for one in rows] + ["stranger"]
    blobs = {
        str(number): BlobUse(draw(st.integers(0, 100)), draw(st.frozensets(st.sampled_from(ids), max_size=3)))
        for number in range(draw(st.integers(0, 6)))
    }
    return rows, blobs


def _rules(draw: st.DrawFn, *, minimum: int) -> dict[str, Any]:
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "keep_last": st.integers(1, 5),
        "keep_best": st.integers(1, 4),
        "keep_every_steps": st.integers(1, 12),
        "keep_every": st.integers(1, 60).map(lambda hours: hours * HOUR),
        "keep_within": st.integers(1, 10).map(lambda days: days * DAY),
        "keep_since": st.integers(0, 10).map(lambda days: NOW - days * DAY),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=minimum, unique=True))
    return {name: draw(kinds[name]) for name in chosen}


@st.composite
def policies(draw: st.DrawFn) -> RetentionPolicy:
    switches: dict[str, Any] = {
        name: draw(st.booleans()) for name in ("keep_exported", "include_failed", "drop_last", "drop_best")
    }
    return RetentionPolicy(
        **_rules(draw, minimum=1), **switches, metric=draw(st.sampled_from(["", "eval-loss", "train-loss"]))
    )


@given(catalogs(), policies(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy, chance: random.Random
) -> None:
    rows, blobs = catalog
    expected = plan_retention(rows, blobs, policy, now=NOW)
    shuffled = rows.copy()
    chance.shuffle(shuffled)
    turned = dict(reversed(blobs.items()))
    assert plan_retention(shuffled, turned, policy, now=NOW).decisions == expected.decisions


@given(catalogs(), policies())
def test_every_checkpoint_is_decided_once_with_reasons_that_fit(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy
) -> None:
    rows, blobs = catalog
    found = plan_retention(rows, blobs, policy, now=NOW)
    assert sorted(decision.row.id for decision in found.decisions) == sorted(one.id for one in rows)
    for decision in found.decisions:
        assert decision.reasons
        assert all(reason.text for reason in decision.reasons)
        assert len(set(decision.reasons)) == len(decision.reasons)
        assert (Rule.NO_RULE in {reason.rule for reason in decision.reasons}) is not decision.keep


@given(catalogs(), policies())
def test_no_group_is_ever_emptied(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy
) -> None:
    rows, blobs = catalog
    staying = {decision.row.id for decision in plan_retention(rows, blobs, policy, now=NOW).kept}
    for group in {group for one in rows for group in one.groups}:
        available = {one.id for one in rows if group in one.groups and one.is_available}
        assert not available or available & staying


@given(catalogs(), policies())
def test_what_must_stay_stays(catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy) -> None:
    rows, blobs = catalog
    for decision in plan_retention(rows, blobs, policy, now=NOW).deleted:
        gone = decision.row
        assert not gone.is_protected
        assert not gone.in_use
        assert not (gone.is_exported and policy.keep_exported)
        assert gone.is_available or (gone.status == "failed" and policy.include_failed)
        for group in gone.groups:
            others = [one for one in rows if group in one.groups and one.is_available]
            if gone.is_available and not policy.drop_last:
                captures = sorted(others, key=lambda one: one.place)
                assert in_order(captures, lambda one: one.step if one.sequence else None)[-1] != gone
            measured = [loss for one in others if (loss := finite(one.eval_loss)) is not None]
            own = finite(gone.eval_loss)
            if gone.is_available and not policy.drop_best and own is not None:
                assert min(measured) < own or measured.count(own) > 1


@given(catalogs(), policies(), st.data())
def test_another_rule_never_deletes_more(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy, data: st.DataObject
) -> None:
    rows, blobs = catalog
    fewer = {decision.row.id for decision in plan_retention(rows, blobs, policy, now=NOW).deleted}
    more_rules = data.draw(st.composite(lambda draw: _rules(draw, minimum=1))())
    stronger = {
        name: value
        for name, value in more_rules.items()
        if not getattr(policy, name)
        or (name in {"keep_last", "keep_best", "keep_within"} and value > getattr(policy, name))
    }
    found = plan_retention(rows, blobs, replace(policy, **stronger), now=NOW)
    gone = {decision.row.id for decision in found.deleted}
    assert len(gone) <= len(fewer)
    if not policy.drop_last:
        # Otherwise the one that was only kept lest none be left may go for another one.
        assert gone <= fewer


@given(catalogs(), policies())
def test_the_bytes_that_are_freed_are_those_of_blobs_that_no_checkpoint_needs_any_more(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy
) -> None:
    rows, blobs = catalog
    found = plan_retention(rows, blobs, policy, now=NOW)
    gone = {decision.row.id for decision in found.deleted}
    expected = sum(blob.size for blob in blobs.values() if blob.users and not blob.users - gone)
    assert found.freed_bytes == expected == found.freed_by(gone)
    assert all(not decision.freed_bytes for decision in found.kept)


@given(catalogs(), policies())
def test_a_second_look_lets_nothing_more_go(
    catalog: tuple[list[RetentionRow], dict[str, BlobUse]], policy: RetentionPolicy
) -> None:
    rows, blobs = catalog
    staying = [decision.row for decision in plan_retention(rows, blobs, policy, now=NOW).kept]
    assert plan_retention(staying, blobs, policy, now=NOW).deleted == []
