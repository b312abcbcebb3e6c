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

from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import in_unicode, parse_name, parse_reference
from flexai.checkpoints.roles import ROLES

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
    exclude: Sequence[str] = ()
    if_not_exists: bool = False
    rehash: bool = False
    refuse_executable: bool = False
    default_excludes: bool = True


@dataclass(frozen=True, slots=True)
class PushRequest(_PushFields):
    """Files to be brought into the managed store under a name, from this machine or from a storage provider.

    Its fields are those of :class:`AnyPushRequest`, and it raises the same.
    """

    def __post_init__(self) -> None:
        _keep_tuples(self, "files", "exclude")
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
        follow_symlinks: Push what links inside a source folder lead to, instead of refusing them; from a snapshot of
            the Hub's cache they may lead to its blobs.
        storage_provider: The name of a storage provider connection to push from.
        source_path: ``BUCKET/PREFIX-or-KEY`` on that provider; with a final ``/`` it is a folder.
        exclude: Patterns of paths in the checkpoint to leave out, as in a ``.gitignore``; a local folder's own are in
            its ``.flexaiignore``.
        if_not_exists: Succeed where the name is taken by the same content.
        rehash: Read local files again that look unchanged since they were last pushed.
        refuse_executable: Refuse files that run code when they are loaded, or that could not be followed.
        default_excludes: Leave out ``.git``, ``__pycache__`` and the lock files of the Hub's cache in local folders.
        from_checkpoint: NAME, UUID or JOB/PATH of a checkpoint that is here already; no byte moves.

    Raises:
        UsageError: InvalidNameError for the name or the reference, RequestError for no source or several, or for an
            option of files without files.
    """

    from_checkpoint: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        _keep_tuples(self, "files", "exclude")
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
    of_files += [] if request.default_excludes else ["default_excludes"]
    if of_files and not request.files:
        raise RequestError(
            "{} and {} cannot be used together", of_files[0], given[0][-1], hint=f"{of_files[0]} is for files"
        )
    if request.exclude and from_checkpoint:
        raise RequestError(
            "{} and {} cannot be used together", "exclude", "from_checkpoint", hint="a checkpoint never changes"
        )
    check_patterns(request, "exclude")
    if from_checkpoint:
        parse_reference(from_checkpoint)


def _keep_tuples(request: object, *names: str) -> None:
    for name in names:
        object.__setattr__(request, name, tuple(getattr(request, name)))


def check_patterns(request: object, *names: str) -> None:
    """Raise RequestError where one of the patterns in these fields of a request names nothing, or is no UTF-8."""
    for name in names:
        if any(in_unicode(pattern) != pattern for pattern in getattr(request, name)):
            raise RequestError("a pattern of {} has a byte that is no UTF-8", name, hint="write '?' for it")
        if not all(pattern.removeprefix("!").strip("/ ") for pattern in getattr(request, name)):
            raise RequestError("a pattern of {} names nothing", name, hint="name files or folders, such as '*.tmp'")


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A checkpoint, or a part of it, to be brought to a directory of the machine that does it.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint; with ``:PATH`` behind it only that file or folder of it.
        destination: The directory, made where it is missing; ``~`` is the home directory.
        overwrite: Replace files that are there with other content.
        refuse_executable: Fetch nothing where a file runs code when it is loaded, or could not be followed.
        require_digests: Fetch nothing where a file has neither a digest nor a checksum that it is compared with.
        node: Fetch only what this one has brought of the machines that wrote the checkpoint together, also of an
            incomplete one.
        delete_extra: Delete what else lies in the directory, which must have been fetched to before.
        force: Do so without asking: else it is an error, with what would be deleted.
        include: Patterns of the files and folders to fetch, as in a ``.gitignore``; all where there is none.
        exclude: Patterns of what is not fetched of them.
        only: Roles of the files to fetch: ``weights``, ``optimizer``, ``tokenizer``, ``config``, ``state``.

    Raises:
        UsageError: InvalidNameError for the reference, RequestError for ``delete_extra`` with ``node`` or with a part
            of the checkpoint, for ``force`` without it, for an empty destination, and for a pattern or a role that is
            none.
    """

    reference: str
    destination: str = "."
    overwrite: bool = False
    refuse_executable: bool = False
    require_digests: bool = False
    node: int | None = None
    delete_extra: bool = False
    force: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        _keep_tuples(self, *_PART)
        name, path = split_file(self.reference)
        parse_reference(name)
        if not self.destination:
            raise RequestError("{} is empty", "destination", hint="name a directory; '.' is the working directory")
        if self.delete_extra and self.node is not None:
            hint = "the files of the other nodes would go"
            raise RequestError("{} and {} cannot be used together", "delete_extra", "node", hint=hint)
        part = [one for one in _PART if getattr(self, one)]
        if self.delete_extra and (part or path):
            hint = "fetch all of the checkpoint, or delete the rest by hand"
            raise RequestError(
                "{} and {} cannot be used together", "delete_extra", part[0] if part else "reference", hint=hint
            )
        _check_part(self)
        _check_force(self)


