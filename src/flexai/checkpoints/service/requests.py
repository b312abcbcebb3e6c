"""What can be asked for, one value for each operation: plain, checked when it is made, never changed.

The command line makes a request from flags, a task from its arguments, a flow from its form; the operation, its dry run
and its shards take it as it is. It names connections and loads none, so it can be pickled, and costs nothing to import.
An option of an operation is a field here, a flag of the command and a field of the form: the task has it by itself.

What makes no sense together is refused here, with the names of the fields (:class:`RequestError`), which the command
line replaces by its flags. A list that is given where a field holds several values is kept as a tuple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import RESERVED_NAMES, is_variable, parse_name, parse_reference
from flexai.checkpoints.storage.connection import SecretText

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OUTPUT_VARIABLE = "FLEXAI_OUTPUT_CHECKPOINT_DIR"
INPUT_VARIABLE = "FLEXAI_INPUT_CHECKPOINT_DIR"
_SOURCES = "give one of: files; storage_provider and source_path; from_checkpoint"


def arguments_of(request: DataclassInstance) -> dict[str, Any]:
    """A request's fields by their names: the arguments of the task that takes it."""
    return {one.name: getattr(request, one.name) for one in fields(request)}


@dataclass(frozen=True, slots=True)
class _PushFields:
    name: str
    files: Sequence[str] = ()
    _: KW_ONLY
    follow_symlinks: bool = False
    storage_provider: str = ""
    source_path: str = ""
    if_not_exists: bool = False
    rehash: bool = False


@dataclass(frozen=True, slots=True)
class PushRequest(_PushFields):
    """Files to be brought into the managed store under a name, from this machine or from a storage provider.

    Its fields are those of :class:`AnyPushRequest`, and it raises the same.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        _check_push(self)


@dataclass(frozen=True, slots=True)
class NameRequest:
    """A checkpoint that is here already, captured or pushed, and another name for it: no byte moves.

    Args:
        name: The new name.
        from_checkpoint: NAME or UUID of the checkpoint.
        if_not_exists: Succeed where the name is taken by the same content.

    Raises:
        UsageError: InvalidNameError for the name or the reference.
    """

    name: str
    from_checkpoint: str
    if_not_exists: bool = False

    def __post_init__(self) -> None:
        parse_name(self.name, what="checkpoint name")
        parse_reference(self.from_checkpoint)


@dataclass(frozen=True, slots=True)
class AnyPushRequest(_PushFields):
    """What users call a push: files for a name, or a checkpoint that is here already.

    Args:
        name: The checkpoint's name.
        files: Local sources, ``SOURCE[=DESTINATION]`` each; a folder's content goes below its destination.
        follow_symlinks: Push what links inside a source folder lead to, instead of refusing them.
        storage_provider: The name of a storage provider connection to push from.
        source_path: ``BUCKET/PREFIX-or-KEY`` on that provider.
        if_not_exists: Succeed where the name is taken by the same content.
        rehash: Read local files again that look unchanged since they were last pushed.
        from_checkpoint: NAME or UUID of a checkpoint that is here already; no byte moves.

    Raises:
        UsageError: InvalidNameError for the name or the reference, RequestError for no source or several, or for an
            option of files without files.
    """

    from_checkpoint: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        _check_push(self, self.from_checkpoint)

    def request(self) -> PushRequest | NameRequest:
        """The one of the two that it is."""
        if self.from_checkpoint:
            return NameRequest(self.name, self.from_checkpoint, self.if_not_exists)
        return PushRequest(**{one.name: getattr(self, one.name) for one in fields(_PushFields)})


def _check_push(request: _PushFields, from_checkpoint: str = "") -> None:
    parse_name(request.name, what="checkpoint name")
    of_provider = [name for name in ("storage_provider", "source_path") if getattr(request, name)]
    kinds = [["files"] if request.files else [], of_provider, ["from_checkpoint"] if from_checkpoint else []]
    given = [kind for kind in kinds if kind]
    if len(given) > 1:
        raise RequestError("{} and {} cannot be used together", given[0][0], given[1][-1], hint=_SOURCES)
    if not given:
        raise RequestError("there is nothing to push: no source is given", hint=_SOURCES)
    if of_provider == ["source_path"]:
        raise RequestError(
            "{} needs {}: it is a path on a storage provider", "source_path", "storage_provider", hint=_SOURCES
        )
    if of_provider == ["storage_provider"]:
        raise RequestError("{} needs {}: what to push from it", "storage_provider", "source_path", hint=_SOURCES)
    of_files = [name for name in ("follow_symlinks", "rehash") if getattr(request, name)]
    if of_files and not request.files:
        raise RequestError(
            "{} and {} cannot be used together", of_files[0], given[0][-1], hint=f"{of_files[0]} is for files"
        )
    if from_checkpoint:
        parse_reference(from_checkpoint)


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A checkpoint to be brought to a directory of the machine that does it.

    Args:
        reference: NAME or UUID of the checkpoint.
        destination: The directory, made where it is missing; ``~`` is the home directory.
        overwrite: Replace files that are there with other content.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str
    destination: str = "."
    overwrite: bool = False

    def __post_init__(self) -> None:
        parse_reference(self.reference)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A checkpoint to be brought to a storage provider.

    Args:
        reference: NAME or UUID of the checkpoint.
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET/PREFIX`` on that provider.
        overwrite: Replace objects that are there with other content.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str
    storage_provider: str
    destination_path: str
    overwrite: bool = False

    def __post_init__(self) -> None:
        parse_reference(self.reference)


@dataclass(frozen=True, slots=True)
class MirrorRequest:
    """A set of checkpoints to be kept at a storage provider as well, each in a folder of its own.

    Args:
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET[/PREFIX]`` on that provider.
        names: A pattern of the names of pushed checkpoints (``*`` stands for any letters, ``?`` for one): all of them
            where nothing else is said.
        checkpoints: Instead of it: NAME or UUID of each checkpoint.
        job: Instead of it: NAME or UUID of the training job whose checkpoints are meant.
        overwrite: Replace objects that are there with other content.

    Raises:
        RequestError: Both checkpoints and a job are given.
    """

    storage_provider: str
    destination_path: str
    names: str = "*"
    checkpoints: Sequence[str] = ()
    job: str = ""
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        if self.checkpoints and self.job:
            raise RequestError(
                "{} and {} cannot be used together", "checkpoints", "job", hint="give one of: names; checkpoints; job"
            )


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """A checkpoint to be deleted.

    Args:
        reference: NAME or UUID of the checkpoint.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str

    def __post_init__(self) -> None:
        parse_reference(self.reference)


