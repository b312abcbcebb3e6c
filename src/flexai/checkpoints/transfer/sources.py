"""What can be pushed: a local file, or an object on a provider."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from flexai.checkpoints.contents import NO_CHECKSUMS
from flexai.checkpoints.errors import SourceChangedError, SourceError, StorageError
from flexai.checkpoints.paths import CheckpointPath
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.files import allocated_bytes, read_blocks
from flexai.checkpoints.storage.protocol import Block, ObjectInfo, ObjectStorage
from flexai.checkpoints.transfer.digest import digest_blocks

if TYPE_CHECKING:
    from flexai.checkpoints.manifest import FileEntry

_SAMPLE = 64 * 1024

Identity: TypeAlias = tuple[int, int, int, int]
"""Device, inode, bytes and time of the last write (ns). Not the inode's change time: pinning changes that."""


class OpenSource(Protocol):
    """A source that is being read."""

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Yield a range of it; SourceChangedError where it is no longer what was scanned."""

    def check(self) -> None:
        """Raise SourceChangedError where it is no longer what was scanned."""

    def close(self) -> None:
        """Let go of it."""


class FileSource(Protocol):
    """A file to be pushed: where it goes in the checkpoint, and its bytes."""

    @property
    def path(self) -> CheckpointPath:
        """Its path in the checkpoint."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_executable(self) -> bool:
        """Whether its mode lets its owner execute it."""

    @property
    def is_local(self) -> bool:
        """Whether reading it twice costs no transfer."""

    @property
    def version(self) -> str:
        """What changes whenever a provider's object does; empty for a local file, which is compared instead."""

    @property
    def origin(self) -> str:
        """Which content it is, as far as its provider tells without reading it; empty for a local file."""

    @property
    def digest(self) -> str:
        """Its BLAKE3 in hex where that is known without reading it, else empty."""

    @property
    def checksums(self) -> Mapping[str, str]:
        """The checksums that its provider keeps, by algorithm, in hex."""

    @property
    def claim(self) -> FileEntry | None:
        """What a manifest beside it says that it is, if there is one: true only once its bytes were compared."""

    def open(self) -> OpenSource:
        """Open it; SourceError where it cannot be read, SourceChangedError where it is gone or another one."""


