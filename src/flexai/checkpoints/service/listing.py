"""Find checkpoints: by their names, their job, who made them, their status and their age; in an order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from operator import attrgetter
from typing import Any

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import CheckpointStatus, ListedCheckpoint, to_text
from flexai.checkpoints.names import parse_job_reference

KINDS = ("pushed", "captured", "all")
ORDERS: dict[str, tuple[Callable[[ListedCheckpoint], Any], bool]] = {
    "size": (attrgetter("size"), True),
    "created": (attrgetter("created_at"), True),
    "name": (lambda row: row.title.casefold(), False),
}
"""What a list can be sorted by besides metrics: what of a row, and whether the highest comes first."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Which checkpoints to list; all pushed ones where nothing is said.

    ``flexai.list_checkpoints`` says what each field asks for.

    Raises:
        UsageError: A status, a kind or an order that is none, or a limit below 0.
    """

    patterns: Sequence[str] = ()
    job: str = ""
    owner: str = ""
    status: str = ""
    since: datetime | None = None
    kind: str = ""
    sort: str = ""
    limit: int = 0
    deleted: bool = False

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise UsageError(f"{self.kind!r} is no kind of checkpoint", hint=f"it is one of {', '.join(KINDS)}")
        if self.status and self.status not in set(CheckpointStatus):
            known = ", ".join(CheckpointStatus)
            raise UsageError(f"{self.status!r} is no status of a checkpoint", hint=f"it is one of {known}")
        if self.limit < 0:
            raise UsageError(f"a list cannot have {self.limit} checkpoints", hint="0 means all")
        if self.sort and self.sort not in ORDERS:
            from flexai.checkpoints.choosing import check_metric

            check_metric(self.sort)

    @property
    def only_kind(self) -> str:
        """The kind that is listed; empty for both."""
        if self.kind:
            return "" if self.kind == "all" else self.kind
        if self.deleted:
            return ""
        return "captured" if self.job or any("/" in pattern for pattern in self.patterns) else "pushed"


def list_checkpoints(catalog: Catalog, request: ListRequest) -> list[ListedCheckpoint]:
    """The checkpoints that a request is about, in its order.

    Raises NotFoundError for a job that is not there, UsageError for a metric that none of them tells.
    """
    found = [row for row in _candidates(catalog, request) if _is_wanted(row, request)]
    if not request.sort:
        return found[-request.limit :]
    order = ORDERS.get(request.sort)
    if order is not None:
        found.sort(key=order[0], reverse=order[1])
    else:
        from flexai.checkpoints.choosing import check_is_told, metric_for, ranked

        check_is_told(request.sort, found)
        first = ranked(found, metric_for(request.sort, found), lambda row: row)
        ids = {row.id for row in first}
        found = [*first, *(row for row in found if row.id not in ids)]
    return found[: request.limit or None]


def _candidates(catalog: Catalog, request: ListRequest) -> list[ListedCheckpoint]:
    job_id = str(catalog.job_queries.get(parse_job_reference(request.job)).id) if request.job else ""
    kind = request.only_kind
    if request.deleted:
        return [row for row in catalog.checkpoint_queries.list_deleted(job_id=job_id) if kind in {"", row.kind}]
    if kind == "pushed" and not job_id and request.sort in {"", *ORDERS}:
        return catalog.checkpoint_queries.list_pushed()  # which reads less of each
    return catalog.checkpoint_queries.list_all(kind=kind, job_id=job_id)


def _is_wanted(row: ListedCheckpoint, request: ListRequest) -> bool:
    return (
        (not request.patterns or any(_is_like(row.title, pattern) for pattern in request.patterns))
        and (not request.owner or request.owner in {row.creator, row.creator.partition("@")[0]})
        and (not request.status or row.status == request.status)
        and (request.since is None or row.created_at >= to_text(request.since))
    )


def _is_like(title: str, pattern: str) -> bool:
    title, pattern = title.casefold(), pattern.casefold()
    return fnmatchcase(title, pattern) if any(letter in pattern for letter in "*?[") else pattern in title