@dataclass(frozen=True, slots=True)
class UndeleteRequest:
    """A deleted checkpoint to be brought back.

    Args:
        reference: The name that it had, or its UUID.
        new_name: Another name for it; the old one where empty.

    Raises:
        UsageError: InvalidNameError for the reference or the new name.
    """

    reference: str
    new_name: str = ""

    def __post_init__(self) -> None:
        parse_reference(self.reference)
        if self.new_name:
            parse_name(self.new_name, what="checkpoint name")


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Checkpoints whose content is to be read and compared with its digests.

    Args:
        references: NAME or UUID of each checkpoint; the whole store where none is named.
        repair: Put content of an export in the place of all that is known to be damaged; only what cannot be repaired
            is an error then.

    Raises:
        UsageError: InvalidNameError for a reference.
    """

    references: Sequence[str] = ()
    repair: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "references", tuple(self.references))
        for reference in self.references:
            parse_reference(reference)


@dataclass(frozen=True, slots=True)
class ScrubRequest:
    """A part of the store to be verified, what was not read for the longest time first.

    Args:
        budget: Bytes to read, about.
        repair: Put content of an export in the place of what is damaged.

    Raises:
        UsageError: The budget is nothing.
    """

    budget: int
    repair: bool = True

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise UsageError("there is nothing to be read in a budget of 0 bytes", hint="give some gigabytes: 10GiB")


@dataclass(frozen=True, slots=True)
class GarbageRequest:
    """What deleted checkpoints, and pushes that were interrupted and never continued, have left: it is to go.

    Args:
        grace_period: Take only what was deleted or abandoned longer ago than this; the setting ``grace_period`` where
            left out.
    """

    grace_period: timedelta | None = None


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A command to be run as a training job, whose checkpoints are captured.

    Args:
        name: The training job's name.
        command: The program and its arguments; no shell is involved.
        checkpoint: NAME or UUID of the checkpoint to start from, or ``latest`` or ``best`` of the resumable ones that
            earlier attempts of this job have captured; from scratch where empty.
        env: Environment variables for the command, added to those of the process that runs this; a value may be a
            pydantic ``SecretStr``. They are stored nowhere: the catalog keeps only the names.
        output_dir: Where the command writes its checkpoints, empty or not there yet; a folder of the job's own where
            left out. ``~`` is the home directory.
        reuse_succeeded: Return a job of this name that has succeeded already, instead of refusing it.

    Raises:
        UsageError: InvalidNameError for the name or the reference; a command that is none, or a variable that cannot be
            set.
    """

    name: str
    command: Sequence[str]
    checkpoint: str = ""
    env: Mapping[str, str | SecretText] | None = field(default=None, repr=False)
    output_dir: str = ""
    reuse_succeeded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "env", dict(self.env or {}))
        parse_name(self.name, what="training job name")
        if self.checkpoint and self.checkpoint.casefold() not in RESERVED_NAMES:
            parse_reference(self.checkpoint)
        if not self.command or not self.command[0]:
            raise UsageError("there is no command to run", hint="flexai training run NAME -- COMMAND [ARGUMENT]…")
        if any("\0" in argument for argument in self.command):
            raise UsageError("an argument of the command has a NUL character")
        for variable, value in self.environment().items():
            _check_variable(variable, value)

    def environment(self) -> dict[str, str]:
        """The variables with their values in plain text."""
        values = self.env or {}
        return {name: value if isinstance(value, str) else value.get_secret_value() for name, value in values.items()}


def _check_variable(variable: str, value: str) -> None:
    if not is_variable(variable):
        raise UsageError(f"{variable!r} is no name of an environment variable", hint="--env NAME=VALUE")
    if variable in {OUTPUT_VARIABLE, INPUT_VARIABLE}:
        raise UsageError(f"{variable} is set for the command by flexai itself", hint="leave it out of --env")
    if "\0" in value:
        raise UsageError(f"the value of {variable} has a NUL character")


@dataclass(frozen=True, slots=True)
class DeleteJobRequest:
    """A training job to be deleted, with its log and the checkpoints that it wrote.

    Args:
        reference: NAME or UUID of the training job.
        keep_checkpoints: Keep the checkpoints that it wrote, under their UUIDs.
    """

    reference: str
    keep_checkpoints: bool = False
