"""Retention: which checkpoints rules keep, which they let go, why, and the bytes that would really be freed.

A pure function over plain rows; ``prune`` reads the rows and carries a plan out. Checkpoints are judged group by group:
those of one training job (and node), or those whose names fit one pattern. A checkpoint stays where any rule of any of
its groups keeps it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from flexai.checkpoints.choosing import (
    anchor_of,
    best,
    check_is_told,
    check_metric,
    in_order,
    latest,
    metric_for,
    metric_of_all,
    ranked,
)
from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.models import UNKNOWN_TIME, CheckpointStatus
from flexai.checkpoints.settings import write_duration

Group: TypeAlias = str
"""Whatever tells one group from another."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rule(StrEnum):
    """What keeps a checkpoint, or lets it go."""

    LAST_N = "keep-last"
    BEST_N = "keep-best"
    EVERY_STEPS = "keep-every-steps"
    EVERY = "keep-every"
    WITHIN = "keep-within"
    SINCE = "keep-since"
    PROTECTED = "protected"
    EXPORTED = "exported"
    IN_USE = "in-use"
    LAST = "last"
    BEST = "best"
    NEVER_EMPTY = "never-empty"
    STATUS = "status"
    NO_RULE = "no-rule"
    """Nothing keeps it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a checkpoint stays or goes."""

    rule: Rule
    text: str
    """For people, in a few words."""


@dataclass(frozen=True, slots=True)
class RetentionRow:
    """What retention has to know of a checkpoint."""

    id: str
    title: str
    groups: frozenset[Group]
    status: str
    """A push or a capture whose process is gone has ``failed``."""
    size: int
    """Bytes."""
    created_at: datetime
    sequence: int = 0
    """Its place among its job's checkpoints; 0 for pushed ones, which are ordered by their age."""
    step: int | None = None
    train_loss: float | None = None
    eval_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_by: str = ""
    is_unfit: bool = False
    """Whether it is known that no training can go on from it."""
    is_protected: bool = False
    is_exported: bool = False
    in_use: tuple[str, ...] = ()
    """What is at work with it, in words."""

    @property
    def place(self) -> tuple[int, datetime, str]:
        """Orders the checkpoints of a group by their capture or creation."""
        return self.sequence, self.created_at, self.id

    @property
    def is_available(self) -> bool:
        """Whether it can be used."""
        return self.status == CheckpointStatus.AVAILABLE


