"""Finding what there is to push, before a byte of it is read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from flexai.checkpoints.errors import SourceError
from flexai.checkpoints.paths import CheckpointPath, absolute, check_path_set, join_path, parse_path
from flexai.checkpoints.storage.beneath import KEPT_OPEN, Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX, few_enough
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
            found.extend(_scan_folder(root, prefix, follow_symlinks=follow_symlinks, keep=KEPT_OPEN // len(specs)))
            if len(found) == before:
                raise SourceError(f"source folder {root} holds no file")
        else:
            name = destination or root.name
            path = join_path(name + root.name if name.endswith("/") else name)
            real = root.resolve() if follow_symlinks else root
            found.append(LocalSource.of(path, root, status, tree=Beneath(real.parent), inside=real.name))
    if not found:
        raise SourceError("there is nothing to push: no source was given")
    return sorted(check_sources(found), key=lambda source: source.path)


def scan_remote(place: RemotePath) -> list[ObjectSource]:
    """Find the object, or the objects below the prefix, that a provider's path means.

    The content of a prefix lands at the checkpoint's root. Raises SourceError where there is none,
    UnsafePathError for a key that is no safe path.
    """
    found: list[ObjectSource] = []
    for info in few_enough(place.storage.list(place.key), f"{place.storage.location}/{place.key}"):
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
        return absolute(text)
    except RuntimeError as error:
        raise SourceError(f"source {text} cannot be found: its user has no home folder") from error


def _status(path: Path, *, follow_symlinks: bool) -> os.stat_result:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            if not follow_symlinks:
                raise _link_error(path)
            status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise SourceError(f"source {str(path)!r} cannot be a path: {error}") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise _no_source(path)
    return status


def _scan_folder(root: Path, prefix: str, *, follow_symlinks: bool, keep: int) -> Iterator[LocalSource]:
    """Yield the files below a folder. Links are resolved first: the way to what is opened leads through none."""
    real_root = root.resolve() if follow_symlinks else root
    tree = Beneath(real_root.parent, keep=keep)
    top = real_root.name
    # Each folder with its real path and those of the folders that it is in, so that links in a circle are noticed.
    pending: list[tuple[Path, str, Callable[[], Folder], tuple[str, ...]]]
    pending = [(root, prefix, partial(tree.folder, top), (top,))]
    while pending:
        path, base, opened, trail = pending.pop()
        local_path = path
        try:
            folder = opened()
            for name, is_folder in folder.entries():
                if name.endswith(PARTIAL_SUFFIX):
                    continue  # what an interrupted fetch left: no file of the user's
                local_path = path / name
                inside = _below(trail[-1], name)
                enter = partial(folder.enter, name)
                if not is_folder:
                    status = folder.status(name)
                    if stat.S_ISLNK(status.st_mode):
                        target = _follow(local_path, real_root, follow_symlinks=follow_symlinks)
                        inside = _below(top, target.relative_to(real_root).as_posix())
                        folder_of_it, its_name = tree.at(inside)
                        status = folder_of_it.status(its_name)
                        enter = partial(tree.folder, inside)
                if is_folder or stat.S_ISDIR(status.st_mode):
                    if inside in trail:
                        raise SourceError(f"source {local_path} is a link to a folder that contains it")
                    pending.append((local_path, join_path(base, name), enter, (*trail, inside)))
                elif stat.S_ISREG(status.st_mode):
                    yield LocalSource.of(join_path(base, name), local_path, status, tree=tree, inside=inside)
                else:
                    raise _no_source(local_path)
        except OSError as error:
            raise _unreadable(local_path, error) from error


def _below(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _follow(path: Path, real_root: Path, *, follow_symlinks: bool) -> Path:
    """The real path that a link means, which is below the root."""
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
    return target


def _unreadable(path: Path, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(f"source {path} does not exist")
    if error.errno == errno.ELOOP:
        return _link_error(path)
    return SourceError(f"source {path} cannot be read: {error.strerror}")


def _no_source(path: Path) -> SourceError:
    return SourceError(f"source {path} is neither a file nor a folder")


def _link_error(path: Path) -> SourceError:
    return SourceError(
        f"source {path} is a symbolic link",
        hint="--follow-symlinks follows links that stay inside the source folder",
    )
