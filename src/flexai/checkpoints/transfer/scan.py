"""Finding what there is to push, before a byte of it is read."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from flexai.checkpoints.errors import SourceError, UnsafePathError
from flexai.checkpoints.local_paths import absolute, expanded
from flexai.checkpoints.own_folders import ELSEWHERE, OwnFolders
from flexai.checkpoints.paths import CheckpointPath, check_path_set, join_path, only_empty, parse_path
from flexai.checkpoints.patterns import DEFAULT_EXCLUDES, IGNORE_FILE, LONGEST_IGNORE_FILE, Patterns, of_folder
from flexai.checkpoints.storage.beneath import GONE, KEPT_OPEN, Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX, few_enough
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import ObjectInfo
from flexai.checkpoints.transfer.sources import FileSource, LocalSource, ObjectSource

S = TypeVar("S", bound=FileSource)

_ODD = re.compile(r"[^\w./@+=, -]")


def scan_local(
    specs: Sequence[str],
    *,
    follow_symlinks: bool = False,
    exclude: Sequence[str] = (),
    default_excludes: bool = True,
    folders: list[CheckpointPath] | None = None,
    left_out: list[str] | None = None,
    own: OwnFolders | None = None,
) -> list[LocalSource]:
    """Find the files that ``SOURCE[=DESTINATION]`` texts mean, in order of their paths in the checkpoint.

    A folder's content goes below its destination, or to the checkpoint's root; a file without a destination keeps
    its name. What a pattern of ``exclude`` names is left out (see ``patterns``), and of a folder also what its
    ``.flexaiignore`` names and, with ``default_excludes``, ``DEFAULT_EXCLUDES``: ``left_out`` is given their paths.
    ``folders`` is given the paths of the empty folders. The folders of ``own`` are left out, and noted there. Raises
    SourceError for a source that is missing, a link, no file or folder, empty, one of two for one path, or a part of
    what flexai keeps, and UnsafePathError for a path that a checkpoint cannot hold.
    """
    own = own or OwnFolders()
    found: list[LocalSource] = []
    empty: list[CheckpointPath] = []
    excluded = Patterns(exclude)
    behind: list[str] = [] if left_out is None else left_out
    defaults = DEFAULT_EXCLUDES if default_excludes else ()
    for spec in specs:
        text, destination = split_spec(spec)
        root = _source_path(text)
        status = _status(root, follow_symlinks=follow_symlinks)
        real = root.resolve() if follow_symlinks else root
        if refused := own.refused("source", root, real if stat.S_ISDIR(status.st_mode) else real.parent):
            raise SourceError(refused, hint=ELSEWHERE)
        if stat.S_ISDIR(status.st_mode):
            prefix = parse_path(destination.rstrip("/")) if destination.strip("/") else ""
            before = len(found)
            keep = KEPT_OPEN // len(specs)
            place = (
                _SourceFolder.of(root, keep=keep)
                if follow_symlinks
                else _SourceFolder(root, Beneath(root.parent, keep=keep), ())
            )
            rules = _Excluded(excluded, place.ignored(defaults, follow_symlinks=follow_symlinks), prefix, behind, own)
            found.extend(_scan_folder(root, prefix, empty, place, follow_symlinks=follow_symlinks, excluded=rules))
            if len(found) == before:
                raise SourceError(f"source folder {root} holds no file{_that_is_left([*exclude, *behind, *own.met])}")
        else:
            name = destination or root.name
            path = join_path(name + root.name if name.endswith("/") else name)
            if excluded.name(path):
                continue
            found.append(LocalSource.of(path, root, status, tree=Beneath(real.parent), inside=real.name))
    if not found:
        why = "all is excluded" if specs else "no source was given"
        raise SourceError(f"there is nothing to push: {why}")
    empty[:] = only_empty(empty, (source.path for source in found))
    if folders is not None:
        folders += empty
    return sorted(check_sources(found, empty), key=lambda source: source.path)


def scan_remote(place: RemotePath, *, is_folder: bool = False, exclude: Sequence[str] = ()) -> list[ObjectSource]:
    """Find the object, or the objects below the prefix, that a provider's path means; with ``is_folder`` the latter.

    The content of a prefix lands at the checkpoint's root. An empty object whose key is also a folder's is a marker,
    which consoles and file gateways make to show the folder. What a pattern of ``exclude`` names below the prefix is
    left out. Raises SourceError where there is none, UnsafePathError, which names it, for a key that is no safe path.
    """
    where = f"{place.storage.location}/{place.key}"
    the_one: ObjectInfo | None = None
    below: list[tuple[str, ObjectInfo]] = []
    for info in few_enough(place.storage.list(place.prefix if is_folder else place.key), where):
        if info.key == place.key and not is_folder:
            the_one = info
            if info.size:
                break
        # Others are siblings that only begin alike.
        elif info.key.startswith(place.prefix):
            below.append((info.key.removeprefix(place.prefix), info))
    if the_one is not None and (the_one.size or not below):
        below = [(the_one.key.rpartition("/")[2], the_one)]
    folders, excluded = _folders_of(name for name, _ in below), Patterns(exclude)
    found = [
        ObjectSource(path=_pushable(name, f"{place.storage.location}/{info.key}"), storage=place.storage, info=info)
        for name, info in below
        if not (excluded.name(name) or (not info.size and (name in folders or name.endswith("/"))))
    ]
    if not found:
        raise SourceError(
            f"there is no object {f'below {where}/' if is_folder else f'at {where}'}{_that_is_left(exclude)}",
            hint="check the bucket and the prefix: the bucket is the path's first part",
        )
    return sorted(check_sources(found), key=lambda source: source.path)


def _folders_of(paths: Iterable[str]) -> set[str]:
    folders: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in folders:
            folders.add(path)
    return folders


def _that_is_left(exclude: Sequence[str]) -> str:
    return " that is not excluded" if exclude else ""


def _pushable(text: str, source: str) -> CheckpointPath:
    """The path in a checkpoint; UnsafePathError for none, which names the source and how to go on without it."""
    try:
        return parse_path(text)
    except UnsafePathError as error:
        way_out = f"{_without(text)} leaves it out, or give" if text.strip("/") else "give"
        raise UnsafePathError(
            f"{source!r} cannot be pushed: {error.message}", hint=f"{way_out} it another name there"
        ) from error


def _without(pattern: str) -> str:
    """The option that leaves out what has this path."""
    return f"--exclude '{_ODD.sub('?', pattern)}'"


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
        return bool(text) and os.path.lexists(expanded(Path(text)))
    except RuntimeError:
        return False  # `~` of a user that the system does not know


def check_sources(sources: Sequence[S], folders: Sequence[CheckpointPath] = ()) -> Sequence[S]:
    """Check that the paths of sources and empty folders can lie beside each other.

    Raises SourceError where two sources mean one path, UnsafePathError for any others.
    """
    seen: set[CheckpointPath] = set()
    for source in sources:
        if source.path.endswith(PARTIAL_SUFFIX):
            raise SourceError(
                f"path {source.path!r} has the name of an unfinished file",
                hint=f"finish the fetch that left it, remove it, or leave it out: {_without(source.path)}",
            )
        if source.path in seen:
            raise SourceError(f"two sources are meant for the path {source.path!r}")
        seen.add(source.path)
    check_path_set(
        [*(source.path for source in sources), *folders],
        hint=lambda one: f"{_without(f'/{one}')} leaves {one!r} out, or give it another name there",
    )
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


class _SourceFolder(NamedTuple):
    """A source folder, and where else links in it may lead."""

    root: Path
    tree: Beneath
    elsewhere: Sequence[Path]

    @classmethod
    def of(cls, root: Path, *, keep: int) -> _SourceFolder:
        """The real folder; that of a snapshot in the Hub's cache has its files beside it, in its repository's blobs."""
        real = root.resolve()
        repository = real.parent.parent
        if real.parent.name == "snapshots" and (repository / "blobs").is_dir():
            return cls(real, Beneath(repository, keep=keep), (repository / "blobs",))
        return cls(real, Beneath(real.parent, keep=keep), ())

    def inside(self, path: Path) -> str:
        """A path below the tree's root."""
        below = path.relative_to(self.tree.root).as_posix()
        return "" if below == "." else below

    def ignored(self, defaults: Sequence[str], *, follow_symlinks: bool) -> Patterns:
        """The patterns that come with the folder, from its root.

        Raises SourceError for an ignore file that cannot be read as a whole: what it names would be pushed.
        """
        file = self.root / IGNORE_FILE
        content = b""
        try:
            inside = _follow(file, self, follow_symlinks=follow_symlinks) if file.is_symlink() else file
            content = self.tree.start_of(self.inside(inside), LONGEST_IGNORE_FILE + 1)
        except OSError as error:
            if error.errno not in GONE:
                raise _unreadable(file, error) from error
        if len(content) > LONGEST_IGNORE_FILE:
            raise SourceError(
                f"{file} is longer than {LONGEST_IGNORE_FILE // 1024} KiB, so its patterns are not all read",
                hint="name folders in it, with a / at the end, instead of each file",
            )
        return of_folder(content, defaults)


