"""The parameters of the flows that do one operation, as people see them in a form of Prefect's UI.

What a form can refuse is in the schema (patterns, bounds, enumerations, fields that must be there), which the server
checks before it makes a run; what only a program can tell is checked when the run begins, before anything is done.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Self, TypeAlias

from prefect.utilities.schema_tools.hydration import hydrate
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from flexai.checkpoints.choosing import check_metric
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.names import parse_job_reference, parse_name, parse_reference
from flexai.checkpoints.roles import Role
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest
from flexai.checkpoints.service.push_requests import AnyPushRequest, NameRequest, PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.settings import parse_duration, parse_size
from flexai.checkpoints.storage.connection import split_bucket
from flexai.flows.connection_field import Connection

_NAME = "^[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]$"
"""The naming rule, which UUIDs obey as well; reserved words are left to ``flexai.checkpoints.names``."""
REFERENCE_PATTERN = "[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9](/.{1,4096})?"
"""NAME, UUID or JOB/PATH."""
_SOURCE_PATH = "^[^/\\s]+(/.*)?$"
_DESTINATION_PATH = "^[^/\\s]+/.*[^/\\s].*$"


def _in_words(error: CheckpointError) -> ValueError:
    return ValueError(f"{error.message}: {error.hint}" if error.hint else error.message)


def _check_name(text: str) -> str:
    try:
        return parse_name(text, what="checkpoint name")
    except CheckpointError as error:
        raise _in_words(error) from error


def _check_reference(text: str) -> str:
    try:
        return parse_reference(text).text
    except CheckpointError as error:
        raise _in_words(error) from error


def _check_job(text: str) -> str:
    try:
        return parse_job_reference(text).text
    except CheckpointError as error:
        raise _in_words(error) from error


def _check_path(text: str) -> str:
    try:
        split_bucket(text)
    except CheckpointError as error:
        raise _in_words(error) from error
    return text


def _check_metric(text: str) -> str:
    try:
        return check_metric(text)
    except CheckpointError as error:
        raise _in_words(error) from error


NewName: TypeAlias = Annotated[str, Field(min_length=3, max_length=63, pattern=_NAME), AfterValidator(_check_name)]
"""A name that a checkpoint can be given."""
CheckpointReference: TypeAlias = Annotated[
    str, Field(min_length=3, pattern=f"^{REFERENCE_PATTERN}$"), AfterValidator(_check_reference)
]
"""NAME or UUID of a checkpoint, or JOB/PATH of a captured one."""
JobReference: TypeAlias = Annotated[str, Field(min_length=3, max_length=63, pattern=_NAME), AfterValidator(_check_job)]
"""NAME or UUID of a training job."""
SourcePath: TypeAlias = Annotated[str, Field(pattern=_SOURCE_PATH), AfterValidator(_check_path)]
"""``BUCKET/PREFIX-or-KEY``."""
DestinationPath: TypeAlias = Annotated[str, Field(pattern=_DESTINATION_PATH), AfterValidator(_check_path)]
"""``BUCKET/PREFIX``."""
NotEmpty: TypeAlias = Annotated[str, Field(min_length=1)]
BEST_BY = (
    "NAME, NAME:min or NAME:max of the metric that the best have least or most of, such as eval-loss or"
    " eval_accuracy:max; empty for what the trainer chooses by, else the eval loss."
)
MetricText: TypeAlias = Annotated[str, Field(max_length=120), AfterValidator(_check_metric)]
Span: TypeAlias = Annotated[str, Field(pattern="^([0-9]+[smhdw])?$", max_length=12)]
"""A stretch of time: ``90s``, ``15m``, ``24h``, ``7d``, ``2w``; empty for none."""


def span_of(text: str) -> timedelta | None:
    """What a :data:`Span` means; None for none."""
    found = parse_duration(text)
    return found if isinstance(found, timedelta) else None


def _check_size(text: str) -> str:
    if text and shard_bytes(text) is None:
        raise ValueError(f"{text!r} is no size: write 8GiB, 500MB or a number of bytes")
    return text


def shard_bytes(text: str) -> int | None:
    """How many bytes a text means; None for the setting in force."""
    size = parse_size(text)
    return size if isinstance(size, int) and size > 0 else None


ShardSize: TypeAlias = Annotated[
    str,
    Field(
        title="Shard size",
        description="Bytes of a shard, such as 8GiB: a larger transfer is given out in shards of about this size, which"
        " the deployment's task runner does at the same time. Empty for the setting shard_size.",
        pattern="^(\\d+(\\.\\d+)? ?[kmgtKMGT]?i?[bB]?)?$",
        examples=["8GiB"],
    ),
    AfterValidator(_check_size),
]


_REFUSE_EXECUTABLE = Field(
    default=False,
    title="Refuse code",
    description="Refuse files that run code when they are loaded, or that could not be followed.",
)


_EXCLUDE: Any = Field(
    default_factory=list,
    title="Leave out",
    description="Patterns of paths in the checkpoint to leave out, as in a .gitignore; a folder with all"
    " that is in it.",
    examples=[["optimizer.pt", "*.tmp"]],
)
_INCLUDE: Any = Field(
    default_factory=list,
    title="Only these files",
    description="Patterns of the files and folders to take, as in a .gitignore; all where there is none.",
    examples=[["*.safetensors", "tokenizer/"]],
)
_ONLY: Any = Field(
    default_factory=list,
    title="Only files for",
    description="What the files to take are for, as their names tell; all where nothing is chosen.",
)
_DELETE_EXTRA = Field(
    default=False,
    title="Delete the rest",
    description="Delete what else lies there, where a checkpoint was brought to before; needs force.",
)
_FORCE = Field(default=False, title="Force", description="Delete it without a question, which no run can ask.")


def _number_fields(schema: dict[str, Any]) -> None:
    # Prefect's UI goes by these numbers. PostgreSQL keeps no order of a document's fields: its JSON begins with the
    # shortest name (https://www.postgresql.org/docs/current/datatype-json.html).
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Form(BaseModel):
    """What every form shares: a mistyped field is refused, and what was asked for does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_number_fields)

    def fields(self, **renamed: str) -> dict[str, Any]:
        """Its fields and those of the forms in it, for a request: but for those ``renamed``, both have the same names.

        Those that say how the flow goes about it are left out: a request knows nothing of shards.
        """
        found: dict[str, Any] = {}
        for name, value in self:
            if isinstance(value, Form):
                found |= value.fields(**renamed)
            elif name not in _OF_THE_FLOW:
                found[renamed.get(name, name)] = value
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _speak_as_the_form_does(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        # A person has seen "Path", and knows no field `path_template`. Without the values, which may hold a secret.
        try:
            return validate(values)
        except ValidationError as error:
            said = error.errors(include_url=False, include_context=False, include_input=False)
            raise ValidationError.from_exception_data(
                error.title,
                [
                    InitErrorDetails(
                        type=PydanticCustomError("form", "{said}", {"said": one["msg"].removeprefix("Value error, ")}),
                        loc=cls._in_words(one["loc"]),
                        input=None,
                    )
                    for one in said
                ],
            ) from None

    @classmethod
    def _in_words(cls, place: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """Where in the form something is wrong, by the title of the field; what is below it says so itself."""
        if not place:
            return ()
        field = cls.model_fields.get(str(place[0]))
        below = [part for part in place[1:] if not str(part).startswith("function-wrap[")]
        return ((field.title if field else None) or place[0], *below)

    @model_validator(mode="before")
    @classmethod
    def _take_as_the_form_means_it(cls, values: object) -> object:
        # Prefect's form marks what was left empty ({"__prefect_kind": "json"}) or written as JSON. The server reads
        # that when a run is made in the form, but leaves it in the parameters of a schedule.
        return hydrate(values) if isinstance(values, dict) else values


_OF_THE_FLOW = frozenset({"shard_size"})


class WorkerFiles(Form):
    """Files of the machine that the worker runs on."""

    model_config = ConfigDict(title="Files of the worker")

    files: list[NotEmpty] = Field(
        title="Files",
        description="Paths on the worker's machine, SOURCE or SOURCE=DESTINATION each; a folder's content goes below"
        " its destination, or to the checkpoint's root.",
        examples=[["/data/output/checkpoint-500", "tokenizer.json=tokenizer/tokenizer.json"]],
        min_length=1,
    )
    follow_symlinks: bool = Field(
        default=False,
        title="Follow links",
        description="Push what links inside a folder lead to, instead of refusing them.",
    )
    rehash: bool = Field(
        default=False,
        title="Read all again",
        description="Read files again that look unchanged since they were last pushed.",
    )
    exclude: list[NotEmpty] = _EXCLUDE
    default_excludes: bool = Field(
        default=True,
        title="Leave out the usual",
        description="Leave out .git, __pycache__ and the lock files of the Hub's cache in folders.",
    )
    refuse_executable: bool = _REFUSE_EXECUTABLE


class ProviderFiles(Form):
    """What lies on a storage provider."""

    model_config = ConfigDict(title="Storage provider")

    storage_provider: Connection = Field(
        title="Storage provider connection", description="Where the files are: a saved connection, or its name."
    )
    source_path: SourcePath = Field(
        title="Path",
        description="BUCKET/PREFIX, whose content goes to the checkpoint's root, or BUCKET/KEY of one object.",
        examples=["my-bucket/models/mistral"],
    )
    exclude: list[NotEmpty] = _EXCLUDE
    refuse_executable: bool = _REFUSE_EXECUTABLE


class OtherCheckpoint(Form):
    """A checkpoint that is in the managed store already."""

    model_config = ConfigDict(title="Another checkpoint")

    checkpoint: CheckpointReference = Field(
        title="Checkpoint",
        description="NAME, UUID or JOB/PATH of the checkpoint to give another name; no byte moves.",
        examples=["3f0c3a4e-9d7b-4c58-8f0e-0c5d8b7a6e21"],
    )


class PushForm(Form):
    """What to push, and under which name."""

    name: NewName = Field(
        title="Name",
        description="The checkpoint's name: 3 to 63 letters, digits, '-' and '_', the first and last a letter or"
        " digit.",
        examples=["mistral-500-checkpoint"],
    )
    source: WorkerFiles | ProviderFiles | OtherCheckpoint = Field(
        title="Source", description="Where the files are: one of the three."
    )
    if_not_exists: bool = Field(
        default=False,
        title="Succeed where it exists",
        description="Succeed where the name is taken by the same content, so that a schedule can push again and again.",
    )
    shard_size: ShardSize = ""

    def request(self) -> PushRequest | NameRequest:
        """What is asked for."""
        return AnyPushRequest(**self.fields(checkpoint="from_checkpoint")).request()


class InspectForm(Form):
    """Which checkpoint to look up."""

    checkpoint: CheckpointReference = Field(
        title="Checkpoint", description="NAME, UUID or JOB/PATH of the checkpoint.", examples=["mistral-500-checkpoint"]
    )


class FetchForm(InspectForm):
    """Which checkpoint to fetch, and where to."""

    destination: NotEmpty = Field(
        title="Directory",
        description="Where the files go on the worker's machine; made where it is missing. Files that are there with"
        " the right content are kept.",
        examples=["/data/models/mistral-500"],
    )
    overwrite: bool = Field(
        default=False, title="Overwrite", description="Replace files that are there with other content."
    )
    refuse_executable: bool = _REFUSE_EXECUTABLE
    require_digests: bool = Field(
        default=False,
        title="Require digests",
        description="Refuse files that have neither a digest nor a checksum that they are compared with.",
    )
    include: list[NotEmpty] = _INCLUDE
    exclude: list[NotEmpty] = _EXCLUDE
    only: list[Role] = _ONLY
    node: int | None = Field(
        default=None,
        ge=0,
        title="Node",
        description="Fetch only what this one of several machines has brought of the checkpoint that they wrote"
        " together; all files where left out.",
    )
    delete_extra: bool = _DELETE_EXTRA
    force: bool = _FORCE
    shard_size: ShardSize = ""

    def request(self) -> FetchRequest:
        """What is asked for."""
        return FetchRequest(**self.fields(checkpoint="reference"))


class ExportForm(InspectForm):
    """Which checkpoint to export, and where to."""

    storage_provider: Connection = Field(
        title="Storage provider connection", description="Where to export to: a saved connection, or its name."
    )
    destination_path: DestinationPath = Field(
        title="Path",
        description="BUCKET/PREFIX: a place of the export's own.",
        examples=["my-bucket/checkpoints/mistral-500"],
    )
    overwrite: bool = Field(
        default=False, title="Overwrite", description="Replace objects that are there with other content."
    )
    include: list[NotEmpty] = _INCLUDE
    exclude: list[NotEmpty] = _EXCLUDE
    only: list[Role] = _ONLY
    delete_extra: bool = _DELETE_EXTRA
    force: bool = _FORCE
    shard_size: ShardSize = ""

    def request(self) -> ExportRequest:
        """What is asked for."""
        return ExportRequest(**self.fields(checkpoint="reference"))


class ListForm(Form):
    """Which checkpoints to list."""

    names: NotEmpty = Field(
        default="*",
        title="Names",
        description="A pattern of the names to list: '*' stands for any letters, '?' for one.",
        examples=["mistral-*"],
    )


class DeleteForm(Form):
    """Which checkpoint to delete."""

    checkpoint: CheckpointReference = Field(
        title="Checkpoint",
        description="NAME, UUID or JOB/PATH of the checkpoint. Its name is free at once; its bytes go when nothing else"
        " uses them and the grace period is over, and until then `flexai checkpoint undelete` brings it back.",
        examples=["mistral-500-checkpoint"],
    )
    force: bool = Field(
        default=False,
        title="Of another user, too",
        description="Delete it also where another user made it than the one that the worker runs as.",
    )

    def request(self) -> DeleteRequest:
        """What is asked for."""
        return DeleteRequest(**self.fields(checkpoint="reference"))


class ProtectForm(Form):
    """Which checkpoints to keep from being deleted."""

    checkpoints: list[CheckpointReference] = Field(
        min_length=1,
        title="Checkpoints",
        description="NAME, UUID or JOB/PATH of each checkpoint; all of them are changed, or none.",
        examples=[["mistral-500-checkpoint"]],
    )
    protected: bool = Field(
        default=True,
        title="Protected",
        description="Keep them from being deleted by users and by rules; off lets them be deleted again.",
    )
    force: bool = Field(
        default=False,
        title="Of another user, too",
        description="Change them also where another user made them than the one that the worker runs as.",
    )

    def request(self) -> ProtectRequest:
        """What is asked for."""
        return ProtectRequest(**self.fields(checkpoints="references"))


class VerifyForm(Form):
    """Which checkpoints to verify."""

    checkpoints: list[CheckpointReference] = Field(
        default_factory=list,
        title="Checkpoints",
        description="NAME, UUID or JOB/PATH of each checkpoint; the whole store where none is given.",
        examples=[["mistral-500-checkpoint"]],
    )
    repair: bool = Field(
        default=False,
        title="Repair",
        description="Put sound content, read from an export of a checkpoint that has it, in the place of all that is"
        " known to be damaged.",
    )

    def request(self) -> VerifyRequest:
        """What is asked for."""
        return VerifyRequest(**self.fields(checkpoints="references"))
