"""The parameters of the flows, as people see them in a form of Prefect's UI."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import ConfigDict, Field, field_validator, model_validator

from flexai.checkpoints.choosing import Choice
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import VARIABLE_PATTERN, is_variable, parse_name, parse_reference
from flexai.checkpoints.training.runner import notice_of
from flexai.flows.connection_field import Connection
from flexai.flows.forms import BEST_BY, REFERENCE_PATTERN, Form, MetricText, NotEmpty, ShardSize, Span
from flexai.flows.templates import check_template, field_pattern, render

JOB_FIELDS = frozenset({"date", "time"})
NAME_FIELDS = frozenset({"job", "checkpoint", "step", "id"})
PATH_FIELDS = NAME_FIELDS | {"name"}
_TELLING_APART = frozenset({"checkpoint", "step", "id", "name"})


def _name_schema(fields: frozenset[str]) -> dict[str, Any]:
    """What a form's schema can say of a name's template; in what words it is refused from Python, validators say."""
    field = field_pattern(fields)
    edge, inner = f"([A-Za-z0-9]|{field})", f"([A-Za-z0-9_-]|{field})"
    return {"minLength": 3, "pattern": f"^({field}|{edge}{inner}{{0,61}}{edge})$"}


def _path_schema(fields: frozenset[str]) -> dict[str, Any]:
    braces = f"\\{{\\{{|\\}}\\}}|{field_pattern(fields)}"
    solid = f"([^/\\s{{}}]|{braces})"
    return {"pattern": f"^{solid}+/([^{{}}]|{braces})*{solid}([^{{}}]|{braces})*$"}


_VARIABLES: dict[str, Any] = {"propertyNames": {"pattern": f"^{VARIABLE_PATTERN}$"}}
SecretName: TypeAlias = Annotated[str, Field(pattern="^[a-z0-9-]+$")]
"""What Prefect lets a block be called."""


class Selection(StrEnum):
    """Which of a training job's checkpoints."""

    BEST = "best"
    LATEST = "latest"
    ALL = "all"


