"""The parameters of the flows that work on many checkpoints or on the whole store."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from flexai.checkpoints.service.store_requests import GarbageRequest, MirrorRequest, ScrubRequest
from flexai.flows.connection_field import Connection
from flexai.flows.forms import CheckpointReference, Form, JobReference, NotEmpty, ShardSize, SourcePath, Span, span_of

_GIB = 1024**3


class ByName(Form):
    """The pushed checkpoints of certain names."""

    model_config = ConfigDict(title="Pushed ones by their names")

    names: NotEmpty = Field(
        default="*",
        title="Names",
        description="A pattern: '*' stands for any letters, '?' for one. All that were pushed where it is '*'.",
        examples=["mistral-*"],
    )


class Selected(Form):
    """Exactly these checkpoints."""

    model_config = ConfigDict(title="Exactly these")

    checkpoints: list[CheckpointReference] = Field(
        title="Checkpoints",
        description="NAME, UUID or JOB/PATH of each checkpoint.",
        examples=[["mistral-500-checkpoint"]],
        min_length=1,
    )


class OfJob(Form):
    """The checkpoints that a training job wrote."""

    model_config = ConfigDict(title="Those of a training job")

    job: JobReference = Field(title="Training job", description="Its NAME or UUID.", examples=["mistral-run"])


class MirrorForm(Form):
    """Which checkpoints to mirror, and where to."""

    checkpoints: ByName | Selected | OfJob = Field(
        default=ByName(), title="Checkpoints", description="Which ones; all that were pushed where left out."
    )
    storage_provider: Connection = Field(
        title="Storage provider connection", description="Where to: a saved connection, or its name."
    )
    destination_path: SourcePath = Field(
        title="Path",
        description="BUCKET or BUCKET/PREFIX; each checkpoint goes to a folder of its name below it, one that a"
        " training job captured to JOB/FOLDER-ID.",
        examples=["my-bucket/mirror"],
    )
    overwrite: bool = Field(
        default=False, title="Overwrite", description="Replace objects that are there with other content."
    )
    shard_size: ShardSize = ""

    def request(self) -> MirrorRequest:
        """What is asked for."""
        return MirrorRequest(**self.fields())


class ScrubForm(Form):
    """How much of the store to verify in one run."""

    budget_gib: float = Field(
        default=100,
        gt=0,
        le=1024**2,
        title="Budget",
        description="GiB to read in a run, about; one file's content at least. Runs one after the other go through the"
        " whole store, what was not read for the longest time first.",
        examples=[100],
    )
    repair: bool = Field(
        default=True,
        title="Repair",
        description="Put sound content, read from an export of a checkpoint that has it, in the place of what is"
        " damaged. What cannot be repaired fails the run.",
    )

    def request(self) -> ScrubRequest:
        """What is asked for."""
        fields = self.fields(budget_gib="budget")
        return ScrubRequest(**fields | {"budget": max(1, round(fields["budget"] * _GIB))})


class GarbageForm(Form):
    """Which garbage is collected."""

    grace_period: Span = Field(
        default="",
        title="Grace period",
        description="Take only what was deleted, or left by an interrupted push, longer ago than this: 90s, 15m, 24h,"
        " 7d, 2w; empty for the setting grace_period. What is taken cannot be brought back.",
        examples=["7d"],
    )
    unreferenced: bool = Field(
        default=False,
        title="Unreferenced blobs",
        description="Take blobs too that neither the catalog nor any manifest in the store knows, and that were stored"
        " longer ago than the grace period.",
    )

    def request(self) -> GarbageRequest:
        """What is asked for."""
        return GarbageRequest(**self.fields() | {"grace_period": span_of(self.grace_period)})


class ReportForm(Form):
    """How much of the catalog to show."""

    newest: int = Field(
        default=20,
        ge=1,
        le=200,
        title="Newest",
        description="How many of the newest checkpoints, jobs and failures the page shows.",
        examples=[20],
    )
