"""A directory as a storage provider: a mounted share, a disk, a folder that something else synchronises."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from flexai.checkpoints.errors import AccessDeniedError, NotFoundError
from flexai.checkpoints.local_paths import expanded
from flexai.checkpoints.names import count
from flexai.checkpoints.storage.checks import check_key
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.local import LocalStorage, storage_error
from flexai.connections.probes import ProbeFunction, conditional_put, lacking
from flexai.connections.provider import ProviderConnection


class LocalConnection(ProviderConnection):
    """A directory whose folders are its buckets, for instance a mounted network share.

    Every machine that uses the connection has to see the directory under the same path.
    """

    provider: ClassVar[str] = "local"

    root: str = Field(
        title="Root directory",
        description="The directory whose folders are the buckets, as an absolute path.",
        examples=["/mnt/models"],
        min_length=1,
    )
    create_buckets: bool = Field(
        default=True,
        title="Create buckets",
        description="Whether an export may make the bucket's folder; the root directory itself is never made.",
    )

    @field_validator("root", mode="before")
    @classmethod
    def _root_means_the_same_everywhere(cls, value: object) -> object:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value:
            return value
        path = expanded(Path(value))
        if not path.is_absolute() or "\0" in value:
            raise ValueError("the root directory must be an absolute path")
        return os.path.normpath(path)

    @property
    def location(self) -> str:
        """The root directory."""
        return self.root

    def open(self, path: str) -> RemotePath:
        """Open a folder or a file of a bucket, which is a folder of the root directory."""
        bucket, key = split_bucket(path)
        check_key(bucket, self.root)
        folder = self._usable_root() / bucket
        try:
            return RemotePath(self._bucket(folder), key)
        except OSError as error:
            raise storage_error(error, folder) from error

    def _bucket(self, folder: Path) -> LocalStorage:
        root = folder.parent
        real_root, real = root.resolve(), folder.resolve()
        if not real.is_relative_to(real_root):
            raise AccessDeniedError(
                f"bucket {folder.name!r} is a symbolic link that leaves {root}",
                hint="create a connection whose root directory holds the link's target",
            )
        if folder.exists() and not folder.is_dir():
            raise NotFoundError(f"{folder} is no bucket but a file", hint="the path's first part must be a folder")
        if not folder.exists() and not self.create_buckets:
            raise NotFoundError(
                f"there is no bucket {folder.name!r} in {root}", hint=f"make it first: mkdir '{folder}'"
            )
        return LocalStorage(real, within=real_root)

    def reach(self) -> str:
        """Look at the root directory."""
        root = self._usable_root()
        try:
            buckets = sum(1 for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        except OSError as error:
            raise storage_error(error, root) from error
        return f"{root} has {count(buckets, 'bucket')}"

    def abilities(self) -> Mapping[str, ProbeFunction]:
        """What object stores may have beyond, and a directory has or has not."""
        return {
            "conditional put": conditional_put,
            "part copy": lacking("files of any size are copied through this machine"),
            "delete many": lacking("files are deleted one by one"),
            "metadata": lacking("files have none of a user's own, and nothing needs them"),
            "checksums": lacking("file systems keep none; digests are compared when files are read"),
        }

    def _usable_root(self) -> Path:
        root = Path(self.root)
        try:
            os.scandir(root).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            # Made on the fly, the directory would stand where a share is to be mounted.
            raise NotFoundError(
                f"the root directory {root} of {self._called} is not there",
                hint="mount it, or make it if it should be an ordinary directory",
            ) from error
        except OSError as error:
            raise storage_error(error, root) from error
        return root

    @property
    def _called(self) -> str:
        return f"connection {self.connection_name!r}" if self.connection_name else "the connection"