class TrainingSpec(Form):
    """The command to train with."""

    name: str = Field(
        title="Job name",
        description="The training job's name. A job of that name which has succeeded is not run again. {date} and"
        " {time} say when the flow run was scheduled, in UTC (20260131, 0330): a schedule makes a new job each time.",
        examples=["digits-{date}"],
        json_schema_extra=_name_schema(JOB_FIELDS),
    )
    command: list[NotEmpty] = Field(
        title="Command",
        description="The program and its arguments; no shell is involved. It writes its checkpoints to the directory in"
        " FLEXAI_OUTPUT_CHECKPOINT_DIR.",
        examples=[["python", "train.py", "--epochs", "3"]],
        min_length=1,
    )
    checkpoint: str = Field(
        default="",
        title="Start from",
        description="NAME, UUID or JOB/PATH of the checkpoint to start from, which the command finds in"
        " FLEXAI_INPUT_CHECKPOINT_DIR; 'latest', 'best' or 'best:NAME[:min|max]' of those that earlier attempts of this"
        " job have captured; empty to start from scratch. An attempt that was stopped or lost its machine is continued"
        " from its latest checkpoint in any case.",
        examples=["mistral-500-checkpoint", "latest"],
        pattern=f"^({REFERENCE_PATTERN}|[Bb][Ee][Ss][Tt]:.{{1,110}})?$",
    )
    continue_failed: bool = Field(
        default=False,
        title="Continue a failed job",
        description="Start from the latest checkpoint also where an earlier attempt's command has failed.",
    )
    env: dict[str, str] = Field(
        default_factory=dict,
        title="Environment",
        description="Variables for the command. Prefect records them with the flow run: no secrets here.",
        examples=[{"WANDB_MODE": "offline"}],
        json_schema_extra=_VARIABLES,
    )
    secrets: dict[str, SecretName] = Field(
        default_factory=dict,
        title="Secrets",
        description="Variables for the command whose values are secret, each with the name of a Prefect Secret block.",
        examples=[{"HF_TOKEN": "hf-token"}],
        json_schema_extra=_VARIABLES,
    )
    strict: bool = Field(
        default=False,
        title="Strict",
        description="Fail where the command succeeded, but a version of a checkpoint was lost before it was stored.",
    )
    grace: Span = Field(
        default="",
        title="Grace",
        description="How long the command may take to save and end, and what it saved to be stored, when the run is"
        " cancelled or its machine is taken: 90s, 2m; empty for the setting grace.",
        examples=["2m"],
    )
    preempt_signal: str = Field(
        default="",
        title="Signal of a preemption",
        description="A signal that says, as TERM does, that the machine is taken: USR1; empty for TERM alone.",
        examples=["USR1"],
    )
    exclude: list[NotEmpty] = Field(
        default_factory=list,
        title="Leave out",
        description="Patterns of what of the output directory is not captured, as in a .gitignore; a folder with all"
        " that is in it. The directory's .flexaiignore has its own.",
        examples=[["samples/", "*.mp4"]],
    )

    @field_validator("name")
    @classmethod
    def _makes_a_name(cls, template: str) -> str:
        check_template(template, JOB_FIELDS)
        parse_sample(template, {"date": "20260101", "time": "0000"}, "training job name")
        return template

    @field_validator("checkpoint")
    @classmethod
    def _is_a_reference(cls, text: str) -> str:
        try:
            if text and Choice.read(text) is None:
                parse_reference(text)
        except UsageError as error:
            raise ValueError(f"{error.message}: {error.hint}") from error
        return text

    @field_validator("preempt_signal")
    @classmethod
    def _can_give_notice(cls, name: str) -> str:
        try:
            if name:
                notice_of(name)
        except UsageError as error:
            raise ValueError(f"{error.message}: {error.hint}") from error
        return name

    @field_validator("env", "secrets")
    @classmethod
    def _are_variables(cls, values: dict[str, str]) -> dict[str, str]:
        for name in values:
            if not is_variable(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
        return values

    @model_validator(mode="after")
    def _has_one_value_for_each_variable(self) -> TrainingSpec:
        twice = sorted(self.env.keys() & self.secrets.keys())
        if twice:
            raise ValueError(f"variable {twice[0]!r} is among both the environment and the secrets")
        return self


class PushSpec(Form):
    """Which checkpoints of the job to push, and under which names."""

    SAMPLE: ClassVar[dict[str, str | int]] = {"checkpoint": "checkpoint-1", "step": 1, "id": "0" * 8}

    name_template: str = Field(
        default="{job}-{checkpoint}",
        title="Name",
        description="The pushed checkpoint's name: {job}, {checkpoint} (its folder's name; 'final' for files in the"
        " output directory itself), {step} (the folder's name where the checkpoint tells no step), {id} (8 digits of"
        " its UUID).",
        examples=["{job}-{step}"],
        json_schema_extra=_name_schema(NAME_FIELDS),
    )
    select: Selection = Field(
        default=Selection.BEST,
        title="Which",
        description="The best one, the latest (the highest step; where one tells none, what was captured last), or all."
        " Where attempts of the job wrote one folder more than once, the newest counts.",
    )
    metric: MetricText = Field(default="", title="Best by", description=BEST_BY)
    only_inference_ready: bool = Field(
        default=False,
        title="Only inference ready",
        description="Leave out checkpoints that do not hold all that inference needs.",
    )
    only_resumable: bool = Field(
        default=False,
        title="Only resumable",
        description="Leave out checkpoints that do not hold all that training needs to go on.",
    )

    @field_validator("metric", mode="before")
    @classmethod
    def _takes_the_earlier_spelling(cls, name: object) -> object:
        # Schedules that were made before metrics had one spelling hold "eval loss".
        return name.replace(" ", "-") if name in {"eval loss", "train loss"} and isinstance(name, str) else name

    @model_validator(mode="after")
    def _makes_names(self) -> PushSpec:
        check_told_apart(check_template(self.name_template, NAME_FIELDS), self.select, self.name_template)
        parse_sample(self.name_template, {"job": "job", **self.SAMPLE}, "checkpoint name")
        return self


class ApprovalSpec(Form):
    """That a person decides whether to export."""

    # What the form calls the tab on which it is filled in.
    model_config = ConfigDict(title="Approval")

    timeout_hours: float = Field(
        default=72,
        gt=0,
        le=24 * 30,
        title="Timeout",
        description="Hours to wait for the decision; without one by then, the run fails and nothing is exported.",
        examples=[72],
    )


class ExportSpec(Form):
    """Where to export what was pushed."""

    # What the form calls the tab on which it is filled in.
    model_config = ConfigDict(title="Export")

    storage_provider: Connection = Field(
        title="Storage provider connection",
        description="Where to export to: a saved connection, or its name as `flexai storage list` shows it.",
    )
    path_template: str = Field(
        title="Path",
        description="BUCKET/PREFIX: the fields of the name, and {name}, the pushed checkpoint's name.",
        examples=["my-bucket/checkpoints/{name}"],
        pattern="^[^/\\s]+/.*[^/\\s].*$",
        json_schema_extra=_path_schema(PATH_FIELDS),
    )
    overwrite: bool = Field(
        default=False, title="Overwrite", description="Replace objects that are there with other content."
    )
    shard_size: ShardSize = ""
    approval: ApprovalSpec | None = Field(
        default=None,
        title="Approval",
        description="Wait for a person to look at the metrics and approve the export in Prefect's UI; not where it is"
        " there already.",
    )

    @field_validator("path_template")
    @classmethod
    def _makes_paths(cls, template: str) -> str:
        check_template(template, PATH_FIELDS)
        return template


def parse_sample(template: str, sample: dict[str, str | int], what: str) -> None:
    """Check early what can be known early: a template whose fixed part no name can hold. Raises ValueError."""
    try:
        parse_name(render(template, sample), what=what)
    except UsageError as error:
        raise ValueError(f"{error.message} (from {template!r}): {error.hint}") from error


def check_told_apart(used: frozenset[str], select: Selection, template: str) -> None:
    """Raise ValueError where several checkpoints would get one name."""
    if select is Selection.ALL and not used & _TELLING_APART:
        raise ValueError(f"{template!r} gives all checkpoints one name: add {{checkpoint}}, {{step}} or {{id}}")