class _Excluded(NamedTuple):
    """What of a source folder is not pushed."""

    by_caller: Patterns
    by_folder: Patterns
    prefix: str
    left_out: list[str]
    own: OwnFolders

    def name(self, path: str, *, is_folder: bool) -> bool:
        """Whether a path in the checkpoint is left out; what the folder itself leaves out is noted."""
        if self.by_caller.name_itself(path, is_folder=is_folder):
            return True
        if not self.by_folder.name_itself(path.removeprefix(self.prefix), is_folder=is_folder):
            return False
        self.left_out.append(path)
        return True


def _scan_folder(
    root: Path,
    prefix: str,
    empty: list[CheckpointPath],
    place: _SourceFolder,
    *,
    follow_symlinks: bool,
    excluded: _Excluded,
) -> Iterator[LocalSource]:
    """Yield the files below a folder, and collect the folders that hold nothing.

    Links are resolved first: the way to what is opened leads through none.
    """
    tree, top = place.tree, place.inside(place.root)
    # Each folder with its real path and those of the folders that it is in, so that links in a circle are noticed.
    # Places are texts: a ``Path`` of each file takes longer than to look at it.
    pending: list[tuple[str, str, Callable[[], Folder], tuple[str, ...]]]
    pending = [(os.fspath(root), prefix, partial(tree.folder, top), (top,))]
    while pending:
        path, base, opened, trail = pending.pop()
        local_path = path
        try:
            folder = opened()
            if excluded.own.have(os.fstat(folder.number)):
                excluded.own.met[base] = None
                continue
            # What an interrupted fetch left is no file of the user's.
            entries = [entry for entry in folder.entries() if not entry[0].endswith(PARTIAL_SUFFIX)]
            if base and not entries:
                empty.append(parse_path(base))
            for name, is_folder in entries:
                local_path = f"{path.rstrip('/')}/{name}"
                text = _below(base, name)
                if excluded.name(text, is_folder=is_folder):
                    continue
                inside = _below(trail[-1], name)
                enter = partial(folder.enter, name)
                if not is_folder:
                    status = folder.status(name)
                    if stat.S_ISLNK(status.st_mode):
                        target = _follow(Path(local_path), place, follow_symlinks=follow_symlinks)
                        if excluded.own.around(target.parent):
                            excluded.own.met[text] = None
                            continue
                        inside = place.inside(target)
                        folder_of_it, its_name = tree.at(inside)
                        status = folder_of_it.status(its_name)
                        enter = partial(tree.folder, inside)
                if is_folder or stat.S_ISDIR(status.st_mode):
                    if inside in trail:
                        raise SourceError(f"source {local_path} is a link to a folder that contains it")
                    pending.append((local_path, _pushable(text, local_path), enter, (*trail, inside)))
                elif stat.S_ISREG(status.st_mode):
                    inner = _pushable(text, local_path)
                    yield LocalSource.of(inner, local_path, status, tree=tree, inside=inside)
                else:
                    raise _no_source(local_path)
        except OSError as error:
            raise _unreadable(local_path, error) from error


def _below(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _follow(path: Path, place: _SourceFolder, *, follow_symlinks: bool) -> Path:
    """The real path that a link means, which is below the root, or among the blobs of a snapshot's repository."""
    if not follow_symlinks:
        raise _link_error(path)
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SourceError(f"source {path} is a symbolic link to nowhere") from error
    if not any(folder in target.parents for folder in (place.root, *place.elsewhere)):
        raise SourceError(
            f"source {path} is a symbolic link that leaves {place.root}",
            hint="name the link's target as a source of its own",
        )
    return target


def _unreadable(path: Path | str, error: OSError) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(f"source {path} does not exist")
    if error.errno == errno.ELOOP:
        return _link_error(path)
    return SourceError(f"source {path} cannot be read: {error.strerror}")


def _no_source(path: Path | str) -> SourceError:
    return SourceError(f"source {path} is neither a file nor a folder")


def _link_error(path: Path | str) -> SourceError:
    return SourceError(
        f"source {path} is a symbolic link",
        hint="--follow-symlinks follows links that stay inside the source folder, or lead from a snapshot of the Hub's"
        " cache to its blobs",
    )
