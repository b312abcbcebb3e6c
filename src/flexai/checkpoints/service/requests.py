"""What can be asked for of one checkpoint: a plain value for each operation, checked when it is made, never changed.

The command line makes a request from flags, a task from its arguments, a flow from its form; the operation, its dry run
and its shards take it as it is. It names connections and loads none, so it can be pickled.
An option of an operation is a field here, a flag of the command and a field of the form: the task has it by itself.

What makes no sense together is refused here, with the names of the fields (:class:`RequestError`), which the command
line replaces by its flags. A list that is given where a field holds several values is kept as a tuple.

Those of transfers from the managed store stand here, others in modules of their own (``push_requests``,
``change_requests``, ``store_requests``, ``training_requests``): making the classes is most of what importing them
costs, and every push and fetch would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import in_unicode, parse_reference
from flexai.checkpoints.roles import ROLES

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def arguments_of(request: DataclassInstance) -> dict[str, Any]:
    """A request's fields by their names: the arguments of the task that takes it."""
    return {one.name: getattr(request, one.name) for one in fields(request)}


def keep_tuples(request: object, *names: str) -> None:
    """Make lists in these fields of a request tuples."""
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
        keep_tuples(self, *_PART)
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
        keep_tuples(self, *_PART)
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
