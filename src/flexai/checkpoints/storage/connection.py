"""What the checkpoint system needs of a storage provider connection; the Prefect blocks implement it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import Id
from flexai.checkpoints.settings import hide_secrets
from flexai.checkpoints.storage.protocol import ObjectStorage

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class SecretText(Protocol):
    """A text that shows itself only when asked, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """The text."""


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A place on a provider: a bucket and what lies below it."""

    storage: ObjectStorage
    """The bucket."""
    key: str
    """A key, or a prefix without its final ``/``; empty for the whole bucket."""
    revision: str = ""
    """What a movable path (a branch) meant when it was opened."""

    @property
    def prefix(self) -> str:
        """What the keys below begin with."""
        return f"{self.key}/" if self.key else ""


class StorageConnection(Protocol):
    """Credentials and endpoint of a remote object store, under a name."""

    @property
    def connection_name(self) -> str:
        """The name that users gave it."""

    @property
    def connection_id(self) -> Id:
        """The id of the saved block."""

    def open(self, path: str) -> RemotePath:
        """Open ``BUCKET/PREFIX-or-KEY``.

        Raises UsageError for a path without a bucket, AccessDeniedError for refused credentials,
        NotFoundError for a bucket that is not there.
        """


def split_bucket(path: str) -> tuple[str, str]:
    """Split ``BUCKET/PREFIX-or-KEY`` at its first ``/``; UsageError where there is no bucket."""
    bucket, _, key = path.strip().partition("/")
    parts = key.rstrip("/").split("/") if key.rstrip("/") else []
    if not bucket or bucket in {".", ".."} or any(part in {"", ".", ".."} for part in parts):
        raise UsageError(
            f"{_without_secrets(path)!r} is no path on a storage provider",
            hint="write BUCKET/PREFIX, for instance my-bucket/checkpoints",
        )
    return bucket, "/".join(parts)


def check_bucket(name: str) -> str:
    """Return the name of a bucket in an object store; UsageError for what no provider takes for one."""
    if not _BUCKET.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{_without_secrets(name)!r} is no bucket's name",
            hint="write BUCKET/PREFIX, for instance my-bucket/checkpoints",
        )
    return name


def _without_secrets(path: str) -> str:
    """A path that cannot be used, as people may see it: ``5ecret@host`` of ``USER:5ecret@host``, whose first part was
    taken for a connection's name, shows no more than a URL does.
    """
    return re.sub(r"^[^/]*@", "***@", hide_secrets(path))
