"""Finding what there is to push, before a byte of it is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from flexai.checkpoints.errors import SourceError
from flexai.checkpoints.paths import CheckpointPath, check_path_set, join_path, parse_path
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.transfer.sources import FileSource, LocalSource, ObjectSource

S = TypeVar("S", bound=FileSource)


def scan_local(specs: Sequence[str], *, follow_symlinks: bool = False) -> list[LocalSource]:
    """Find the files that ``SOURCE[=DESTINATION]`` texts mean, in order of their paths in the checkpoint.

    A folder's content goes below its destination, or to the checkpoint's root; a file without a destination keeps
    its name. Raises SourceError for a source that is missing, a link, no file or folder, empty, or one of two for
    one path, and UnsafePathError for a path that a checkpoint cannot hold.
    """
    found: list[LocalSource] = []
    for spec in specs:
        text, destination = split_spec(spec)
        root = _source_path(text)
        status = _status(root, follow_symlinks=follow_symlinks)
        if stat.S_ISDIR(status.st_mode):
            prefix = parse_path(destination.rstrip("/")) if destination.strip("/") else ""
            before = len(found)
            found.extend(_scan_folder(root, prefix, follow_symlinks=follow_symlinks))
            if len(found) == before:
                raise SourceError(f"source folder {root} holds no file")
        else:
            name = destination or root.name
            found.append(LocalSource.of(join_path(name + root.name if name.endswith("/") else name), root, status))
    if not found:
        raise SourceError("there is nothing to push: no source was given")
    return sorted(check_sources(found), key=lambda source: source.path)


def scan_remote(place: RemotePath) -> list[ObjectSource]:
    """Find the object, or the objects below the prefix, that a provider's path means.

    The content of a prefix lands at the checkpoint's root. Raises SourceError where there is none,
    UnsafePathError for a key that is no safe path.
    """
    found: list[ObjectSource] = []
    for info in place.storage.list(place.key):
        if info.key == place.key:
            name = parse_path(info.key.rpartition("/")[2])
            return [ObjectSource(path=name, storage=place.storage, info=info)]
        if not info.key.startswith(place.prefix) or (info.key.endswith("/") and info.size == 0):
            continue  # a sibling that only begins alike, or the marker object of a folder
        path = parse_path(info.key.removeprefix(place.prefix))
        found.append(ObjectSource(path=path, storage=place.storage, info=info))
    if not found:
        raise SourceError(
            f"there is no object at {place.storage.location}/{place.key}",
            hint="check the bucket and the prefix: the bucket is the path's first part",
        )
    return sorted(check_sources(found), key=lambda source: source.path)


def split_spec(spec: str) -> tuple[str, str]:
    """Split ``SOURCE[=DESTINATION]``. A ``=`` in a name that exists is part of the name."""
    if "=" not in spec or _exists(spec):
        return spec, ""
    positions = [position for position, character in enumerate(spec) if character == "="]
    cut = next((position for position in positions if _exists(spec[:position])), positions[0])
    source, destination = spec[:cut], spec[cut + 1 :]
    if not destination:
        raise SourceError(f"{spec!r} has nothing after '='", hint="write SOURCE=DESTINATION, or SOURCE alone")
    return source, destination


def _exists(text: str) -> bool:
    try:
        return bool(text) and os.path.lexists(Path(text).expanduser())
    except RuntimeError:
        return False  # `~` of a user that the system does not know


def check_sources(sources: Sequence[S]) -> Sequence[S]:
    """Check that the sources' paths can lie beside each other; SourceError where two mean one path."""
    seen: set[CheckpointPath] = set()
    for source in sources:
        if source.path.endswith(PARTIAL_SUFFIX):
            raise SourceError(
                f"path {source.path!r} has the name of an unfinished file",
                hint="finish the fetch that left it, or remove it",
            )
        if source.path in seen:
            raise SourceError(f"two sources are meant for the path {source.path!r}")
        seen.add(source.path)
    check_path_set(seen)
    return sources


def _source_path(text: str) -> Path:
    if not text:
        raise SourceError("a source is empty")
    try:
        # Not resolved: a link must be seen as one. Normalised, so that `dir/..` and `./` have a base name.
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100
    except RuntimeError as error:
        raise SourceError(f"source {text} cannot be found: its user has no home folder") from error


def _status(path: Path, *, follow_symlinks: bool) -> os.stat_result:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if not follow_symlinks:
                raise _link_error(path)
            status = path.stat()
    except FileNotFoundError as error:
        raise SourceError(f"source {path} does not exist") from error
    except OSError as error:
        raise SourceError(f"source {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"source {str(path)!r} cannot be a path: {error}") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise SourceError(f"source {path} is neither a file nor a folder")
    return status


def _scan_folder(root: Path, prefix: str, *, follow_symlinks: bool) -> Iterator[LocalSource]:
    real_root = root.resolve()
    # Each folder with the real paths that lead to it, so that links in a circle are noticed.
    pending: list[tuple[Path, str, tuple[Path, ...]]] = [(root, prefix, (real_root,))]
    while pending:
        folder, base, trail = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise SourceError(f"source folder {folder} cannot be read: {error.strerror}") from error
        for entry in entries:
            path = Path(entry.path)
            if entry.name.endswith(PARTIAL_SUFFIX):
                continue  # what an interrupted fetch left: no file of the user's
            if entry.is_symlink():
                _check_link(path, real_root, follow_symlinks=follow_symlinks)
            if entry.is_dir():
                real = path.resolve() if entry.is_symlink() else trail[-1] / entry.name
                if real in trail:
                    raise SourceError(f"source {path} is a link to a folder that contains it")
                pending.append((path, join_path(base, entry.name), (*trail, real)))
                continue
            status = _status(path, follow_symlinks=follow_symlinks)
            yield LocalSource.of(join_path(base, entry.name), path, status)


def _check_link(path: Path, real_root: Path, *, follow_symlinks: bool) -> None:
    if not follow_symlinks:
        raise _link_error(path)
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"source {path} is a symbolic link to nowhere") from error
    if real_root not in target.parents:
        raise SourceError(
            f"source {path} is a symbolic link that leaves {real_root}",
            hint="name the link's target as a source of its own",
        )


def _link_error(path: Path) -> SourceError:
    return SourceError(
        f"source {path} is a symbolic link",
        hint="--follow-symlinks follows links that stay inside the source folder",
    )
