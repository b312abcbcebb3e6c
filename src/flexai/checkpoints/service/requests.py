"""What can be asked for of one checkpoint: a plain value for each operation, checked when it is made, never changed.

The command line makes a request from flags, a task from its arguments, a flow from its form; the operation, its dry run
and its shards take it as it is. It names connections and loads none, so it can be pickled.
An option of an operation is a field here, a flag of the command and a field of the form: the task has it by itself.

What makes no sense together is refused here, with the names of the fields (:class:`RequestError`), which the command
line replaces by its flags. A list that is given where a field holds several values is kept as a tuple.

Those for the whole store and for training jobs stand in modules of their own: making the classes is most of what
importing them costs, and every push and fetch would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.errors import RequestError
from flexai.checkpoints.names import parse_name, parse_reference

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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
    refuse_executable: bool = False


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
        from_checkpoint: NAME, UUID or JOB/PATH of the checkpoint.
        if_not_exists: Succeed where the name is taken by the same content.
        refuse_executable: Refuse files that run code when they are loaded, or that could not be followed.

    Raises:
        UsageError: InvalidNameError for the name or the reference.
    """

    name: str
    from_checkpoint: str
    if_not_exists: bool = False
    refuse_executable: bool = False

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
        refuse_executable: Refuse files that run code when they are loaded, or that could not be followed.
        from_checkpoint: NAME, UUID or JOB/PATH of a checkpoint that is here already; no byte moves.

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
            return NameRequest(self.name, self.from_checkpoint, self.if_not_exists, self.refuse_executable)
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
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        destination: The directory, made where it is missing; ``~`` is the home directory.
        overwrite: Replace files that are there with other content.
        refuse_executable: Fetch nothing where a file runs code when it is loaded, or could not be followed.
        require_digests: Fetch nothing where a file has neither a digest nor a checksum that it is compared with.
        node: Fetch only what this one has brought of the machines that wrote the checkpoint together, also of an
            incomplete one.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str
    destination: str = "."
    overwrite: bool = False
    refuse_executable: bool = False
    require_digests: bool = False
    node: int | None = None

    def __post_init__(self) -> None:
        parse_reference(self.reference)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A checkpoint to be brought to a storage provider.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
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
class DeleteRequest:
    """A checkpoint to be deleted.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.

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
