"""Files beside their names, while a fetch writes them: ours, and those that dead fetches left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import uuid
from collections.abc import Iterable, Sequence

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.storage.beneath import Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX, target_name
from flexai.checkpoints.storage.files import allocated_bytes

_ID = 16
"""Characters that tell apart the partial files of several processes."""


def partial_path(target: str, content: StoredContent) -> str:
    """Where a file is written before it gets its name: beside it, named after it, its content and this try."""
    named = content.blob_id if content.digest is None else content.digest.hex()
    unique = uuid.uuid4().hex[:_ID]
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{named[:_ID]}{unique}{PARTIAL_SUFFIX}")


def _content_name(partial: str) -> str:
    """What is equal for the partial files of one content that is to get one name."""
    return partial[: -len(PARTIAL_SUFFIX) - _ID]


def _partials_in(tree: Beneath, folder: str) -> list[str]:
    """The names of a folder's unfinished files; none where it is not there yet."""
    try:
        entries = tree.folder(folder).entries()
    except FileNotFoundError:
        return []
    return [name for name, _ in entries if name.endswith(PARTIAL_SUFFIX)]


def begun_files(tree: Beneath, files: Iterable[StoredFile]) -> set[str]:
    """The paths of files of which an interrupted fetch left something beside their names."""
    begun: set[str] = set()
    left: dict[str, set[str]] = {}
    for file in files:
        folder, own = os.path.split(partial_path(file.path, file.content))
        if folder not in left:
            left[folder] = {_content_name(name) for name in _partials_in(tree, folder)}
        if _content_name(own) in left[folder]:
            begun.add(file.path)
    return begun


def arrived_bytes(tree: Beneath, files: Sequence[StoredFile]) -> int:
    """Bytes that an interrupted fetch has left of files beside their names."""
    own = (partial_path(file.path, file.content) for file in files)
    wanted = {_content_name(path) for path in own}
    arrived = 0
    for folder in {os.path.dirname(file.path) for file in files}:
        for name in _partials_in(tree, folder):
            content = _content_name(os.path.join(folder, name))
            if content in wanted:
                wanted.remove(content)
                arrived += allocated_bytes(tree.folder(folder).status(name))
    return arrived


class PartialFiles:
    """Unfinished files: ours, and those that dead fetches left.

    A lock tells whether the owner of a large one lives. That only one process goes on with it is made sure by renaming
    it to a name of its own, which holds on file systems whose locks do not. Small ones, and those beside files that are
    complete, are removed; an owner who lives after all writes them again.
    """

    def __init__(self, tree: Beneath, targets: Iterable[str], large: Iterable[str], *, mode: int) -> None:
        """``targets`` are the paths that the fetch gives, ``large`` those of files that come part by part."""
        self._tree = tree
        self._mode = mode
        self._open: dict[int, str] = {}
        """By descriptor, the path of each one that is new; empty for one that was adopted."""
        self._left: dict[str, list[str]] = {}
        targets = set(targets)
        for folder in {os.path.dirname(target) for target in targets}:
            for name in _partials_in(tree, folder):
                target = os.path.join(folder, target_name(name))
                if target in targets:
                    self._left.setdefault(target, []).append(name)
        for target in self._left.keys() - set(large):
            opened, _ = tree.at(target)
            for left in self._left.pop(target):
                if (descriptor := _open_if_abandoned(opened, left)) is not None:
                    remove(opened, left)
                    os.close(descriptor)

    def open(self, file: StoredFile, *, adopt: bool) -> tuple[str, int]:
        """A locked file of the right size under a name of this process: a new one, or one adopted if there is any."""
        path = partial_path(file.path, file.content)
        folder, own = self._tree.at(path)
        adopted = False
        for left in self._left.get(file.path, ()) if adopt else ():
            descriptor = _open_if_abandoned(folder, left)
            if descriptor is None:
                continue
            if adopted or _content_name(left) != _content_name(own):
                # Of another content of that name, or a second one of this: no fetch will go on with it.
                remove(folder, left)
                os.close(descriptor)
                continue
            try:
                os.rename(left, own, src_dir_fd=folder.number, dst_dir_fd=folder.number)
            except FileNotFoundError:
                os.close(descriptor)  # another process was faster
                continue
            adopted = True
            kept = descriptor
        if not adopted:
            kept = folder.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._mode)
            with contextlib.suppress(OSError):
                fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._open[kept] = "" if adopted else path
        os.ftruncate(kept, file.content.size)
        return path, kept

    def close(self, descriptor: int) -> None:
        """Let go of a file that is done."""
        del self._open[descriptor]
        os.close(descriptor)

    def close_all(self, *, keep_new: bool = True) -> None:
        """Let go of what is unfinished; it stays for the next fetch, but for new ones that are not to be kept."""
        while self._open:
            descriptor, path = self._open.popitem()
            if path and not keep_new:
                remove(*self._tree.at(path))
            os.close(descriptor)


def remove(folder: Folder, name: str) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder.number)


def _open_if_abandoned(folder: Folder, name: str) -> int | None:
    """Open and lock a partial file; None where its owner is at work, it is gone, or it has another name as well."""
    try:
        descriptor = folder.open(name, os.O_RDWR)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if status.st_nlink > 1 or not stat.S_ISREG(status.st_mode):
        # No fetch left it so. What is written here would be written to a file elsewhere.
        os.close(descriptor)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
