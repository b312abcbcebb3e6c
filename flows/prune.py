"""Retention, as a flow: rules say which checkpoints stay, and the others are deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import flow
from pydantic import Field, field_validator, model_validator

from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.service.prune import PruneRequest
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import BEST_BY, Form, JobReference, MetricText, NotEmpty, Span, span_of
from flexai.tasks.prune import prune_checkpoints, summary_of

_MOST = 1_000_000
_NO_TIME = timedelta(0)


class RetentionForm(Form):
    """Which checkpoints are judged, what is kept of them, and whether the rest is deleted."""

    jobs: list[JobReference] = Field(
        default_factory=list,
        title="Training jobs",
        description="NAME or UUID of each job whose captured checkpoints are judged, each job by itself. All jobs where"
        " neither jobs nor patterns are given.",
        examples=[["mistral-run"]],
    )
    pushed: list[NotEmpty] = Field(
        default_factory=list,
        title="Patterns of pushed checkpoints",
        description="'*' stands for any letters, '?' for one. The pushed checkpoints whose names fit a pattern are"
        " judged as one group; no pushed checkpoint is judged where there is no pattern.",
        examples=[["nightly-*"]],
    )
    keep_last: int = Field(
        default=3, ge=0, le=_MOST, title="Keep the last", description="How many of each group; 0 for no such rule."
    )
    keep_best: int = Field(
        default=1, ge=0, le=_MOST, title="Keep the best", description="How many of each group; 0 for no such rule."
    )
    metric: MetricText = Field(default="", title="Best by", description=BEST_BY)
    keep_every_steps: int = Field(
        default=0,
        ge=0,
        le=2**53,
        title="Keep at every so many steps",
        description="At each multiple of it the first checkpoint at or after that step stays; 0 for no such rule.",
        examples=[1000],
    )
    keep_every: Span = Field(
        default="",
        title="Keep one in every",
        description="The first checkpoint of each stretch of time stays, counted in UTC: 6h, 1d, 1w; empty for no such"
        " rule.",
        examples=["1d"],
    )
    keep_within: Span = Field(
        default="",
        title="Keep what is younger than",
        description="36h, 7d, 2w; empty for no such rule.",
        examples=["7d"],
    )
    keep_since: datetime | None = Field(
        default=None,
        title="Keep what was made since",
        description="A time, in UTC unless it says otherwise; empty for no such rule.",
        examples=["2026-01-31T00:00:00Z"],
    )
    keep_exported: bool = Field(
        default=True, title="Keep what was exported", description="What was exported to a storage provider stays."
    )
    include_failed: bool = Field(
        default=False,
        title="Failed ones too",
        description="Let failed pushes and captures, and incomplete checkpoints, go as well, unless they are young"
        " enough to stay.",
    )
    drop_last: bool = Field(
        default=False,
        title="Give up the last",
        description="Let even the last checkpoint of a group go where no rule keeps it. One always stays.",
    )
    drop_best: bool = Field(
        default=False,
        title="Give up the best",
        description="Let even the best checkpoint of a group go where no rule keeps it. One always stays.",
    )
    apply: bool = Field(
        default=False,
        title="Delete",
        description="Delete what no rule keeps; without this the run only shows what it would do. What is deleted can"
        " be brought back until gc has taken its bytes.",
    )
    force: bool = Field(
        default=False,
        title="Of other users, too",
        description="Let also go what other users made than the one that the worker runs as.",
    )

    @field_validator("keep_since")
    @classmethod
    def _in_utc(cls, time: datetime | None) -> datetime | None:
        return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time

    @model_validator(mode="after")
    def _keeps_something(self) -> RetentionForm:
        try:
            self.request()
        except UsageError as error:
            raise ValueError(f"{error.message}: give one of those that begin with 'Keep'") from error
        return self

    def request(self) -> PruneRequest:
        """What is asked for."""
        read = {name: span_of(text) or _NO_TIME for name, text in self if name in ("keep_every", "keep_within")}
        return PruneRequest.of(**self.fields() | read)


_DEFAULT = RetentionForm()


@flow(
    name="retention",
    description="Show by rules which checkpoints would stay and go, and delete the latter where that is wanted.",
    flow_run_name="retention",
    **OPTIONS,
)
def retention(request: RetentionForm = _DEFAULT) -> Document:
    """Judge checkpoints by rules; the plan is attached to the run as a table, and nothing is done without ``apply``.

    What one rule keeps stays. So do protected checkpoints, those that a running training job started from or would be
    resumed from, and the last and the best one of each group.

    Args:
        request: Which checkpoints, the rules, and whether to delete.

    Returns:
        What ``flexai checkpoint prune --json`` prints.

    Raises:
        CheckpointError: NotFoundError for a job that is not there, StorageUnavailableError for a catalog that does not
            answer.
    """
    done = run_task(prune_checkpoints, request.request())
    rename_run(f"retention: {summary_of(done)}")
    return done