@dataclass(frozen=True, slots=True)
class LocalSource:
    """A file of this machine, as the scan found it."""

    path: CheckpointPath
    place: str
    """Its path on this machine. A ``Path`` of each of 100,000 files would take 30 MB."""
    size: int
    identity: Identity
    digest: str = ""
    """Remembered of an earlier reading."""
    is_executable: bool = False
    tree: Beneath = field(kw_only=True, compare=False)
    inside: str = field(kw_only=True, compare=False)
    """Where it is opened: its path below the tree's root, which leads through no link."""

    @classmethod
    def of(
        cls,
        path: CheckpointPath,
        local_path: Path | str,
        status: os.stat_result,
        *,
        tree: Beneath | None = None,
        inside: str = "",
    ) -> LocalSource:
        """The source that a file's status describes; without a tree the file's own folder may be reached by links."""
        return cls(
            path=path,
            place=os.fspath(local_path),
            size=status.st_size,
            identity=_identity(status),
            is_executable=bool(status.st_mode & stat.S_IXUSR),
            tree=tree or Beneath(Path(local_path).parent),
            inside=inside or Path(local_path).name,
        )

    @property
    def local_path(self) -> Path:
        """Where it is on this machine."""
        return Path(self.place)

    @property
    def is_local(self) -> bool:
        """It is."""
        return True

    @property
    def version(self) -> str:
        """None: what is here is compared."""
        return ""

    @property
    def origin(self) -> str:
        """None: no provider tells of it."""
        return ""

    @property
    def checksums(self) -> Mapping[str, str]:
        """None: no provider keeps any."""
        return NO_CHECKSUMS

    @property
    def claim(self) -> None:
        """None: no manifest beside it is believed."""
        return

    def holes(self) -> int:
        """Bytes of the file that take no room on its disk; 0 where that cannot be told."""
        try:
            folder, name = self.tree.at(self.inside)
            return max(0, self.size - allocated_bytes(folder.status(name)))
        except OSError:
            return 0

    def open(self) -> OpenLocalSource:
        """Open the file and check that it is still the one that was scanned, and as large as it says."""
        try:
            folder, name = self.tree.at(self.inside)
            descriptor = folder.open(name, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceChangedError(f"source {self.place} vanished after it was listed") from error
        except PermissionError as error:
            raise SourceError(
                f"source {self.place} cannot be read: permission denied", hint="check the file's permissions"
            ) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise SourceChangedError(
                    f"a symbolic link has taken the place of source {self.place}, or of a folder that it is in"
                ) from error
            raise SourceError(f"source {self.place} cannot be read: {error.strerror}") from error
        opened = OpenLocalSource(self, descriptor)
        try:
            opened.check()
            if not self.size:
                opened.check_empty()
        except (SourceChangedError, SourceError):
            opened.close()
            raise
        return opened

    def check(self) -> None:
        """Raise SourceChangedError where the name no longer means the file that was scanned."""
        try:
            status = os.stat(self.place)  # noqa: PTH116 - a ``Path`` takes longer to make than to look
        except OSError as error:
            raise SourceChangedError(f"source {self.place} vanished while it was read") from error
        if _identity(status) != self.identity:
            raise SourceChangedError(f"source {self.place} changed while it was read")

    def sample(self) -> bytes:
        """The digest of some of its bytes: files with different samples differ."""
        starts = (0, self.size // 2, max(0, self.size - _SAMPLE))
        with contextlib.closing(self.open()) as opened:
            return digest_blocks(
                block for start in starts for block in opened.blocks(start, min(_SAMPLE, self.size - start))
            )


class OpenLocalSource:
    """An open file; ranges of it are read from many threads."""

    def __init__(self, source: LocalSource, descriptor: int) -> None:
        self.source = source
        self.descriptor = descriptor

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Yield a range of the file."""
        try:
            yield from read_blocks(self.descriptor, start, length)
        except EOFError as error:
            raise SourceChangedError(f"source {self.source.place} shrank while it was read") from error
        except OSError as error:
            raise StorageError(f"source {self.source.place} cannot be read: {error.strerror}") from error

    def read_into(self, buffer: memoryview) -> None:
        """Fill a buffer from the file's beginning."""
        position = 0
        try:
            while position < len(buffer):
                got = os.preadv(self.descriptor, [buffer[position:]], position)
                if not got:
                    raise SourceChangedError(f"source {self.source.place} shrank while it was read")
                position += got
        except OSError as error:
            raise StorageError(f"source {self.source.place} cannot be read: {error.strerror}") from error

    def check(self) -> None:
        """Raise SourceChangedError where the file has been written to since it was scanned."""
        if _identity(os.fstat(self.descriptor)) != self.source.identity:
            raise SourceChangedError(f"source {self.source.place} changed while it was read")

    def check_empty(self) -> None:
        """Raise SourceError where the file has content for all that its size tells, as those below ``/proc`` do."""
        with contextlib.suppress(OSError):  # it cannot be read: then there is nothing to be lost
            if os.pread(self.descriptor, 1, 0):
                raise SourceError(
                    f"source {self.source.place} has content, and a size of 0 bytes",
                    hint="the system makes it when it is read: copy it to a file, and push that",
                )

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectSource:
    """An object on a provider, as the listing showed it."""

    path: CheckpointPath
    storage: ObjectStorage
    info: ObjectInfo
    claim: FileEntry | None = None
    is_untouched: bool = False
    """Whether it is of the version that the manifest beside it was written for, as that says."""
    digest: str = field(default="", init=False)
    is_local: bool = field(default=False, init=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.info.size

    @property
    def is_executable(self) -> bool:
        """What the manifest beside it says: a provider's object has no mode."""
        return self.claim is not None and self.claim.executable

    @property
    def version(self) -> str:
        """The version that was listed."""
        return self.info.etag

    @property
    def checksums(self) -> Mapping[str, str]:
        """What the listing told."""
        return self.info.checksums or {}

    @property
    def origin(self) -> str:
        """Where it is, and in which version; empty for a directory, where the time of a last write is no version.

        Never what its provider says that it contains: a provider that names a digest would be given the content of it.
        """
        place = self.storage.versioned_place
        return f"{place}/{self.info.key}@{self.info.etag}" if place else ""

    def open(self) -> ObjectSource:
        """Itself: each range is a request of its own."""
        return self

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Yield a range of the object, pinned to the version that was listed."""
        return self.storage.get(self.info.key, start=start, length=length, etag=self.info.etag)

    def check(self) -> None:
        """Raise SourceChangedError where the object is another one by now."""
        if self.storage.head(self.info.key).etag != self.info.etag:
            raise SourceChangedError(f"{self.storage.location}/{self.info.key} changed while it was read")

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class RangeBody:
    """A range of an open source as a body."""

    source: OpenSource
    start: int
    size: int

    def blocks(self) -> Iterator[Block]:
        """Yield the range from its start."""
        return self.source.blocks(self.start, self.size)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