def split_file(reference: str) -> tuple[str, str]:
    """The checkpoint of a ``NAME:PATH``, and the path of its file or folder; no path where none is given.

    What lies in a checkpoint has no ``:`` in its path. Raises UsageError for a path that is none.
    """
    name, colon, path = reference.rpartition(":")
    if not colon:
        return reference, ""
    if not path.strip("/"):
        raise UsageError(f"{reference!r} names no file", hint=f"write {name}:PATH, or {name} alone for all of it")
    return name, path


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A checkpoint to be brought to a storage provider.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET/PREFIX`` on that provider.
        overwrite: Replace objects that are there with other content.
        delete_extra: Delete what else lies there, where a checkpoint must have been exported to before.
        force: Do so without asking: else it is an error, with what would be deleted.
        include: Patterns of the files and folders to export, as in a ``.gitignore``; all where there is none.
        exclude: Patterns of what is not exported of them.
        only: Roles of the files to export: ``weights``, ``optimizer``, ``tokenizer``, ``config``, ``state``.

    Raises:
        UsageError: InvalidNameError for the reference, RequestError for ``delete_extra`` with a part of the checkpoint,
            for ``force`` without it, and for a pattern or a role that is none.
    """

    reference: str
    storage_provider: str
    destination_path: str
    overwrite: bool = False
    delete_extra: bool = False
    force: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    only: Sequence[str] = ()

    def __post_init__(self) -> None:
        _keep_tuples(self, *_PART)
        parse_reference(self.reference)
        if self.delete_extra and (part := [one for one in _PART if getattr(self, one)]):
            hint = "export all of the checkpoint, or delete the rest by hand"
            raise RequestError("{} and {} cannot be used together", "delete_extra", part[0], hint=hint)
        _check_part(self)
        _check_force(self)


_PART = ("include", "exclude", "only")
"""The fields that ask for a part of a checkpoint."""


def _check_part(request: FetchRequest | ExportRequest) -> None:
    check_patterns(request, "include", "exclude")
    for role in request.only:
        if role not in ROLES:
            raise RequestError("{} knows no role " + repr(role), "only", hint=f"the roles are {', '.join(ROLES)}")


def _check_force(request: FetchRequest | ExportRequest) -> None:
    if request.force and not request.delete_extra:
        raise RequestError("{} needs {}", "force", "delete_extra", hint="nothing else has to be insisted on")


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """A checkpoint to be deleted.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        force: Delete it also where another user made it.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str
    force: bool = False

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
class ProtectRequest:
    """Checkpoints to be kept from being deleted, or to be no longer; all that are named, or none.

    Args:
        references: NAME, UUID or JOB/PATH of each checkpoint.
        protected: Keep them; where it is false they can be deleted again, and nothing is deleted by that.
        force: Change them also where another user made them.

    Raises:
        UsageError: No reference, or InvalidNameError for one.
    """

    references: Sequence[str]
    protected: bool = True
    _: KW_ONLY
    force: bool = False

    def __post_init__(self) -> None:
        _keep_tuples(self, "references")
        if not self.references:
            raise UsageError("no checkpoint is named", hint="name one or more: NAME, UUID or JOB/PATH")
        for reference in self.references:
            parse_reference(reference)
