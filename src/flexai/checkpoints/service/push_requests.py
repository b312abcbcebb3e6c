"""What can be asked for of a checkpoint that is to be made; see ``flexai.checkpoints.service.requests``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, fields

from flexai.checkpoints.errors import RequestError
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.requests import check_patterns, keep_tuples

_SOURCES = "give one of: {files}; {storage_provider} and {source_path}; {from_checkpoint}"


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
        keep_tuples(self, "files", "exclude")
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
        keep_tuples(self, "files", "exclude")
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
            "{} and {} cannot be used together", of_files[0], given[0][-1], hint=f"{{{of_files[0]}}} is for {{files}}"
        )
    if request.exclude and from_checkpoint:
        raise RequestError(
            "{} and {} cannot be used together", "exclude", "from_checkpoint", hint="a checkpoint never changes"
        )
    check_patterns(request, "exclude")
    if from_checkpoint:
        parse_reference(from_checkpoint)