@dataclass(frozen=True, slots=True)
class BlobUse:
    """A blob, and every checkpoint of the catalog that refers to it, whatever its status."""

    size: int
    """Bytes."""
    users: frozenset[str]


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The rules. What one of them keeps is kept."""

    keep_last: int = 0
    """The latest N of a group."""
    keep_best: int = 0
    """The best N of a group by ``metric``."""
    metric: str = ""
    """``NAME[:min|max]``; empty for the metric that the trainer chooses by, else the eval loss."""
    keep_every_steps: int = 0
    """At each multiple of this step, the first checkpoint at or after it."""
    keep_every: timedelta = timedelta(0)
    """The first of each such stretch of time; stretches are counted from the start of 1970 in UTC, so that days are
    days."""
    keep_within: timedelta = timedelta(0)
    """What is not older than this."""
    keep_since: datetime | None = None
    """What was made at this time or later."""
    keep_exported: bool = True
    """What was exported."""
    include_failed: bool = False
    """Let failed pushes and captures, and incomplete checkpoints, go too, unless they are young enough to be kept."""
    drop_last: bool = False
    """Let the last one of a group go where no rule keeps it."""
    drop_best: bool = False
    """Let the best one of a group go where no rule keeps it."""

    def check(self) -> None:
        """Raise UsageError for rules that make no sense, and where there is none: nothing would be kept."""
        for name in ("keep_last", "keep_best", "keep_every_steps", "keep_every", "keep_within"):
            value = getattr(self, name)
            if value < type(value)(0):
                raise RequestError("{} is negative", name, hint=RULES_HINT)
        check_metric(self.metric)
        if self.keep_since is not None and self.keep_since.tzinfo is None:
            raise RequestError("{} has no time zone", "keep_since", hint="write 2026-01-31T00:00:00Z")
        if not self.has_rule:
            raise UsageError("no rule says what to keep", hint=RULES_HINT)

    @property
    def has_rule(self) -> bool:
        """Whether any rule says what to keep."""
        return bool(
            self.keep_last
            or self.keep_best
            or self.keep_every_steps
            or self.keep_every
            or self.keep_within
            or self.keep_since
        )


RULES_HINT = "flexai checkpoint prune --keep-last 3 --keep-best 1, or another --keep option: see --help"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a checkpoint."""

    row: RetentionRow
    keep: bool
    reasons: tuple[Reason, ...]
    """At least one."""
    freed_bytes: int = 0
    """Of the bytes that the plan frees, those that go with this one; a blob of several goes with the last of them."""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What becomes of every checkpoint, in order of groups and age."""

    decisions: tuple[Decision, ...]
    blobs: Mapping[str, BlobUse] = field(repr=False, default_factory=dict)

    @property
    def kept(self) -> list[Decision]:
        """What stays."""
        return [decision for decision in self.decisions if decision.keep]

    @property
    def deleted(self) -> list[Decision]:
        """What goes."""
        return [decision for decision in self.decisions if not decision.keep]

    @property
    def freed_bytes(self) -> int:
        """Bytes that gc could take once all that goes is gone."""
        return sum(decision.freed_bytes for decision in self.decisions)

    def freed_by(self, checkpoint_ids: Collection[str]) -> int:
        """Bytes that gc could take once these checkpoints are gone, and no others."""
        gone = frozenset(checkpoint_ids)
        return sum(blob.size for blob in self.blobs.values() if blob.users and blob.users <= gone)


def plan_retention(
    rows: Iterable[RetentionRow], blobs: Mapping[str, BlobUse], policy: RetentionPolicy, *, now: datetime
) -> RetentionPlan:
    """Decide what becomes of each checkpoint.

    ``blobs`` has, by id, what the checkpoints refer to: nothing is freed but a blob whose every user goes. Of a group
    with an available checkpoint one always stays; its last and its best one stay too unless the policy says otherwise,
    as do the last and the best one that a training can be resumed from.

    The order of ``rows`` does not matter. Raises UsageError for a policy without rules.
    """
    policy.check()
    ordered = sorted(rows, key=lambda row: (min(row.groups, default=""), row.place))
    groups: dict[Group, list[RetentionRow]] = defaultdict(list)
    for row in sorted(ordered, key=lambda row: row.place):
        for group in row.groups:
            groups[group].append(row)
    if policy.keep_best:
        check_is_told(policy.metric, ordered)
    reasons: dict[str, set[Reason]] = {row.id: set() for row in ordered}
    for members in groups.values():
        for row, reason in _reasons_to_keep(members, policy, now):
            reasons[row.id].add(reason)
    for group in sorted(groups):
        available = [row for row in groups[group] if row.is_available]
        _keep_anchors(available, policy, reasons)
        if available and not any(reasons[row.id] for row in available):
            reasons[in_order(available, _step)[-1].id].add(Reason(Rule.NEVER_EMPTY, "or none would be left"))
    gone = [row.id for row in ordered if not reasons[row.id]]
    freed = _freed_bytes(blobs, gone)
    return RetentionPlan(
        tuple(
            Decision(row, keep=True, reasons=tuple(sorted(reasons[row.id], key=_rank)))
            if reasons[row.id]
            else Decision(row, keep=False, reasons=(_why_it_goes(row),), freed_bytes=freed[row.id])
            for row in ordered
        ),
        blobs,
    )


_NOT_WHOLE = frozenset({CheckpointStatus.FAILED, CheckpointStatus.INCOMPLETE})
_Kept: TypeAlias = Iterator[tuple[RetentionRow, Reason]]


def _reasons_to_keep(members: Sequence[RetentionRow], policy: RetentionPolicy, now: datetime) -> _Kept:
    """Every reason to keep one of a group's checkpoints, which come in the order of their making."""
    available = [row for row in members if row.is_available]
    yield from _by_state(members, policy)
    yield from _by_age(members, policy, now)
    if policy.keep_last:
        reason = Reason(Rule.LAST_N, f"last {policy.keep_last}")
        yield from ((row, reason) for row in in_order(available, _step)[-policy.keep_last :])
    if policy.keep_best and (metric := metric_for(policy.metric, available)) is not None:
        reason = Reason(Rule.BEST_N, f"best {policy.keep_best} ({metric.words})")
        yield from ((row, reason) for row in ranked(available, metric, _told)[: policy.keep_best])
    if policy.keep_every_steps:
        reason = Reason(Rule.EVERY_STEPS, f"every {policy.keep_every_steps} steps")
        yield from ((row, reason) for row in _first_at_steps(available, policy.keep_every_steps))
    if policy.keep_every:
        reason = Reason(Rule.EVERY, f"every {write_duration(policy.keep_every)}")
        yield from ((row, reason) for row in _first_in_time(available, policy.keep_every))
    yield from _never_dropped(available, policy)


def _by_state(members: Iterable[RetentionRow], policy: RetentionPolicy) -> _Kept:
    for row in members:
        is_candidate = row.is_available or (row.status in _NOT_WHOLE and policy.include_failed)
        if not is_candidate:
            yield row, Reason(Rule.STATUS, f"{row.status}: not judged")
        if row.created_at == UNKNOWN_TIME:
            yield row, Reason(Rule.STATUS, "its time of creation cannot be read: not judged")
        if row.is_protected:
            yield row, Reason(Rule.PROTECTED, "protected")
        if row.is_exported and policy.keep_exported:
            yield row, Reason(Rule.EXPORTED, "exported")
        for user in row.in_use:
            yield row, Reason(Rule.IN_USE, user)


def _by_age(members: Iterable[RetentionRow], policy: RetentionPolicy, now: datetime) -> _Kept:
    within = Reason(Rule.WITHIN, f"within {write_duration(policy.keep_within)}")
    for row in members:
        # A difference, not a time: one before the first year cannot be computed.
        if policy.keep_within and now - row.created_at <= policy.keep_within:
            yield row, within
        if policy.keep_since is not None and row.created_at >= policy.keep_since:
            yield row, Reason(Rule.SINCE, f"since {policy.keep_since.astimezone(UTC):%Y-%m-%dT%H:%MZ}")


def _first_at_steps(available: Iterable[RetentionRow], interval: int) -> Iterable[RetentionRow]:
    """At each multiple of the interval the first one at or after it; of one step written twice, the newest.

    The first and not the last: what is kept once stays the one that is kept, whatever is trained afterwards.
    """
    found: dict[int, RetentionRow] = {}
    for row in available:
        # Before the first multiple there is nothing to keep, but for a checkpoint of the untrained model.
        if row.step is None or not (row.step >= interval or row.step == 0):
            continue
        first = found.get(row.step // interval)
        if first is None or first.step is None or row.step <= first.step:
            found[row.step // interval] = row
    return found.values()


def _first_in_time(available: Iterable[RetentionRow], interval: timedelta) -> Iterable[RetentionRow]:
    """The oldest of each stretch of time."""
    found: dict[int, RetentionRow] = {}
    for row in sorted(available, key=lambda row: (row.created_at, row.place)):
        found.setdefault((row.created_at - EPOCH) // interval, row)
    return found.values()


def _never_dropped(available: Sequence[RetentionRow], policy: RetentionPolicy) -> _Kept:
    """A group's last and best one, and those that ``--checkpoint latest`` and ``best`` would start from."""
    fit = [row for row in available if not row.is_unfit]
    chosen = []
    if not policy.drop_last:
        chosen.append((Rule.LAST, latest(available, _step), latest(fit, _step)))
    if not policy.drop_best:
        found, to_resume_from = (best(rows, metric_of_all(rows), _told) for rows in (available, fit))
        chosen.append((Rule.BEST, found, to_resume_from))
    for rule, row, to_resume_from in chosen:
        if row is not None:
            yield row, Reason(rule, f"the {rule.value} one")
        if to_resume_from is not None and to_resume_from is not row:
            yield to_resume_from, Reason(rule, f"the {rule.value} to resume from")


def _keep_anchors(
    available: Sequence[RetentionRow], policy: RetentionPolicy, reasons: Mapping[str, set[Reason]]
) -> None:
    """Keep what gives the last ones their places, where without it another one that stays would be later than they.

    Otherwise pruning once more would let them go.
    """
    fit = [row for row in available if not row.is_unfit]
    guarded = 0 if policy.drop_last else 1
    pending = True
    while pending:
        pending = False
        for rows, number in ((available, max(policy.keep_last, guarded)), (fit, guarded)):
            for row in in_order(rows, _step)[-number:] if number else ():
                anchor = anchor_of(row, rows, _step)
                if anchor is None or reasons[anchor.id]:
                    continue
                later = rows[rows.index(row) + 1 :]
                if any(reasons[one.id] and one.step is not None and one.step < (anchor.step or 0) for one in later):
                    reasons[anchor.id].add(Reason(Rule.LAST, "places the last one"))
                    pending = True


def _step(row: RetentionRow) -> int | None:
    return row.step if row.sequence else None


def _told(row: RetentionRow) -> RetentionRow:
    return row


def _freed_bytes(blobs: Mapping[str, BlobUse], gone: Sequence[str]) -> dict[str, int]:
    """Bytes of the blobs that no checkpoint needs once these are gone, each counted with the last that refers to it."""
    places = {checkpoint_id: place for place, checkpoint_id in enumerate(gone)}
    freed = dict.fromkeys(gone, 0)
    for blob in blobs.values():
        if blob.users and blob.users <= places.keys():
            freed[max(blob.users, key=places.__getitem__)] += blob.size
    return freed


def _why_it_goes(row: RetentionRow) -> Reason:
    return Reason(Rule.NO_RULE, "no rule keeps it" if row.is_available else f"{row.status}, and no rule keeps it")


_RANKS = {rule: rank for rank, rule in enumerate(Rule)}


def _rank(reason: Reason) -> tuple[int, str]:
    return _RANKS[reason.rule], reason.text
